//! EventTopic: find its broker → check → room → build → apply → account, streams, publishers → status.

mod addressable;
mod children;
mod cron;
mod data_lost;
mod deletion;
mod handlers;
mod inside;
mod intact;
mod later;
pub(crate) mod leftovers;
mod look;
pub mod loss;
mod observe;
pub mod publishers;
mod retained;
pub mod room;
pub mod rules;
pub mod serve;
pub mod settings;
pub mod status;
pub mod storage;
pub(crate) mod stream_ready;

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use tidegate_broker_admin::push::SETTLED;
use tidegate_crds::conditions::{HasConditions as _, kind};
use tidegate_crds::{EventBroker, EventTopic};

use crate::context::{Context, Owner};
use crate::kubernetes::apply::apply;
use crate::kubernetes::finalizer::{self, Phase};
use crate::reconcile::error::Error;
use crate::reconcile::guard::{RECONCILE_LIMIT, guarded};
use crate::reconcile::report;
use crate::reconcile::slots::Holder;
use crate::reconcile::status::is_paused;
use crate::sessions::brokers::TopicKey;
use crate::topic::inside::Inside;
use crate::topic::observe::{NotGranted, observe};
use crate::topic::settings::Settings;
use crate::topic::storage::Storage;

/// While all is there but for a publisher over NATS, of which a person may have to mend something.
const TROUBLED: Duration = Duration::from_secs(30);
/// While publishers are refused or not answered, or events are missed. Reports of the ingresses come besides.
const FULL: Duration = Duration::from_secs(10);
/// While only the ingresses have not heard of it yet: they are asked this often at first, and then like all that waits.
const UNSERVED: Duration = Duration::from_millis(500);
const UNSERVED_FOR: Duration = Duration::from_secs(15);

/// Brings one topic nearer to its specification and says in its status how near it is.
///
/// # Errors
/// What stopped it, already reported.
pub async fn reconcile(cached: Arc<EventTopic>, context: Arc<Context>) -> Result<Action, Error> {
    let Some(owner) = Owner::of(cached.as_ref()) else {
        return Ok(Action::await_change());
    };
    let _slot = context.slots.enter(Holder::Topic(key(&owner))).await;
    let started = std::time::Instant::now();
    let outcome = match context.current(cached, &owner).await {
        Ok(Some(topic)) => step(&topic, &owner, &context).await,
        Ok(None) => Ok(Action::await_change()),
        Err(error) => Err(error),
    };
    context.metrics.reconciled("eventtopic", started.elapsed(), &outcome);
    context.first_round.note(&owner.key::<EventTopic>(), outcome.is_ok());
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
            Phase::Deleting => Box::pin(deletion::run(topic, owner, context)).await,
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
    let observed = match observe(context, topic, owner).await? {
        Ok(observed) => observed,
        Err(refusal) => return Box::pin(not_granted(topic, owner, context, &refusal)).await,
    };
    let mut settings = Settings::of(&topic.spec, observed.scale.copies)?;
    settings.streams.keeps_copies = observed.scale.is_changing() || is_healing(&observed.broker);
    // How much the broker has is known when it was made: an earlier one of its name may have left less.
    let is_known = observed.broker.status.as_ref().is_some_and(|status| status.storage.is_some());
    let mut promised = topic.status.as_ref().and_then(|status| status.promised);
    // What it was promised beyond what it asks for now; whether it can be given back.
    let mut gives_back = None;
    let inside = match observed.authority.as_ref().filter(|_| is_known) {
        Some(authority) => {
            for child in [children::ca(owner, authority), children::service(owner, &observed.broker_key)] {
                apply(context, owner, &child).await?;
            }
            let admitted = status::admit(context, topic, owner, &observed, &settings).await?;
            let inside = inside::ensure(context, owner, topic, (&settings, admitted), authority, &observed).await;
            let holds = holds_to(&inside, settings.promised);
            gives_back = (admitted > settings.promised).then_some(holds);
            promised = Some(status::signed(if holds { settings.promised } else { admitted })?);
            inside
        }
        None => {
            Inside::Starting(format!("EventBroker {} is being made", observed.broker_key.shown_in(&owner.namespace)))
        }
    };
    if let Inside::Ready { stored: Some(stored), .. } = &inside {
        storage::heal(context, topic, &observed, &stored.storage).await?;
    }
    let is_ready = status::write(context, topic, owner, promised, &observed, &inside).await?;
    if gives_back == Some(true) {
        context.promises.lower(topic, settings.promised);
    }
    let (handed_over, settled) = match &inside {
        Inside::Ready { publishers, account, .. } => (publishers.again, account.again()),
        Inside::Starting(_) | Inside::Failed(_) => (None, None),
    };
    // Given back: its account gets the smaller limit. Not yet: it is looked whether what it has fits.
    let given_back = gives_back.map(|is_given| if is_given { SETTLED } else { FULL });
    let again =
        handed_over.into_iter().chain(settled).chain(given_back).fold(again(topic, &inside, is_ready), Duration::min);
    Ok(Action::requeue(again))
}

