//! A handler's place on the broker: its durable consumer and its account.

use tidegate_broker_admin::consumers;
use tidegate_crds::EventHandler;
use time::OffsetDateTime;

use crate::brokers::TopicKey;
use crate::context::{Context, Owner};
use crate::error::Error;
use crate::handler::observe::Topic;
use crate::handler::settings::{ACK_WAIT, Settings};

/// Makes consumer and account be as they should be. The consumer first: from here on no event is missed.
///
/// # Errors
/// The broker is away or refuses.
pub async fn ensure(
    context: &Context,
    owner: &Owner,
    handler: &EventHandler,
    settings: &Settings,
    topic: &Topic,
) -> Result<(), Error> {
    let broker = context.brokers.get(&key(owner, handler), &topic.authority, topic.replicas).await?;
    let uid = &owner.reference.uid;
    let replicas = i64::from(settings.max_replicas);
    let consumer = consumers::Handler {
        name: owner.name.clone(),
        uid: uid.clone(),
        replicas: usize::try_from(topic.replicas).unwrap_or(1),
        ack_wait: ACK_WAIT,
        max_ack_pending: replicas * i64::from(settings.delivery.concurrency) * 2,
        max_waiting: (replicas * 4).max(16),
    };
    consumers::ensure(&broker.js, &consumer).await?;
    broker.system.ensure(&topic.authority.handler_account(&owner.name, uid, OffsetDateTime::now_utc())?).await?;
    Ok(())
}

/// Removes both: the account first, so that nobody pulls from a consumer that is going.
///
/// # Errors
/// The broker is away or refuses.
pub async fn remove(context: &Context, owner: &Owner, handler: &EventHandler, topic: &Topic) -> Result<(), Error> {
    let broker = context.brokers.get(&key(owner, handler), &topic.authority, topic.replicas).await?;
    broker.system.remove_handler(&topic.authority, &owner.name, &owner.reference.uid).await?;
    consumers::delete(&broker.js, &owner.name).await?;
    Ok(())
}

fn key(owner: &Owner, handler: &EventHandler) -> TopicKey {
    TopicKey { namespace: owner.namespace.clone(), name: handler.spec.topic.clone() }
}
