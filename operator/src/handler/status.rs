//! A handler's status, from what was seen and done.

use k8s_openapi::api::apps::v1::Deployment;
use tidegate_broker_client::contract::Order;
use tidegate_crds::conditions::{Finding, Status, kind, merge};
use tidegate_crds::handler::{EventHandlerStatus, LanesStatus, RedriveStatus, ReleaseStatus, Scaling};
use tidegate_crds::key::KeyStatus;
use tidegate_crds::{Duration, EventHandler};
use time::OffsetDateTime;

use crate::autoscaling::{Plan, Reason};
use crate::context::{Context, Owner};
use crate::handler::delivering;
use crate::handler::observe::{NotYet, Observed};
use crate::handler::position;
use crate::handler::reference;
use crate::handler::relocation::Preparation;
use crate::handler::rollout::{self, Rollout};
use crate::handler::shelf;
use crate::handler::subscribe::Subscription;
use crate::kubernetes::{labels, names};
use crate::reconcile::error::Error;
use crate::reconcile::grants::NOT_ALLOWED_BY_TOPIC;
use crate::reconcile::status::{failure_findings, patch, paused, summary, wait_for_turn};
use crate::sessions::reports::{Availability, Exposure};

const PARTS: [&str; 6] =
    [kind::TOPIC_READY, kind::SUBSCRIBED, kind::PODS_READY, kind::HANDLER_AVAILABLE, kind::DELIVERING, kind::EXPOSED];

/// What a reconcile found and did.
pub struct Seen<'a> {
    /// What there was.
    pub observed: &'a Observed,
    /// The Deployment, as it was applied.
    pub deployment: &'a Deployment,
    /// Whether a rollout without a change of the specification waits for its turn.
    pub waits_for_turn: bool,
    /// How many pods, and why.
    pub plan: Plan,
    /// How far a redrive is, where one was asked for.
    pub redrive: Option<RedriveStatus>,
    /// The same of a release.
    pub release: Option<ReleaseStatus>,
    /// The handler's consumers and streams; `None` on a Direct topic.
    pub subscription: Option<&'a Subscription>,
    /// When the oldest event was stored that the handler has not acknowledged.
    pub oldest: Option<OffsetDateTime>,
    /// Dead letters that the broker keeps, where that was asked.
    pub dead_letters: Option<u64>,
    /// Why consumer and rights are not as specified, if they are not.
    pub subscribed: Option<&'a Error>,
    /// In which order events are delivered, with the lanes that there are.
    pub order: Order,
    /// What becomes of a change of its place in the topic.
    pub moving: Preparation,
    /// The sidecars' key.
    pub key: KeyStatus,
}

