//! The event that a handler is to continue with.

use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::api::{ApiError, Broker, StreamInfo};
use crate::consumers::Start;

/// Where a handler is to continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The sequence of the first event that it is to get. There may be none of it yet.
    pub sequence: u64,
    /// When that event was stored; `None`: it is still to come.
    pub time: Option<OffsetDateTime>,
}

/// Why a handler cannot continue there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// The handler would pass over events that are still to come.
    #[error(
        "sequence {sequence} is beyond the topic's last event, which is {last}: use Latest to continue with the next one"
    )]
    BeyondEnd {
        /// That was asked for.
        sequence: u64,
        /// The last event's.
        last: u64,
    },
    /// The same, by time.
    #[error("that time is still to come: use Latest to continue with the next event")]
    Future,
}

/// Finds the event. One that the topic does not keep any more stands for the first that it keeps.
///
/// # Errors
/// The broker does not say. Within: there is no such place.
pub async fn resolve(broker: &Broker, start: Start, now: OffsetDateTime) -> Result<Result<Target, NoTarget>, ApiError> {
    let stream = broker.stream(layout::EVENT_STREAM).await?;
    let (first, last) = bounds(&stream);
    let sequence = match start {
        Start::Latest => last.saturating_add(1),
        Start::Earliest => first,
        Start::Sequence(sequence) if sequence > last => return Ok(Err(NoTarget::BeyondEnd { sequence, last })),
        Start::Sequence(sequence) => sequence.max(first),
        Start::Time(time) if time > now => return Ok(Err(NoTarget::Future)),
        Start::Time(time) => first_since(broker, time, (first, last)).await?,
    };
    let event = if sequence > last { None } else { next(broker, sequence).await? };
    Ok(Ok(Target { sequence, time: event.map(|event| event.1) }))
}

/// The sequences of the first and of the last event; of an empty stream the first is behind the last.
fn bounds(stream: &StreamInfo) -> (u64, u64) {
    let last = stream.state.last_sequence;
    (stream.state.first_sequence.clamp(1, last.saturating_add(1)), last)
}

/// The sequence of the first event that was stored at this time or later, or the one after the last. Events are stored
/// in the order of their times, but for steps of the broker's clock.
async fn first_since(broker: &Broker, time: OffsetDateTime, (first, last): (u64, u64)) -> Result<u64, ApiError> {
    let (mut low, mut high) = (first, last.saturating_add(1));
    while low < high {
        let middle = low + (high - low) / 2;
        match next(broker, middle).await? {
            // Events that are gone are before the first, and those between two are as old as the next.
            Some((sequence, stored)) if stored < time => low = sequence.saturating_add(1),
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Sequence and time of the first event from a sequence on.
async fn next(broker: &Broker, from: u64) -> Result<Option<(u64, OffsetDateTime)>, ApiError> {
    let message = broker.next_message(layout::EVENT_STREAM, ">", from).await?;
    Ok(message.map(|message| (message.sequence, message.time)))
}
