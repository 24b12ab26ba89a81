//! The mark of a key that waits for a person to release it: a message on the shelf, once for each key.

use serde::Serialize;
use tidegate_wire::nats::Message;

use super::Replacement;
use crate::broker::publish_ack;
use crate::settle::outcome::Reason;

/// A longer partition key is left out: a part of it would be another one.
const MAX_KEY_BYTES: usize = 1024;

/// What a mark says, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    /// When the key was held, RFC 3339.
    time: String,
    /// The sequence in the stream of the topic of the event that holds it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// Why no further attempt of it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The partition key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Mark {
    /// Of a key at this time, of which nothing else is known.
    pub fn new(time: String) -> Self {
        Self { time, sequence: None, reason: None, key: None }
    }

    /// The same, held up by this event for this reason.
    pub fn of_event(self, sequence: u64, reason: Option<Reason>, key: Option<String>) -> Self {
        let key = key.filter(|key| key.len() <= MAX_KEY_BYTES);
        Self { sequence: Some(sequence), reason: reason.map(Reason::name), key, ..self }
    }

    /// The message, for where there is no mark.
    pub fn over_none(&self) -> Option<Replacement> {
        Replacement::new(0, self)
    }
}

/// Whether the answer to a mark says that there is one. It is stored where there is none, so that a second one is
/// refused.
pub fn is_there(answer: &Message) -> bool {
    match publish_ack::sequence(answer) {
        Ok(_) => true,
        Err(error) => error.is_outrun(),
    }
}
