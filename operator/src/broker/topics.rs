//! The topics of a broker, as its ingresses know them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{KeyText, PublisherRule, Routing, ServedTopic};
use tidegate_crds::{EventBroker, EventTopic, NamespaceGrant};

use crate::broker::publishers;
use crate::context::Context;
use crate::kubernetes::names;
use crate::kubernetes::watches::get;
use crate::reconcile::error::Error;
use crate::reconcile::grants;
use crate::sessions::brokers::BrokerKey;
use crate::topic::rules;
use crate::topic::settings::{routing, size};

/// A topic of a broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Its namespace and name.
    pub id: TopicId,
    /// How its events travel.
    pub routing: Routing,
    /// Bytes of its largest event.
    pub max_event_size: u64,
    /// The publishers that it admits.
    pub publishers: Vec<PublisherRule>,
    /// Whether its publishers were left out, because there is no room for them ([`publishers::without_room`]).
    pub is_closed: bool,
    /// Whose handlers may have its events.
    pub handlers: NamespaceGrant,
}

impl Topic {
    /// Of a resource, with all its publishers.
    ///
    /// # Errors
    /// Its specification is not one.
    pub fn of(topic: &EventTopic) -> Result<Self, Error> {
        let id = TopicId::new(topic.namespace().unwrap_or_default(), topic.name_any())
            .map_err(|error| Error::refused("InvalidName", error.to_string()))?;
        grants::check("handlers", &topic.spec.handlers)?;
        Ok(Self {
            publishers: rules::from_spec(&topic.spec, id.namespace())?,
            is_closed: false,
            id,
            routing: routing(topic.spec.routing),
            max_event_size: size("maxEventSize", &topic.spec.max_event_size)?,
            handlers: topic.spec.handlers.clone(),
        })
    }

    /// What an ingress is told of it. `message_id_key`: the text of its key for message ids.
    pub fn served(&self, message_id_key: String) -> ServedTopic {
        let (namespace, name) = (self.id.namespace(), self.id.name());
        let host = names::topic_host(name, namespace);
        ServedTopic {
            id: self.id.clone(),
            hosts: vec![host.clone(), format!("{host}.{}", names::CLUSTER_DOMAIN)],
            routing: self.routing,
            max_event_size: usize::try_from(self.max_event_size).unwrap_or(usize::MAX),
            message_id_key: KeyText::new(message_id_key),
            publishers: self.publishers.clone(),
            revision: self.revision(),
        }
    }

    /// One that admits everybody.
    #[cfg(test)]
    pub fn for_test(namespace: &str, name: &str) -> Self {
        let id = TopicId::new(namespace, name).expect("two labels");
        let publishers = vec![PublisherRule::anonymous()];
        let handlers = NamespaceGrant::default();
        Self { id, routing: Routing::Queued, max_event_size: 1 << 20, publishers, is_closed: false, handlers }
    }

    /// Without publishers, if it is one of these.
    fn closed_if(self, closed: &HashSet<TopicId>) -> Self {
        if !closed.contains(&self.id) {
            return self;
        }
        Self { publishers: Vec::new(), is_closed: true, ..self }
    }

