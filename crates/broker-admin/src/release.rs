//! Room for new events: what every handler of a topic has settled goes first (`whenFull: ReleaseHandled`).
//!
//! [`Room`] decides how much has to go (pure); [`plan`] finds out how much may go, and [`execute`] removes it. Nothing
//! goes that a consumer could still need: beside the consumers' acknowledgement floors only the stream itself is
//! believed, which says where the next event is that a consumer's filter lets through.

use std::collections::HashSet;

use tidegate_broker_client::layout;

use crate::api::{ApiError, Broker, ConsumerInfo, StreamInfo};
use crate::budget;

/// Percent of the room for events from which on something is released.
pub const RELEASE_AT: u64 = 75;
/// Percent of the room for events that is in use afterwards, if as much as that is settled.
const RELEASE_TO: u64 = 65;
/// Look-ups of one plan. A consumer beyond that counts by its floor alone.
const MAX_LOOKUPS: usize = 4096;

/// How full the stream of events is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes in use.
    pub bytes: u64,
    /// Bytes there may be.
    pub max_bytes: u64,
    /// Events stored.
    pub messages: u64,
    /// The first event's sequence.
    pub first_sequence: u64,
    /// The last event's sequence.
    pub last_sequence: u64,
    /// Bytes of the largest message that is published.
    pub largest: u64,
}

impl From<&StreamInfo> for Room {
    fn from(info: &StreamInfo) -> Self {
        Self {
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX),
            messages: info.state.messages,
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            largest: u64::try_from(budget::largest(&info.config)).unwrap_or(0),
        }
    }
}

impl Room {
    /// Percent in use, rounded down; more than 100 after the room was made smaller.
    pub fn percent(&self) -> u64 {
        if self.max_bytes == 0 {
            return 100;
        }
        let percent = u128::from(self.bytes) * 100 / u128::from(self.max_bytes);
        u64::try_from(percent).unwrap_or(u64::MAX)
    }

    /// Bytes of an event as they are on the average.
    pub fn average(&self) -> u64 {
        self.bytes.checked_div(self.messages).unwrap_or(0)
    }

    /// The sequence up to which events have to go so that there is room again; `None`: nothing has to. `refused`: a
    /// publisher was refused for want of room.
    fn excess(&self, refused: bool) -> Option<u64> {
        let share = |percent: u64| {
            let share = u128::from(self.max_bytes) * u128::from(percent) / 100;
            u64::try_from(share).unwrap_or(u64::MAX).min(self.max_bytes.saturating_sub(self.largest))
        };
        let (mark, target) = (share(RELEASE_AT), share(RELEASE_TO));
        if self.messages == 0 || self.bytes <= target || (self.bytes <= mark && !refused) {
            return None;
        }
        let excess = u128::from(self.bytes - target);
        let messages = (excess * u128::from(self.messages)).div_ceil(u128::from(self.bytes));
        let messages = u64::try_from(messages).unwrap_or(u64::MAX).min(self.messages);
        Some(self.first_sequence.saturating_add(messages.saturating_sub(1)).min(self.last_sequence))
    }

    /// What to release, where this is known of each consumer: its name, and up to where it has settled everything.
    fn release<'a>(&self, excess: u64, settled: impl IntoIterator<Item = (&'a str, u64)>) -> Release {
        let lowest = settled.into_iter().min_by_key(|(_, settled)| *settled);
        match lowest {
            None => Release::Held(Holder::NoHandlers),
            Some((consumer, settled)) if settled < self.first_sequence => {
                Release::Held(Holder::Behind { handler: layout::handler_of(consumer).to_owned(), settled })
            }
            Some((_, settled)) => Release::UpTo(settled.min(excess)),
        }
    }
}

/// What can be done for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// There is enough of it.
    NotNeeded,
    /// Everything up to this sequence can go.
    UpTo(u64),
    /// Nothing can go.
    Held(Holder),
}

/// Which handler needs the oldest event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// There is no handler: all events wait for the first one.
    NoHandlers,
    /// A handler that has a place in the topic has no consumer just now.
    Missing(String),
    /// A handler that has settled everything up to this sequence and no more.
    Behind {
        /// Its name.
        handler: String,
        /// The sequence.
        settled: u64,
    },
}

