//! Condition `DataLost`: what is lost of a topic's events, and what is missed that may come back (pure).

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::topic::{DataLoss, MissingEvents};

use crate::topic::look::Lacking;
use crate::topic::loss::{self, ACKNOWLEDGE};

/// The reason of a topic of whose events some are on another server than the one that leads it.
const EVENTS_ELSEWHERE: &str = "EventsElsewhere";
/// The same, where that is not known: the other server is away.
const EVENTS_MISSING: &str = "EventsMissing";

/// A server that is away for longer than a restart of its node takes may not come back.
const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// The condition. `missing`: what the status says of events that may come back; `lacking`: what the stream lacks, `None`: it was
/// not looked at.
pub(super) fn finding(
    topic: &EventTopic,
    loss: Option<&DataLoss>,
    missing: Option<&MissingEvents>,
    lacking: Option<&Lacking>,
    now: Timestamp,
) -> Finding {
    let missed = missing.map(|missing| missed(topic, missing, lacking, now));
    let Some(DataLoss { detected, message }) = loss else { return missed.unwrap_or_else(nothing_lost) };
    let name = topic.name_any();
    let mut message = format!(
        "{message}. Restore what you can from its sources. To acknowledge: kubectl annotate eventtopic {name} --overwrite {ACKNOWLEDGE}={detected}"
    );
    // A loss is there until a person knows of it, and nothing is released for as long as others are missed.
    if let Some(missed) = missed {
        message = format!("{message}. Besides, {}", missed.message);
    }
    Finding::new(kind::DATA_LOST, Status::True, "EventsLost", message)
}

/// What is said of events that may come back.
fn missed(topic: &EventTopic, missing: &MissingEvents, lacking: Option<&Lacking>, now: Timestamp) -> Finding {
    let find = |status, reason, message: String| Finding::new(kind::DATA_LOST, status, reason, message);
    match lacking {
        Some(Lacking::Elsewhere(lost)) => find(
            Status::False,
            EVENTS_ELSEWHERE,
            format!(
                "another server has what the one that leads the stream lacks ({lost}): its copy is made again, and condition Intact of the EventBroker says how far that is. No handled events are released meanwhile"
            ),
        ),
        Some(Lacking::Missing { lost, mark, why }) => find(
            Status::Unknown,
            EVENTS_MISSING,
            format!(
                "the server that leads the stream lacks events ({lost}), and it is not known whether another one has them: {why}. No handled events are released meanwhile. Look at the pods of the broker. Where a volume is gone for good, delete its PersistentVolumeClaim and the pod: its server begins again with an empty one, and then this says whether the events are lost{}",
                give_up_by(topic, missing, mark, now)
            ),
        ),
        // As long as nothing else is known, they are missed.
        _ => known(topic).filter(|known| known.reason == EVENTS_MISSING).unwrap_or_else(|| {
            let since = &missing.since;
            find(
                Status::Unknown,
                EVENTS_MISSING,
                format!(
                    "events are missing since {since} that another server may have, and the broker could not be asked for them now: condition StreamReady says why. No handled events are released meanwhile"
                ),
            )
        }),
    }
}

fn nothing_lost() -> Finding {
    Finding::new(kind::DATA_LOST, Status::False, "NothingLost", "no loss of stored events is known")
}

/// How a person gives up what is missed, in words; empty: it is too early for that.
fn give_up_by(topic: &EventTopic, missing: &MissingEvents, mark: &str, now: Timestamp) -> String {
    let MissingEvents { since, elsewhere: _ } = missing;
    let is_late = since.parse::<Timestamp>().is_ok_and(|since| now.duration_since(since) >= GIVE_UP_AFTER);
    if !is_late {
        return String::new();
    }
    let (name, value) = (topic.name_any(), value(since, mark));
    format!(
        ". To give the events up, so that handled events are released again: kubectl annotate eventtopic {name} --overwrite {ACKNOWLEDGE}={value}"
    )
}

/// The value of the annotation that gives events up. With the mark, so that no others go with them that are missed by then.
fn value(since: &str, mark: &str) -> String {
    format!("{since}/{mark}")
}

