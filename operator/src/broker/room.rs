//! Room on a broker: what is promised to its topics, and whether one more promise fits.
//!
//! The sum is the operator's to keep: a server in a cluster does not compare what its streams may have with its store,
//! and when the store is full every topic is refused.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt as _;
use tidegate_broker_client::contract::MAX_TOPICS;
use tidegate_crds::conditions::HasConditions as _;
use tidegate_crds::{EventBroker, EventTopic};

use crate::broker::settings::Settings;
use crate::broker::{groups, topics};
use crate::context::Context;
use crate::reconcile::error::Error;
use crate::sessions::brokers::{BrokerKey, TopicKey};
use crate::topic::settings as topic;

/// The reason of a topic that does not fit.
const BROKER_FULL: &str = "BrokerFull";

/// A topic, by its UID: another one of its name was promised nothing.
type Key = (BrokerKey, Option<String>);

fn key(topic: &EventTopic) -> Key {
    (topics::broker_of(topic), topic.uid())
}

/// What this operator promised. The status of a topic says the same to the next one; this is a moment ahead of it.
#[derive(Default)]
pub struct Promises(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    bytes: HashMap<Key, u64>,
    /// Brokers whose topics gave room back since they were asked for last.
    with_room: HashSet<BrokerKey>,
}

impl Promises {
    /// Promises a topic what it asks for, if that fits beside the others'. Answers how many bytes it is promised: what it was
    /// promised before as long as it asks for less, for it may still be full to there ([`Promises::lower`]). One that was
    /// made again begins with what the first one left. `retained`: what is retained on the broker now, for a topic that asks
    /// for more than it has; what was seen last may lack a topic that is seen no longer.
    ///
    /// # Errors
    /// They do not fit; the message says what would.
    pub fn reserve(
        &self,
        context: &Context,
        (key, broker): (&BrokerKey, &EventBroker),
        topic: &EventTopic,
        settings: &topic::Settings,
        retained: Vec<(TopicKey, u64)>,
    ) -> Result<u64, Error> {
        let wanted = settings.promised;
        let mut noted = self.lock();
        let own = topic_key(topic);
        if shown(topic).is_none() {
            check_count(topics::naming(context, key).iter().filter(|other| shown(other).is_some()).count())?;
            // The streams of one that was retained are there, and counted.
            if !retained.iter().any(|(topic, _)| *topic == own) {
                groups::check(context, key, "topic", groups::of_topic(settings))?;
            }
        }
        let left = || retained.iter().find_map(|(topic, bytes)| (*topic == own).then_some(*bytes));
        let held = shown(topic).or_else(left).unwrap_or_default();
        if held < wanted {
            check(broker, settings, sum(context, key, Some(&own), &noted.bytes, retained))?;
        }
        let promised = held.max(wanted);
        noted.bytes.insert(self::key(topic), promised);
        Ok(promised)
    }

    /// A topic holds no more than this, nor can it, and its status says so: others may have the rest.
    pub fn lower(&self, topic: &EventTopic, promised: u64) {
        let mut noted = self.lock();
        noted.bytes.insert(key(topic), promised);
        noted.with_room.insert(topics::broker_of(topic));
    }

    /// Bytes that this operator promised to a topic.
    pub fn of(&self, topic: &EventTopic) -> Option<u64> {
        self.lock().bytes.get(&key(topic)).copied()
    }

