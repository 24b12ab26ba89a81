//! Room for new events: what is released for it, and the condition `HasRoom`.

use tidegate_broker_admin::api::{Broker, Discard, StreamInfo};
use tidegate_broker_admin::release::{self, Holder, Places, Release, ReleaseError, Room};
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::topic::WhenFull;

use crate::reconcile::error::Error;
use crate::sessions::ingress_reports::Refusing;
use crate::topic::status::Journal;

/// Percent from which the condition says that the topic fills.
const FILLING_AT: u64 = 80;
/// Events differ in size, so a release can free less than was meant.
const ROUNDS: usize = 8;

/// Whether there is room for new events, after all that could be done for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomState {
    /// How full the stream is.
    pub room: Room,
    /// Why nothing more could be released, where that was needed.
    pub holder: Option<Holder>,
    /// Whether publishers are refused.
    pub is_full: bool,
    /// Whether they are because the broker has no room, whatever the topic has.
    pub is_broker_full: bool,
    /// Up to where events were released just now.
    pub released: Option<u64>,
    /// Whether nothing is released because events are missed that another server may have.
    pub misses_events: bool,
}

impl RoomState {
    /// Of a topic of which nothing is released. A stream that discards the oldest events is never full: it has no more
    /// room than this in ordinary use, and takes every event.
    pub fn as_it_is(events: &StreamInfo, refused: Option<Refusing>) -> Self {
        let state = Self::new(Room::from(events), None, refused);
        // All the same, a full store takes nothing for anybody.
        Self { is_full: state.is_broker_full || state.is_full && events.config.discard == Discard::New, ..state }
    }

    fn new(room: Room, holder: Option<Holder>, refused: Option<Refusing>) -> Self {
        let is_full = refused.is_some() || room.bytes.saturating_add(room.average()) > room.max_bytes;
        Self {
            room,
            holder,
            is_full,
            is_broker_full: refused == Some(Refusing::Broker),
            released: None,
            misses_events: false,
        }
    }
}

/// Releases what every handler has settled, if room is needed. What goes is in the journal before it goes.
///
/// # Errors
/// The broker is away.
pub async fn make(
    broker: &Broker,
    mut events: StreamInfo,
    places: &Places,
    mut refused: Option<Refusing>,
    journal: Option<&Journal<'_>>,
) -> Result<(StreamInfo, RoomState), Error> {
    let (mut released, mut holder) = (None, None);
    for _ in 0..ROUNDS {
        match release::plan(broker, &events, places, refused.is_some()).await? {
            Release::NotNeeded => {
                // What was refused has room now, or had it already; but that says nothing of the broker.
                refused = refused.filter(|what| *what == Refusing::Broker);
                break;
            }
            Release::Held(by) => {
                holder = Some(by);
                break;
            }
            Release::UpTo(up_to) => {
                if let Some(journal) = journal {
                    journal.note(up_to).await?;
                }
                events = release::execute(broker, up_to).await?;
                tracing::debug!(up_to, messages = events.state.messages, "released what every handler has settled");
                released = Some(up_to);
                refused = None;
            }
        }
    }
    let state = RoomState { released, ..RoomState::new(Room::from(&events), holder, refused) };
    Ok((events, state))
}

/// The condition.
pub fn has_room(state: &RoomState, when_full: WhenFull) -> Finding {
    if state.is_broker_full {
        return Finding::new(
            kind::HAS_ROOM,
            Status::False,
            "BrokerStoreFull",
            "publishers are refused with 429, because the store of the broker is full, however much of its own room this topic has left. Raise storage.size of the EventBroker, let the topics on it release events (their HasRoom says what holds them), or delete one",
        );
    }
    if when_full == WhenFull::DropOldest {
        return Finding::new(kind::HAS_ROOM, Status::True, "DropsOldest", "the oldest events make room for new ones");
    }
    let why = why(state, when_full);
    if state.is_full {
        return Finding::new(kind::HAS_ROOM, Status::False, "Full", format!("publishers are refused with 429: {why}"));
    }
    if state.room.percent() >= FILLING_AT {
        let message = format!("more than {FILLING_AT} % of the room for events is in use: {why}");
        return Finding::new(kind::HAS_ROOM, Status::True, "Filling", message);
    }
    Finding::new(kind::HAS_ROOM, Status::True, "Room", "there is room for new events")
}

