//! The end of a topic: the ways to it and from it end, and with `deletionPolicy: Delete` what it stored goes.
//!
//! The policy in force is the topic's when it is deleted. Other topics of the broker notice nothing.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use tidegate_broker_admin::api::Broker as Api;
use tidegate_broker_admin::{Authority, consumers, streams};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout;
use tidegate_crds::topic::DeletionPolicy;
use tidegate_crds::{EventBroker, EventTopic};

use super::key;
use crate::broker::deletion::{note_retained, retained_now};
use crate::broker::scale::Scale;
use crate::broker::topics::{Topic, broker_of};
use crate::context::{Context, Owner};
use crate::handler::reference;
use crate::identity::keys;
use crate::kubernetes::finalizer;
use crate::kubernetes::watches::get;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::sessions::brokers::{BrokerKey, Place, Servers};
use crate::topic::publishers;
use crate::topic::serve::serve;
use crate::topic::settings::routing;

/// Undoes what was made of a topic on its broker, and lets it go.
///
/// # Errors
/// It is not done yet: the topic must not go.
pub async fn run(topic: &EventTopic, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let broker_key = broker_of(topic);
    let broker = get(&context.stores.brokers_for_topics, &broker_key.namespace, &broker_key.name);
    let authority = keys::of_broker(context, &broker_key).await?;
    match (broker, authority) {
        (Some(broker), Some(authority)) => {
            let scale = Scale::current(&context.stores, &broker_key, &broker);
            let place = Place::new(broker_key.clone(), authority, &scale);
            settle(context, topic, owner, &place, &broker).await?;
        }
        // Without the resource its pods go, and without its keys nothing opens what it stored.
        // Of a broker that was never granted nothing is told, not even that it is not there.
        _ if topic.status.as_ref().is_some_and(|status| status.promised.is_some()) => {
            report::event(context, topic, EventType::Normal, "BrokerGone", "its broker is gone: nothing to undo").await
        }
        _ => {}
    }
    let key = key(owner);
    context.brokers.forget(&key);
    finalizer::remove(context, topic, owner).await?;
    context.broker_changes.add(broker_key);
    Ok(Action::await_change())
}

/// Ends the ways to a topic and from it, because its broker does not grant its namespace any more. What it stored stays, and
/// so do its handlers' places.
///
/// # Errors
/// The broker is away or refuses.
pub async fn withdraw(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
    key_of_broker: &BrokerKey,
    broker: &EventBroker,
) -> Result<(), Error> {
    context.brokers.forget(&key(owner));
    // The ingresses are told by a file of the broker's.
    context.broker_changes.add(key_of_broker.clone());
    match keys::of_broker(context, key_of_broker).await? {
        Some(authority) => {
            let scale = Scale::current(&context.stores, key_of_broker, broker);
            leave(context, topic, owner, &Place::new(key_of_broker.clone(), authority, &scale)).await
        }
        None => Ok(()),
    }
}

async fn settle(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
    place: &Place,
    broker: &EventBroker,
) -> Result<(), Error> {
    let key = key(owner);
    let promised = topic.status.as_ref().and_then(|status| status.promised);
    let has_retained = retained_now(context, &place.broker).await?.iter().any(|(retained, _)| *retained == key);
    if promised.is_none() && (!has_retained || routing(topic.spec.routing) == Routing::Direct) {
        // It was never admitted, so nothing was made of it there. What is retained is an earlier topic's.
        return Ok(());
    }
    let policy = match routing(topic.spec.routing) {
        Routing::Queued => topic.spec.deletion_policy,
        // There are no events to retain.
        Routing::Direct => DeletionPolicy::Delete,
    };
    match policy {
        DeletionPolicy::Retain => {
            // One that was made again and never admitted leaves what is written of the first.
            if promised.is_some() {
                note_retained(context, &place.broker, &key, promised).await?;
            }
            // What cannot be reached goes with the topic all the same: its ingresses hear of no such topic any more, and
            // what its handlers' pods still get until they go too is what they were to get.
            if let Err(error) = leave(context, topic, owner, place).await {
                tracing::warn!(topic = owner.name, namespace = owner.namespace, %error, "the broker does not know of it yet");
            }
            let note = format!(
                "deletionPolicy is Retain: its events are kept on EventBroker {}. A topic of the same name there has them again; make it with deletionPolicy: Delete and delete it to be rid of them",
                place.broker.shown_in(&owner.namespace)
            );
            report::event(context, topic, EventType::Normal, "EventsRetained", &note).await;
            Ok(())
        }
        // A broker that goes too, and keeps nothing of this topic, takes what it stored with it.
        DeletionPolicy::Delete if broker.metadata.deletion_timestamp.is_some() && !runs(context, &place.broker) => {
            note_retained(context, &place.broker, &key, None).await
        }
        DeletionPolicy::Delete => {
            let is_gone = delete(context, topic, owner, place).await?;
            // Else another topic of its name has the events, and begins with what was promised for them, or with what is
            // written of them already.
            if !is_gone && promised.is_none() {
                return Ok(());
            }
            let left = promised.filter(|_| !is_gone);
            note_retained(context, &place.broker, &key, left).await
        }
    }
}