/// Writes the status of a handler that has all it needs, if it changed.
///
/// # Errors
/// The API server did not take it.
pub async fn write(context: &Context, handler: &EventHandler, owner: &Owner, seen: Seen<'_>) -> Result<(), Error> {
    let Seen { observed, deployment, waits_for_turn, plan, redrive, release, subscription, .. } = seen;
    let Seen { oldest, dead_letters, subscribed, order, moving, key: user_key, .. } = seen;
    let mut status = handler.status.clone().unwrap_or_default();
    status.redrive = redrive.or(status.redrive);
    status.release = release.or(status.release);
    status.replay = moving.replay.clone().or(status.replay);
    if subscription.is_some() {
        status.lanes = lanes(status.lanes, order, &moving);
    }
    status.key = Some(user_key);
    count_pods(&mut status, deployment);
    let selector: Vec<_> =
        names::handler_selector(&owner.name).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    status.selector = Some(selector.join(","));
    status.scaling = Some(Scaling { desired: signed(plan.replicas), reason: plan.reason.text().to_owned() });
    status.lag = context.lag.lag(&(owner.namespace.clone(), owner.name.clone())).or(status.lag);
    if let Some(lag) = &mut status.lag {
        lag.oldest_event_age = oldest.map(|oldest| age(OffsetDateTime::now_utc() - oldest));
    }
    let now = jiff::Timestamp::now();
    let key = (owner.namespace.clone(), owner.name.clone());
    // What is on record stays there while the broker does not answer.
    if subscribed.is_none() {
        let before = status.position.as_ref();
        status.position = subscription.map(|made| position::shown(before, &made.consumers, now));
        let keys = context.keys.known(&key);
        status.retries = subscription.map(|made| shelf::shown(handler, &made.streams.retries, keys.as_ref()));
    }
    let deliveries = context.reports.deliveries(&key);
    let letters = dead_letters.map(|letters| i64::try_from(letters).unwrap_or(i64::MAX));
    status.dead_letters = letters.or(status.dead_letters);
    let failure = deliveries.as_ref().and_then(|deliveries| deliveries.last_failure.clone());
    status.last_failure = failure.map(delivering::last_failure).or(status.last_failure);
    let topic = Finding::new(
        kind::TOPIC_READY,
        Status::True,
        "TopicReady",
        format!("EventTopic {} takes handlers", reference::shown_topic(handler)),
    );
    let restored = position::note(status.position.as_ref(), now);
    let availability = context.reports.availability(&key);
    let outage = availability.as_ref().filter(|found| found.down > 0).map(|found| found.why.as_str());
    let rollout = Rollout {
        plan,
        deployment,
        pods: &observed.pods,
        outage,
        before: status.conditions.iter().find(|condition| condition.type_ == kind::PODS_READY),
        now,
    };
    let subscribed_part = match subscribed {
        None if moving.stops => is_moving(moving.why()),
        _ => is_subscribed(subscribed, &format!("{restored}{}", moving.note())),
    };
    let mut parts: Vec<_> = granted(handler, None).into_iter().collect();
    parts.extend([topic, subscribed_part, rollout::pods_ready(&rollout)]);
    let exposed = exposed(availability.as_ref());
    let available = available(availability);
    let delivering = delivering::finding(deliveries.as_ref(), &status.conditions, handler.metadata.generation);
    // What no one knows yet is no reason not to be ready.
    let (unknown, known): (Vec<_>, Vec<_>) =
        [available, delivering].into_iter().partition(|part| part.status == Status::Unknown);
    parts.extend(known);
    let mut found = sum_up(handler, parts, subscribed);
    found.extend(unknown);
    found.push(exposed);
    found.extend(kept(&status, subscription, subscribed));
    if waits_for_turn {
        wait_for_turn(&mut found, &context.pace.handlers);
    }
    labels::explain(&mut found, &super::template::left_out(&handler.spec.template));
    conclude(&mut status, handler, found);
    patch(context, handler, owner, handler.status.as_ref(), &status).await
}

/// Writes how far a change of a handler's place is, and says so.
///
/// # Errors
/// The API server did not take it.
pub async fn write_moving(
    context: &Context,
    handler: &EventHandler,
    owner: &Owner,
    mut status: EventHandlerStatus,
    message: &str,
) -> Result<(), Error> {
    let topic = format!("EventTopic {} takes handlers", handler.spec.topic);
    let plan = Plan { replicas: 0, reason: Reason::Moving };
    status.scaling = Some(Scaling { desired: 0, reason: plan.reason.text().to_owned() });
    let mut parts: Vec<_> = granted(handler, None).into_iter().collect();
    parts.extend([
        Finding::new(kind::TOPIC_READY, Status::True, "TopicReady", topic),
        is_moving(message),
        Finding::new(kind::PODS_READY, Status::True, "ScaledToZero", rollout::MOVING),
        Finding::new(kind::HANDLER_AVAILABLE, Status::Unknown, "NotReported", "there are no pods"),
        delivering::finding(None, &status.conditions, handler.metadata.generation),
    ]);
    let mut found = summary(parts, "");
    found.push(exposed(None));
    found.extend(shelf::as_they_were(&status.conditions));
    conclude(&mut status, handler, found);
    patch(context, handler, owner, handler.status.as_ref(), &status).await
}

/// Deliveries stand still, and continue by themselves.
fn is_moving(message: &str) -> Finding {
    Finding::new(kind::SUBSCRIBED, Status::False, "Moving", message)
}

/// What there is of lanes, which only a change changes.
fn lanes(before: Option<LanesStatus>, order: Order, moving: &Preparation) -> Option<LanesStatus> {
    let Order::Key { lanes } = order else { return None };
    let (message, draining_since) = (moving.message.clone(), moving.draining_since.clone());
    Some(LanesStatus { count: i32::from(lanes), message, draining_since, ..before.unwrap_or_default() })
}

