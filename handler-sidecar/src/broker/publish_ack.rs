//! The broker's acknowledgement of a stored message. Pure.

use serde::Deserialize;
use tidegate_wire::nats::{Message, RequestError};

/// JetStream's codes for "the last message is not the one you expected".
const OUTRUN: [u64; 2] = [10_071, 10_164];

/// JetStream's codes for "there is no room": of the account, of the server, of the disk.
const NO_ROOM: [u64; 3] = [10_002, 10_023, 10_047];
/// The code for what a stream says itself, and how it says that it has reached a bound.
const STORE_FAILED: u64 = 10_077;
const REACHED: &str = "maximum";

/// Why a message is not stored, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum NotStored {
    /// Nobody confirmed it.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The stream did not take it.
    #[error("the stream refused it: {description}")]
    Refused {
        /// JetStream's error code.
        code: u64,
        /// What it says.
        description: String,
    },
    /// The answer is not an acknowledgement.
    #[error("not an acknowledgement: {0}")]
    Unintelligible(String),
}

impl NotStored {
    /// Somebody else wrote since the last read.
    pub fn is_outrun(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if OUTRUN.contains(code))
    }

    /// There is no room for it, and will not be in a moment.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Refused { code, description } if NO_ROOM.contains(code)
            || (*code == STORE_FAILED && description.starts_with(REACHED)))
    }
}

#[derive(Deserialize)]
struct Acknowledgement {
    seq: Option<u64>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// The sequence under which a message was stored.
///
/// # Errors
/// It was not, as far as the answer says.
pub fn sequence(answer: &Message) -> Result<u64, NotStored> {
    match serde_json::from_slice(answer.payload()) {
        Ok(Acknowledgement { error: Some(ApiError { err_code: code, description }), .. }) => {
            Err(NotStored::Refused { code, description })
        }
        Ok(Acknowledgement { seq: Some(sequence), .. }) => Ok(sequence),
        Ok(_) => Err(NotStored::Unintelligible("no sequence".into())),
        Err(error) => Err(NotStored::Unintelligible(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &str) -> Message {
        Message::compose("_INBOX.x", None, None, payload.as_bytes()).unwrap()
    }

    #[test]
    fn only_a_sequence_without_an_error_confirms() {
        assert_eq!(sequence(&message(r#"{"stream":"dead-letters","seq":1}"#)).unwrap(), 1);
        assert_eq!(sequence(&message(r#"{"stream":"dead-letters","seq":7,"duplicate":true}"#)).unwrap(), 7);
        for other in [
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"d","seq":0}"#,
            r#"{"stream":"dead-letters"}"#,
            "",
            "+OK",
        ] {
            assert!(sequence(&message(other)).is_err_and(|error| !error.is_outrun()), "{other}");
        }
        for (code, description, is_full) in [
            (10_077, "maximum bytes exceeded", true),
            (10_077, "maximum messages exceeded", true),
            (10_047, "insufficient storage resources available", true),
            (10_077, "message too large", false),
            (10_071, "wrong last sequence: 5", false),
            (10_054, "message size exceeds maximum allowed", false),
        ] {
            let refused = format!(r#"{{"error":{{"err_code":{code},"description":"{description}"}},"seq":0}}"#);
            assert_eq!(sequence(&message(&refused)).unwrap_err().is_full(), is_full, "{description}");
        }
        let outrun = r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"seq":0}"#;
        assert!(sequence(&message(outrun)).is_err_and(|error| error.is_outrun()));
    }
}
