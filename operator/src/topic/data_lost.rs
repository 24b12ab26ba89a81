//! Condition `DataLost`: what is lost of a topic's events, and what is missed that may come back (pure).

use kube::ResourceExt as _;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::topic::DataLoss;

use crate::reconcile::status::as_it_was;
use crate::topic::look::Lacking;
use crate::topic::loss::ACKNOWLEDGE;

/// The reason of a topic of whose events some are on another server than the one that leads it.
const EVENTS_ELSEWHERE: &str = "EventsElsewhere";
/// The same, where that is not known: the other server is away.
const EVENTS_MISSING: &str = "EventsMissing";

/// The condition. `lacking`: what the stream lacks; `None`: it was not looked at.
pub(super) fn finding(topic: &EventTopic, loss: Option<&DataLoss>, lacking: Option<&Lacking>) -> Finding {
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
                "the server that leads the stream lacks events ({lost}), and it is not known whether another one has them: {why}. No handled events are released meanwhile. Look at the pods of the broker. Where a volume is gone for good, delete its PersistentVolumeClaim and the pod: its server begins again with an empty one, and then this says whether the events are lost"
            ),
        ),
        // As long as nothing else is known, they are missed.
        None => known(topic).filter(|known| known.reason == EVENTS_MISSING).unwrap_or_else(nothing_lost),
        Some(Lacking::Nothing | Lacking::Lost(_)) => nothing_lost(),
    }
}

fn nothing_lost() -> Finding {
    Finding::new(kind::DATA_LOST, Status::False, "NothingLost", "no loss of stored events is known")
}

/// Whether events were missed at the last look that may be on another server.
pub(super) fn is_missed(topic: &EventTopic) -> bool {
    known(topic).is_some_and(|known| [EVENTS_ELSEWHERE, EVENTS_MISSING].contains(&known.reason.as_str()))
}

/// What the condition said last.
fn known(topic: &EventTopic) -> Option<Finding> {
    as_it_was(kind::DATA_LOST, topic.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use tidegate_crds::conditions::merge;

    use super::*;

    #[test]
    fn what_may_come_back_is_not_called_lost() {
        let topic = |conditions: &[Condition]| -> EventTopic {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": "orders"}, "spec": {},
                "status": {"conditions": conditions},
            }))
            .unwrap()
        };
        let new = topic(&[]);
        let lost = DataLoss { detected: "2026-01-31T12:00:00Z".into(), message: "3 events are gone".into() };
        let missing = Lacking::Missing("3 events are gone".into(), "b-2 does not answer".into());
        for (loss, lacking, status, reason, says) in [
            (None, Some(Lacking::Nothing), Status::False, "NothingLost", "no loss"),
            (None, None, Status::False, "NothingLost", "no loss"),
            (None, Some(Lacking::Elsewhere("3 events".into())), Status::False, "EventsElsewhere", "another server has"),
            (
                None,
                Some(missing.clone()),
                Status::Unknown,
                "EventsMissing",
                "not known whether another one has them: b-2 does not answer",
            ),
            (
                Some(&lost),
                Some(missing.clone()),
                Status::True,
                "EventsLost",
                "acknowledge-data-loss=2026-01-31T12:00:00Z",
            ),
        ] {
            let found = finding(&new, loss, lacking.as_ref());
            assert_eq!((found.status, found.reason.as_str()), (status, reason), "{lacking:?}");
            assert!(found.message.contains(says), "{}", found.message);
        }
        // A broker that cannot be asked says nothing else.
        let told = merge(vec![finding(&new, None, Some(&missing))], &[], None, Timestamp::default());
        assert_eq!(finding(&topic(&told), None, None).reason, "EventsMissing");
        assert_eq!(finding(&topic(&told), None, Some(&Lacking::Nothing)).reason, "NothingLost");
    }
}
