//! Whether stored events are gone that nothing of ours removed (pure).
//!
//! What is remembered of the stream is in the topic's status, outside of the broker's volume. A stream that was made
//! later, whose last sequence went back, that has a hole, or whose first event went further than what was released,
//! has lost events: nothing else does that, because single events of it are never deleted.

use kube::ResourceExt as _;
use tidegate_broker_admin::api::StreamInfo;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::topic::{DataLoss, StreamRecord};

/// With this value of the topic's annotation, the loss that was detected at that time is acknowledged.
pub const ACKNOWLEDGE: &str = "tidegate.io/acknowledge-data-loss";
/// Bytes of the message that are kept.
const MESSAGE_LIMIT: usize = 2000;
/// Ranges of numbers in a message.
const RANGES_TOLD: usize = 5;

/// What to remember of the stream as it is. `released` is the sequence up to which events were ever released;
/// `removes`: the topic's retention may remove the oldest events at any time.
pub fn record(events: &StreamInfo, released: Option<i64>, removes: bool) -> StreamRecord {
    let state = &events.state;
    let held = (state.last_sequence + 1).saturating_sub(state.first_sequence);
    StreamRecord {
        // Whole seconds: texts of one length, which compare as the times do.
        created: jiff::Timestamp::from_second(events.created.unix_timestamp()).unwrap_or_default().to_string(),
        first_sequence: signed(state.first_sequence),
        last_sequence: signed(state.last_sequence),
        missing: signed(if state.messages == 0 { 0 } else { held.saturating_sub(state.messages) }),
        released,
        removes,
    }
}

/// What was lost between two looks; `None`: nothing.
pub fn between(before: &StreamRecord, now: &StreamRecord) -> Option<String> {
    if now.created > before.created {
        let events = if before.last_sequence >= before.first_sequence {
            format!("events {} to {} are gone", before.first_sequence, before.last_sequence)
        } else {
            "it had no events when it was last seen".to_owned()
        };
        return Some(format!("the stream of events was lost and made again: {events}, and numbers begin at 1 again"));
    }
    if now.last_sequence < before.last_sequence {
        return Some(format!(
            "the stream of events went back: its last event was number {}, and is {} now. Events {} to {} are gone, and their numbers are used again",
            before.last_sequence,
            now.last_sequence,
            now.last_sequence + 1,
            before.last_sequence
        ));
    }
    if now.missing > before.missing {
        return Some(format!(
            "{} events between number {} and {} are gone from the stream",
            now.missing - before.missing,
            now.first_sequence,
            now.last_sequence
        ));
    }
    let expected = before.first_sequence.max(before.released.unwrap_or(0) + 1);
    if now.first_sequence > expected && !before.removes && !now.removes {
        return Some(format!(
            "events {expected} to {} were removed from the stream by somebody else: neither a handler nor the retention had done with them",
            now.first_sequence - 1
        ));
    }
    None
}

/// Numbers of events, in words: a few ranges, and how many there are besides. `None`: there are none.
pub fn numbers(ranges: &[(u64, u64)]) -> Option<String> {
    let range =
        |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first} to {last}") };
    let told: Vec<String> = ranges.iter().take(RANGES_TOLD).map(range).collect();
    let more = ranges.len().saturating_sub(RANGES_TOLD);
    match (told.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(told.join(", ")),
        (false, more) => Some(format!("{}, and {more} more gaps", told.join(", "))),
    }
}

/// The loss that the topic's status tells of, after this was found.
pub fn told(topic: &EventTopic, found: Option<String>) -> Option<DataLoss> {
    let before = topic.status.as_ref().and_then(|status| status.data_loss.as_ref());
    let acknowledged = topic.annotations().get(ACKNOWLEDGE).map(String::as_str);
    loss(before, found, acknowledged, &jiff::Timestamp::now().to_string())
}

/// The condition.
pub fn data_lost(topic: &EventTopic, loss: Option<&DataLoss>) -> Finding {
    match loss {
        None => Finding::new(kind::DATA_LOST, Status::False, "NothingLost", "no loss of stored events is known"),
        Some(DataLoss { detected, message }) => {
            let name = topic.name_any();
            let message = format!(
                "{message}. Restore what you can from its sources. To acknowledge: kubectl annotate eventtopic {name} --overwrite {ACKNOWLEDGE}={detected}"
            );
            Finding::new(kind::DATA_LOST, Status::True, "EventsLost", message)
        }
    }
}

