//! Ends of streams that were acknowledged to publishers: how far they are known to be, and which were lost.
//!
//! What was lost is in the topic's status until a person acknowledges it: once a stream has used the sequences again, nothing
//! in the broker tells of it.

use std::collections::HashMap;

use kube::ResourceExt as _;
use tidegate_broker_admin::audit::{Acknowledged, Tail};
use tidegate_broker_admin::membership::StreamId;
use tidegate_broker_client::layout::EVENT_STREAM;
use tidegate_crds::EventTopic;
use tidegate_crds::broker::LostEvents;

use crate::broker::topics;
use crate::context::Context;
use crate::sessions::brokers::{BrokerKey, TopicKey};
use crate::sessions::ingress_reports::StreamEnd;

/// What publishers were told of, by the topics' statuses and by what the ingresses said since. `accounts`: whose each
/// account is.
pub(super) fn acknowledged(
    context: &Context,
    broker: &BrokerKey,
    accounts: &HashMap<String, TopicKey>,
) -> Acknowledged {
    let topics = topics::naming(context, broker);
    let known: HashMap<TopicKey, u64> = topics
        .iter()
        .filter_map(|topic| {
            let key = key(topic);
            Some((key.clone(), last_known(topic, context.ingress_reports.end(&key))?))
        })
        .collect();
    let stream = |account: &String| StreamId { account: account.clone(), name: EVENT_STREAM.to_owned() };
    accounts.iter().filter_map(|(account, key)| Some((stream(account), *known.get(key)?))).collect()
}

/// `None`: nothing is known of its stream yet, and what was heard may be of an older topic of its name.
fn last_known(topic: &EventTopic, end: StreamEnd) -> Option<u64> {
    let stream = topic.status.as_ref()?.stream.as_ref()?;
    Some(u64::try_from(stream.last_sequence).unwrap_or(0).max(end.acknowledged))
}

/// Those that topics lost, as long as that is not acknowledged.
pub(super) fn open(context: &Context, broker: &BrokerKey) -> Vec<LostEvents> {
    topics::naming(context, broker).iter().filter_map(|topic| of_topic(topic)).collect()
}

fn of_topic(topic: &EventTopic) -> Option<LostEvents> {
    let status = topic.status.as_ref().filter(|status| status.data_loss.is_some())?;
    let tail = status.stream.as_ref()?.lost_tail.as_ref().filter(|tail| !tail.acknowledged)?;
    Some(lost(&key(topic), tail.first, tail.last))
}

/// Adds those that were found just now and that their topics do not tell of yet. Those topics.
pub(super) fn add_found(
    open: &mut Vec<LostEvents>,
    found: &[Tail],
    accounts: &HashMap<String, TopicKey>,
) -> Vec<TopicKey> {
    let mut new = Vec::new();
    for Tail { stream, first, last } in found {
        let Some(key) = accounts.get(&stream.account) else { continue };
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let tail = lost(key, signed(*first), signed(*last));
        if open.iter().all(|known| known.topic != tail.topic) {
            open.push(tail);
            new.push(key.clone());
        }
    }
    new
}

fn lost(TopicKey { namespace, name }: &TopicKey, first: i64, last: i64) -> LostEvents {
    let missing = last.saturating_sub(first).saturating_add(1);
    LostEvents { topic: format!("{namespace}/{name}"), missing, first, last, is_tail: true }
}

fn key(topic: &EventTopic) -> TopicKey {
    TopicKey { namespace: topic.namespace().unwrap_or_default(), name: topic.name_any() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn topic(status: Value) -> EventTopic {
        let topic = json!({"metadata": {"namespace": "shop", "name": "orders"}, "spec": {}, "status": status});
        serde_json::from_value(topic).unwrap()
    }

    fn stream(acknowledged: bool) -> Value {
        json!({"created": "2026-01-01T00:00:00Z", "firstSequence": 1, "lastSequence": 120, "missing": 0, "removes": false,
               "lostTail": {"first": 91, "last": 100, "noticed": "2026-01-01T00:00:00Z", "acknowledged": acknowledged}})
    }

    #[test]
    fn a_topic_tells_of_its_lost_end_until_that_is_acknowledged() {
        let loss = json!({"detected": "2026-01-01T00:00:00Z", "message": "gone"});
        let lost = of_topic(&topic(json!({"stream": stream(false), "dataLoss": loss}))).unwrap();
        assert_eq!(
            (lost.topic.as_str(), lost.missing, lost.first, lost.last, lost.is_tail),
            ("shop/orders", 10, 91, 100, true)
        );
        assert_eq!(of_topic(&topic(json!({"stream": stream(true), "dataLoss": loss}))), None, "that is another loss");
        assert_eq!(of_topic(&topic(json!({"stream": stream(false)}))), None);
    }

    #[test]
    fn what_is_found_is_told_once() {
        let accounts = HashMap::from([("A".to_owned(), key(&topic(json!({}))))]);
        let tail = |account: &str| Tail {
            stream: StreamId { account: account.into(), name: EVENT_STREAM.into() },
            first: 91,
            last: 100,
        };
        let mut open = Vec::new();
        assert_eq!(add_found(&mut open, &[tail("A"), tail("B")], &accounts).len(), 1);
        assert_eq!(open, [lost(&accounts["A"], 91, 100)]);
        assert_eq!(add_found(&mut open, &[tail("A")], &accounts), [], "its topic tells of it");
        assert_eq!(open.len(), 1);
    }

    #[test]
    fn how_far_a_stream_is_says_its_record_or_what_was_heard_since() {
        let end = |acknowledged| StreamEnd { acknowledged, lost: None };
        let recorded = topic(json!({"stream": stream(true)}));
        assert_eq!(last_known(&recorded, end(0)), Some(120));
        assert_eq!(last_known(&recorded, end(130)), Some(130));
        assert_eq!(last_known(&topic(json!({})), end(130)), None, "an older topic of its name");
    }
}
