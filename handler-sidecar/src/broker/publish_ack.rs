//! Why a message is not stored, or not known to be.

use tidegate_broker_client::publish_ack::{self, AckError, Reason};
use tidegate_wire::nats::{Message, RequestError};

/// Why a message is not stored, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// No one confirmed it.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer does not acknowledge it.
    #[error(transparent)]
    Answer(#[from] AckError),
    /// It cannot be written.
    #[error("it cannot be written: {0}")]
    Unwritable(String),
}

impl NotStored {
    /// Somebody else wrote since the last read.
    pub fn is_outrun(&self) -> bool {
        self.reason() == Some(Reason::WrongLastSequence)
    }

    /// There is no room for it, and will not be in a moment.
    pub fn is_full(&self) -> bool {
        matches!(self.reason(), Some(Reason::Full | Reason::ServerFull))
    }

    /// Why the stream refused it; `None`: it did not.
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Answer(AckError::Refused(error)) => Some(error.reason()),
            Self::Answer(_) | Self::Request(_) | Self::Unwritable(_) => None,
        }
    }
}

/// The sequence under which a message was stored.
///
/// # Errors
/// It was not, as far as the answer says.
pub fn sequence(answer: &Message) -> Result<u64, NotStored> {
    Ok(publish_ack::read(answer.payload())?.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_whether_somebody_was_faster_or_there_is_no_room() {
        let answer = |payload: &str| sequence(&Message::compose("_INBOX.x", None, None, payload.as_bytes()).unwrap());
        assert_eq!(answer(r#"{"stream":"dead-letters","seq":7,"duplicate":true}"#).unwrap(), 7);
        assert!(answer("+OK").is_err_and(|error| !error.is_outrun() && !error.is_full()));
        for (code, description, is_outrun, is_full) in [
            (10_077, "maximum bytes exceeded", false, true),
            (10_002, "resource limits exceeded for account", false, true),
            (10_023, "insufficient resources", false, true),
            (10_047, "insufficient storage resources available", false, true),
            (10_077, "message too large", false, false),
            (10_071, "wrong last sequence: 5", true, false),
            (10_164, "wrong last sequence", true, false),
            (10_054, "message size exceeds maximum allowed", false, false),
        ] {
            let refused = format!(r#"{{"error":{{"err_code":{code},"description":"{description}"}},"seq":0}}"#);
            let error = answer(&refused).unwrap_err();
            assert_eq!((error.is_outrun(), error.is_full()), (is_outrun, is_full), "{description}");
        }
    }
}