/// Whether its streams hold no more than they may, and may hold no more than this together.
fn holds_to(inside: &Inside, promised: u64) -> bool {
    let Inside::Ready { stored, .. } = inside else { return false };
    stored.as_ref().is_none_or(|stored| stored.claimed.is_some_and(|claimed| claimed <= promised))
}

/// Whether copies on its servers are made again, step by step: each with the number of copies that it needs.
pub(super) fn is_healing(broker: &EventBroker) -> bool {
    let audit = broker.status.as_ref().and_then(|status| status.audit.as_ref());
    audit.is_some_and(|audit| !audit.damaged.is_empty())
}

/// Nothing is made of it. Where it was on the broker, the ways to it and from it end, and what is stored stays.
async fn not_granted(
    topic: &EventTopic,
    owner: &Owner,
    context: &Context,
    refusal: &NotGranted,
) -> Result<Action, Error> {
    let was_admitted = topic.status.as_ref().is_some_and(|status| status.promised.is_some());
    if let Some(broker) = refusal.broker.as_ref().filter(|_| was_admitted) {
        let ended = deletion::withdraw(context, topic, owner, &refusal.broker_key, broker).await;
        if let Err(error) = ended {
            tracing::warn!(topic = owner.name, namespace = owner.namespace, %error, "the broker does not know of it yet");
        }
    }
    status::write_not_granted(context, topic, owner, refusal).await?;
    // The grant is watched. A handler that was being made when it was withdrawn may have let itself in again.
    let again = if was_admitted {
        report::patience(topic.status.as_ref().and_then(|status| status.ready()))
    } else {
        report::resync()
    };
    Ok(Action::requeue(again))
}

fn again(topic: &EventTopic, inside: &Inside, is_ready: bool) -> Duration {
    match inside {
        Inside::Ready { publishers, .. } if is_ready && !publishers.troubles.is_empty() => TROUBLED,
        Inside::Ready { is_served: false, .. } if is_new_to_ingresses(topic, jiff::Timestamp::now()) => UNSERVED,
        Inside::Ready { stored: Some(stored), .. } if stored.room.is_full || stored.storage != Storage::Healthy => FULL,
        Inside::Ready { stored: Some(stored), .. } if stored.lacking.may_come_back() => FULL,
        _ if is_ready => report::resync(),
        // Its broker's changes are watched; this is for what is not.
        _ => report::patience(topic.status.as_ref().and_then(|status| status.ready())),
    }
}

/// Whether the ingresses were asked for the topic in vain only lately, or never.
fn is_new_to_ingresses(topic: &EventTopic, now: jiff::Timestamp) -> bool {
    let conditions = topic.status.iter().flat_map(|status| &status.conditions);
    let unserved = conditions.into_iter().find(|known| known.type_ == kind::ADDRESSABLE && known.status == "False");
    unserved.is_none_or(|known| now.duration_since(known.last_transition_time.0).unsigned_abs() < UNSERVED_FOR)
}

fn key(owner: &Owner) -> TopicKey {
    TopicKey { namespace: owner.namespace.clone(), name: owner.name.clone() }
}

/// What to do after an error: a person's error is looked at again when the resource changes, and now and then.
pub fn retry(topic: Arc<EventTopic>, error: &Error, _: Arc<Context>) -> Action {
    report::retry(error, topic.status.as_ref().and_then(|status| status.ready()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ingresses_that_stay_away_are_not_asked_twice_a_second_for_ever() {
        let asked = |status: &str| -> EventTopic {
            serde_json::from_value(json!({
                "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": "orders"}, "spec": {},
                "status": {"conditions": [{
                    "type": "Addressable", "status": status, "reason": "R", "message": "",
                    "lastTransitionTime": "2026-01-31T12:00:00Z",
                }]},
            }))
            .unwrap()
        };
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        for (status, now, is_new) in [
            ("Unknown", "2026-01-31T13:00:00Z", true),
            ("False", "2026-01-31T12:00:14Z", true),
            ("False", "2026-01-31T12:00:16Z", false),
        ] {
            assert_eq!(is_new_to_ingresses(&asked(status), at(now)), is_new, "{status} {now}");
        }
    }
}
