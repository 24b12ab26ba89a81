//! Whether stored events are gone that nothing of ours removed (pure).
//!
//! What is remembered of the stream is in the topic's status, outside of the broker's volume. A stream that was made
//! later, whose last sequence went back, that has a hole, or whose first event went further than what was released,
//! has lost events: nothing else does that, because single events of it are never deleted. Its end is where the topic's
//! ingresses know it to be, which outlives a server: what they acknowledged may be newer than the record, and what was
//! published since may hide that the stream went back.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use tidegate_broker_admin::api::StreamInfo;
use tidegate_crds::EventTopic;
use tidegate_crds::topic::{DataLoss, LostTail, StreamRecord};

use crate::sessions::ingress_reports::StreamEnd;
use crate::topic::look::Lacking;

/// With its time as the value of this annotation of the topic, a loss is acknowledged; with the time since when events are missed
/// and the mark of which they are, those are given up.
pub const ACKNOWLEDGE: &str = "tidegate.io/acknowledge-data-loss";
/// Bytes of the message that are kept.
const MESSAGE_LIMIT: usize = 2000;
/// Several ingresses notice one loss, each at its own next event.
const SAME_LOSS: SignedDuration = SignedDuration::from_secs(60);
/// Ranges of numbers in a message.
const RANGES_TOLD: usize = 5;

/// What to remember of the stream as it is. `released` is the sequence up to which events were ever released;
/// `removes`: the topic's retention may remove the oldest events at any time.
pub fn record(events: &StreamInfo, released: Option<i64>, removes: bool) -> StreamRecord {
    let state = &events.state;
    let held = state.last_sequence.saturating_add(1).saturating_sub(state.first_sequence);
    StreamRecord {
        created: second(events.created.unix_timestamp()),
        first_sequence: signed(state.first_sequence),
        last_sequence: signed(state.last_sequence),
        missing: signed(if state.messages == 0 { 0 } else { held.saturating_sub(state.messages) }),
        released,
        removes,
        lost_tail: None,
    }
}

/// The end that the stream lost between two looks; `None`: none. `end` was heard before the second look; `at`: now.
pub fn tail(before: &StreamRecord, now: &StreamRecord, end: &StreamEnd, at: Timestamp) -> Option<LostTail> {
    let range = |first, last, noticed| LostTail { first, last, noticed, acknowledged: false };
    let (last, is_new) = (last_known(before, end), now.created > before.created);
    let gone = match is_new {
        true => Some(1),
        false => (now.last_sequence < last).then_some(now.last_sequence + 1),
    };
    let gone = gone.filter(|_| last > 0).map(|first| range(first, last, second(at.as_second())));
    let reported = end.lost.map(|lost| range(signed(lost.first), signed(lost.last), second(signed(lost.noticed))));
    let found = [gone, reported].into_iter().flatten().filter(|tail| is_news(before.lost_tail.as_ref(), tail));
    found.reduce(|one, other| {
        range(one.first.min(other.first), one.last.max(other.last), one.noticed.max(other.noticed))
    })
}

/// What to remember after a look. `end` was heard before it; `at`: now.
///
/// What is on another server, or may be, is missed until it is back here or is known to be lost, so the record stays as it was: it
/// would not be missed any more when that server loses it too.
pub(super) fn remembered(
    before: Option<&StreamRecord>,
    now: StreamRecord,
    lacking: &Lacking,
    end: &StreamEnd,
    at: Timestamp,
) -> StreamRecord {
    let Some(before) = before else { return now };
    let found = match lacking {
        Lacking::Elsewhere(_) | Lacking::Missing { .. } => {
            return StreamRecord { released: now.released, removes: before.removes || now.removes, ..before.clone() };
        }
        Lacking::Lost(_) | Lacking::GivenUp(_) => tail(before, &now, end, at),
        Lacking::Nothing => None,
    };
    StreamRecord { lost_tail: found.or_else(|| before.lost_tail.clone()), ..now }
}

/// The last event that there was.
fn last_known(before: &StreamRecord, end: &StreamEnd) -> i64 {
    before.last_sequence.max(signed(end.acknowledged))
}

/// Whether this is another loss than the one that is on record.
fn is_news(known: Option<&LostTail>, tail: &LostTail) -> bool {
    let Some(known) = known else { return true };
    let time = |tail: &LostTail| tail.noticed.parse::<Timestamp>().unwrap_or_default();
    let is_part = known.first <= tail.first && tail.last <= known.last;
    let later = time(tail).duration_since(time(known));
    later > SignedDuration::ZERO && !(is_part && later <= SAME_LOSS)
}

