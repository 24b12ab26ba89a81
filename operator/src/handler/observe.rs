//! What there is of a handler.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::message_id::TopicKey;
use tidegate_crds::{EventHandler, topic};

use crate::broker::scale::Scale;
use crate::broker::{self, topics::broker_of};
use crate::context::{Context, Owner};
use crate::handler::reference;
use crate::identity::keys;
use crate::kubernetes::apply::current;
use crate::kubernetes::names;
use crate::kubernetes::watches::{Stores, get};
use crate::reconcile::error::Error;
use crate::reconcile::grants::NOT_ALLOWED_BY_TOPIC;
use crate::sessions::brokers::{self, Place};
use crate::topic::{settings, stream_ready};

/// What there is of a handler.
pub struct Observed {
    /// Its topic, if it can take handlers now; else why not.
    pub topic: Result<Topic, NotYet>,
    /// The Deployment.
    pub deployment: Option<Deployment>,
    /// The handler's pods.
    pub pods: Vec<Pod>,
}

/// A topic that can take handlers.
pub struct Topic {
    /// Its name.
    pub id: TopicId,
    /// Where its broker is, and what opens it.
    pub place: Place,
    /// How its events travel.
    pub routing: Routing,
    /// The topics that the handler publishes to, each with its key for message ids.
    pub destinations: BTreeMap<String, TopicKey>,
}

/// Why a topic cannot take handlers now.
#[derive(Clone, Debug, PartialEq)]
pub struct NotYet {
    /// CamelCase.
    pub reason: &'static str,
    /// What it waits for, and what can be done.
    pub message: String,
}

/// Reads it.
///
/// # Errors
/// The API server is away, or the topic's authority is damaged.
pub async fn observe(context: &Context, owner: &Owner, handler: &EventHandler) -> Result<Observed, Error> {
    let namespace = &owner.namespace;
    Ok(Observed {
        topic: topic_and_destinations(context, namespace, handler).await?,
        deployment: current(context, &context.stores.deployments, namespace, &names::handler(&owner.name)).await?,
        pods: Stores::pods_of(&context.stores.handler_pods, namespace, names::HANDLER_LABEL, &owner.name),
    })
}

async fn topic_and_destinations(
    context: &Context,
    namespace: &str,
    handler: &EventHandler,
) -> Result<Result<Topic, NotYet>, Error> {
    let wanted = reference::topic_of(handler);
    if !is_granted(context, handler) {
        return Ok(Err(not_granted(handler, &wanted)));
    }
    let mut keys = BTreeMap::new();
    for (field, destination) in [("reply", &handler.spec.reply), ("deadLetter", &handler.spec.dead_letter)] {
        let Some(name) = destination.as_ref().map(|destination| &destination.topic) else { continue };
        let not_yet = match get(&context.stores.topics_for_handlers, namespace, name) {
            None => NotYet {
                reason: "DestinationNotFound",
                message: format!("{field}.topic: there is no EventTopic {name} in namespace {namespace}: make it"),
            },
            Some(topic) if field == "deadLetter" && topic.spec.routing == topic::Routing::Direct => NotYet {
                reason: "DestinationKeepsNothing",
                message: format!("deadLetter.topic: EventTopic {name} is Direct and keeps nothing: name a Queued one"),
            },
            Some(topic) => match keys::of_broker(context, &broker_of(&topic)).await? {
                Some(authority) => {
                    let key = authority.message_id_key(&broker::topics::Topic::of(&topic)?.id)?;
                    keys.insert(name.clone(), TopicKey::new(&key));
                    continue;
                }
                None => NotYet {
                    reason: "DestinationNotReady",
                    message: format!("{field}.topic: the broker of EventTopic {name} is being made"),
                },
            },
        };
        return Ok(Err(not_yet));
    }
    let topic = topic(context, &wanted).await?;
    Ok(topic.map(|topic| Topic { destinations: keys, ..topic }))
}

/// Whether the handler may have the events of the topic that it names, which is of its own namespace or grants that.
pub fn is_granted(context: &Context, handler: &EventHandler) -> bool {
    if reference::other_namespace(handler).is_none() {
        return true;
    }
    let wanted = reference::topic_of(handler);
    let topic = get(&context.stores.topics_for_handlers, &wanted.namespace, &wanted.name);
    topic.is_some_and(|topic| context.stores.admits_handler(&topic, handler))
}

/// The same whether there is such a topic or not.
pub fn not_granted(handler: &EventHandler, wanted: &brokers::TopicKey) -> NotYet {
    let brokers::TopicKey { namespace, name } = wanted;
    let own = handler.metadata.namespace.as_deref().unwrap_or_default();
    let message = format!(
        "there is no EventTopic {name} in namespace {namespace} that grants namespace {own}. Whoever owns it grants it by spec.handlers of the EventTopic: {{from: All}}, or {{from: Selector}} with a selector that matches the labels of namespace {own}; this handler continues then, from its place if it had one"
    );
    NotYet { reason: NOT_ALLOWED_BY_TOPIC, message }
}

/// The topic, if it can take handlers. Its destinations are the handler's, and are left out.
///
/// # Errors
/// The API server is away, or the topic's authority is damaged.
pub async fn topic(context: &Context, wanted: &brokers::TopicKey) -> Result<Result<Topic, NotYet>, Error> {
    let brokers::TopicKey { namespace, name } = wanted;
    let Some(topic) = get(&context.stores.topics_for_handlers, namespace, name) else {
        let message = format!(
            "there is no EventTopic {name} in namespace {namespace}: make it, or name another in a new handler"
        );
        return Ok(Err(NotYet { reason: "TopicNotFound", message }));
    };
    if topic.metadata.deletion_timestamp.is_some() {
        return Ok(Err(NotYet { reason: "TopicDeleting", message: format!("EventTopic {name} is being deleted") }));
    }
    let streams = stream_ready::of(&topic);
    if !streams.is_some_and(stream_ready::are_there) {
        let why = streams.map(|condition| condition.message.clone()).unwrap_or_default();
        return Ok(Err(NotYet {
            reason: "TopicNotReady",
            message: format!("EventTopic {name} is not ready yet: {why}"),
        }));
    }
    let broker_key = broker_of(&topic);
    let broker = get(&context.stores.brokers_for_topics, &broker_key.namespace, &broker_key.name);
    let (Some(broker), Some(authority)) = (broker, keys::of_broker(context, &broker_key).await?) else {
        let message = format!("EventBroker {} of EventTopic {name} is being made", broker_key.shown_in(namespace));
        return Ok(Err(NotYet { reason: "TopicNotReady", message }));
    };
    let scale = Scale::current(&context.stores, &broker_key, &broker);
    Ok(Ok(Topic {
        id: broker::topics::Topic::of(&topic)?.id,
        place: Place::new(broker_key, authority, &scale),
        routing: settings::routing(topic.spec.routing),
        destinations: BTreeMap::new(),
    }))
}
