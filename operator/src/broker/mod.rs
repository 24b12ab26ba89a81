//! EventBroker: observe → check → build → apply → status.

mod access;
pub(crate) mod audit;
pub mod deletion;
pub mod desired;
pub mod expiry;
mod formation;
pub(crate) mod groups;
mod majority;
mod members;
pub mod nudge;
mod observe;
mod progress;
pub mod publishers;
mod reload;
mod resize;
pub mod restart;
pub mod rollover;
pub mod room;
pub mod scale;
pub mod settings;
mod status;
mod tails;
pub mod topics;
mod trust;
pub mod turns;
mod volumes;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::runtime::controller::Action;
use tidegate_broker_admin::membership::CertificateEnds;
use tidegate_crds::EventBroker;
use tidegate_crds::conditions::{Finding, HasConditions as _};
use time::OffsetDateTime;

use crate::broker::audit::Audit;
use crate::broker::desired::{Children, Input};
use crate::broker::expiry::{Expiry, Leaves};
use crate::broker::members::Progress;
use crate::broker::observe::{Observed, observe};
use crate::broker::reload::Reload;
use crate::broker::resize::Resize;
use crate::broker::restart::Rollout;
use crate::broker::scale::Scale;
use crate::broker::settings::Settings;
use crate::broker::trust::Trust;
use crate::context::{Context, Owner};
use crate::kubernetes::apply::{Paced, apply, apply_paced};
use crate::kubernetes::finalizer::{self, Phase};
use crate::reconcile::error::Error;
use crate::reconcile::guard::{RECONCILE_LIMIT, guarded};
use crate::reconcile::pace;
use crate::reconcile::report;
use crate::reconcile::slots::Holder;
use crate::reconcile::status::is_paused;
use crate::sessions::brokers::{BrokerKey, Place};

/// With nothing to wait for: certificates are looked at this often.
const RESYNC: Duration = Duration::from_secs(600);
/// The same where the certificate authorities of publishers are in a ConfigMap, which is not watched.
const AUTHORITIES_PERIOD: Duration = Duration::from_secs(60);
/// While its pods are restarted one by one, or its servers form their cluster.
const IN_CHANGE: Duration = Duration::from_secs(2);
/// While its servers use certificates of before.
const RELOADING: Duration = Duration::from_secs(5);
/// While topics keep it from being deleted.
const IN_USE: Duration = Duration::from_secs(10);

/// Brings one broker nearer to its specification and says in its status how near it is.
///
/// # Errors
/// What stopped it, already reported.
pub async fn reconcile(cached: Arc<EventBroker>, context: Arc<Context>) -> Result<Action, Error> {
    let Some(owner) = Owner::of(cached.as_ref()) else {
        return Ok(Action::await_change());
    };
    let _slot = context.slots.enter(Holder::Broker(key(&owner))).await;
    let started = std::time::Instant::now();
    let outcome = match context.current(cached, &owner).await {
        Ok(Some(broker)) => step(&broker, &owner, &context).await,
        Ok(None) => Ok(Action::await_change()),
        Err(error) => Err(error),
    };
    context.metrics.reconciled("eventbroker", started.elapsed(), &outcome);
    context.first_round.note(&owner.key::<EventBroker>(), outcome.is_ok());
    outcome
}

async fn step(broker: &EventBroker, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let work = async {
        match finalizer::phase(broker) {
            Phase::Live | Phase::Deleting if is_paused(broker) => {
                status::write_paused(context, broker, owner).await.map(|()| Action::await_change())
            }
            // Boxed: it is large, and would be part of every reconcile in flight.
            Phase::Live => Box::pin(live(broker, owner, context)).await,
            Phase::Deleting => Box::pin(deleting(broker, owner, context)).await,
            Phase::Gone => Ok(Action::await_change()),
        }
    };
    let outcome = Box::pin(guarded(RECONCILE_LIMIT, work)).await;
    if let Err(error) = &outcome {
        report::failed(context, broker, error).await;
        status::write_failure(context, broker, owner, error).await;
    }
    outcome
}

async fn live(broker: &EventBroker, owner: &Owner, context: &Context) -> Result<Action, Error> {
    finalizer::ensure(context, broker, owner).await?;
    let applied = Box::pin(make(broker, owner, context)).await?;
    let is_ready = status::write(context, broker, owner, &applied).await?;
    let again = if let Progress::Changing { again, .. } = applied.progress {
        again
    } else if applied.is_changing() {
        IN_CHANGE
    } else if let Some(period) = applied.resize.again() {
        period
    } else if !applied.reload.is_done() {
        RELOADING
    } else if let Some(period) = applied.rollover.again(OffsetDateTime::now_utc()) {
        period
    } else if is_ready && broker.spec.client_certificates.is_some() {
        AUTHORITIES_PERIOD
    } else if is_ready {
        RESYNC
    } else {
        // Pod changes are watched; this is for what is not.
        report::patience(broker.status.as_ref().and_then(|status| status.ready()))
    };
    Ok(Action::requeue(again))
}

