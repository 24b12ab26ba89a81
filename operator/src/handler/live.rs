//! A handler that is wanted, from what there is to what there should be.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;
use tidegate_broker_admin::age;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::HasConditions as _;
use time::OffsetDateTime;

use super::desired::{Children, Input};
use super::observe::{Observed, observe};
use super::relocation::{Change, Preparation};
use super::requests::{Done, Requests};
use super::settings::Settings;
use super::{delivering, desired, key, observe, reference, relocation, scaling, status, subscribe, user_key};
use crate::autoscaling::{Plan, Reason};
use crate::context::{Context, Owner};
use crate::identity::credentials::Credentials;
use crate::kubernetes::apply::{Paced, apply, apply_paced};
use crate::kubernetes::finalizer;
use crate::reconcile::error::Error;
use crate::reconcile::grants::NOT_ALLOWED_BY_TOPIC;
use crate::reconcile::{pace, report};

/// Brings it nearer to its specification.
///
/// # Errors
/// What stopped it.
pub(super) async fn run(handler: &EventHandler, owner: &Owner, context: &Context) -> Result<Action, Error> {
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
        scaling::apply(context, owner, deployment.clone(), 0).await?;
        return relocation::wait_for_end(context, handler, owner, &observed.pods).await;
    }
    let wanted_identity = desired::wanted_identity(owner, &settings, topic)?;
    let credentials = Credentials::find(context, owner, &wanted_identity, &user_key::history(handler)).await?;
    let refused_before = user_key::refused_before(context, credentials.record());
    // What could not be changed on the broker holds up nothing that is there already: pods roll out and scale.
    let subscribed = match subscribe::ensure(context, owner, handler, &settings, topic, refused_before).await {
        Err(error) if observed.deployment.is_none() => return Err(error),
        subscribed => subscribed,
    };
    let subscription = subscribed.as_ref().ok().and_then(|made| made.place.as_ref());
    let moving = prepare(context, owner, handler, topic, &observed, change, subscription).await?;
    let plan = match moving.stops {
        true => Plan { replicas: 0, reason: Reason::Moving },
        false => scaling::plan(context, owner, &settings, &observed, topic.routing),
    };
    let input = Input {
        handler,
        owner,
        settings: &settings,
        topic,
        replicas: plan.replicas,
        args: &context.args,
        now: OffsetDateTime::now_utc(),
    };
    let children = desired::children(&input, &credentials)?;
    let credentials_end = credentials.end(children.identity.as_ref());
    let Paced { object: deployment, waits } = apply_all(children, &input, &observed, context).await?;
    context.reports.note_template(&key(owner), template_hash(&deployment));
    let requests = Requests { context, owner, handler, topic, observed: &observed, deployment: &deployment };
    let done = match &subscribed {
        Ok(_) => requests.step().await?,
        Err(_) => Done::default(),
    };
    tell(context, handler, owner, &plan).await;
    let seen_key = user_key::tell(context, handler, credentials.record(), credentials_end).await;
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
            relocation::prepare(context, owner, topic, change, before, observed, subscription).await
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
    scaling::tell(context, handler, plan).await;
    if let Some(warning) = context.reports.take_warning(&key(owner)) {
        report::event(context, handler, EventType::Warning, "DeadLettered", &delivering::warning(&warning)).await;
    }
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
    if let Some(identity) = identity {
        apply(context, owner, &identity).await?;
    }
    apply(context, owner, &network_policy).await?;
    pace::stamp(&mut deployment, input.handler.metadata.generation);
    let place = (&context.stores.deployments, &context.pace.handlers);
    // One without pods replaces none. It must not wait for its turn: when its place has been moved, pods of the template
    // before would go by the place before.
    let has_pods = |existing: &&Deployment| existing.spec.as_ref().and_then(|spec| spec.replicas) != Some(0);
    let existing = observed.deployment.as_ref().filter(has_pods);
    let applied = apply_paced(context, owner, &deployment, None, existing, place).await?;
    let object = scaling::apply(context, owner, applied.object, input.replicas).await?;
    Ok(Paced { object, ..applied })
}

/// Of its labels and annotations, among which is a hash of the rest.
fn template_hash(deployment: &Deployment) -> u64 {
    let template = deployment.spec.as_ref().and_then(|spec| serde_json::to_string(&spec.template.metadata).ok());
    let mut hasher = DefaultHasher::new();
    template.hash(&mut hasher);
    hasher.finish()
}
