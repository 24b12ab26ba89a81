//! A handler's place on the broker: its streams, its durable consumer and its account.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::events::EventType;
use tidegate_broker_admin::consumers::Ensured;
use tidegate_broker_admin::handler_streams::HandlerStreams;
use tidegate_broker_admin::{consumers, guests, handler_streams, retries};
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::kind;
use time::OffsetDateTime;

use crate::broker::groups;
use crate::context::{Context, Owner};
use crate::handler::observe::{self, Topic};
use crate::handler::position;
use crate::handler::settings::{ACK_WAIT, Settings};
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::sessions::brokers::{Broker, TopicKey};

/// A handler's place on its topic's broker.
pub struct Subscription {
    /// Its consumers.
    pub consumers: Ensured,
    /// What it keeps of events that failed.
    pub streams: HandlerStreams,
}

/// What was made of a handler on its topic's broker.
pub struct Subscribed {
    /// Its place; `None` on a Direct topic.
    pub place: Option<Subscription>,
    /// When to look again whether its account is in force.
    pub again: Option<Duration>,
}

/// Makes streams, consumer and account be as they should be, in this order: what cannot be handled has its place before
/// there is something to handle, and no event is missed from the consumer on. Tells what there is of them.
/// Sidecars whose user was signed before `refused_before` are let in no longer.
///
/// # Errors
/// The broker is away or refuses.
pub async fn ensure(
    context: &Context,
    owner: &Owner,
    handler: &EventHandler,
    settings: &Settings,
    topic: &Topic,
    refused_before: Option<OffsetDateTime>,
) -> Result<Subscribed, Error> {
    let broker = broker(context, topic).await?;
    let place = match topic.routing {
        Routing::Queued => {
            let name = known_as(owner, topic);
            let is_new = !is_subscribed(handler);
            if is_new {
                groups::check(context, &topic.place.broker, "handler", groups::of_handler(settings.delivery.order))?;
            }
            let _places = broker.places().await;
            let streams = handler_streams::ensure(&broker.api, &name, &owner.reference.uid).await?;
            let wanted = consumers_of(&name, &owner.reference.uid, settings);
            retries::ensure(&broker.api, &wanted).await?;
            let consumers = consumers::ensure(&broker.api, &wanted, &position::recorded(handler)).await?;
            if is_new {
                // It counts its groups.
                context.broker_changes.add(topic.place.broker.clone());
            }
            Some(Subscription { consumers, streams })
        }
        Routing::Direct => None,
    };
    if let Some(restored) = place.as_ref().and_then(|made| position::restored(&made.consumers)) {
        report::event(context, handler, EventType::Warning, "PositionRestored", &restored).await;
    }
    let (guest, now) = (guest(owner, settings, topic), OffsetDateTime::now_utc());
    let account = topic.place.authority.handler_account(&guest, refused_before, now)?;
    let again = broker.system.ensure(&account).await?.again();
    Ok(Subscribed { place, again })
}

/// Whether it has had its place on the broker. It is not told that there is none for it then, whatever comes.
fn is_subscribed(handler: &EventHandler) -> bool {
    let conditions = handler.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|known| known.type_ == kind::SUBSCRIBED && known.status == "True")
}

/// What the handler's consumers are to be.
pub fn consumers_of(name: &str, uid: &str, settings: &Settings) -> consumers::Handler {
    consumers::Handler {
        name: name.to_owned(),
        uid: uid.to_owned(),
        ack_wait: ACK_WAIT,
        max_ack_pending: consumers::max_ack_pending(settings.max_replicas, settings.delivery.slots()),
        types: settings.filter.types.clone(),
        start: settings.start,
        order: settings.delivery.order,
        is_suspended: settings.is_suspended,
        is_draining: settings.is_draining,
    }
}

/// What the handler may reach.
pub fn guest(owner: &Owner, settings: &Settings, topic: &Topic) -> guests::Handler {
    guests::Handler {
        name: known_as(owner, topic),
        uid: owner.reference.uid.clone(),
        topic: topic.id.clone(),
        routing: topic.routing,
        order: settings.delivery.order,
        pods: settings.max_replicas,
    }
}

/// Removes all three: the account first, so that nothing pulls from a consumer that is going. Dead letters stay.
///
/// # Errors
/// The broker is away or refuses.
pub async fn remove(context: &Context, owner: &Owner, handler: &EventHandler, topic: &Topic) -> Result<(), Error> {
    let broker = broker(context, topic).await?;
    let name = known_as(owner, topic);
    broker.system.remove_handler(&topic.place.authority, &name, &owner.reference.uid).await?;
    if topic.routing == Routing::Queued {
        let _places = broker.places().await;
        consumers::delete(&broker.api, &name).await?;
        let waiting = handler_streams::remove(&broker.api, &name).await?;
        if let Some(note) = dropped(waiting) {
            report::event(context, handler, EventType::Warning, "RetriesDropped", &note).await;
        }
    }
    Ok(())
}

/// What a person should hear of the retries that go with a handler.
fn dropped(waiting: u64) -> Option<String> {
    match waiting {
        0 => None,
        1 => Some("an event that waited for a retry went with the handler".to_owned()),
        events => Some(format!("{events} events that waited for a retry went with the handler")),
    }
}

/// Ends the account of a handler that its topic does not grant any more: its connections are closed at once. Its place in
/// the topic stays.
///
/// # Errors
/// The broker is away or refuses.
pub async fn withdraw(context: &Context, owner: &Owner, topic: &TopicKey) -> Result<(), Error> {
    // What is not there, or not ready, lets nothing in.
    let Ok(topic) = observe::topic(context, topic).await? else { return Ok(()) };
    let servers = context.brokers.servers(&topic.place).await?;
    let name = known_as(owner, &topic);
    Ok(servers.system.remove_handler(&topic.place.authority, &name, &owner.reference.uid).await?)
}

/// The handler's name in its topic's account.
pub fn known_as(owner: &Owner, topic: &Topic) -> String {
    layout::handler_name(topic.id.namespace(), &owner.namespace, &owner.name)
}

/// The broker of the handler's topic.
///
/// # Errors
/// It cannot be reached.
pub async fn broker(context: &Context, topic: &Topic) -> Result<Arc<Broker>, Error> {
    let key = TopicKey { namespace: topic.id.namespace().to_owned(), name: topic.id.name().to_owned() };
    context.brokers.get(&key, &topic.place).await
}
