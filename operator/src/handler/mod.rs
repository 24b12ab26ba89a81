//! EventHandler: observe → check → subscribe → scale → build → apply → status.

mod delivering;
mod desired;
mod observe;
pub(crate) mod position;
pub(crate) mod probes;
pub mod redrive;
pub mod reference;
pub mod release;
pub(crate) mod relocation;
mod requests;
mod rollout;
pub mod settings;
pub(crate) mod shelf;
mod status;
pub mod subscribe;
pub(crate) mod template;
mod user_key;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use serde_json::json;
use tidegate_broker_admin::{Authority, age};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::HasConditions as _;
use tidegate_crds::topic::DEFAULT_BROKER;
use time::OffsetDateTime;
use tokio::time::timeout;

use crate::args::Args;
use crate::autoscaling::{Plan, Reason};
use crate::broker::scale::Scale;
use crate::context::{Context, Owner};
use crate::handler::desired::{Children, Input};
use crate::handler::observe::{Observed, observe};
use crate::handler::relocation::{Change, Preparation};
use crate::handler::requests::{Done, Requests};
use crate::handler::settings::Settings;
use crate::identity::authority::identity_end;
use crate::kubernetes::apply::{Child, Paced, apply, apply_paced};
use crate::kubernetes::finalizer::{self, Phase};
use crate::kubernetes::names::{self, FIELD_MANAGER};
use crate::reconcile::error::Error;
use crate::reconcile::grants::NOT_ALLOWED_BY_TOPIC;
use crate::reconcile::guard::{RECONCILE_LIMIT, guarded};
use crate::reconcile::pace;
use crate::reconcile::report;
use crate::reconcile::slots::Holder;
use crate::reconcile::status::is_paused;
use crate::sessions::brokers::{BrokerKey, Place, TopicKey};
use crate::sessions::by_handler::HandlerKey;
use crate::topic::leftovers;

/// How long a handler's deletion waits for the broker at a time.
const UNSUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(10);
/// And in all: then the handler goes, and what it has on the broker is removed later.
const LET_GO_AFTER_SECONDS: i64 = 10;

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
            Phase::Live => Box::pin(live(handler, owner, context)).await,
            Phase::Deleting => deleting(handler, owner, context).await,
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
    if !observe::is_granted(context, handler) && reference::was_let_in(handler) {
        subscribe::withdraw(context, owner, &reference::topic_of(handler)).await?;
    }
    status::write_paused(context, handler, owner).await?;
    Ok(Action::await_change())
}

/// Its access ends, where it had any. What it has at the topic stays.
async fn not_granted(
    context: &Context,
    handler: &EventHandler,
    owner: &Owner,
    observed: &Observed,
    refusal: &observe::NotYet,
) -> Result<Action, Error> {
    let mut again = report::resync();
    if reference::was_let_in(handler)
        && let Err(error) = subscribe::withdraw(context, owner, &reference::topic_of(handler)).await
    {
        tracing::warn!(handler = owner.name, namespace = owner.namespace, %error, "the broker does not know of it yet");
        again = report::patience(handler.status.as_ref().and_then(|status| status.ready()));
    }
    status::write_waiting(context, handler, owner, observed, refusal).await?;
    Ok(Action::requeue(again))
}

