//! The topics of a broker, as its ingresses know them.

use std::collections::HashSet;
use std::sync::Arc;

use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{KeyText, PublisherRule, Routing, ServedTopic};
use tidegate_crds::{EventTopic, NamespaceGrant};

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

/// The topics that were admitted to a broker, are granted it still, and are to stay, by name. One whose specification is
/// not one is left out: its own status says so.
pub fn of_broker(context: &Context, broker: &BrokerKey) -> Vec<Topic> {
    let mut topics = admitted(context, broker);
    topics.sort_by(|one, other| one.id.cmp(&other.id));
    let closed = publishers::without_room(&topics);
    topics.into_iter().map(|topic| topic.closed_if(&closed)).collect()
}

fn admitted(context: &Context, broker: &BrokerKey) -> Vec<Topic> {
    let topics = granted(context, broker).into_iter().filter(|topic| was_admitted(topic));
    topics.filter_map(|topic| Topic::of(&topic).ok()).collect()
}

/// The topics that name a broker, are granted it and are to stay: those of which something is made.
pub fn granted(context: &Context, broker: &BrokerKey) -> Vec<Arc<EventTopic>> {
    let granting = get(&context.stores.brokers_for_topics, &broker.namespace, &broker.name);
    let is_granted = |topic: &EventTopic| {
        is_in(topic, &broker.namespace)
            || granting.as_ref().is_some_and(|broker| context.stores.admits_topic(broker, topic))
    };
    let mut topics = naming(context, broker);
    topics.retain(|topic| topic.metadata.deletion_timestamp.is_none() && is_granted(topic));
    topics
}

/// This topic as [`of_broker`] has it once the operator has seen it as it is.
///
/// # Errors
/// Its specification is not one.
pub fn on_broker(context: &Context, broker: &BrokerKey, topic: &EventTopic) -> Result<Topic, Error> {
    let own = Topic::of(topic)?;
    let others = admitted(context, broker).into_iter();
    let all: Vec<Topic> = others.filter(|other| other.id != own.id).chain([own.clone()]).collect();
    Ok(own.closed_if(&publishers::without_room(&all)))
}

/// How many topics name a broker.
pub fn count(context: &Context, broker: &BrokerKey) -> usize {
    naming(context, broker).len()
}

/// The topics that name a broker, those that are being deleted included. Of other namespaces only those that were admitted:
/// anybody can name a broker.
pub fn naming(context: &Context, broker: &BrokerKey) -> Vec<Arc<EventTopic>> {
    let counts = |topic: &EventTopic| is_in(topic, &broker.namespace) || was_admitted(topic);
    context.stores.topics.state_filter(|topic| is_on(topic, broker) && counts(topic))
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
