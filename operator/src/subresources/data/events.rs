//! Stored events of a topic.

use tidegate_broker_admin::api::{ApiError, Broker};
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use super::query::{EventQuery, EventStart};
use super::shown::{self, Shown};
use super::{Extent, Page, scan};

/// Events that a watch sends at a time.
pub const WATCH_LIMIT: usize = 100;

/// What the topic's stream has.
///
/// # Errors
/// The broker is away, or the topic has no stream.
pub async fn extent(broker: &Broker) -> Result<Extent, ApiError> {
    Extent::of(broker, layout::EVENT_STREAM).await
}

/// The sequence with which an answer begins.
///
/// # Errors
/// The broker is away, or the topic has no stream.
pub async fn start(broker: &Broker, query: &EventQuery, extent: &Extent) -> Result<u64, ApiError> {
    let end = extent.last.saturating_add(1);
    match query.start {
        EventStart::Last(count) => Ok(end.saturating_sub(count).max(extent.first)),
        EventStart::Since(since) => first_since(broker, since, extent.first, end).await,
        EventStart::Sequence(sequence) => Ok(sequence),
    }
}

/// The first event that was stored at this time or later: times rise with sequences, so about 20 reads find it among a
/// million.
async fn first_since(broker: &Broker, since: OffsetDateTime, first: u64, end: u64) -> Result<u64, ApiError> {
    let (mut low, mut high) = (first, end);
    while low < high {
        let middle = low + (high - low) / 2;
        match broker.next_message(layout::EVENT_STREAM, ">", middle).await? {
            Some(found) if found.time < since => low = found.sequence + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Events from a sequence on, at most `limit`.
///
/// # Errors
/// The broker is away, or the topic has no stream.
pub async fn page(broker: &Broker, from: u64, limit: usize) -> Result<Page, ApiError> {
    scan(broker, layout::EVENT_STREAM, layout::EVENT_SUBJECTS, from, limit, |message| {
        Some(Shown::of(message, &shown::event(message)))
    })
    .await
}
