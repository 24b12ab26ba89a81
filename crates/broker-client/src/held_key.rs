//! The mark of a key that waits for a person to release it (`onExhausted: Park`): a message on the handler's shelf, one
//! for each key. Sidecars write it, the operator reads and removes it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// Bytes of a mark that is read: all of a key may be escaped.
const MAX_BYTES: usize = 8 << 10;
/// Bytes of a partition key that a mark names.
const MAX_KEY: usize = 1024;
/// Bytes of a reason.
const MAX_REASON: usize = 64;

/// What a mark says, for people. That it is there holds the key, whatever it says, and since when says the message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The partition key; `None`: it is too long, or not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The sequence in the stream of events of the event that holds it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Why no further attempt of that event is made, in the words of a dead letter's `Tidegate-Reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'static, str>>,
}

impl Mark {
    /// Of a key that this event holds up. A key that is too long is left out: a part of it would be another one.
    pub fn new(key: Option<String>, sequence: u64, reason: Option<&'static str>) -> Self {
        Self { key, sequence: Some(sequence), reason: reason.map(Cow::Borrowed) }.within_bounds()
    }

    /// Reads it. What makes no sense says nothing.
    pub fn read(payload: &[u8]) -> Self {
        let is_small = payload.len() <= MAX_BYTES;
        let mark: Option<Self> = is_small.then(|| serde_json::from_slice(payload).ok()).flatten();
        mark.unwrap_or_default().within_bounds()
    }

    fn within_bounds(self) -> Self {
        let key = self.key.filter(|key| key.len() <= MAX_KEY);
        let reason = self.reason.filter(|reason| reason.len() <= MAX_REASON);
        Self { key, reason, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(key: Option<&str>, sequence: Option<u64>, reason: Option<&'static str>) -> Mark {
        Mark { key: key.map(str::to_owned), sequence, reason: reason.map(Cow::Borrowed) }
    }

    #[test]
    fn a_mark_is_read_as_it_is_written() {
        let longest = "\u{1}".repeat(MAX_KEY);
        for written in [
            Mark::default(),
            Mark::new(Some("größe 1".to_owned()), 41, Some("refused-by-handler")),
            Mark::new(Some(longest), u64::MAX, None),
        ] {
            assert_eq!(Mark::read(&serde_json::to_vec(&written).unwrap()), written);
        }
        assert_eq!(Mark::new(Some("k".repeat(MAX_KEY + 1)), 7, None), mark(None, Some(7), None), "too long");
    }

    #[test]
    fn a_mark_says_what_makes_sense() {
        // What is stored outlives the version that stored it: an earlier one wrote the time into a mark, too.
        let whole =
            br#"{"time":"2026-01-01T00:00:00Z","sequence":41,"reason":"refused-by-handler","key":"gr\u00f6\u00dfe 1"}"#;
        assert_eq!(Mark::read(whole), mark(Some("größe 1"), Some(41), Some("refused-by-handler")));
        assert_eq!(Mark::read(br#"{"time":"2026-01-01T00:00:00Z"}"#), Mark::default());
        let long = |key: usize, reason: usize| {
            format!(r#"{{"key":"{}","sequence":1,"reason":"{}"}}"#, "k".repeat(key), "r".repeat(reason))
        };
        assert_eq!(Mark::read(long(MAX_KEY + 1, MAX_REASON + 1).as_bytes()), mark(None, Some(1), None));
        assert_eq!(Mark::read(long(MAX_KEY, 0).as_bytes()).key, Some("k".repeat(MAX_KEY)));
        for foreign in [long(MAX_BYTES, 0).as_bytes(), b"", b"null", b"[]", b"\xFF", br#"{"key":7}"#] {
            assert_eq!(Mark::read(foreign), Mark::default());
        }
    }
}