/// What the status says of events that may come back, after a look. `before`: what it said; `lacking`: as for [`finding`].
pub(super) fn missing(
    before: Option<&MissingEvents>,
    lacking: Option<&Lacking>,
    now: Timestamp,
) -> Option<MissingEvents> {
    let elsewhere = match lacking {
        None => return before.cloned(),
        Some(Lacking::Elsewhere(_)) => true,
        Some(Lacking::Missing { .. }) => false,
        Some(Lacking::Nothing | Lacking::GivenUp(_) | Lacking::Lost(_)) => return None,
    };
    // A server that had them and is away now is waited for as long as any other.
    let same = before.filter(|before| before.elsewhere == elsewhere);
    let since = same.map_or_else(|| loss::second(now.as_second()), |before| before.since.clone());
    Some(MissingEvents { since, elsewhere })
}

/// What the stream lacks, after what a person says of it.
pub(super) fn given_up(topic: &EventTopic, lacking: Lacking) -> Lacking {
    let known = topic.status.as_ref().and_then(|status| status.missing_events.as_ref());
    let since = known.filter(|known| !known.elsewhere).map(|known| &known.since);
    let named = topic.annotations().get(ACKNOWLEDGE);
    match lacking {
        Lacking::Missing { lost, mark, .. } if since.is_some_and(|since| named == Some(&value(since, &mark))) => {
            Lacking::GivenUp(lost)
        }
        lacking => lacking,
    }
}

/// Whether events were missed at the last look that may be on another server.
pub(super) fn is_missed(topic: &EventTopic) -> bool {
    topic.status.as_ref().is_some_and(|status| status.missing_events.is_some())
}

