//! Condition `DataLost`: what is lost of a topic's events, and what is missed that may come back (pure).

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt as _;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::topic::DataLoss;

use crate::topic::look::Lacking;
use crate::topic::loss::ACKNOWLEDGE;

/// The reason of a topic of whose events some are on another server than the one that leads it.
const EVENTS_ELSEWHERE: &str = "EventsElsewhere";
/// The same, where that is not known: the other server is away.
const EVENTS_MISSING: &str = "EventsMissing";

/// A server that is away for longer than a restart of its node takes may not come back.
const GIVE_UP_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// The condition. `lacking`: what the stream lacks; `None`: it was not looked at.
pub(super) fn finding(
    topic: &EventTopic,
    loss: Option<&DataLoss>,
    lacking: Option<&Lacking>,
    now: Timestamp,
) -> Finding {
    let find = |status, reason, message: String| Finding::new(kind::DATA_LOST, status, reason, message);
    if let Some(DataLoss { detected, message }) = loss {
        let name = topic.name_any();
        let message = format!(
            "{message}. Restore what you can from its sources. To acknowledge: kubectl annotate eventtopic {name} --overwrite {ACKNOWLEDGE}={detected}"
        );
        return find(Status::True, "EventsLost", message);
    }
    match lacking {
        Some(Lacking::Elsewhere(lost)) => find(
            Status::False,
            EVENTS_ELSEWHERE,
            format!(
                "another server has what the one that leads the stream lacks ({lost}): its copy is made again, and condition Intact of the EventBroker says how far that is. No handled events are released meanwhile"
            ),
        ),
        Some(Lacking::Missing(lost, why)) => find(
            Status::Unknown,
            EVENTS_MISSING,
            format!(
                "the server that leads the stream lacks events ({lost}), and it is not known whether another one has them: {why}. No handled events are released meanwhile. Look at the pods of the broker. Where a volume is gone for good, delete its PersistentVolumeClaim and the pod: its server begins again with an empty one, and then this says whether the events are lost{}",
                give_up_by(topic, now)
            ),
        ),
        // As long as nothing else is known, they are missed.
        None => known(topic).filter(|known| known.reason == EVENTS_MISSING).unwrap_or_else(nothing_lost),
        Some(Lacking::Nothing | Lacking::GivenUp(_) | Lacking::Lost(_)) => nothing_lost(),
    }
}

fn nothing_lost() -> Finding {
    Finding::new(kind::DATA_LOST, Status::False, "NothingLost", "no loss of stored events is known")
}

/// How a person gives up what is missed, in words; empty: it is too early for that.
fn give_up_by(topic: &EventTopic, now: Timestamp) -> String {
    let since = missed_since(topic).filter(|since| now.duration_since(*since) >= GIVE_UP_AFTER);
    let command = |since| {
        let name = topic.name_any();
        format!(
            ". To give the events up, so that handled events are released again: kubectl annotate eventtopic {name} --overwrite {ACKNOWLEDGE}={since}"
        )
    };
    since.map(command).unwrap_or_default()
}

fn missed_since(topic: &EventTopic) -> Option<Timestamp> {
    let mut conditions = topic.status.iter().flat_map(|status| &status.conditions);
    let known = conditions.find(|known| known.type_ == kind::DATA_LOST && known.reason == EVENTS_MISSING)?;
    Some(known.last_transition_time.0)
}

/// What the stream lacks, after what a person says of it.
pub(super) fn given_up(topic: &EventTopic, lacking: Lacking) -> Lacking {
    let named = topic.annotations().get(ACKNOWLEDGE).cloned();
    match lacking {
        Lacking::Missing(lost, _) if named.is_some() && named == missed_since(topic).map(|since| since.to_string()) => {
            Lacking::GivenUp(lost)
        }
        lacking => lacking,
    }
}

/// Whether events were missed at the last look that may be on another server.
pub(super) fn is_missed(topic: &EventTopic) -> bool {
    known(topic).is_some_and(|known| [EVENTS_ELSEWHERE, EVENTS_MISSING].contains(&known.reason.as_str()))
}

/// What the condition said last.
fn known(topic: &EventTopic) -> Option<Finding> {
    Finding::kept(kind::DATA_LOST, topic.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use tidegate_crds::conditions::merge;

    use super::*;

    fn topic(conditions: &[Condition]) -> EventTopic {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": "orders"}, "spec": {},
            "status": {"conditions": conditions},
        }))
        .unwrap()
    }

    fn missing() -> Lacking {
        Lacking::Missing("3 events are gone".into(), "b-2 does not answer".into())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    #[test]
    fn what_may_come_back_is_not_called_lost() {
        let lost = DataLoss { detected: "2026-01-31T12:00:00Z".into(), message: "3 events are gone".into() };
        let elsewhere = Lacking::Elsewhere("3 events are gone".into());
        for (loss, lacking, status, reason, says) in [
            (None, Some(Lacking::Nothing), Status::False, "NothingLost", "no loss"),
            (None, None, Status::False, "NothingLost", "no loss"),
            (None, Some(elsewhere), Status::False, "EventsElsewhere", "another server has"),
            (None, Some(missing()), Status::Unknown, "EventsMissing", "another one has them: b-2 does not answer"),
            (Some(&lost), Some(missing()), Status::True, "EventsLost", "data-loss=2026-01-31T12:00:00Z"),
        ] {
            let found = finding(&topic(&[]), loss, lacking.as_ref(), at(0));
            assert_eq!((found.status, found.reason.as_str()), (status, reason), "{lacking:?}");
            assert!(found.message.contains(says), "{}", found.message);
        }
        // A broker that cannot be asked says nothing else.
        let told = merge(vec![finding(&topic(&[]), None, Some(&missing()), at(0))], &[], None, at(0));
        assert_eq!(finding(&topic(&told), None, None, at(1)).reason, "EventsMissing");
        assert_eq!(finding(&topic(&told), None, Some(&Lacking::Nothing), at(1)).reason, "NothingLost");
    }

    #[test]
    fn what_is_missed_for_long_can_be_given_up() {
        let told = merge(vec![finding(&topic(&[]), None, Some(&missing()), at(0))], &[], None, at(0));
        let mut missed = topic(&told);
        let message = |seconds| finding(&missed, None, Some(&missing()), at(seconds)).message;
        assert!(!message(899).contains("kubectl annotate"), "a node is restarted: {}", message(899));
        let command = format!("kubectl annotate eventtopic orders --overwrite {ACKNOWLEDGE}={}", at(0));
        assert!(message(900).ends_with(&command), "{}", message(900));
        assert_eq!(given_up(&missed, missing()), missing());
        for (named, is_given_up) in [(at(0), true), (at(-1), false)] {
            missed.annotations_mut().insert(ACKNOWLEDGE.to_owned(), named.to_string());
            assert_eq!(given_up(&missed, missing()) == Lacking::GivenUp("3 events are gone".into()), is_given_up);
        }
        missed.annotations_mut().insert(ACKNOWLEDGE.to_owned(), at(0).to_string());
        let elsewhere = Lacking::Elsewhere("3".into());
        assert_eq!(given_up(&missed, elsewhere.clone()), elsewhere, "another server has them");
        missed.status = None;
        assert_eq!(given_up(&missed, missing()), missing(), "they are missed since now");
        assert_eq!(finding(&topic(&told), None, Some(&Lacking::GivenUp("3".into())), at(1)).reason, "NothingLost");
    }
}