/// Writes the status of a handler that waits for its topic, if it changed.
///
/// # Errors
/// The API server did not take it.
pub async fn write_waiting(
    context: &Context,
    handler: &EventHandler,
    owner: &Owner,
    observed: &Observed,
    why: &NotYet,
) -> Result<(), Error> {
    let mut status = handler.status.clone().unwrap_or_default();
    if let Some(deployment) = &observed.deployment {
        count_pods(&mut status, deployment);
    }
    let mut parts: Vec<_> = granted(handler, Some(why)).into_iter().collect();
    parts.extend([
        Finding::new(kind::TOPIC_READY, Status::False, why.reason, why.message.clone()),
        Finding::new(kind::SUBSCRIBED, Status::Unknown, "WaitingForTopic", "comes after the topic"),
        Finding::new(kind::PODS_READY, Status::Unknown, "WaitingForTopic", "comes after the topic"),
        Finding::new(kind::HANDLER_AVAILABLE, Status::Unknown, "WaitingForTopic", "comes after the topic"),
        delivering::finding(None, &status.conditions, handler.metadata.generation),
    ]);
    let mut found = summary(parts, "");
    if handler.spec.suspend {
        found.push(Finding::new(kind::SUSPENDED, Status::Unknown, "WaitingForTopic", "comes after the topic"));
    }
    found.push(exposed(context.reports.availability(&(owner.namespace.clone(), owner.name.clone())).as_ref()));
    found.extend(shelf::as_they_were(&status.conditions));
    conclude(&mut status, handler, found);
    patch(context, handler, owner, handler.status.as_ref(), &status).await
}

/// Says that nothing is changed, if it does not say so yet; the rest stays as it was.
///
/// # Errors
/// The API server did not take it.
pub async fn write_paused(
    context: &Context,
    handler: &EventHandler,
    owner: &Owner,
    refused: Option<&NotYet>,
) -> Result<(), Error> {
    let mut status = handler.status.clone().unwrap_or_default();
    let mut conditions = paused(&status.conditions, handler.metadata.generation);
    // Who may see dead letters is told by this condition: a grant that is withdrawn is none, whatever else stays as it was.
    if let Some(refused) = refused.and_then(|refused| granted(handler, Some(refused))) {
        let told = merge(vec![refused], &status.conditions, handler.metadata.generation, jiff::Timestamp::now());
        conditions.retain(|known| known.type_ != kind::GRANTED);
        conditions.extend(told);
    }
    status.conditions = conditions;
    status.observed_generation = handler.metadata.generation;
    patch(context, handler, owner, handler.status.as_ref(), &status).await
}

/// After an error, only the conditions change: what was true of the rest still is.
pub async fn write_failure(context: &Context, handler: &EventHandler, owner: &Owner, error: &Error) {
    let mut status = handler.status.clone().unwrap_or_default();
    let mut parts = PARTS.to_vec();
    parts.extend(reference::other_namespace(handler).map(|_| kind::GRANTED));
    parts.extend(handler.spec.suspend.then_some(kind::SUSPENDED));
    let mut found = failure_findings(error, &status.conditions, &parts);
    found.extend(shelf::as_they_were(&status.conditions));
    conclude(&mut status, handler, found);
    if let Err(error) = patch(context, handler, owner, handler.status.as_ref(), &status).await {
        tracing::warn!(handler = owner.name, namespace = owner.namespace, %error, "status not written");
    }
}

fn conclude(status: &mut EventHandlerStatus, handler: &EventHandler, found: Vec<Finding>) {
    status.conditions = merge(found, &status.conditions, handler.metadata.generation, jiff::Timestamp::now());
    status.observed_generation = handler.metadata.generation;
}

fn count_pods(status: &mut EventHandlerStatus, deployment: &Deployment) {
    let counts = deployment.status.as_ref();
    status.replicas = counts.and_then(|counts| counts.replicas).unwrap_or(0);
    status.ready_replicas = counts.and_then(|counts| counts.ready_replicas).unwrap_or(0);
}

/// The conditions about what is kept of events that failed.
fn kept(status: &EventHandlerStatus, made: Option<&Subscription>, error: Option<&Error>) -> Vec<Finding> {
    match (made, error) {
        (Some(made), _) => {
            let room = shelf::findings(&made.streams, &status.conditions);
            room.into_iter().chain(status.retries.as_ref().and_then(shelf::keys_held)).collect()
        }
        (None, Some(_)) => shelf::as_they_were(&status.conditions).collect(),
        (None, None) => Vec::new(),
    }
}

