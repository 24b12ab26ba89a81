//! Reads stored events and dead letters of a topic's account, within bounds, and shows them as JSON. It knows nothing of
//! Kubernetes: whoever has a connection to the account can use it.

pub mod dead_letters;
pub mod events;
pub mod query;
mod shown;

use std::time::Duration;

use tidegate_broker_admin::api::{ApiError, Broker, StoredMessage};
use time::OffsetDateTime;
use tokio::time::Instant;

pub use shown::Shown;

/// Stored messages that are looked at for a page.
const MAX_EXAMINED: usize = 2000;
/// Bytes of events that a page has at most, besides one.
const MAX_BYTES: usize = 4 << 20;
/// A page ends when this time has passed.
const PAGE_TIME: Duration = Duration::from_secs(5);

/// What a stream has when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The sequence of the first message; of the next one, if there is none.
    pub first: u64,
    /// The sequence of the last message there was; 0: there never was one.
    pub last: u64,
    /// The time, by the clock that gives messages theirs.
    pub time: OffsetDateTime,
}

impl Extent {
    /// That of a stream.
    ///
    /// # Errors
    /// The broker is away, or there is no such stream.
    pub async fn of(broker: &Broker, stream: &str) -> Result<Self, ApiError> {
        let (info, time) = broker.stream_with_time(stream).await?;
        Ok(Self { first: info.state.first_sequence, last: info.state.last_sequence, time })
    }

    /// Whether a sequence is that of a message, or of the next one. One that is not was given by another stream of the name.
    pub fn reaches(&self, sequence: u64) -> bool {
        sequence <= self.last.saturating_add(1)
    }
}

/// A part of a stream.
#[derive(Debug)]
pub struct Page {
    /// What it shows of it.
    pub items: Vec<Shown>,
    /// The sequence after what was looked at: where the next page begins.
    pub from: u64,
    /// Whether there may be a next one now.
    pub more: bool,
}

/// Looks at the messages of a stream from a sequence on, and shows those that `show` shows, until the page is full.
async fn scan(
    broker: &Broker,
    stream: &str,
    subject: &str,
    from: u64,
    limit: usize,
    mut show: impl FnMut(&StoredMessage) -> Option<Shown>,
) -> Result<Page, ApiError> {
    let end = Instant::now() + PAGE_TIME;
    let mut page = Page { items: Vec::new(), from: from.max(1), more: true };
    let mut bytes = 0;
    for _ in 0..MAX_EXAMINED {
        let Some(message) = broker.next_message(stream, subject, page.from).await? else {
            page.more = false;
            return Ok(page);
        };
        let shown = show(&message);
        if shown.is_some() {
            bytes += message.payload.len();
            // What does not fit any more is the first of the next page.
            if !page.items.is_empty() && bytes > MAX_BYTES {
                return Ok(page);
            }
        }
        page.from = message.sequence + 1;
        page.items.extend(shown);
        if page.items.len() >= limit || Instant::now() >= end {
            return Ok(page);
        }
    }
    Ok(page)
}