async fn live(handler: &EventHandler, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let observed = observe(context, owner, handler).await?;
    // First, so that a wrong specification keeps nobody in.
    if let Err(refusal) = &observed.topic
        && refusal.reason == NOT_ALLOWED_BY_TOPIC
    {
        return not_granted(context, handler, owner, &observed, refusal).await;
    }
    reference::check(handler)?;
    let mut settings = Settings::of(&handler.spec)?;
    let topic = match &observed.topic {
        Ok(topic) => topic,
        // What runs continues: delivering does not need the operator.
        Err(not_yet) => {
            status::write_waiting(context, handler, owner, &observed, not_yet).await?;
            return Ok(Action::requeue(report::resync()));
        }
    };
    // What is made on the broker must be undone there; a handler that only waits can go as it came.
    finalizer::ensure(context, handler, owner).await?;
    let wanted = settings.delivery.order;
    settings.delivery.order = relocation::current_order(context, owner, handler, topic, wanted).await?;
    let change = relocation::next(handler, wanted).filter(|_| topic.routing == Routing::Queued);
    settings.is_draining = relocation::is_draining(change);
    if let Some(change) = change
        && let Some(step) = change.step()
        && relocation::has_stopped(change, observed.deployment.as_ref(), &observed.pods)
        && relocation::can_run(context, owner, topic, step).await?
    {
        return relocation::run(context, handler, owner, topic, &settings, step).await;
    }
    if change.is_some_and(relocation::has_begun)
        && let Some(deployment) = &observed.deployment
    {
        scale_only(context, owner, deployment.clone(), 0).await?;
        return relocation::wait_for_end(context, handler, owner, &observed.pods).await;
    }
    let user_key = user_key::wanted(context, handler, observed.identity.as_ref())?;
    let refused_before = user_key::refused_before(context, &user_key);
    // What could not be changed on the broker holds up nothing that is there already: pods roll out and scale.
    let subscribed = match subscribe::ensure(context, owner, handler, &settings, topic, refused_before).await {
        Err(error) if observed.deployment.is_none() => return Err(error),
        subscribed => subscribed,
    };
    let subscription = subscribed.as_ref().ok().and_then(|made| made.place.as_ref());
    let moving = prepare(context, owner, handler, topic, &observed, change, subscription).await?;
    let plan = match moving.stops {
        true => Plan { replicas: 0, reason: Reason::Moving },
        false => scale(context, owner, &settings, &observed, topic.routing),
    };
    let input = Input {
        handler,
        owner,
        settings: &settings,
        topic,
        identity: observed.identity.as_ref(),
        replicas: plan.replicas,
        args: &context.args,
        now: OffsetDateTime::now_utc(),
    };
    let children = desired::children(&input, &user_key)?;
    let credentials_end = children.identity.secret().and_then(|secret| identity_end(&secret));
    let Paced { object: deployment, waits } = apply_all(children, &input, &observed, context).await?;
    context.reports.note_template(&key(owner), template_hash(&deployment));
    let requests = Requests { context, owner, handler, topic, observed: &observed, deployment: &deployment };
    let done = match &subscribed {
        Ok(_) => requests.step().await?,
        Err(_) => Done::default(),
    };
    tell(context, handler, owner, &plan).await;
    let seen_key = user_key::tell(context, handler, &user_key, credentials_end).await;
    // What is written of it now is what the next step goes by.
    let is_first_seen = wanted != settings.delivery.order && change.is_none() && subscription.is_some();
    let first = is_first_seen.then_some(Duration::ZERO).or(moving.again);
    let settles = subscribed.as_ref().ok().and_then(|made| made.again);
    let again =
        first.into_iter().chain(done.again()).chain(seen_key.again).chain(settles).min().unwrap_or(report::resync());
    let seen = status::Seen {
        observed: &observed,
        deployment: &deployment,
        waits_for_turn: waits,
        plan,
        redrive: done.redrive.map(|progress| progress.status),
        release: done.release.map(|progress| progress.status),
        subscription,
        oldest: oldest(context, owner, topic, subscription).await,
        dead_letters: done.dead_letters,
        subscribed: subscribed.as_ref().err(),
        order: settings.delivery.order,
        moving,
        key: seen_key.status,
    };
    status::write(context, handler, owner, seen).await?;
    let Err(error) = &subscribed else { return Ok(Action::requeue(again)) };
    report::failed(context, handler, error).await;
    Ok(report::retry(error, handler.status.as_ref().and_then(|status| status.ready())))
}

