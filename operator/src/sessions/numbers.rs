//! What a topic's status shows of its streams, and when that has to be written again (pure).

use tidegate_broker_admin::api::{Discard, StreamConfig, StreamInfo};
use tidegate_broker_client::layout;
use tidegate_crds::topic::EventTopicStatus;

/// From four fifths of the room for events on, a topic is looked at each time and not only once a minute.
const FILLING: u64 = 4;
const FILLING_OF: u64 = 5;

/// Messages, the last sequence of the stream of events, and the dead letters of all handlers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    events: u64,
    last_sequence: u64,
    dead_letters: u64,
}

impl Numbers {
    /// Those of all streams of a topic.
    pub fn of(streams: &[StreamInfo]) -> Self {
        let mut numbers = Self::default();
        for StreamInfo { config, state, .. } in streams {
            if config.name == layout::EVENT_STREAM {
                (numbers.events, numbers.last_sequence) = (state.messages, state.last_sequence);
            } else if layout::handler_of_dead_letters(&config.name).is_some() {
                numbers.dead_letters += state.messages;
            }
        }
        numbers
    }

    /// Those in a status; `None`: it has none.
    pub fn shown(status: &EventTopicStatus) -> Option<Self> {
        let number = |number: Option<i64>| u64::try_from(number?).ok();
        Some(Self {
            events: number(status.events)?,
            last_sequence: number(status.last_sequence)?,
            dead_letters: number(status.dead_letters)?,
        })
    }

    /// Whether a status that shows these, or none, has to be written. That there are events or dead letters now, or
    /// none any more, may not be late; other numbers wait until they are `due`.
    pub fn should_be_shown(&self, shown: Option<&Self>, due: bool) -> bool {
        let are_there = |numbers: &Self| (numbers.events > 0, numbers.dead_letters > 0);
        shown.is_none_or(|shown| self != shown && (due || are_there(self) != are_there(shown)))
    }
}

/// Whether the stream of events has little room left. One that discards the oldest makes room by itself.
pub fn is_filling(stream: &StreamInfo) -> bool {
    let StreamConfig { name, max_bytes, discard, .. } = &stream.config;
    name == layout::EVENT_STREAM
        && *discard == Discard::New
        && u64::try_from(*max_bytes).is_ok_and(|most| stream.state.bytes > most / FILLING_OF * FILLING)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn stream(name: &str, discard: &str, messages: u64, bytes: u64) -> StreamInfo {
        let zero = "2026-01-01T00:00:00Z";
        serde_json::from_value(json!({
            "config": {"name": name, "discard": discard, "max_bytes": 1000, "retention": "limits", "storage": "file",
                       "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": -1, "max_age": 0,
                       "num_replicas": 1},
            "created": zero,
            "state": {"messages": messages, "bytes": bytes, "first_seq": 1, "last_seq": 90, "consumer_count": 0,
                      "first_ts": zero, "last_ts": zero},
        }))
        .unwrap()
    }

    #[test]
    fn only_events_that_would_be_refused_can_fill_their_stream() {
        assert!(is_filling(&stream("events", "new", 9, 801)));
        assert!(!is_filling(&stream("events", "new", 9, 800)), "from 80 % on");
        assert!(!is_filling(&stream("events", "old", 9, 1000)), "it makes room by itself");
        assert!(!is_filling(&stream("dead-letters_a", "new", 9, 1000)), "that is no room for events");
    }

    #[test]
    fn dead_letters_of_all_handlers_count_and_attempts_do_not() {
        let streams = [("events", 9), ("dead-letters_a", 2), ("dead-letters_b", 3), ("attempts_a", 7)]
            .map(|(name, messages)| stream(name, "new", messages, 1));
        assert_eq!(Numbers::of(&streams), Numbers { events: 9, last_sequence: 90, dead_letters: 5 });
    }

    #[test]
    fn numbers_that_only_move_wait_and_that_there_are_some_does_not() {
        let numbers = |events, dead_letters| Numbers { events, last_sequence: 90, dead_letters };
        for (shown, now, at_once, when_due) in [
            (None, numbers(0, 0), true, true),
            (Some(numbers(5, 0)), numbers(5, 0), false, false),
            (Some(numbers(5, 0)), numbers(6, 0), false, true),
            (Some(numbers(5, 1)), numbers(5, 9), false, true),
            (Some(numbers(0, 0)), numbers(1, 0), true, true),
            // Stored, shown by a reconcile, and gone again between two looks.
            (Some(numbers(1, 0)), numbers(0, 0), true, true),
            (Some(numbers(5, 0)), numbers(5, 1), true, true),
            (Some(numbers(5, 1)), numbers(5, 0), true, true),
        ] {
            assert_eq!(now.should_be_shown(shown.as_ref(), false), at_once, "{shown:?} {now:?}");
            assert_eq!(now.should_be_shown(shown.as_ref(), true), when_due, "{shown:?} {now:?}");
        }
        let status = |events| EventTopicStatus {
            events,
            last_sequence: Some(90),
            dead_letters: Some(2),
            ..EventTopicStatus::default()
        };
        assert_eq!(Numbers::shown(&status(Some(5))), Some(numbers(5, 2)));
        assert_eq!(Numbers::shown(&status(None)), None);
    }
}