    /// Changes with what an ingress has to know.
    pub fn revision(&self) -> String {
        let text = format!("{:?} {} {:?}", self.routing, self.max_event_size, self.publishers);
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A topic as it is made of its resource once, and not for each that looks at all topics of a broker.
pub struct Listing {
    topic: Topic,
    /// Bytes of its publishers ([`publishers::text_len`]).
    publishers_len: usize,
}

impl Listing {
    /// `None`: its specification is not one.
    pub fn of(topic: &EventTopic) -> Option<Arc<Self>> {
        let topic = Topic::of(topic).ok()?;
        Some(Arc::new(Self { publishers_len: publishers::text_len(&topic), topic }))
    }
}

/// The topics that were admitted to a broker, are granted it still, and are to stay, by name. One whose specification is
/// not one is left out: its own status says so.
pub fn of_broker(context: &Context, broker: &BrokerKey) -> Vec<Topic> {
    let mut listed = admitted(context, broker);
    listed.sort_by(|one, other| one.topic.id.cmp(&other.topic.id));
    let lists = listed.iter().map(|listing| (listing.publishers_len, &listing.topic.id));
    let closed = publishers::without_room(lists.collect());
    listed.iter().map(|listing| listing.topic.clone().closed_if(&closed)).collect()
}

/// How the events of those topics travel.
pub fn routings(context: &Context, broker: &BrokerKey) -> BTreeMap<TopicId, Routing> {
    let listed = admitted(context, broker);
    listed.iter().map(|listing| (listing.topic.id.clone(), listing.topic.routing)).collect()
}

/// This topic as [`of_broker`] has it once the operator has seen it as it is.
///
/// # Errors
/// Its specification is not one.
pub fn on_broker(context: &Context, broker: &BrokerKey, topic: &EventTopic) -> Result<Topic, Error> {
    let own = Topic::of(topic)?;
    let listed = admitted(context, broker);
    let others = listed.iter().filter(|other| other.topic.id != own.id);
    let lists = others.map(|other| (other.publishers_len, &other.topic.id));
    let closed = publishers::without_room(lists.chain([(publishers::text_len(&own), &own.id)]).collect());
    Ok(own.closed_if(&closed))
}

fn admitted(context: &Context, broker: &BrokerKey) -> Vec<Arc<Listing>> {
    let granted = Granted::by(context, broker);
    context.stores.topics_by_broker.with(broker, |all| {
        let admitted = all.iter().filter(|(topic, _)| was_admitted(topic) && granted.has(topic));
        admitted.filter_map(|(_, listing)| listing.clone()).collect()
    })
}

/// The topics that name a broker, are granted it and are to stay: those of which something is made.
pub fn granted(context: &Context, broker: &BrokerKey) -> Vec<Arc<EventTopic>> {
    let granted = Granted::by(context, broker);
    let is_granted = |topic: &EventTopic| counts(topic, broker) && granted.has(topic);
    context.stores.topics_by_broker.of(broker, is_granted)
}

/// What a broker grants.
struct Granted<'a> {
    context: &'a Context,
    namespace: &'a str,
    broker: Option<Arc<EventBroker>>,
}

impl<'a> Granted<'a> {
    fn by(context: &'a Context, broker: &'a BrokerKey) -> Self {
        let found = get(&context.stores.brokers_for_topics, &broker.namespace, &broker.name);
        Self { context, namespace: &broker.namespace, broker: found }
    }

    /// Whether a topic that names the broker is granted it and is to stay.
    fn has(&self, topic: &EventTopic) -> bool {
        let admits = |broker: &Arc<EventBroker>| self.context.stores.admits_topic(broker, topic);
        topic.metadata.deletion_timestamp.is_none()
            && (is_in(topic, self.namespace) || self.broker.as_ref().is_some_and(admits))
    }
}

/// How many topics name a broker.
pub fn count(context: &Context, broker: &BrokerKey) -> usize {
    let is_counted = |(topic, _): &&(Arc<EventTopic>, _)| counts(topic, broker);
    context.stores.topics_by_broker.with(broker, |all| all.iter().filter(is_counted).count())
}

/// The topics that name a broker, those that are being deleted included. Of other namespaces only those that were admitted:
/// anybody can name a broker.
pub fn naming(context: &Context, broker: &BrokerKey) -> Vec<Arc<EventTopic>> {
    context.stores.topics_by_broker.of(broker, |topic| counts(topic, broker))
}

fn counts(topic: &EventTopic, broker: &BrokerKey) -> bool {
    is_in(topic, &broker.namespace) || was_admitted(topic)
}

/// The topics for which a broker that is to go stays: those that name it. With its namespace go its volumes, so topics
/// elsewhere hold nothing up then.
pub fn holding(context: &Context, broker: &BrokerKey) -> Vec<Arc<EventTopic>> {
    let is_terminating = context.stores.is_terminating(&broker.namespace);
    let mut topics = naming(context, broker);
    topics.retain(|topic| !is_terminating || is_in(topic, &broker.namespace));
    topics
}

fn was_admitted(topic: &EventTopic) -> bool {
    topic.status.as_ref().is_some_and(|status| status.promised.is_some())
}

fn is_in(topic: &EventTopic, namespace: &str) -> bool {
    topic.metadata.namespace.as_deref() == Some(namespace)
}

/// The broker that a topic names.
pub fn broker_of(topic: &EventTopic) -> BrokerKey {
    let reference = &topic.spec.broker;
    let namespace = reference.namespace.clone().unwrap_or_else(|| topic.namespace().unwrap_or_default());
    BrokerKey { namespace, name: reference.name.clone() }
}

/// Whether a topic names this broker.
pub fn is_on(topic: &EventTopic, broker: &BrokerKey) -> bool {
    let reference = &topic.spec.broker;
    let namespace = reference.namespace.as_ref().or(topic.metadata.namespace.as_ref());
    namespace == Some(&broker.namespace) && reference.name == broker.name
}

/// The namespace of a topic's broker, where that is not its own.
pub fn other_namespace(topic: &EventTopic) -> Option<&str> {
    topic.spec.broker.namespace.as_deref().filter(|other| !is_in(topic, other))
}