/// Events that a stream lacks of those that it had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// In words; of several things that are wrong, the worst.
    pub message: String,
    /// All of it: another text when others are gone, and the same one whatever is published meanwhile.
    pub which: String,
}

impl Gone {
    /// A short text that is another one for other events. `leader`: the server that lacks them.
    pub fn mark(&self, leader: Option<&str>) -> String {
        let digest = Sha256::digest(format!("{} {}", leader.unwrap_or_default(), self.which));
        digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What was lost between two looks; `None`: nothing. `end` was heard before the second look.
pub fn between(before: &StreamRecord, now: &StreamRecord, end: &StreamEnd) -> Option<Gone> {
    if now.created > before.created {
        let events = if before.last_sequence >= before.first_sequence {
            format!("events {} to {} are gone", before.first_sequence, before.last_sequence)
        } else {
            "it had no events when it was last seen".to_owned()
        };
        return Some(Gone {
            message: format!("the stream of events was lost and made again: {events}, and numbers begin at 1 again"),
            which: format!("{} {}", now.created, now.missing),
        });
    }
    let tail = tail(before, now, end, Timestamp::now()).map(|LostTail { first, last, .. }| (first, last));
    let holes = now.missing.saturating_sub(before.missing).max(0);
    let expected = before.first_sequence.max(before.released.unwrap_or(0) + 1);
    let front = (now.first_sequence > expected && !before.removes && !now.removes)
        .then_some((expected, now.first_sequence - 1));
    let message = match (tail, front) {
        (Some((first, last)), _) => format!(
            "the stream of events went back: its last event was number {last}, and its end is gone. Events {first} to {last} are lost, and their numbers are used again"
        ),
        _ if holes > 0 => format!(
            "{holes} events between number {} and {} are gone from the stream",
            now.first_sequence, now.last_sequence
        ),
        (None, Some((first, last))) => format!(
            "events {first} to {last} were removed from the stream by somebody else: neither a handler nor the retention had done with them"
        ),
        (None, None) => return None,
    };
    Some(Gone { message, which: format!("{tail:?} {holes} {front:?}") })
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
    loss(before, found, acknowledged, &Timestamp::now().to_string())
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

/// Whole seconds: texts of one length, which compare as the times do.
pub(super) fn second(since: i64) -> String {
    Timestamp::from_second(since).unwrap_or_default().to_string()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::contract;

    use super::*;

    fn stream(first: i64, last: i64) -> StreamRecord {
        StreamRecord {
            created: "2026-01-01T00:00:00Z".into(),
            first_sequence: first,
            last_sequence: last,
            missing: 0,
            released: None,
            removes: false,
            lost_tail: None,
        }
    }

    fn heard(acknowledged: u64, lost: Option<(u64, u64, u64)>) -> StreamEnd {
        let lost = lost.map(|(first, last, noticed)| contract::LostTail { first, last, noticed });
        StreamEnd { acknowledged, lost }
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
            (stream(1, 2100), stream(1, 440), Some("Events 441 to 2100 are lost")),
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
            let found = between(&before, &now, &StreamEnd::default());
            match lost {
                None => assert_eq!(found, None, "{before:?} → {now:?}"),
                Some(lost) => {
                    assert!(found.as_ref().is_some_and(|found| found.message.contains(lost)), "{found:?} not {lost}")
                }
            }
        }
    }

    #[test]
    fn which_events_are_gone_is_the_same_whatever_is_published() {
        let end = heard(120, Some((91, 110, 900)));
        let of = |now: StreamRecord, end: &StreamEnd| between(&stream(1, 100), &now, end).unwrap().which;
        let (none, hole) = (StreamEnd::default(), |missing, last| StreamRecord { missing, ..stream(1, last) });
        let again = |last| StreamRecord { created: "2026-01-02T00:00:00Z".into(), ..stream(1, last) };
        assert_eq!(of(hole(3, 120), &none), of(hole(3, 150), &none));
        assert_eq!(of(stream(11, 120), &none), of(stream(11, 150), &none));
        assert_eq!(of(stream(1, 125), &end), of(stream(1, 150), &end));
        assert_eq!(of(again(7), &none), of(again(9), &heard(9, None)));
        let others = [
            of(hole(3, 120), &none),
            of(hole(4, 120), &none),
            of(stream(11, 120), &none),
            of(stream(12, 120), &none),
            of(hole(3, 120), &end),
            of(stream(1, 120), &end),
            of(again(7), &none),
        ];
        let different: std::collections::BTreeSet<_> = others.iter().collect();
        assert_eq!(different.len(), others.len(), "{others:?}");
        let mark = |leader, which: &str| Gone { message: String::new(), which: which.into() }.mark(Some(leader));
        assert!(mark("b-0", "3") == mark("b-0", "3") && mark("b-0", "3") != mark("b-1", "3"));
        assert_ne!(mark("b-0", "3"), mark("b-0", "4"));
    }

    #[test]
    fn an_end_that_only_the_ingresses_knew_is_missed() {
        let at = Timestamp::from_second(1000).unwrap();
        let later = StreamRecord { created: "2026-01-02T00:00:00Z".into(), ..stream(1, 0) };
        let known = |first, last, noticed| {
            let lost_tail = LostTail { first, last, noticed: second(noticed), acknowledged: true };
            StreamRecord { lost_tail: Some(lost_tail), ..stream(1, 100) }
        };
        let table = [
            ("nothing is missed", stream(1, 100), stream(1, 100), heard(100, None), None),
            ("it went on", stream(1, 100), stream(1, 150), heard(140, None), None),
            ("the record is old", stream(1, 100), stream(1, 120), heard(140, None), Some((121, 140))),
            (
                "and numbers are used again",
                stream(1, 100),
                stream(1, 150),
                heard(130, Some((121, 140, 900))),
                Some((121, 140)),
            ),
            ("both", stream(1, 100), stream(1, 95), heard(93, Some((91, 100, 900))), Some((91, 100))),
            ("another stream", stream(1, 100), later.clone(), heard(130, None), Some((1, 130))),
            ("that had nothing", stream(1, 0), later, heard(0, None), None),
            ("it is on record", known(121, 140, 900), stream(1, 150), heard(130, Some((121, 140, 900))), None),
            (
                "the same, of another ingress",
                known(121, 140, 900),
                stream(1, 150),
                heard(130, Some((125, 138, 950))),
                None,
            ),
            ("more of it", known(121, 140, 900), stream(1, 150), heard(130, Some((119, 140, 901))), Some((119, 140))),
            ("a late report of it", known(91, 100, 990), stream(1, 95), heard(98, None), None),
            ("again", known(121, 140, 900), stream(1, 150), heard(130, Some((125, 138, 961))), Some((125, 138))),
        ];
        for (what, before, now, end, expected) in table {
            let found = tail(&before, &now, &end, at);
            assert_eq!(found.as_ref().map(|tail| (tail.first, tail.last)), expected, "{what}");
            assert!(found.is_none_or(|tail| !tail.acknowledged), "{what}");
        }
        let found = between(&stream(1, 100), &stream(1, 150), &heard(130, Some((121, 140, 900)))).unwrap().message;
        assert!(found.contains("its last event was number 140") && found.contains("Events 121 to 140"), "{found}");
    }

    #[test]
    fn what_another_server_has_is_missed_until_it_is_back() {
        let (at, end) = (Timestamp::from_second(1000).unwrap(), StreamEnd::default());
        let (before, hole) = (stream(1, 100), StreamRecord { missing: 3, released: Some(7), ..stream(1, 120) });
        let elsewhere = remembered(Some(&before), hole.clone(), &Lacking::Elsewhere("3".into()), &end, at);
        assert_eq!(elsewhere, StreamRecord { released: Some(7), ..before.clone() });
        let missing = Lacking::Missing { lost: "3".into(), mark: "x".into(), why: "b-2 does not answer".into() };
        assert_eq!(remembered(Some(&before), hole.clone(), &missing, &end, at), elsewhere, "b-2 may have them");
        assert!(between(&elsewhere, &hole, &end).is_some(), "no server has them any more: now they are lost");
        assert_eq!(between(&elsewhere, &stream(1, 130), &end), None, "they are back");
        let lost = remembered(Some(&before), hole.clone(), &Lacking::Lost("3".into()), &end, at);
        assert_eq!(lost, hole);
        let given_up = remembered(Some(&before), hole.clone(), &Lacking::GivenUp("3".into()), &end, at);
        assert_eq!(given_up, hole, "they are not missed any more");
        let tail = remembered(Some(&before), stream(1, 90), &Lacking::Lost("10".into()), &end, at);
        assert_eq!(tail.lost_tail.as_ref().map(|tail| (tail.first, tail.last)), Some((91, 100)));
        assert_eq!(remembered(Some(&tail), stream(1, 95), &Lacking::Nothing, &end, at).lost_tail, tail.lost_tail);
        assert_eq!(remembered(None, hole.clone(), &Lacking::Nothing, &end, at), hole);
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