/// The loss that is told of: a new one, or the one before until it is acknowledged.
pub fn loss(
    before: Option<&DataLoss>,
    found: Option<String>,
    acknowledged: Option<&str>,
    now: &str,
) -> Option<DataLoss> {
    let open = before.filter(|loss| acknowledged != Some(loss.detected.as_str()));
    match (found, open) {
        (None, open) => open.cloned(),
        (Some(found), open) => {
            let mut message = match open {
                Some(open) => format!("{found}; before that: {}", open.message),
                None => found,
            };
            while message.len() > MESSAGE_LIMIT {
                message.pop();
            }
            Some(DataLoss { detected: now.to_owned(), message })
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(first: i64, last: i64) -> StreamRecord {
        StreamRecord {
            created: "2026-01-01T00:00:00Z".into(),
            first_sequence: first,
            last_sequence: last,
            missing: 0,
            released: None,
            removes: false,
        }
    }

    #[test]
    fn what_only_a_loss_can_do_is_one() {
        let later = |first, last| StreamRecord { created: "2026-01-02T00:00:00Z".into(), ..stream(first, last) };
        let holes = |missing| StreamRecord { missing, ..stream(1, 100) };
        let released = |up_to| StreamRecord { released: Some(up_to), ..stream(1, 100) };
        let removes = |record| StreamRecord { removes: true, ..record };
        let table = [
            (stream(1, 100), stream(1, 100), None),
            (stream(1, 100), stream(1, 2000), None),
            (stream(1, 2100), stream(1, 440), Some("Events 441 to 2100 are gone")),
            (stream(7, 100), later(1, 0), Some("events 7 to 100 are gone, and numbers begin at 1 again")),
            (stream(1, 0), later(1, 50), Some("it had no events")),
            (holes(0), holes(3), Some("3 events between number 1 and 100")),
            (holes(3), holes(3), None),
            (holes(3), holes(1), None),
            (stream(1, 100), stream(101, 100), Some("events 1 to 100 were removed")),
            (stream(1, 100), stream(51, 100), Some("events 1 to 50 were removed")),
            (released(50), stream(51, 200), None),
            (released(50), stream(52, 200), Some("events 51 to 51 were removed")),
            (removes(stream(1, 100)), stream(51, 200), None),
            (stream(1, 100), removes(stream(51, 200)), None),
            (removes(stream(1, 100)), removes(stream(1, 90)), Some("went back")),
        ];
        for (before, now, lost) in table {
            let found = between(&before, &now);
            match lost {
                None => assert_eq!(found, None, "{before:?} → {now:?}"),
                Some(lost) => assert!(found.as_ref().is_some_and(|found| found.contains(lost)), "{found:?} not {lost}"),
            }
        }
    }

    #[test]
    fn what_is_gone_is_said_in_numbers() {
        assert_eq!(numbers(&[]), None);
        assert_eq!(numbers(&[(7, 7), (9, 20)]).as_deref(), Some("7, 9 to 20"));
        let many: Vec<_> = (0..8).map(|number| (10 * number, 10 * number)).collect();
        assert_eq!(numbers(&many).as_deref(), Some("0, 10, 20, 30, 40, and 3 more gaps"));
    }

    #[test]
    fn a_loss_stays_until_that_very_one_is_acknowledged() {
        let first = loss(None, Some("a".into()), None, "1").unwrap();
        assert_eq!(loss(Some(&first), None, None, "2"), Some(first.clone()));
        assert_eq!(loss(Some(&first), None, Some("0"), "2"), Some(first.clone()), "that was another one");
        assert_eq!(loss(Some(&first), None, Some("1"), "2"), None);
        let second = loss(Some(&first), Some("b".into()), None, "2").unwrap();
        assert_eq!((second.detected.as_str(), second.message.as_str()), ("2", "b; before that: a"));
        assert_eq!(loss(Some(&first), Some("b".into()), Some("1"), "2").unwrap().message, "b");
        assert_eq!(loss(Some(&second), None, Some("1"), "3"), Some(second.clone()));
        assert!(loss(Some(&second), Some("ö".repeat(5000)), None, "3").unwrap().message.len() <= MESSAGE_LIMIT);
    }
}
