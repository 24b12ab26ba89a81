//! The topics of a broker, as its ingresses know them.

use std::collections::HashSet;

use kube::ResourceExt as _;
use sha2::{Digest as _, Sha256};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{KeyText, PublisherRule, Routing, ServedTopic};
use tidegate_crds::EventTopic;

use crate::broker::publishers;
use crate::brokers::BrokerKey;
use crate::context::Context;
use crate::error::Error;
use crate::names;
use crate::topic::rules;
use crate::topic::settings::{routing, size};

/// A topic of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl Topic {
    /// Of a resource, with all its publishers.
    ///
    /// # Errors
    /// Its specification is not one.
    pub fn of(topic: &EventTopic) -> Result<Self, Error> {
        let id = TopicId::new(topic.namespace().unwrap_or_default(), topic.name_any())
            .map_err(|error| Error::refused("InvalidName", error.to_string()))?;
        Ok(Self {
            publishers: rules::from_spec(&topic.spec, id.namespace())?,
            is_closed: false,
            id,
            routing: routing(topic.spec.routing),
            max_event_size: size("maxEventSize", &topic.spec.max_event_size)?,
        })
    }

    /// What an ingress is told of it. `message_id_key`: the text of its key for message ids.
    pub fn served(&self, message_id_key: String) -> ServedTopic {
        let (namespace, name) = (self.id.namespace(), self.id.name());
        let host = names::topic_host(name, namespace);
        ServedTopic {
            id: self.id.clone(),
            hosts: vec![host.clone(), format!("{host}.cluster.local")],
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
        Self { id, routing: Routing::Queued, max_event_size: 1 << 20, publishers, is_closed: false }
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

/// The topics that were admitted to a broker and are to stay, by name. One whose specification is not one is left out:
/// its own status says so.
pub fn of_broker(context: &Context, broker: &BrokerKey) -> Vec<Topic> {
    let mut topics: Vec<Topic> = admitted(context, broker).filter_map(|topic| Topic::of(&topic).ok()).collect();
    topics.sort_by(|one, other| one.id.cmp(&other.id));
    let closed = publishers::without_room(&topics);
    topics.into_iter().map(|topic| topic.closed_if(&closed)).collect()
}

/// This topic as [`of_broker`] has it once the operator has seen it as it is.
///
/// # Errors
/// Its specification is not one.
pub fn on_broker(context: &Context, broker: &BrokerKey, topic: &EventTopic) -> Result<Topic, Error> {
    let own = Topic::of(topic)?;
    let others = admitted(context, broker).filter_map(|topic| Topic::of(&topic).ok());
    let all: Vec<Topic> = others.filter(|other| other.id != own.id).chain([own.clone()]).collect();
    Ok(own.closed_if(&publishers::without_room(&all)))
}

/// How many topics name a broker, admitted or not.
pub fn count(context: &Context, broker: &BrokerKey) -> usize {
    naming(context, broker).len()
}

/// The topics that name a broker, those that are being deleted included.
pub fn naming(context: &Context, broker: &BrokerKey) -> Vec<std::sync::Arc<EventTopic>> {
    context.stores.topics.state_filter(|topic| is_on(topic, broker))
}

fn admitted(context: &Context, broker: &BrokerKey) -> impl Iterator<Item = std::sync::Arc<EventTopic>> {
    naming(context, broker).into_iter().filter(|topic| {
        topic.metadata.deletion_timestamp.is_none()
            && topic.status.as_ref().is_some_and(|status| status.promised.is_some())
    })
}

/// The broker that a topic names.
pub fn broker_of(topic: &EventTopic) -> BrokerKey {
    BrokerKey { namespace: topic.namespace().unwrap_or_default(), name: topic.spec.broker.name.clone() }
}

/// Whether a topic names this broker.
pub fn is_on(topic: &EventTopic, broker: &BrokerKey) -> bool {
    topic.metadata.namespace.as_deref() == Some(&broker.namespace) && topic.spec.broker.name == broker.name
}
