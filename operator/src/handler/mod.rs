//! EventHandler: observe → check → subscribe → scale → build → apply → status.
//!
//! Here a reconcile begins and ends; what it does to a handler that is wanted is in [`live`], and to one that is not in
//! [`deletion`].

mod deletion;
mod delivering;
mod desired;
mod live;
mod observe;
pub(crate) mod position;
pub(crate) mod probes;
pub mod redrive;
pub mod reference;
pub mod release;
pub(crate) mod relocation;
mod requests;
mod rollout;
mod scaling;
pub mod settings;
pub(crate) mod shelf;
mod status;
pub mod subscribe;
pub(crate) mod template;
mod user_key;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use tidegate_broker_admin::Authority;
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::HasConditions as _;
use tidegate_crds::topic::DEFAULT_BROKER;
use time::OffsetDateTime;

use crate::args::Args;
use crate::broker::scale::Scale;
use crate::context::{Context, Owner};
use crate::handler::desired::Input;
use crate::handler::settings::Settings;
use crate::kubernetes::apply::Child;
use crate::kubernetes::finalizer::{self, Phase};
use crate::reconcile::error::Error;
use crate::reconcile::guard::{RECONCILE_LIMIT, guarded};
use crate::reconcile::report;
use crate::reconcile::slots::Holder;
use crate::reconcile::status::is_paused;
use crate::sessions::brokers::{BrokerKey, Place, TopicKey};
use crate::sessions::by_handler::HandlerKey;

/// Brings one handler nearer to its specification and says in its status how near it is.
///
/// # Errors
/// What stopped it, already reported.
pub async fn reconcile(cached: Arc<EventHandler>, context: Arc<Context>) -> Result<Action, Error> {
    let Some(owner) = Owner::of(cached.as_ref()) else {
        return Ok(Action::await_change());
    };
    let _slot = context.slots.enter(holder(&context, &cached)).await;
    let started = std::time::Instant::now();
    let outcome = match context.current(cached, &owner).await {
        Ok(Some(handler)) => step(&handler, &owner, &context).await,
        Ok(None) => Ok(Action::await_change()),
        Err(error) => Err(error),
    };
    context.metrics.reconciled("eventhandler", started.elapsed(), &outcome);
    context.first_round.note(&owner.key::<EventHandler>(), outcome.is_ok());
    outcome
}

/// Whose share of the slots it takes. Those that no topic has let in do not take that of the topic which they name.
fn holder(context: &Context, handler: &EventHandler) -> Holder {
    if observe::is_granted(context, handler) {
        Holder::Topic(reference::topic_of(handler))
    } else {
        Holder::Strangers(handler.namespace().unwrap_or_default())
    }
}

async fn step(handler: &EventHandler, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let work = async {
        match finalizer::phase(handler) {
            Phase::Live | Phase::Deleting if is_paused(handler) => paused(handler, owner, context).await,
            // Boxed: it is large, and would be part of every reconcile in flight.
            Phase::Live => Box::pin(live::run(handler, owner, context)).await,
            Phase::Deleting => deletion::run(handler, owner, context).await,
            Phase::Gone => Ok(Action::await_change()),
        }
    };
    let outcome = Box::pin(guarded(RECONCILE_LIMIT, work)).await;
    if let Err(error) = &outcome {
        report::failed(context, handler, error).await;
        status::write_failure(context, handler, owner, error).await;
    }
    outcome
}

/// Nothing is changed. But whoever pauses it does not keep by that what the topic's owner has withdrawn.
async fn paused(handler: &EventHandler, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let topic = reference::topic_of(handler);
    let refused = (!observe::is_granted(context, handler)).then(|| observe::not_granted(handler, &topic));
    if refused.is_some() && reference::was_let_in(handler) {
        subscribe::withdraw(context, owner, &topic).await?;
    }
    status::write_paused(context, handler, owner, refused.as_ref()).await?;
    Ok(Action::await_change())
}

fn key(owner: &Owner) -> HandlerKey {
    (owner.namespace.clone(), owner.name.clone())
}

/// The Deployment that would be made of a handler, for a dry run: with the keys of no topic, and as if there were one.
///
/// # Errors
/// None can be made; the message says why.
pub fn deployment(handler: &EventHandler, owner: &Owner, authority: &Authority, args: &Args) -> Result<Child, Error> {
    let settings = Settings::of(&handler.spec)?;
    let TopicKey { namespace, name } = reference::topic_of(handler);
    let broker = BrokerKey { namespace: namespace.clone(), name: DEFAULT_BROKER.into() };
    let id = TopicId::new(namespace, name)
        .map_err(|_| Error::refused("InvalidSpec", "spec.topic is not the name of a topic"))?;
    let topic = observe::Topic {
        id,
        place: Place::new(broker, authority.clone(), &Scale::new(1)),
        routing: Routing::Queued,
        destinations: BTreeMap::new(),
    };
    desired::deployment(&Input {
        handler,
        owner,
        settings: &settings,
        topic: &topic,
        replicas: settings.replicas,
        args,
        now: OffsetDateTime::now_utc(),
    })
}

/// What to do after an error: a person's error is looked at again when the resource changes, and now and then.
pub fn retry(handler: Arc<EventHandler>, error: &Error, _: Arc<Context>) -> Action {
    report::retry(error, handler.status.as_ref().and_then(|status| status.ready()))
}
