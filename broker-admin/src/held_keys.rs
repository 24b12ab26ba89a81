//! Keys of a handler with `order: Key` of which events wait on its retry shelf, and those that are held until a person
//! releases them.
//!
//! Each such key has a subject of its own there, so the broker counts them. A key is held as long as its mark is there
//! ([`layout::held_subject`]): sidecars write marks, and only the operator removes them.

use serde::Deserialize;
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::api::{ApiError, Broker, Missing};

/// Held keys that are named, at most.
pub const NAMED: usize = 10;
/// Bytes of a mark that is read: all of a key may be escaped.
const MAX_BYTES: usize = 8 << 10;
/// Bytes of a partition key that a mark names.
const MAX_KEY: usize = 1024;
/// Bytes of a reason.
const MAX_REASON: usize = 64;

/// What a handler's retry shelf has, key by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Keys of which events wait, the held ones included.
    pub parked: u64,
    /// Keys that are held.
    pub held: u64,
    /// Some of these, those that are held for longest first; at most [`NAMED`].
    pub named: Vec<HeldKey>,
}

/// A key that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// Which, and why.
    pub mark: Mark,
    /// Since when.
    pub since: OffsetDateTime,
}

/// What the sidecar wrote into a mark, for people. That the mark is there holds the key, whatever it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Mark {
    /// The partition key; `None`: it is too long, or not known.
    pub key: Option<String>,
    /// The sequence in the stream of events of the event that holds it up.
    pub sequence: Option<u64>,
    /// Why, in the words of a dead letter's `Tidegate-Reason`.
    pub reason: Option<String>,
}

impl Mark {
    /// Reads it. What makes no sense says nothing.
    fn read(payload: &[u8]) -> Self {
        let is_small = payload.len() <= MAX_BYTES;
        let mark: Self = is_small.then(|| serde_json::from_slice(payload).ok()).flatten().unwrap_or_default();
        let fits = |text: Option<String>, bytes| text.filter(|text| text.len() <= bytes);
        Self { key: fits(mark.key, MAX_KEY), reason: fits(mark.reason, MAX_REASON), ..mark }
    }
}

/// Counts the keys of a handler and names some of those that are held.
///
/// # Errors
/// As [`ApiError`] says.
pub async fn look(broker: &Broker, handler: &str) -> Result<Keys, ApiError> {
    let stream = layout::retry_stream(handler);
    let (info, held) = broker.stream_with_subjects(&stream, &layout::held_subjects(handler, None)).await?;
    let named = if held > 0 { named(broker, handler, &stream).await? } else { Vec::new() };
    // Each of them has a mark beside its events. The server counts both one after the other.
    Ok(Keys { parked: info.state.subjects.saturating_sub(held), held, named })
}

async fn named(broker: &Broker, handler: &str, stream: &str) -> Result<Vec<HeldKey>, ApiError> {
    let subjects = layout::held_subjects(handler, None);
    let (mut named, mut from) = (Vec::new(), 1);
    for _ in 0..NAMED {
        let Some(message) = broker.next_message(stream, &subjects, from).await? else { break };
        from = message.sequence + 1;
        named.push(HeldKey { mark: Mark::read(&message.payload), since: message.time });
    }
    Ok(named)
}

/// Events that wait on a handler's retry shelf: all that it has but for the marks of held keys. Without a shelf there
/// are none.
///
/// # Errors
/// As [`ApiError`] says.
pub async fn count_events(broker: &Broker, handler: &str) -> Result<u64, ApiError> {
    let marks = layout::held_subjects(handler, None);
    match broker.stream_with_subjects(&layout::retry_stream(handler), &marks).await {
        Ok((info, held)) => Ok(info.state.messages.saturating_sub(held)),
        Err(ApiError::NotFound(Missing::Stream)) => Ok(0),
        Err(error) => Err(error),
    }
}

/// The sequence of the last message of a handler's retry shelf: what is held later has a higher one.
///
/// # Errors
/// As [`ApiError`] says.
pub async fn end(broker: &Broker, handler: &str) -> Result<u64, ApiError> {
    Ok(broker.stream(&layout::retry_stream(handler)).await?.state.last_sequence)
}

/// Releases all keys that are held up to this sequence. How many there were.
///
/// # Errors
/// As [`ApiError`] says.
pub async fn release_all(broker: &Broker, handler: &str, end: u64) -> Result<u64, ApiError> {
    release(broker, handler, &layout::held_subjects(handler, None), end).await
}

/// Releases one key, if it is held up to this sequence. Whether it was.
///
/// # Errors
/// As [`ApiError`] says.
pub async fn release_one(broker: &Broker, handler: &str, key: &str, end: u64) -> Result<bool, ApiError> {
    let mark = layout::held_key_subjects(handler, layout::key_digest(key));
    Ok(release(broker, handler, &mark, end).await? > 0)
}

async fn release(broker: &Broker, handler: &str, marks: &str, end: u64) -> Result<u64, ApiError> {
    broker.purge_stream_subject_below(&layout::retry_stream(handler), marks, end.saturating_add(1)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_what_makes_sense() {
        let mark = |key: Option<&str>, sequence, reason: Option<&str>| Mark {
            key: key.map(str::to_owned),
            sequence,
            reason: reason.map(str::to_owned),
        };
        let whole =
            br#"{"time":"2026-01-01T00:00:00Z","sequence":41,"reason":"refused-by-handler","key":"gr\u00f6\u00dfe 1"}"#;
        assert_eq!(Mark::read(whole), mark(Some("größe 1"), Some(41), Some("refused-by-handler")));
        assert_eq!(Mark::read(br#"{"time":"2026-01-01T00:00:00Z"}"#), Mark::default());
        let long = |key: usize, reason: usize| {
            format!(r#"{{"key":"{}","sequence":1,"reason":"{}"}}"#, "k".repeat(key), "r".repeat(reason))
        };
        assert_eq!(Mark::read(long(MAX_KEY + 1, MAX_REASON + 1).as_bytes()), mark(None, Some(1), None));
        assert_eq!(Mark::read(long(MAX_KEY, 0).as_bytes()).key, Some("k".repeat(MAX_KEY)));
        let escaped = format!(r#"{{"key":"{}"}}"#, "\\u0001".repeat(MAX_KEY));
        assert_eq!(Mark::read(escaped.as_bytes()).key, Some("\u{1}".repeat(MAX_KEY)));
        for foreign in [long(MAX_BYTES, 0).as_bytes(), b"", b"null", b"[]", b"\xFF", br#"{"key":7}"#] {
            assert_eq!(Mark::read(foreign), Mark::default());
        }
    }
}
