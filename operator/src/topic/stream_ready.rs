//! What a topic's condition `StreamReady` tells others than its reader. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::kind;

use super::status::STREAM_REFUSED;

/// The condition, once the topic was looked at.
pub(crate) fn of(topic: &EventTopic) -> Option<&Condition> {
    let mut conditions = topic.status.iter().flat_map(|status| &status.conditions);
    conditions.find(|condition| condition.type_ == kind::STREAM_READY)
}

/// Whether a topic has its streams. A change of them that the broker refuses is no reason to stop: they are there.
pub(crate) fn are_there(streams: &Condition) -> bool {
    streams.status == "True" || streams.reason == STREAM_REFUSED
}

/// Whether the topic's streams are those of its present specification, as far as the broker takes that. A reconcile that
/// failed before it came to the streams has seen that specification too (`status.observedGeneration`), and did nothing of it.
pub(super) fn are_as_specified(topic: &EventTopic) -> bool {
    of(topic).is_some_and(|streams| are_there(streams) && streams.observed_generation == topic.metadata.generation)
}

/// Whether the broker refused to change the streams when it was asked last.
pub(super) fn was_refused(topic: &EventTopic) -> bool {
    of(topic).is_some_and(|streams| streams.reason == STREAM_REFUSED)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refused_change_of_a_topic_does_not_stop_its_handlers() {
        let table = [
            ("True", "Configured", true),
            ("True", "PublisherFailed", true),
            ("False", "StreamRefused", true),
            ("False", "BrokerError", false),
            ("Unknown", "BrokerStarting", false),
        ];
        for (status, reason, there) in table {
            let topic = |seen: i64| -> EventTopic {
                let condition = json!({
                    "type": "StreamReady", "status": status, "reason": reason, "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": seen,
                });
                let metadata = json!({"name": "orders", "generation": 2});
                let status = json!({"conditions": [condition], "observedGeneration": 2});
                serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap()
            };
            assert_eq!(of(&topic(2)).map(are_there), Some(there), "{status} {reason}");
            assert_eq!(are_as_specified(&topic(2)), there, "{status} {reason}");
            assert!(!are_as_specified(&topic(1)), "only a reconcile that failed has seen it: {status} {reason}");
        }
    }
}