/// Why there is little room, and what can be done. No numbers: they change all the time.
fn why(state: &RoomState, when_full: WhenFull) -> String {
    match (when_full, &state.holder) {
        (WhenFull::Reject, _) => {
            "whenFull: Reject removes nothing. Raise retention.maxSize, set retention.maxAge, or choose whenFull: ReleaseHandled".to_owned()
        }
        (_, _) if state.misses_events => {
            "nothing is released while events are missed that another server has, or may have: condition DataLost says what that waits for, and what you can do".to_owned()
        }
        (_, Some(Holder::NoHandlers)) => {
            "the topic has no handler, so all events are kept for the first one. Make a handler, set retention.maxAge, or raise retention.maxSize".to_owned()
        }
        (_, Some(Holder::Missing(handler))) => format!(
            "EventHandler {handler} has no consumer at the moment, so that nothing can be released before its place is known again. Its conditions say why; or raise retention.maxSize"
        ),
        (_, Some(Holder::Behind { handler, .. })) => format!(
            "EventHandler {handler} still needs the oldest event. Let it catch up, give it more replicas, delete it if it is not wanted, or raise retention.maxSize"
        ),
        (_, None) => "the handlers have not handled enough of it yet. Raise retention.maxSize if that is too little".to_owned(),
    }
}

impl From<ReleaseError> for Error {
    fn from(error: ReleaseError) -> Self {
        Self::Broker(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(bytes: u64, holder: Option<Holder>, refused: Option<Refusing>) -> RoomState {
        let room = Room { bytes, max_bytes: 1000, messages: 10, first_sequence: 1, last_sequence: 10, largest: 100 };
        RoomState::new(room, holder, refused)
    }

    /// Or a topic that works as it should would be looked at every ten seconds for as long as it lives.
    #[test]
    fn a_stream_that_discards_the_oldest_is_never_full() {
        for (discard, is_full) in [("old", false), ("new", true)] {
            let events = serde_json::from_value(serde_json::json!({
                "config": {
                    "name": "events", "subjects": ["events.>"], "retention": "limits", "storage": "file",
                    "discard": discard, "max_msgs_per_subject": -1, "max_consumers": -1, "max_msgs": -1, "max_bytes": 1000, "max_age": 0,
                    "num_replicas": 1,
                },
                "created": "2026-01-01T00:00:00Z",
                "state": {
                    "messages": 10, "bytes": 1000, "first_seq": 1, "last_seq": 10, "consumer_count": 0,
                    "first_ts": "2026-01-01T00:00:00Z", "last_ts": "2026-01-01T00:00:00Z",
                },
            }))
            .unwrap();
            assert_eq!(RoomState::as_it_is(&events, None).is_full, is_full, "discard: {discard}");
            assert!(RoomState::as_it_is(&events, Some(Refusing::Broker)).is_full, "discard: {discard}");
        }
    }

    #[test]
    fn the_condition_says_how_full_it_is_why_and_what_helps() {
        use WhenFull::{DropOldest, Reject, ReleaseHandled};
        let behind = || Some(Holder::Behind { handler: "billing".into(), settled: 3 });
        let table = [
            (state(790, behind(), None), ReleaseHandled, Status::True, "Room", "room"),
            (state(800, behind(), None), ReleaseHandled, Status::True, "Filling", "EventHandler billing"),
            (state(800, Some(Holder::NoHandlers), None), ReleaseHandled, Status::True, "Filling", "no handler"),
            (state(1000, behind(), None), ReleaseHandled, Status::False, "Full", "EventHandler billing"),
            (state(100, None, Some(Refusing::Topic)), ReleaseHandled, Status::False, "Full", "retention.maxSize"),
            (state(990, None, None), Reject, Status::False, "Full", "whenFull: ReleaseHandled"),
            (
                state(850, Some(Holder::Missing("a".into())), None),
                ReleaseHandled,
                Status::True,
                "Filling",
                "no consumer",
            ),
            (state(1000, None, Some(Refusing::Topic)), DropOldest, Status::True, "DropsOldest", "oldest"),
            (
                state(100, None, Some(Refusing::Broker)),
                ReleaseHandled,
                Status::False,
                "BrokerStoreFull",
                "storage.size",
            ),
            (state(100, None, Some(Refusing::Broker)), DropOldest, Status::False, "BrokerStoreFull", "storage.size"),
        ];
        let missing = RoomState { misses_events: true, ..state(1000, None, None) };
        assert!(has_room(&missing, ReleaseHandled).message.contains("condition DataLost"));
        for (state, when_full, status, reason, word) in table {
            let found = has_room(&state, when_full);
            assert_eq!((found.status, found.reason.as_str()), (status, reason), "{state:?}");
            assert!(found.message.contains(word), "{}", found.message);
        }
    }
}
