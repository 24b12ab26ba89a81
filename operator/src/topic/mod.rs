//! EventTopic: observe → check → build → apply → broker → status.

mod broker;
mod cron;
mod deletion;
pub mod desired;
mod later;
pub(crate) mod leftovers;
pub mod loss;
mod observe;
pub mod publishers;
pub mod room;
pub mod settings;
pub mod status;
pub mod storage;
mod volumes;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::runtime::controller::Action;
use tidegate_broker_admin::Authority;
use tidegate_crds::EventTopic;
use tidegate_crds::conditions::HasConditions as _;
use time::OffsetDateTime;

use crate::apply::{Paced, apply, apply_paced};
use crate::brokers::TopicKey;
use crate::context::{Context, Owner};
use crate::error::Error;
use crate::finalizer::{self, Phase};
use crate::guard::{RECONCILE_LIMIT, guarded};
use crate::pace;
use crate::report;
use crate::status::is_paused;
use crate::topic::broker::Inside;
use crate::topic::desired::routes::RouteTrust;
use crate::topic::desired::{Children, Input};
use crate::topic::observe::{Observed, observe};
use crate::topic::settings::Settings;
use crate::topic::storage::Storage;

/// With nothing to wait for: certificates are looked at this often.
const RESYNC: Duration = Duration::from_secs(600);
/// While all is there but for a publisher over NATS, of which a person may have to mend something.
const TROUBLED: Duration = Duration::from_secs(30);

/// While publishers are refused or not answered. Reports of the ingresses come besides.
const FULL: Duration = Duration::from_secs(10);

/// Brings one topic nearer to its specification and says in its status how near it is.
///
/// # Errors
/// What stopped it, already reported.
pub async fn reconcile(cached: Arc<EventTopic>, context: Arc<Context>) -> Result<Action, Error> {
    let Some(owner) = Owner::of(cached.as_ref()) else {
        return Ok(Action::await_change());
    };
    let topic = TopicKey { namespace: owner.namespace.clone(), name: owner.name.clone() };
    let _slot = context.slots.enter(topic).await;
    let started = std::time::Instant::now();
    let outcome = match context.current(cached, &owner).await {
        Ok(Some(topic)) => step(&topic, &owner, &context).await,
        Ok(None) => Ok(Action::await_change()),
        Err(error) => Err(error),
    };
    context.metrics.reconciled("eventtopic", started.elapsed(), &outcome);
    outcome
}

async fn step(topic: &EventTopic, owner: &Owner, context: &Context) -> Result<Action, Error> {
    let work = async {
        match finalizer::phase(topic) {
            Phase::Live | Phase::Deleting if is_paused(topic) => {
                status::write_paused(context, topic, owner).await.map(|()| Action::await_change())
            }
            // Boxed: it is large, and would be part of every reconcile in flight.
            Phase::Live => Box::pin(live(topic, owner, context)).await,
            Phase::Deleting => Box::pin(deleting(topic, owner, context)).await,
            Phase::Gone => Ok(Action::await_change()),
        }
    };
    let outcome = Box::pin(guarded(RECONCILE_LIMIT, work)).await;
    if let Err(error) = &outcome {
        report::failed(context, topic, error).await;
        status::write_failure(context, topic, owner, error).await;
    }
    outcome
}

async fn live(topic: &EventTopic, owner: &Owner, context: &Context) -> Result<Action, Error> {
    finalizer::ensure(context, topic, owner).await?;
    let observed = observe(context, owner).await?;
    let settings = volumes::fit(&topic.spec, Settings::of(&topic.spec)?, &observed)?;
    check_volumes(&observed, settings.replicas)?;
    let authority = authority(&observed, owner)?;
    let now = OffsetDateTime::now_utc();
    let input = Input {
        topic,
        owner,
        settings: &settings,
        authority: &authority,
        observed: &observed,
        routes: RouteTrust::of(observed.statefulset.as_ref(), settings.replicas),
        args: &context.args,
        now,
    };
    let statefulset = apply_all(desired::children(&input)?, &input, context).await?;
    let broker = broker::ensure(context, owner, topic, &settings, &authority, &observed).await;
    if let Inside::Ready { stored: Some(stored), .. } = &broker {
        storage::heal(context, topic, owner, &stored.storage, &observed.pods).await?;
    }
    let is_ready = status::write(context, topic, owner, &statefulset, &observed, &broker).await?;
    let again = match &broker {
        Inside::Ready { publishers, .. } if is_ready && !publishers.troubles.is_empty() => TROUBLED,
        Inside::Ready { stored: Some(stored), .. } if stored.room.is_full || stored.storage != Storage::Healthy => FULL,
        _ if is_ready => RESYNC,
        // Pod changes are watched; this is for what is not.
        _ => report::patience(topic.status.as_ref().and_then(|status| status.ready())),
    };
    Ok(Action::requeue(again))
}