/// What becomes of a change of the handler's place while there are pods.
async fn prepare(
    context: &Context,
    owner: &Owner,
    handler: &EventHandler,
    topic: &observe::Topic,
    observed: &Observed,
    change: Option<Change<'_>>,
    subscription: Option<&subscribe::Subscription>,
) -> Result<Preparation, Error> {
    let before = handler.status.as_ref().and_then(|status| status.replay.as_ref());
    match (change, subscription) {
        (Some(change), Some(subscription)) => {
            let broker = subscribe::broker(context, topic).await?;
            relocation::prepare(&broker, owner, topic, change, before, observed, subscription).await
        }
        _ if topic.routing == Routing::Direct => {
            Ok(Preparation { replay: relocation::refused_on_direct(handler), ..Preparation::default() })
        }
        _ => Ok(Preparation { replay: relocation::withdrawn(handler), ..Preparation::default() }),
    }
}

/// When the oldest event was stored that the handler has not acknowledged. It is only shown, so no error stops
/// anything.
async fn oldest(
    context: &Context,
    owner: &Owner,
    topic: &observe::Topic,
    subscription: Option<&subscribe::Subscription>,
) -> Option<OffsetDateTime> {
    let backlog = subscription?.consumers.backlog.as_ref()?;
    let broker = subscribe::broker(context, topic).await.ok()?;
    match age::oldest(&broker.api, backlog).await {
        Ok(oldest) => oldest,
        Err(error) => {
            tracing::debug!(handler = owner.name, namespace = owner.namespace, %error, "the age of events is not known");
            None
        }
    }
}

/// What people should hear of now.
async fn tell(context: &Context, handler: &EventHandler, owner: &Owner, plan: &Plan) {
    report_scaling(context, handler, plan).await;
    if let Some(warning) = context.reports.take_warning(&key(owner)) {
        report::event(context, handler, EventType::Warning, "DeadLettered", &delivering::warning(&warning)).await;
    }
}

fn key(owner: &Owner) -> HandlerKey {
    (owner.namespace.clone(), owner.name.clone())
}

/// Of its labels and annotations, among which is a hash of the rest.
fn template_hash(deployment: &Deployment) -> u64 {
    let template = deployment.spec.as_ref().and_then(|spec| serde_json::to_string(&spec.template.metadata).ok());
    let mut hasher = DefaultHasher::new();
    template.hash(&mut hasher);
    hasher.finish()
}

fn scale(context: &Context, owner: &Owner, settings: &Settings, observed: &Observed, routing: Routing) -> Plan {
    if settings.is_suspended
        && let Some(plan) = Plan::suspended(settings.policy.as_ref(), routing)
    {
        return plan;
    }
    let Some(policy) = &settings.policy else {
        return Plan { replicas: settings.replicas, reason: Reason::Fixed };
    };
    if routing == Routing::Direct {
        return Plan { replicas: policy.min.max(1), reason: Reason::Direct };
    }
    let now = observed.deployment.as_ref().and_then(|deployment| deployment.spec.as_ref()?.replicas);
    let current = now.and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(policy.min);
    context.lag.decide(&(owner.namespace.clone(), owner.name.clone()), policy, current)
}

async fn report_scaling(context: &Context, handler: &EventHandler, plan: &Plan) {
    let before = handler.status.as_ref().and_then(|status| status.scaling.as_ref()).map(|scaling| scaling.desired);
    let Some(before) = before.and_then(|desired| u32::try_from(desired).ok()).filter(|before| *before != plan.replicas)
    else {
        return;
    };
    context.metrics.scaled(plan.replicas > before, plan.reason.text());
    let note = format!("from {before} to {} replicas: {}", plan.replicas, plan.reason.text());
    report::event(context, handler, EventType::Normal, "Scaled", &note).await;
}