    /// Forgets what is gone, and answers which brokers have room again since the last call.
    pub(crate) fn keep(&self, topics: &[Arc<EventTopic>]) -> HashSet<BrokerKey> {
        let alive: HashSet<Key> = topics.iter().map(|topic| key(topic)).collect();
        let mut noted = self.lock();
        let mut with_room = std::mem::take(&mut noted.with_room);
        with_room.extend(noted.bytes.extract_if(|known, _| !alive.contains(known)).map(|((broker, _), _)| broker));
        with_room
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are promised to the topics of a broker, those that were deleted and are retained included.
pub fn promised(context: &Context, broker: &BrokerKey) -> u64 {
    let retained = context.stores.retained(&context.args.pod_namespace, broker);
    sum(context, broker, None, &context.promises.lock().bytes, retained)
}

/// A topic that is being deleted has its promise until it is gone. One that was made again and is not admitted yet has
/// what the first one left.
fn sum(
    context: &Context,
    broker: &BrokerKey,
    but: Option<&TopicKey>,
    noted: &HashMap<Key, u64>,
    retained: Vec<(TopicKey, u64)>,
) -> u64 {
    let mut bytes: HashMap<TopicKey, u64> = retained.into_iter().collect();
    for topic in context.stores.topics_by_broker.of(broker, |_| true) {
        if let Some(promised) = noted.get(&key(&topic)).copied().max(shown(&topic)) {
            bytes.insert(topic_key(&topic), promised);
        }
    }
    let others = bytes.into_iter().filter(|(topic, _)| Some(topic) != but);
    others.fold(0, |sum, (_, bytes)| sum.saturating_add(bytes))
}

/// The topics that are not served and of which there are events, and how many bytes each was promised: those that were
/// deleted and are retained, and those that are not granted any more, or are being deleted.
pub fn resting(context: &Context, broker: &BrokerKey) -> Vec<(TopicKey, u64)> {
    let mut resting = context.stores.retained(&context.args.pod_namespace, broker);
    let of = |topic: &Arc<EventTopic>| Some((topic_key(topic), shown(topic)?));
    resting.extend(topics::naming(context, broker).iter().filter_map(of));
    resting
}

/// The topics of a broker that were told that they do not fit.
pub fn refused(context: &Context, broker: &BrokerKey) -> Vec<TopicKey> {
    let is_full = |topic: &EventTopic| {
        topic.status.as_ref().and_then(|status| status.ready()).is_some_and(|ready| ready.reason == BROKER_FULL)
    };
    // Of other namespaces too, which were not admitted yet.
    let refused = context.stores.topics_by_broker.of(broker, is_full);
    refused.iter().map(|topic| topic_key(topic)).collect()
}

fn topic_key(topic: &EventTopic) -> TopicKey {
    TopicKey { namespace: topic.namespace().unwrap_or_default(), name: topic.name_any() }
}

fn shown(topic: &EventTopic) -> Option<u64> {
    let promised = topic.status.as_ref().and_then(|status| status.promised);
    promised.and_then(|bytes| u64::try_from(bytes).ok())
}

fn check_count(others: usize) -> Result<(), Error> {
    if others < MAX_TOPICS {
        return Ok(());
    }
    Err(Error::refused(
        BROKER_FULL,
        format!("the broker has {others} topics, and can have {MAX_TOPICS}: name another broker, or make one"),
    ))
}

/// Whether a topic may be promised what it asks for, beside the others.
///
/// # Errors
/// They do not fit; the message says what would.
pub fn check(broker: &EventBroker, topic: &topic::Settings, others: u64) -> Result<(), Error> {
    let (usable, wanted) = (usable(broker)?, topic.promised);
    let left = usable.saturating_sub(others);
    if wanted <= left {
        return Ok(());
    }
    let fits = match topic::largest(left, topic.max_event_size) {
        Some(bytes) => format!("A retention.maxSize of {} KiB would fit; or", bytes >> 10),
        None => "There is no room for a topic with events of this size:".to_owned(),
    };
    Err(Error::refused(
        BROKER_FULL,
        format!(
            "EventBroker {} can promise {usable} bytes and has promised {others} of them; this topic asks for {wanted} (retention.maxSize and a quarter of it, at least sixteen of the largest events). {fits} name another broker, or make one with more storage",
            broker.name_any(),
        ),
    ))
}

/// Bytes that a broker can promise: its volumes may be smaller than its specification says, which its status tells.
fn usable(broker: &EventBroker) -> Result<u64, Error> {
    let wanted = Settings::of(&broker.spec)?.usable;
    let found = broker.status.as_ref().and_then(|status| status.storage.as_ref()).map(|storage| storage.usable_bytes);
    Ok(found.and_then(|bytes| u64::try_from(bytes).ok()).map_or(wanted, |found| found.min(wanted)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broker(status: serde_json::Value) -> EventBroker {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": "default"},
            "spec": {"storage": {"size": "10Gi"}}, "status": status,
        }))
        .unwrap()
    }

    fn topic(promised: u64) -> topic::Settings {
        let settings = topic::Settings::of(&serde_json::from_value(json!({})).unwrap(), 1).unwrap();
        topic::Settings { promised, ..settings }
    }

    #[test]
    fn what_does_not_fit_is_told_what_would() {
        let broker = broker(json!(null));
        let usable = Settings::of(&broker.spec).unwrap().usable;
        assert!(check(&broker, &topic(usable), 0).is_ok());
        assert!(check(&broker, &topic(0), usable * 2).is_ok(), "a Direct topic asks for nothing");
        let error = check(&broker, &topic(usable), 1).unwrap_err();
        assert_eq!(error.reason(), "BrokerFull");
        assert!(error.to_string().contains("of 7130316 KiB would fit"), "{error}");
        let none = check(&broker, &topic(1), usable).unwrap_err().to_string();
        assert!(none.contains("no room for a topic with events of this size: name another broker"), "{none}");
    }

    #[test]
    fn a_smaller_volume_than_the_specification_says_is_what_counts() {
        let smaller = broker(json!({"storage": {"promised": "0%", "promisedBytes": 0, "usableBytes": 1 << 30}}));
        assert!(check(&smaller, &topic(1 << 30), 0).is_ok());
        assert!(check(&smaller, &topic((1 << 30) + 1), 0).is_err());
        let larger = broker(json!({"storage": {"promised": "0%", "promisedBytes": 0, "usableBytes": 1_u64 << 50}}));
        assert!(check(&larger, &topic(9 << 30), 0).is_err(), "not ours to fill");
    }
}