/// The root of trust: the one there is, or a new one where nothing could depend on an older one.
fn authority(observed: &Observed, owner: &Owner) -> Result<Authority, Error> {
    match &observed.authority {
        Some(authority) => Ok(authority.clone().with_routes(&owner.name, OffsetDateTime::now_utc())?),
        None if observed.volumes.is_empty() => Ok(Authority::generate(&owner.name, OffsetDateTime::now_utc())?),
        None => Err(Error::refused(
            "AuthorityMissing",
            format!(
                "Secret {} is gone, but there are volumes that only it opens ({}): restore it from a backup, or delete them to begin without their events",
                crate::names::authority(&owner.name),
                observed.volumes.join(", ")
            ),
        )),
    }
}

/// Retained volumes of a single broker show nothing to a cluster of three, and the other way round, without an error
/// of the broker: what the schema refuses to change is not changed by making the topic again either.
fn check_volumes(observed: &Observed, replicas: i32) -> Result<(), Error> {
    let kept = observed.volumes.len();
    if observed.statefulset.is_some() || kept == 0 || (kept == 1) == (replicas == 1) {
        return Ok(());
    }
    Err(Error::refused(
        "VolumesDiffer",
        format!(
            "an earlier topic of this name left {kept} volume(s) ({}), which {replicas} broker(s) cannot read: make this topic with as many brokers as before, or delete the volumes to begin without their events",
            observed.volumes.join(", ")
        ),
    ))
}

async fn apply_all(children: Children, input: &Input<'_>, context: &Context) -> Result<Paced<StatefulSet>, Error> {
    // No `..`: a child that is added and not applied does not compile.
    let Children {
        authority,
        ca,
        broker_secret,
        ingress_secret,
        routes_secret,
        config,
        headless,
        service,
        disruption_budget,
        network_policy,
        mut statefulset,
    } = children;
    let owner = input.owner;
    let before = [authority, ca, broker_secret, ingress_secret, headless, service, disruption_budget, network_policy];
    for child in before.iter().chain(&routes_secret) {
        apply(context, owner, child).await?;
    }
    pace::stamp(&mut statefulset, input.topic.metadata.generation);
    let place = (&context.stores.statefulsets, &context.pace.topics);
    apply_paced(context, owner, &statefulset, Some(&config), input.observed.statefulset.as_ref(), place).await
}

/// The children go with their owner, all but the data: that goes or stays as the topic says now.
async fn deleting(topic: &EventTopic, owner: &Owner, context: &Context) -> Result<Action, Error> {
    deletion::settle(context, topic, owner).await?;
    context.brokers.forget(&TopicKey { namespace: owner.namespace.clone(), name: owner.name.clone() });
    finalizer::remove(context, topic, owner).await?;
    Ok(Action::await_change())
}

/// What to do after an error: a person's error is looked at again when the resource changes, and now and then.
pub fn retry(topic: Arc<EventTopic>, error: &Error, _: Arc<Context>) -> Action {
    report::retry(error, topic.status.as_ref().and_then(|status| status.ready()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(volumes: usize) -> Observed {
        Observed { volumes: (0..volumes).map(|number| format!("data-{number}")).collect(), ..Observed::default() }
    }

    #[test]
    fn retained_volumes_are_not_hidden_by_another_number_of_brokers() {
        for (volumes, replicas, fits) in
            [(0, 1, true), (0, 3, true), (1, 1, true), (3, 3, true), (1, 3, false), (3, 1, false)]
        {
            assert_eq!(check_volumes(&left(volumes), replicas).is_ok(), fits, "{volumes} volumes, {replicas} brokers");
        }
        let running = Observed { statefulset: Some(StatefulSet::default()), ..left(1) };
        assert!(check_volumes(&running, 3).is_ok(), "its own volumes, being made");
    }
}