/// A warning: `Ready` does not depend on it.
fn exposed(reported: Option<&Availability>) -> Finding {
    let found = |status, reason, message: &str| Finding::new(kind::EXPOSED, status, reason, message);
    match reported.and_then(|reported| reported.exposure.as_ref()) {
        None => found(Status::Unknown, "NotReported", "no pod has said lately where its program listens"),
        Some(Exposure::Loopback) => found(
            Status::False,
            "ListensOnLoopback",
            "the program listens on loopback only: its own pod alone reaches it",
        ),
        Some(Exposure::Address(address)) => {
            let message = format!(
                "the program listens on {address}, so others than its sidecar can post to it what is no event: let it \
                 listen on 127.0.0.1, and on another port where the kubelet's probes need one"
            );
            found(Status::True, "ListensOnPodAddress", &message)
        }
    }
}

/// `Ready` and its parts. A handler that is suspended has all that it asks for, and still delivers nothing.
fn sum_up(handler: &EventHandler, parts: Vec<Finding>, error: Option<&Error>) -> Vec<Finding> {
    let Some(suspended) = suspended(handler, error) else { return summary(parts, "events are delivered") };
    let mut found = summary(parts, &suspended.message);
    if let Some(ready) = found.iter_mut().find(|finding| finding.kind == kind::READY && finding.is_true()) {
        "Suspended".clone_into(&mut ready.reason);
    }
    found.push(suspended);
    found
}

/// Absent where nothing has to be granted. `why`: why the topic cannot take the handler now.
fn granted(handler: &EventHandler, why: Option<&NotYet>) -> Option<Finding> {
    reference::other_namespace(handler)?;
    if let Some(refusal) = why.filter(|why| why.reason == NOT_ALLOWED_BY_TOPIC) {
        let refused = Finding::new(kind::GRANTED, Status::False, refusal.reason, refusal.message.clone());
        return Some(refused.stalled());
    }
    let own = handler.metadata.namespace.as_deref().unwrap_or_default();
    let message = format!("EventTopic {} grants namespace {own}", reference::shown_topic(handler));
    Some(Finding::new(kind::GRANTED, Status::True, "AllowedByTopic", message))
}

/// Absent unless the specification asks for it.
fn suspended(handler: &EventHandler, error: Option<&Error>) -> Option<Finding> {
    if !handler.spec.suspend {
        return None;
    }
    Some(match error {
        None => Finding::new(
            kind::SUSPENDED,
            Status::True,
            "Suspended",
            "spec.suspend is true: what was in flight is finished, other events wait until it is false",
        ),
        Some(error) => Finding::new(kind::SUSPENDED, Status::False, error.reason(), format!("not yet: {error}")),
    })
}

fn is_subscribed(error: Option<&Error>, restored: &str) -> Finding {
    match error {
        None => {
            let message = format!("consumer, rights and identity are in place{restored}");
            Finding::new(kind::SUBSCRIBED, Status::True, "Subscribed", message)
        }
        Some(error) => {
            let message = format!("the handler keeps the subscription it had: {error}");
            let found = Finding::new(kind::SUBSCRIBED, Status::False, error.reason(), message);
            if error.needs_a_person() { found.stalled() } else { found }
        }
    }
}

fn available(reported: Option<Availability>) -> Finding {
    match reported {
        None => Finding::new(kind::HANDLER_AVAILABLE, Status::Unknown, "NotReported", "no pod has reported lately"),
        Some(Availability { pods, down, why, .. }) if down == pods => {
            let message = format!("no attempt is used up meanwhile: {why}");
            Finding::new(kind::HANDLER_AVAILABLE, Status::False, "Outage", message)
        }
        Some(Availability { pods, down: 0, .. }) => {
            Finding::new(kind::HANDLER_AVAILABLE, Status::True, "Answering", format!("{pods} pods answer"))
        }
        Some(Availability { pods, down, why, .. }) => {
            let message = format!("{down} of {pods} pods are not available: {why}");
            Finding::new(kind::HANDLER_AVAILABLE, Status::True, "PartlyAnswering", message)
        }
    }
}

/// In whole units, of which a duration in a resource can have four with five digits each.
fn age(age: time::Duration) -> Duration {
    let seconds = age.whole_seconds().clamp(0, 99_999 * 3_600);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    Duration::new(match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m"),
    })
}

fn signed(replicas: u32) -> i32 {
    i32::try_from(replicas).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_duration_that_can_be_read() {
        for (seconds, text) in [
            (-3, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m0s"),
            (3_599, "59m59s"),
            (90_061, "25h1m"),
            (i64::MAX, "99999h0m"),
        ] {
            let age = age(time::Duration::seconds(seconds));
            assert_eq!(age.to_string(), text);
            assert!(age.get().is_ok(), "{text}");
        }
    }
}
