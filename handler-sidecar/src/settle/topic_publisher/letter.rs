//! A dead letter as an event of another topic: the event itself, and why, in extensions.

use tidegate_broker_client::outcomes::single_line;
use tidegate_broker_client::stored;
use tidegate_cloudevents::{Event, Invalid};

use crate::broker::message::Message;
use crate::settle::dead_letter::DeadLetter;
use crate::settle::outcome::Reason;

/// The longest error, in bytes.
const ERROR_LIMIT: usize = 512;

/// The letter of a stored event; `None` if what is stored is no event.
pub fn compose(handler: &str, stored: &Message, letter: &DeadLetter) -> Option<Event> {
    let event = stored::decode(stored.stored(), stored.payload()).ok()?;
    let attempts = letter.record.attempts();
    let letter = extended(event, handler, letter.reason, attempts, &letter.error);
    letter.inspect_err(|invalid| tracing::error!(%invalid, "a dead letter is not a valid event")).ok()
}

/// The event with the reasons. The extensions are valid whatever the error says.
fn extended(event: Event, handler: &str, reason: Reason, attempts: u32, error: &str) -> Result<Event, Invalid> {
    event
        .with_extension("tidegatehandler", handler)?
        .with_extension("tidegatereason", reason.name())?
        .with_extension("tidegateattempts", attempts.to_string())?
        .with_extension("tidegateerror", single_line(error, ERROR_LIMIT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_the_error_says(error in "\\PC{0,80}|[\\s\\S]{0,700}|\u{FFFF}\u{FDD0}\u{85}") {
            let event = Event::builder("1", "/s", "t").build().unwrap();
            let letter = extended(event, "billing", Reason::Refused, 3, &error).unwrap();
            prop_assert_eq!(letter.attribute("tidegatereason"), Some("refused-by-handler"));
            prop_assert_eq!(letter.attribute("tidegateattempts"), Some("3"));
            prop_assert_eq!((letter.id(), letter.source()), ("1", "/s"), "it keeps its identity");
        }
    }
}