/// Why nothing is known of the room. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The broker did not list the consumers.
    #[error("consumers: {0}")]
    Consumers(#[source] ApiError),
    /// The broker did not say what is stored.
    #[error("event: {0}")]
    Event(#[source] ApiError),
    /// The broker did not remove anything, as far as is known.
    #[error("purge: {0}")]
    Purge(#[source] ApiError),
    /// The broker did not say how full the stream is.
    #[error("stream: {0}")]
    Info(#[source] ApiError),
}

/// The places of handlers in a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The consumers of the handlers that have one. While one of them is missing nothing goes, because its place cannot
    /// be seen.
    pub consumers: Vec<String>,
    /// Handlers that are not let in any more. Their consumers are there, and hold nothing up.
    pub withdrawn: HashSet<String>,
}

/// What to release. `info` was read before now.
///
/// # Errors
/// As [`ReleaseError`] says.
pub async fn plan(broker: &Broker, info: &StreamInfo, places: &Places, refused: bool) -> Result<Release, ReleaseError> {
    let room = Room::from(info);
    let Some(excess) = room.excess(refused) else { return Ok(Release::NotNeeded) };
    let mut consumers = broker.list_consumers(layout::EVENT_STREAM).await.map_err(ReleaseError::Consumers)?;
    consumers.retain(|consumer| !places.withdrawn.contains(layout::handler_of(&consumer.name)));
    if let Some(missing) =
        places.consumers.iter().find(|name| !consumers.iter().any(|consumer| &consumer.name == *name))
    {
        return Ok(Release::Held(Holder::Missing(layout::handler_of(missing).to_owned())));
    }
    let mut settled = Vec::with_capacity(consumers.len());
    let mut lookups = MAX_LOOKUPS;
    for consumer in &consumers {
        settled.push((consumer.name.as_str(), settled_by(broker, consumer, &room, excess, &mut lookups).await?));
    }
    Ok(room.release(excess, settled))
}

/// Up to where a consumer needs nothing, as far as `wanted`: what it has acknowledged without a gap, and after that
/// whatever its filters do not let through.
async fn settled_by(
    broker: &Broker,
    consumer: &ConsumerInfo,
    room: &Room,
    wanted: u64,
    lookups: &mut usize,
) -> Result<u64, ReleaseError> {
    let acknowledged = consumer.ack_floor.stream_sequence;
    let config = &consumer.config;
    let filters: Vec<&str> = std::iter::once(&config.filter_subject)
        .chain(&config.filter_subjects)
        .map(String::as_str)
        .filter(|filter| !filter.is_empty())
        .collect();
    if acknowledged >= wanted || filters.is_empty() || filters.len() > *lookups {
        return Ok(acknowledged);
    }
    *lookups -= filters.len();
    let from = acknowledged.saturating_add(1).max(room.first_sequence);
    // What was stored after `room` was read is not known here.
    let mut next = room.last_sequence.saturating_add(1);
    for filter in filters {
        if let Some(found) = next_event(broker, filter, from).await? {
            next = next.min(found);
        }
        if next <= from {
            break;
        }
    }
    Ok(acknowledged.max(next.saturating_sub(1)))
}

/// The first stored event from a sequence on that a filter lets through.
async fn next_event(broker: &Broker, filter: &str, from: u64) -> Result<Option<u64>, ReleaseError> {
    let message = broker.next_message(layout::EVENT_STREAM, filter, from).await.map_err(ReleaseError::Event)?;
    Ok(message.map(|message| message.sequence))
}

/// Removes everything up to this sequence, and says what is left.
///
/// # Errors
/// As [`ReleaseError`] says.
pub async fn execute(broker: &Broker, up_to: u64) -> Result<StreamInfo, ReleaseError> {
    // The request names the first one that stays.
    let kept = up_to.saturating_add(1);
    broker.purge_stream_below(layout::EVENT_STREAM, kept).await.map_err(ReleaseError::Purge)?;
    broker.stream(layout::EVENT_STREAM).await.map_err(ReleaseError::Info)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room =
        Room { bytes: 800, max_bytes: 1000, messages: 80, first_sequence: 21, last_sequence: 100, largest: 50 };

    #[test]
    fn something_goes_when_room_is_needed() {
        let table = [
            (ROOM, false, Some(35)),
            (Room { bytes: 750, ..ROOM }, false, None),
            (Room { bytes: 750, ..ROOM }, true, Some(31)),
            (Room { bytes: 650, ..ROOM }, true, None),
            (Room { bytes: 1000, messages: 1, first_sequence: 7, last_sequence: 7, ..ROOM }, false, Some(7)),
            (Room { bytes: 0, messages: 0, first_sequence: 101, ..ROOM }, true, None),
            // Room for the largest event is more than the usual share.
            (Room { bytes: 500, largest: 800, ..ROOM }, false, Some(68)),
            // It was made smaller than what is stored.
            (Room { bytes: 8000, ..ROOM }, false, Some(94)),
            (Room { max_bytes: 0, ..ROOM }, false, Some(100)),
        ];
        for (room, refused, excess) in table {
            assert_eq!(room.excess(refused), excess, "{room:?}, refused: {refused}");
        }
    }

    #[test]
    fn who_needs_the_oldest_event_is_named() {
        assert_eq!(ROOM.release(35, []), Release::Held(Holder::NoHandlers));
        let behind = Release::Held(Holder::Behind { handler: "slow".into(), settled: 20 });
        assert_eq!(ROOM.release(35, [("fast", 100), ("slow_3", 20)]), behind);
        assert_eq!(ROOM.release(35, [("fast", 100), ("slow_3", 21)]), Release::UpTo(21));
        assert_eq!(ROOM.release(35, [("fast", 100)]), Release::UpTo(35));
    }

    fn rooms() -> impl Strategy<Value = Room> {
        (1u64..1 << 40, 0u64..1 << 41, 0u64..100_000, 1u64..1 << 40, 0u64..1 << 24).prop_map(
            |(max_bytes, bytes, messages, first_sequence, largest)| Room {
                bytes: if messages == 0 { 0 } else { bytes.max(messages) },
                max_bytes,
                messages,
                first_sequence,
                last_sequence: first_sequence + messages - 1,
                largest,
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_above_any_floor_ever_goes(
            room in rooms(), refused: bool, floors in prop::collection::vec(0u64..1 << 41, 0..8),
        ) {
            let Some(excess) = room.excess(refused) else { return Ok(()) };
            prop_assert!((room.first_sequence..=room.last_sequence).contains(&excess), "{excess} in {room:?}");
            match room.release(excess, floors.iter().map(|floor| ("h", *floor))) {
                Release::UpTo(up_to) => {
                    prop_assert!(!floors.is_empty() && floors.iter().all(|floor| up_to <= *floor));
                    prop_assert!(up_to >= room.first_sequence, "something goes");
                }
                Release::Held(_) => prop_assert!(floors.iter().min().is_none_or(|floor| *floor < room.first_sequence)),
                Release::NotNeeded => prop_assert!(false, "something has to go"),
            }
        }
    }
}