/// What the condition said last.
fn known(topic: &EventTopic) -> Option<Finding> {
    Finding::kept(kind::DATA_LOST, topic.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tidegate_crds::conditions::merge;
    use tidegate_crds::topic::EventTopicStatus;

    use super::*;

    fn topic(status: EventTopicStatus) -> EventTopic {
        let topic = serde_json::json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": "orders"}, "spec": {},
        });
        EventTopic { status: Some(status), ..serde_json::from_value(topic).unwrap() }
    }

    fn lacks_such(mark: &str) -> Lacking {
        let [lost, mark, why] = ["3 events are gone", mark, "b-2 does not answer"].map(str::to_owned);
        Lacking::Missing { lost, mark, why }
    }

    fn lacks() -> Lacking {
        lacks_such("1a2b")
    }

    fn elsewhere() -> Lacking {
        Lacking::Elsewhere("3 events are gone".into())
    }

    fn lost() -> DataLoss {
        DataLoss { detected: "2026-01-31T12:00:00Z".into(), message: "7 events are gone".into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    /// The topic after a look, and what is said of it then.
    fn looked(topic: &EventTopic, lacking: Option<&Lacking>, second: i64) -> (EventTopic, Finding) {
        let mut status = topic.status.clone().unwrap();
        status.missing_events = missing(status.missing_events.as_ref(), lacking, at(second));
        let found = finding(topic, status.data_loss.as_ref(), status.missing_events.as_ref(), lacking, at(second));
        status.conditions = merge(vec![found.clone()], &status.conditions, None, at(second));
        (EventTopic { status: Some(status), ..topic.clone() }, found)
    }

    #[test]
    fn what_may_come_back_is_not_called_lost() {
        let fresh = topic(EventTopicStatus::default());
        for (lacking, status, reason, says) in [
            (Some(Lacking::Nothing), Status::False, "NothingLost", "no loss"),
            (Some(Lacking::GivenUp("3".into())), Status::False, "NothingLost", "no loss"),
            (None, Status::False, "NothingLost", "no loss"),
            (Some(elsewhere()), Status::False, "EventsElsewhere", "another server has"),
            (Some(lacks()), Status::Unknown, "EventsMissing", "another one has them: b-2 does not answer"),
        ] {
            let (after, found) = looked(&fresh, lacking.as_ref(), 0);
            assert_eq!((found.status, found.reason.as_str()), (status, reason), "{lacking:?}");
            assert!(found.message.contains(says), "{}", found.message);
            assert_eq!(is_missed(&after), lacking.is_some_and(|lacking| lacking.may_come_back()));
        }
        // A broker that cannot be asked says nothing else.
        let (missed, told) = looked(&fresh, Some(&lacks()), 0);
        let (still, found) = looked(&missed, None, 1);
        assert!(is_missed(&still) && found.message == told.message, "{}", found.message);
        let (still, found) = looked(&looked(&fresh, Some(&elsewhere()), 0).0, None, 1);
        assert!(is_missed(&still) && found.message.contains("StreamReady"), "{}", found.message);
        assert_eq!(looked(&missed, Some(&Lacking::Nothing), 1).1.reason, "NothingLost");
    }

    #[test]
    fn an_older_loss_hides_nothing_that_is_missed() {
        let before = topic(EventTopicStatus { data_loss: Some(lost()), ..EventTopicStatus::default() });
        let (_, found) = looked(&before, Some(&Lacking::Nothing), 0);
        assert!(found.message.ends_with("data-loss=2026-01-31T12:00:00Z"), "{}", found.message);
        let (missed, found) = looked(&before, Some(&lacks()), 0);
        assert_eq!((found.status, found.reason.as_str()), (Status::True, "EventsLost"));
        for says in ["7 events are gone", "data-loss=2026-01-31T12:00:00Z. Besides, ", "b-2 does not answer"] {
            assert!(found.message.contains(says), "{}", found.message);
        }
        assert!(is_missed(&missed), "the looks that find it again are spared");
        let (missed, found) = looked(&missed, None, 1);
        assert!(found.message.contains("could not be asked"), "{}", found.message);
        let (mut missed, found) = looked(&missed, Some(&lacks()), 900);
        let command = format!("kubectl annotate eventtopic orders --overwrite {ACKNOWLEDGE}={}/1a2b", at(0));
        assert!(found.message.ends_with(&command), "{}", found.message);
        missed.annotations_mut().insert(ACKNOWLEDGE.to_owned(), format!("{}/1a2b", at(0)));
        assert_eq!(given_up(&missed, lacks()), Lacking::GivenUp("3 events are gone".into()));
    }

    #[test]
    fn what_is_missed_for_long_can_be_given_up() {
        let (mut missed, _) = looked(&topic(EventTopicStatus::default()), Some(&lacks()), 0);
        let message = |seconds| looked(&missed, Some(&lacks()), seconds).1.message;
        assert!(!message(899).contains("kubectl annotate"), "a node is restarted: {}", message(899));
        let command = format!("kubectl annotate eventtopic orders --overwrite {ACKNOWLEDGE}={}/1a2b", at(0));
        assert!(message(900).ends_with(&command), "{}", message(900));
        let (known, _) = looked(&missed, Some(&elsewhere()), 901);
        let (_, found) = looked(&known, Some(&lacks()), 902);
        assert!(!found.message.contains("kubectl annotate"), "its server was there a moment ago: {}", found.message);
        assert_eq!(given_up(&missed, lacks()), lacks());
        for (named, is_given_up) in [
            (format!("{}/1a2b", at(0)), true),
            (format!("{}/1a2b", at(-1)), false),
            (at(0).to_string(), false),
            (format!("{}/", at(0)), false),
        ] {
            missed.annotations_mut().insert(ACKNOWLEDGE.to_owned(), named.clone());
            assert_eq!(
                given_up(&missed, lacks()) == Lacking::GivenUp("3 events are gone".into()),
                is_given_up,
                "{named}"
            );
        }
        missed.annotations_mut().insert(ACKNOWLEDGE.to_owned(), format!("{}/1a2b", at(0)));
        assert_eq!(given_up(&missed, elsewhere()), elsewhere(), "another server has them");
        assert_eq!(given_up(&missed, lacks_such("3c4d")), lacks_such("3c4d"), "nobody was told of these");
        let (_, found) = looked(&missed, Some(&lacks_such("3c4d")), 900);
        assert!(found.message.ends_with(&format!("={}/3c4d", at(0))), "{}", found.message);
        missed.status = None;
        assert_eq!(given_up(&missed, lacks()), lacks(), "they are missed since now");
    }
}
