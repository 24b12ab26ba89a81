//! A broker's status, from what was seen and done.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::runtime::events::EventType;
use tidegate_crds::broker::{CertificatesStatus, EventBrokerStatus, StorageStatus};
use tidegate_crds::conditions::{Finding, Status, kind, merge};
use tidegate_crds::{EventBroker, EventTopic};
use time::OffsetDateTime;

use super::{Made, access, formation, groups, key, room, settings, topics};
use crate::context::{Context, Owner};
use crate::kubernetes::labels;
use crate::reconcile::error::Error;
use crate::reconcile::report;
use crate::reconcile::status::{failure_findings, patch, paused, summary, wait_for_turn};
use crate::sessions::brokers::TopicKey;

/// Topics that are named in a message at most.
const NAMED: usize = 5;

/// Writes the status if it changed. Returns whether the broker is ready.
///
/// # Errors
/// The API server did not take it.
pub(super) async fn write(context: &Context, broker: &EventBroker, owner: &Owner, made: &Made) -> Result<bool, Error> {
    let status = of(context, broker, owner, made, None);
    let is_ready =
        status.conditions.iter().any(|condition| condition.type_ == kind::READY && condition.status == "True");
    tell_filling(context, broker, &status).await;
    patch(context, broker, owner, broker.status.as_ref(), &status).await?;
    Ok(is_ready)
}

/// That it fills is an Event once.
async fn tell_filling(context: &Context, broker: &EventBroker, status: &EventBrokerStatus) {
    let find = |status: &EventBrokerStatus| status.conditions.iter().find(|it| it.type_ == kind::HAS_ROOM).cloned();
    let before = broker.status.as_ref().and_then(find).map(|room| room.reason);
    if let Some(room) = find(status).filter(|room| room.reason != "Room" && Some(&room.reason) != before.as_ref()) {
        report::event(context, broker, EventType::Warning, &room.reason, &room.message).await;
    }
}

/// The same of a broker that is to go and has topics.
///
/// # Errors
/// The API server did not take it.
pub(super) async fn write_in_use(
    context: &Context,
    broker: &EventBroker,
    owner: &Owner,
    made: &Made,
    topics: &[Arc<EventTopic>],
) -> Result<(), Error> {
    let status = of(context, broker, owner, made, Some(in_use(topics, &owner.namespace)));
    patch(context, broker, owner, broker.status.as_ref(), &status).await
}

/// Says that nothing is changed, if it does not say so yet; the rest stays as it was.
///
/// # Errors
/// The API server did not take it.
pub(super) async fn write_paused(context: &Context, broker: &EventBroker, owner: &Owner) -> Result<(), Error> {
    let mut status = broker.status.clone().unwrap_or_default();
    status.conditions = paused(&status.conditions, broker.metadata.generation);
    status.observed_generation = broker.metadata.generation;
    patch(context, broker, owner, broker.status.as_ref(), &status).await
}

/// After an error, only the conditions change: what was true of the rest still is.
pub(super) async fn write_failure(context: &Context, broker: &EventBroker, owner: &Owner, error: &Error) {
    let mut status = broker.status.clone().unwrap_or_default();
    let found = failure_findings(error, &status.conditions, &parts(broker));
    status.conditions = merge(found, &status.conditions, broker.metadata.generation, jiff::Timestamp::now());
    status.observed_generation = broker.metadata.generation;
    if let Err(error) = patch(context, broker, owner, broker.status.as_ref(), &status).await {
        tracing::warn!(broker = owner.name, namespace = owner.namespace, %error, "status not written");
    }
}

fn parts(broker: &EventBroker) -> Vec<&'static str> {
    let mut parts =
        vec![kind::BROKER_AVAILABLE, kind::INTACT, kind::HAS_ROOM, kind::TOKENS_ACCEPTED, kind::CERTIFICATES_CURRENT];
    parts.extend(broker.spec.client_certificates.as_ref().map(|_| kind::CERTIFICATES_ACCEPTED));
    parts.extend(broker.spec.access.first().map(|_| kind::ACCESS_READY));
    parts
}