/// A broker as it is after its children were applied.
struct Made {
    settings: Settings,
    observed: Observed,
    trust: Trust,
    statefulset: Paced<StatefulSet>,
    access: Vec<access::Seen>,
    /// Whether its servers are a cluster.
    is_formed: bool,
    /// Whether its only server has lost what it had.
    has_lost_volume: bool,
    /// What is to be said of servers that answer and have no leader.
    no_majority: Option<Finding>,
    /// How many servers it has now.
    scale: Scale,
    /// How far they are from those that there are to be.
    progress: Progress,
    /// How far the pods are.
    rollout: Rollout,
    /// How far the volumes are.
    resize: Resize,
    /// What the servers have.
    audit: Audit,
    /// How far the servers are with renewed certificates.
    reload: Reload,
    /// When its certificates end.
    expiry: Expiry,
    /// How far its certificate authorities are replaced.
    rollover: rollover::Progress,
}

impl Made {
    /// Whether something is under way that no watch tells of.
    fn is_changing(&self) -> bool {
        !self.rollout.is_done() || !self.progress.is_done() || self.is_forming() || self.audit.is_open()
    }

    /// Whether all pods are ready, and the servers have not said yet that they are a cluster.
    fn is_forming(&self) -> bool {
        !self.is_formed && formation::is_due(&self.observed.pods, self.scale.pods)
    }
}

async fn make(broker: &EventBroker, owner: &Owner, context: &Context) -> Result<Made, Error> {
    let observed = observe(context, owner).await?;
    let scale = Scale::of(observed.statefulset.as_ref(), broker);
    let wanted = Settings::of(&broker.spec)?;
    let asked = wanted.volume;
    let settings = volumes::fit(&broker.spec, wanted, &observed, &scale)?;
    // A volume that a server joins with is to be as large as those of the others, which may be larger than what is asked for.
    let size = asked.max(settings.volume);
    formation::check_version(&observed, owner)?;
    members::check_volumes(&observed, &scale)?;
    if observed.statefulset.is_none() && observed.volumes.is_empty() {
        deletion::forget_retained(context, &key(owner)).await?;
    }
    let authority = observed.root_of_trust(context, owner, broker)?;
    let place = Place::new(key(owner), authority.clone(), &scale);
    let known = broker.status.as_ref().is_some_and(|status| status.formed);
    let is_formed = known || formation::has_formed(context, &place, &observed.pods).await;
    let topics = topics::of_broker(context, &key(owner));
    let trust = trust::read(context, owner, broker).await?;
    let input = Input {
        broker,
        owner,
        settings: &settings,
        authority: &authority,
        observed: &observed,
        scale: &scale,
        is_formed,
        topics: &topics,
        trust: &trust,
        args: &context.args,
        now: OffsetDateTime::now_utc(),
    };
    let Applied { statefulset, certificates, leaves } = apply_all(&input, context).await?;
    let audit = match (is_formed, scale.is_changing()) {
        (true, false) => audit::proceed(context, broker, &place, &observed.pods, audit::PERIOD).await,
        (true, true) => Audit::during_change(broker, jiff::Timestamp::now()),
        (false, _) => Audit::as_it_was(broker),
    };
    let held = audit.holds_changes(scale.pods);
    let (statefulset, progress, rollout) = Box::pin(change(&input, context, &place, statefulset, held)).await?;
    let audit = if progress.needs_audit() {
        audit::proceed(context, broker, &place, &observed.pods, audit::PERIOD_OF_CHANGE).await
    } else {
        audit
    };
    let reload = reload(context, &place, &observed, certificates, !rollout.is_done() || !progress.is_done()).await;
    let held = rollover::held(is_formed, statefulset.waits, &progress, &rollout);
    let rollover = Box::pin(rollover::proceed(context, &input, &place, &reload, held)).await?;
    let told = broker.status.as_ref().and_then(|status| status.certificates.as_ref());
    let expiry = Expiry::of(&leaves, &authority, &place.broker, &reload, told);
    context.expiries.note(place.broker.clone(), &expiry);
    let no_majority = if is_formed { majority::lacking(context, broker, &place, &observed.pods).await } else { None };
    let has_lost_volume = known && formation::has_lost_volume(context, &place, &observed.pods).await;
    let ways = &broker.spec.access;
    access::close_others(context, owner, ways).await?;
    let access = access::observe(context, owner, ways, OffsetDateTime::now_utc()).await?;
    let resize = resize::ensure(context, owner, &observed.sizes, (size, &settings.volume_text)).await?;
    let scale = Scale::of(Some(&statefulset.object), broker);
    Ok(Made {
        settings,
        observed,
        trust,
        statefulset,
        access,
        is_formed,
        has_lost_volume,
        no_majority,
        scale,
        progress,
        rollout,
        resize,
        audit,
        reload,
        expiry,
        rollover,
    })
}

