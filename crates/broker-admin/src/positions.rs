//! Where a handler continues when the broker has lost its consumer. Pure.
//!
//! The broker keeps a handler's position in its consumer. So that the position survives the consumer, the operator
//! keeps a copy elsewhere; where a new handler begins ([`crate::consumers::Start`]) counts only for one that never had
//! a position.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::api::{ConsumerInfo, DeliverPolicy};

/// How far a handler is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// When its stream was created; `None`: not known.
    pub stream_created: Option<OffsetDateTime>,
    /// The sequence up to which each consumer has acknowledged all its events.
    pub acknowledged: BTreeMap<String, u64>,
}

/// What matters of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// When it was created.
    pub created: OffsetDateTime,
    /// The sequence of its last event, which may be gone.
    pub last_sequence: u64,
}

/// Why a consumer that was made does not begin where a new handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restart {
    /// The consumer was gone: it continues after this sequence.
    After(u64),
    /// The stream is another, or lost its end: it begins with the stream's first event.
    NewStream,
}

impl Restart {
    /// The sequence after which the consumer begins.
    pub(crate) fn begins_after(self) -> u64 {
        match self {
            Self::After(sequence) => sequence,
            Self::NewStream => 0,
        }
    }

    /// Where the consumer begins.
    pub(crate) fn deliver_policy(self) -> DeliverPolicy {
        match self {
            Self::After(sequence) => DeliverPolicy::ByStartSequence { start_sequence: sequence.saturating_add(1) },
            Self::NewStream => DeliverPolicy::All,
        }
    }
}

impl Position {
    /// How a consumer that is not there begins. A consumer without a record of its own begins at the lowest of the
    /// handler's others, so that it skips nothing. `None`: as that of a new handler.
    pub fn restart(&self, consumer: &str, stream: &StreamState) -> Option<Restart> {
        if self.stream_created.is_some_and(|recorded| stream.created > recorded) {
            return Some(Restart::NewStream);
        }
        let lowest = self.acknowledged.values().min();
        let acknowledged = self.acknowledged.get(consumer).or(lowest).copied()?;
        let has_lost = stream.last_sequence < acknowledged;
        Some(if has_lost { Restart::NewStream } else { Restart::After(acknowledged) })
    }

    /// Records what was seen of a consumer, which begins or was `known` to be after this sequence. A consumer of
    /// several copies says nothing of its beginning before something is acknowledged, and one whose first sequence is
    /// still to come has no position yet.
    pub(crate) fn record(&mut self, name: &str, consumer: &ConsumerInfo, stream: &StreamState, known: Option<u64>) {
        let waits = |sequence: u64| !has_begun(consumer) && sequence > stream.last_sequence;
        let acknowledged = Some(consumer.ack_floor.stream_sequence).filter(|sequence| !waits(*sequence)).unwrap_or(0);
        let known = known.filter(|sequence| !waits(*sequence));
        if known.is_none() && acknowledged == 0 && !has_begun(consumer) {
            return;
        }
        // A record never goes back, unless the consumer began again.
        self.acknowledged.insert(name.to_owned(), acknowledged.max(known.unwrap_or(0)));
    }
}

/// Whether a consumer is further than its stream, which lost its end: what is stored next would be passed over.
/// `stream` must have been looked at after the consumer.
pub(crate) fn is_ahead(consumer: &ConsumerInfo, stream: &StreamState) -> bool {
    has_begun(consumer) && consumer.delivered.stream_sequence > stream.last_sequence
}

