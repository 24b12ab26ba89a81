//! How often an event was passed on: as a reply, or to a topic for dead letters. Topics whose handlers reply to each
//! other in a circle would multiply one event without an end.

use tidegate_broker_client::layout::MAX_HOPS;
use tidegate_cloudevents::{Event, Invalid};

/// The extension that counts.
const EXTENSION: &str = "tidegatehops";

/// The number for what follows from this event; `None`: nothing may. A publisher that writes the extension itself
/// shortens or confuses only the way of its own event: the first sidecar counts on from a number and from 0 otherwise.
pub fn next(event: &Event) -> Option<u32> {
    let hops = event.attribute(EXTENSION).and_then(|hops| hops.parse().ok()).unwrap_or(0);
    (hops < MAX_HOPS).then_some(hops + 1)
}

/// The event with this number.
///
/// # Errors
/// None that is known.
pub fn counted(event: Event, hops: u32) -> Result<Event, Invalid> {
    event.with_extension(EXTENSION, hops.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_counted_up_to_the_limit() {
        let event =
            |hops: &str| Event::builder("1", "/s", "t").build().unwrap().with_extension(EXTENSION, hops).unwrap();
        assert_eq!(next(&Event::builder("1", "/s", "t").build().unwrap()), Some(1));
        for (hops, expected) in [
            ("0", Some(1)),
            ("31", Some(32)),
            ("32", None),
            ("4294967295", None),
            ("-1", Some(1)),
            ("many", Some(1)),
            ("99999999999999999999", Some(1)),
        ] {
            assert_eq!(next(&event(hops)), expected, "{hops}");
        }
        assert_eq!(counted(event("7"), 8).unwrap().attribute(EXTENSION), Some("8"));
    }
}