/// Whether any pod of the broker is there.
fn runs(context: &Context, broker: &BrokerKey) -> bool {
    let pods = crate::kubernetes::watches::Stores::pods_of(
        &context.stores.broker_pods,
        &broker.namespace,
        crate::kubernetes::names::BROKER_LABEL,
        &broker.name,
    );
    pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_none())
}

/// The ways to it and from it end; what it stored stays, and with it its account, which only the operator uses: a server
/// of a cluster takes streams without an account for orphans, and deletes them.
async fn leave(context: &Context, topic: &EventTopic, owner: &Owner, place: &Place) -> Result<(), Error> {
    let servers = context.brokers.servers(place).await?;
    end_ways(context, topic, place, &servers).await?;
    remove_handlers(context, owner, &place.authority, &servers, None).await
}

/// Deletes what it stored, unless that is another topic's by now. Answers whether it is gone.
async fn delete(context: &Context, topic: &EventTopic, owner: &Owner, place: &Place) -> Result<bool, Error> {
    let servers = context.brokers.servers(place).await?;
    end_ways(context, topic, place, &servers).await?;
    if routing(topic.spec.routing) == Routing::Queued {
        let reached = context.brokers.get(&key(owner), place).await?;
        remove_handlers(context, owner, &place.authority, &servers, Some(&reached.api)).await?;
        if is_made_again(context, topic, owner).await? {
            // What is stored is that one's now. Its reconcile comes next, and makes the ways again that ended here.
            return Ok(false);
        }
        streams::delete_all(&reached.api).await?;
    } else {
        remove_handlers(context, owner, &place.authority, &servers, None).await?;
    }
    let id = Topic::of(topic)?.id;
    servers.system.remove_topic(&place.authority, &id).await?;
    servers.accounts().await?.remove(&place.authority.topic_account_id(&id)?);
    Ok(true)
}

/// Whether there is another topic of its name by now: somebody has taken the finalizer away and made it again meanwhile, or
/// what the watch shows is old.
async fn is_made_again(context: &Context, topic: &EventTopic, owner: &Owner) -> Result<bool, Error> {
    let topics: kube::Api<EventTopic> = kube::Api::namespaced(context.client.clone(), &owner.namespace);
    let now = topics.get_metadata_opt(&owner.name).await?;
    Ok(now.is_some_and(|now| now.metadata.uid != topic.metadata.uid))
}

async fn end_ways(context: &Context, topic: &EventTopic, place: &Place, servers: &Servers) -> Result<(), Error> {
    serve(context, place, servers, None).await?;
    publishers::remove_all(topic, &place.authority, &servers.system).await
}

/// The accounts of its handlers lead nowhere any more.
async fn remove_handlers(
    context: &Context,
    owner: &Owner,
    authority: &Authority,
    servers: &Servers,
    api: Option<&Api>,
) -> Result<(), Error> {
    let mut handlers: BTreeSet<(String, String)> = context
        .stores
        .handlers_of(&key(owner))
        .iter()
        .filter_map(|handler| Some((reference::known_as(handler), handler.uid()?)))
        .collect();
    if let Some(api) = api {
        for consumer in consumers::list(api).await? {
            let uid = consumers::handler_uid(&consumer).map(str::to_owned);
            handlers.extend(uid.map(|uid| (layout::handler_of(&consumer.name).to_owned(), uid)));
        }
    }
    for (name, uid) in handlers {
        servers.system.remove_handler(authority, &name, &uid).await?;
    }
    Ok(())
}