/// Has the servers changed, or pods restarted, but not both: one step of it. `held`: why neither is begun.
async fn change(
    input: &Input<'_>,
    context: &Context,
    place: &Place,
    statefulset: Paced<StatefulSet>,
    held: Option<String>,
) -> Result<(Paced<StatefulSet>, Progress, Rollout), Error> {
    let (pods, set) = (&input.observed.pods, &statefulset.object);
    if let Some(why) = held {
        let progress = if members::has_reached(input)? { Progress::Done } else { Progress::AfterRestarts };
        let rollout = restart::held(place, pods, set, why);
        return Ok((statefulset, progress, rollout));
    }
    // What waits for its turn has not been applied: there is nothing to load yet.
    let progress = if input.is_formed && !statefulset.waits {
        members::proceed(context, input, place, restart::has_outdated(pods, set)).await?
    } else {
        Progress::Done
    };
    let Progress::Changing { record, .. } = &progress else {
        let rollout = restart::proceed(context, place, pods, set).await?;
        return Ok((statefulset, progress, rollout));
    };
    restart::proceed_with_idle(context, place, pods, set).await?;
    let statefulset = match record {
        Some(scale) => {
            let observed = Observed { statefulset: Some(statefulset.object), ..input.observed.clone() };
            apply_all(&Input { scale, observed: &observed, ..*input }, context).await?.statefulset
        }
        None => statefulset,
    };
    Ok((statefulset, progress, Rollout::none()))
}

/// A pod that is restarted, and a server that loads its configuration, reads its certificates then. But that may be waited
/// for as long as certificates are good: what is near its end is read at once (`is_busy`: one of the two is under way, or
/// waits). What servers cannot be asked now they are asked the next time.
async fn reload(
    context: &Context,
    place: &Place,
    observed: &Observed,
    wanted: CertificateEnds,
    is_busy: bool,
) -> Reload {
    let before = is_busy.then(|| OffsetDateTime::now_utc() + expiry::NEAR);
    let told = reload::proceed(context, place, &observed.pods, wanted, before).await;
    told.unwrap_or_else(|error| {
        tracing::debug!(broker = place.broker.name, namespace = place.broker.namespace, %error, "servers are not asked");
        Reload::default()
    })
}

/// What was applied.
struct Applied {
    statefulset: Paced<StatefulSet>,
    /// Until when the certificates are good that the servers are to use.
    certificates: CertificateEnds,
    leaves: Leaves,
}

async fn apply_all(input: &Input<'_>, context: &Context) -> Result<Applied, Error> {
    let children = desired::children(input)?;
    let (certificates, leaves) = (reload::ends(&children), Leaves::of(&children));
    // No `..`: a child that is added and not applied does not compile.
    let Children {
        authority,
        broker_secret,
        ingress_secret,
        routes_secret,
        topics,
        config,
        headless,
        service,
        access,
        disruption_budget,
        network_policy,
        mut statefulset,
    } = children;
    let owner = input.owner;
    let before = [
        authority,
        broker_secret,
        ingress_secret,
        routes_secret,
        topics,
        headless,
        service,
        disruption_budget,
        network_policy,
    ];
    for child in before.iter().chain(&access) {
        apply(context, owner, child).await?;
    }
    pace::stamp(&mut statefulset, input.broker.metadata.generation);
    let place = (&context.stores.statefulsets, &context.pace.brokers);
    let existing = input.observed.statefulset.as_ref();
    let statefulset = apply_paced(context, owner, &statefulset, Some(&config), existing, place).await?;
    let [_, of_servers, of_ingress, of_routes, topics, ..] = &before;
    nudge::pods(context, owner, &input.observed.pods, &[of_servers, of_ingress, of_routes, topics, &config]).await;
    Ok(Applied { statefulset, certificates, leaves })
}

/// The children go with their owner, all but the data: that goes unless events of deleted topics are retained on it.
async fn deleting(broker: &EventBroker, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let key = key(owner);
    let topics = topics::holding(context, &key);
    if !topics.is_empty() {
        // It works on while topics need it: one of them may be waiting for it to go.
        let applied = Box::pin(make(broker, owner, context)).await?;
        status::write_in_use(context, broker, owner, &applied, &topics).await?;
        return Ok(Action::requeue(IN_USE));
    }
    deletion::settle(context, broker, owner).await?;
    context.brokers.forget_broker(&key);
    context.expiries.forget(&key);
    finalizer::remove(context, broker, owner).await?;
    Ok(Action::await_change())
}

fn key(owner: &Owner) -> BrokerKey {
    BrokerKey { namespace: owner.namespace.clone(), name: owner.name.clone() }
}

/// What to do after an error: a person's error is looked at again when the resource changes, and now and then.
pub fn retry(broker: Arc<EventBroker>, error: &Error, _: Arc<Context>) -> Action {
    report::retry(error, broker.status.as_ref().and_then(|status| status.ready()))
}