/// Whether anything was ever delivered.
fn has_begun(consumer: &ConsumerInfo) -> bool {
    consumer.delivered.consumer_sequence > 0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CREATED: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn position(acknowledged: &[(&str, u64)]) -> Position {
        let acknowledged = acknowledged.iter().map(|(name, sequence)| ((*name).to_owned(), *sequence)).collect();
        Position { stream_created: Some(CREATED), acknowledged }
    }

    #[test]
    fn a_lost_consumer_goes_on_after_its_record_unless_the_stream_is_another() {
        let lanes = position(&[("a_0", 41), ("a_1", 7)]);
        let same = StreamState { created: CREATED, last_sequence: 50 };
        let newer = StreamState { created: CREATED + Duration::from_nanos(1), last_sequence: 50 };
        let restored = StreamState { created: CREATED - Duration::from_secs(9), last_sequence: 41 };
        let shorter = StreamState { created: CREATED, last_sequence: 40 };
        for (consumer, stream, expected) in [
            ("a_0", same, Restart::After(41)),
            ("a_1", same, Restart::After(7)),
            ("a_2", same, Restart::After(7)),
            ("a_0", newer, Restart::NewStream),
            ("a_0", restored, Restart::After(41)),
            ("a_0", shorter, Restart::NewStream),
            ("a_1", shorter, Restart::After(7)),
        ] {
            assert_eq!(lanes.restart(consumer, &stream), Some(expected), "{consumer} {stream:?}");
        }
        assert_eq!(position(&[]).restart("a", &same), None, "it never had a position");
        assert_eq!(position(&[]).restart("a", &newer), Some(Restart::NewStream), "but it was there before the stream");
        assert_eq!(Position::default().restart("a", &newer), None);
        let unknown = Position { stream_created: None, ..lanes };
        assert_eq!(unknown.restart("a_0", &newer), Some(Restart::After(41)));
    }

    fn consumer(delivered: (u64, u64), floor: u64) -> ConsumerInfo {
        serde_json::from_value(serde_json::json!({
            "stream_name": "events", "name": "a", "created": "2026-01-01T00:00:00Z",
            "config": {"deliver_policy": "all", "ack_policy": "explicit", "replay_policy": "instant", "num_replicas": 1},
            "delivered": {"consumer_seq": delivered.0, "stream_seq": delivered.1},
            "ack_floor": {"consumer_seq": 0, "stream_seq": floor},
            "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": 0, "num_pending": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_record_does_not_go_back_by_itself() {
        let stream = StreamState { created: CREATED, last_sequence: 50 };
        let recorded = |known, consumer: ConsumerInfo| {
            let mut position = Position::default();
            position.record("a", &consumer, &stream, known);
            position.acknowledged.get("a").copied()
        };
        assert_eq!(recorded(Some(3), consumer((9, 9), 7)), Some(7));
        assert_eq!(recorded(Some(9), consumer((9, 9), 7)), Some(9));
        assert_eq!(recorded(None, consumer((0, 50), 50)), Some(50), "Latest, of one copy");
        assert_eq!(recorded(Some(50), consumer((0, 0), 0)), Some(50), "Latest, of several");
        assert_eq!(recorded(Some(0), consumer((0, 0), 0)), Some(0), "Earliest");
        assert_eq!(recorded(None, consumer((0, 0), 0)), None, "its beginning is not known");
        assert_eq!(recorded(None, consumer((1, 7), 0)), Some(0), "nor is it, but nothing may be skipped");
        assert_eq!(recorded(Some(98), consumer((0, 98), 98)), None, "startFrom: 99");
        assert_eq!(recorded(Some(98), consumer((0, 0), 0)), None, "the same, of several copies");
    }

    #[test]
    fn a_consumer_can_be_ahead_only_of_what_it_delivered() {
        let stream = StreamState { created: CREATED, last_sequence: 50 };
        assert!(is_ahead(&consumer((9, 51), 7), &stream));
        assert!(!is_ahead(&consumer((9, 50), 50), &stream));
        assert!(!is_ahead(&consumer((0, 98), 98), &stream), "startFrom: 99");
    }

    #[test]
    fn the_first_event_may_be_the_next() {
        assert_eq!(Restart::After(0).deliver_policy(), DeliverPolicy::ByStartSequence { start_sequence: 1 });
        assert_eq!(Restart::NewStream.deliver_policy(), DeliverPolicy::All);
    }
}