async fn apply_all(
    children: Children,
    input: &Input<'_>,
    observed: &Observed,
    context: &Context,
) -> Result<Paced<Deployment>, Error> {
    // No `..`: a child that is added and not applied does not compile.
    let Children { identity, network_policy, mut deployment } = children;
    let owner = input.owner;
    apply(context, owner, &identity).await?;
    apply(context, owner, &network_policy).await?;
    pace::stamp(&mut deployment, input.handler.metadata.generation);
    let place = (&context.stores.deployments, &context.pace.handlers);
    // One without pods replaces none. It must not wait for its turn: when its place has been moved, pods of the template
    // before would go by the place before.
    let has_pods = |existing: &&Deployment| existing.spec.as_ref().and_then(|spec| spec.replicas) != Some(0);
    let existing = observed.deployment.as_ref().filter(has_pods);
    let applied = apply_paced(context, owner, &deployment, None, existing, place).await?;
    let object = scale_only(context, owner, applied.object, input.replicas).await?;
    Ok(Paced { object, ..applied })
}

/// A Deployment that waits for its turn is scaled all the same.
async fn scale_only(
    context: &Context,
    owner: &Owner,
    deployment: Deployment,
    replicas: u32,
) -> Result<Deployment, Error> {
    let current = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    if current.and_then(|current| u32::try_from(current).ok()) == Some(replicas) {
        return Ok(deployment);
    }
    let api: Api<Deployment> = Api::namespaced(context.client.clone(), &owner.namespace);
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    Ok(api.patch(&names::handler(&owner.name), &params, &patch).await?)
}

/// Its consumer and its rights on the broker go first; Deployment and Secret go with their owner.
async fn deleting(handler: &EventHandler, owner: &Owner, context: &Context) -> Result<Action, Error> {
    if reference::other_namespace(handler).is_some() && !reference::was_let_in(handler) {
        // Nothing was made of it at the topic that it names: nothing is done there, and nothing told of it.
        finalizer::remove(context, handler, owner).await?;
        return Ok(Action::await_change());
    }
    let key = reference::topic_of(handler);
    let unsubscribed = match observe::topic(context, &key).await? {
        Ok(topic) => {
            let removed = timeout(UNSUBSCRIBE_TIMEOUT, subscribe::remove(context, owner, handler, &topic)).await;
            removed.unwrap_or_else(|_| Err(Error::Broker(format!("no answer within {UNSUBSCRIBE_TIMEOUT:?}"))))
        }
        // Nothing can be undone on a broker that is not there; one that comes back with its retained events
        // removes what this handler left when the topic is reconciled.
        Err(not_yet) if matches!(not_yet.reason, "TopicNotFound" | "TopicDeleting") => Ok(()),
        // How it is with the topic is not for those whom it does not grant any more.
        Err(_) if !observe::is_granted(context, handler) => Err(Error::Broker("it cannot be reached".into())),
        Err(not_yet) => Err(Error::Broker(not_yet.message)),
    };
    if let Err(error) = unsubscribed {
        let since = handler.metadata.deletion_timestamp.as_ref().map(|since| since.0);
        let waited = since.map_or(0, |since| jiff::Timestamp::now().duration_since(since).as_secs());
        if waited < LET_GO_AFTER_SECONDS {
            return Err(error);
        }
        leftovers::note(context, &key, &reference::known_as(handler), owner).await?;
        let note = format!(
            "let go without its broker ({error}): what it left there is removed when EventTopic {} is ready again",
            reference::shown_topic(handler)
        );
        report::event(context, handler, EventType::Normal, "LeftOnBroker", &note).await;
    }
    finalizer::remove(context, handler, owner).await?;
    Ok(Action::await_change())
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
        identity: None,
        replicas: settings.replicas,
        args,
        now: OffsetDateTime::now_utc(),
    })
}

/// What to do after an error: a person's error is looked at again when the resource changes, and now and then.
pub fn retry(handler: Arc<EventHandler>, error: &Error, _: Arc<Context>) -> Action {
    report::retry(error, handler.status.as_ref().and_then(|status| status.ready()))
}