fn of(
    context: &Context,
    broker: &EventBroker,
    owner: &Owner,
    made: &Made,
    in_use: Option<Finding>,
) -> EventBrokerStatus {
    let before = broker.status.clone().unwrap_or_default();
    let ready = made.statefulset.object.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let available = match &made.no_majority {
        _ if made.has_lost_volume => formation::volume_lost(owner),
        Some(found) => found.clone(),
        None => available(ready, made),
    };
    let mut parts = vec![available];
    parts.extend(access::ready(&made.access));
    let mut found = summary(parts, "its topics can be published to");
    if made.statefulset.waits {
        wait_for_turn(&mut found, &context.pace.brokers);
    }
    labels::explain(&mut found, &settings::left_out(&broker.spec));
    made.rollout.explain(&mut found);
    let (conditions, now) = (&before.conditions, jiff::Timestamp::now());
    made.progress.explain(&mut found, &made.scale, made.settings.replicas, conditions, now);
    made.reload.explain(&mut found);
    if made.is_forming() {
        formation::explain(&mut found);
    }
    if !made.is_formed && made.settings.replicas != made.scale.pods {
        formation::explain_other_number(&mut found, made.scale.pods, made.settings.replicas);
    }
    made.audit.explain(&mut found);
    found.push(made.audit.intact());
    found.extend(made.trust.findings.clone());
    found.extend(made.resize.finding());
    found.push(made.expiry.finding(OffsetDateTime::now_utc()));
    found.extend(made.rollover.finding());
    found.extend(in_use);
    let storage = storage(room::promised(context, &key(owner)), made.settings.usable);
    let groups = groups::status(before.groups, made.audit.groups, made.scale.pods);
    found.push(groups::has_room(&storage, groups.as_ref()));
    EventBrokerStatus {
        conditions: merge(found, &before.conditions, broker.metadata.generation, jiff::Timestamp::now()),
        observed_generation: broker.metadata.generation,
        replicas: made.scale.pods,
        ready_replicas: ready,
        formed: made.is_formed,
        topics: i64::try_from(topics::count(context, &key(owner))).unwrap_or(i64::MAX),
        certificates: Some(CertificatesStatus { rollover: Some(made.rollover.status()), ..made.expiry.status() }),
        storage: Some(storage),
        groups,
        audit: made.audit.status.clone(),
        access: made.access.iter().map(|seen| seen.status.clone()).collect(),
    }
}

fn storage(promised: u64, usable: u64) -> StorageStatus {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let percent = u128::from(promised) * 100 / u128::from(usable.max(1));
    StorageStatus { promised: format!("{percent}%"), promised_bytes: bytes(promised), usable_bytes: bytes(usable) }
}

/// Available while a majority is: that is what publishing needs. Those that are joining do not count for that.
fn available(ready: i32, made: &Made) -> Finding {
    let wanted = made.scale.pods;
    let (status, reason) = match ready {
        ready if ready >= wanted => (Status::True, "AllReady"),
        ready if ready >= made.scale.majority() => (Status::True, "MajorityReady"),
        _ => (Status::False, "PodsNotReady"),
    };
    let mut message = format!("{ready} of {wanted} broker pods are ready");
    let trouble = made.observed.trouble.as_ref().filter(|_| ready < wanted);
    if let Some(trouble) = trouble {
        message = format!("{message}: {}", trouble.message);
    }
    let found = Finding::new(kind::BROKER_AVAILABLE, status, reason, message);
    if trouble.is_some_and(|trouble| trouble.is_hopeless) && !found.is_true() { found.stalled() } else { found }
}

fn in_use(topics: &[Arc<EventTopic>], own: &str) -> Finding {
    let shown = |topic: &Arc<EventTopic>| {
        TopicKey { namespace: topic.namespace().unwrap_or_default(), name: topic.name_any() }.shown_in(own)
    };
    let mut names: Vec<String> = topics.iter().take(NAMED).map(shown).collect();
    if topics.len() > NAMED {
        names.push(format!("{} more", topics.len() - NAMED));
    }
    let message = format!("it is deleted when no EventTopic names it any more: delete {}", names.join(", "));
    Finding::new(kind::IN_USE, Status::True, "TopicsOnBroker", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_is_said_as_a_share() {
        assert_eq!(storage(0, 100).promised, "0%");
        assert_eq!(storage(63, 100).promised, "63%");
        assert_eq!(storage(200, 100).promised, "200%", "its volume is smaller than it was");
        assert_eq!(storage(1, 0).promised, "100%");
    }
}
