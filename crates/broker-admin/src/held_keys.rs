//! Keys of a handler with `order: Key` of which events wait on its retry shelf, and those that are held until a person
//! releases them.
//!
//! Each such key has a subject of its own there, so the broker counts them. A key is held as long as its mark is there
//! ([`layout::held_subject`]): sidecars write marks, and only the operator removes them.

use tidegate_broker_client::held_key::Mark;
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::api::{ApiError, Broker, Missing};

/// Held keys that are named, at most.
pub const NAMED: usize = 10;

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
