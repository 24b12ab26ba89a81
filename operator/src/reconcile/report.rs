//! What came of a reconcile, told to people in one place: log and Kubernetes Event. (Counted: [`crate::reconcile::metrics`].)

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use tidegate_crds::conditions::kind;

use crate::context::Context;
use crate::reconcile::error::Error;

/// Kubernetes keeps 1 kB of an Event's note.
const NOTE_LIMIT: usize = 1000;

/// Tells of a failed reconcile. What mends itself soon is no Event: only a person's errors are.
pub async fn failed<K: Resource<DynamicType = ()>>(context: &Context, resource: &K, error: &Error) {
    let name = resource.meta().name.as_deref().unwrap_or_default();
    let namespace = resource.meta().namespace.as_deref().unwrap_or_default();
    tracing::warn!(kind = %K::kind(&()), name, namespace, reason = error.reason(), %error, "not reconciled");
    if error.needs_a_person() || matches!(error, Error::Panicked(_)) {
        event(context, resource, EventType::Warning, error.reason(), &error.to_string()).await;
    }
}

/// Why a resource may not be ready for a while without anybody having to look: something that was asked for, or began
/// by itself, is under way.
const ORDINARY: [&str; 8] = [
    "BrokerStarting",
    "PodsStarting",
    "RollingOut",
    "TopicDeleting",
    "TopicNotReady",
    "WaitingForGarbageCollection",
    "WaitingForTopic",
    "Waking",
];

/// Besides these: what a resource that was never ready may say for a moment. Only where it is stalled a person should
/// look.
const PASSING: [&str; 8] = [
    "BrokerError",
    "ChangedMeanwhile",
    "DestinationNotReady",
    "KubernetesError",
    "NotAsked",
    "NotServed",
    "PodsNotReady",
    "TimedOut",
];

/// What conditions say together.
#[derive(Clone, Copy, Default)]
struct Standing<'a> {
    is_ready: bool,
    is_stalled: bool,
    reason: &'a str,
    message: &'a str,
}

impl<'a> Standing<'a> {
    /// Nothing, if it was not looked at yet.
    fn of(conditions: &'a [Condition]) -> Option<Self> {
        let find = |kind| conditions.iter().find(|condition| condition.type_ == kind);
        let ready = find(kind::READY)?;
        Some(Self {
            is_ready: ready.status == "True",
            is_stalled: find(kind::STALLED).is_some_and(|stalled| stalled.status == "True"),
            reason: &ready.reason,
            message: &ready.message,
        })
    }
}

/// Tells when a resource becomes ready, and why it is not. Only what a person should look at is a Warning.
pub async fn readiness<K: Resource<DynamicType = ()>>(
    context: &Context,
    resource: &K,
    before: &[Condition],
    after: &[Condition],
) {
    let Some(now) = Standing::of(after) else { return };
    let Some(type_) = turn(&Standing::of(before).unwrap_or_default(), &now) else { return };
    let name = resource.meta().name.as_deref().unwrap_or_default();
    let namespace = resource.meta().namespace.as_deref().unwrap_or_default();
    tracing::info!(kind = %K::kind(&()), name, namespace, ready = now.is_ready, reason = now.reason, "{}", now.message);
    event(context, resource, type_, now.reason, now.message).await;
}

/// What kind of an Event it is, if it is one.
fn turn(before: &Standing<'_>, now: &Standing<'_>) -> Option<EventType> {
    let is_ordinary = ORDINARY.contains(&now.reason);
    match (before.is_ready, now.is_ready) {
        (true, true) => None,
        (false, true) => Some(EventType::Normal),
        (true, false) if is_ordinary => Some(EventType::Normal),
        (true, false) => Some(EventType::Warning),
        // Not ready before either: a person hears of another cause, and that time does not help.
        (false, false) => {
            let is_news = before.reason != now.reason || (now.is_stalled && !before.is_stalled);
            let is_passing = is_ordinary || PASSING.contains(&now.reason);
            (is_news && (now.is_stalled || !is_passing)).then_some(EventType::Warning)
        }
    }
}

/// Publishes a Kubernetes Event; repeated ones are counted by the API's own series.
pub async fn event<K: Resource<DynamicType = ()>>(
    context: &Context,
    resource: &K,
    type_: EventType,
    reason: &str,
    note: &str,
) {
    let note: String = note.chars().take(NOTE_LIMIT).collect();
    let event = Event { type_, reason: reason.into(), note: Some(note), action: "Reconcile".into(), secondary: None };
    if let Err(error) = context.recorder.publish(&event, &resource.object_ref(&())).await {
        tracing::warn!(%error, reason, "event not published");
    }
}

/// When to look again after an error. What a person mends is often not watched (an object of somebody else).
pub fn retry(error: &Error, ready: Option<&Condition>) -> Action {
    Action::requeue(match error {
        Error::Refused { .. } => Duration::from_secs(30),
        // What stays so is somebody else who writes all the time.
        Error::Overtaken(_) if patience(ready) == MIN_PATIENCE => AT_ONCE,
        _ => patience(ready),
    })
}

/// What was changed or replaced meanwhile is looked at again after this long: the watch may not have told of it yet.
const AT_ONCE: Duration = Duration::from_millis(500);
/// What is not ready is looked at no sooner than this.
const MIN_PATIENCE: Duration = Duration::from_secs(3);

/// With nothing to wait for, a topic or handler is looked at this often all the same: its certificates and user JWTs, and
/// what it has on its broker. Up to a quarter sooner or later, so that not thousands are looked at in the same minute.
const RESYNC: Duration = Duration::from_secs(3600);

/// When to look again at what is as it should be.
pub fn resync() -> Duration {
    RESYNC.mul_f64(0.75 + fastrand::f64() / 2.0)
}

/// When to look again at what is not ready: soon at first, and once a minute when it has been so for long.
pub fn patience(ready: Option<&Condition>) -> Duration {
    let since = ready.filter(|ready| ready.status != "True").map(|ready| ready.last_transition_time.0);
    let seconds = since.map_or(0, |since| jiff::Timestamp::now().duration_since(since).as_secs());
    Duration::from_secs(u64::try_from(seconds / 10).unwrap_or(0).clamp(MIN_PATIENCE.as_secs(), 60))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn what_has_long_not_been_ready_is_looked_at_less_often() {
        let ready = |status: &str, seconds: i64| Condition {
            status: status.into(),
            last_transition_time: Time(jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds)),
            message: String::new(),
            observed_generation: None,
            reason: String::new(),
            type_: "Ready".into(),
        };
        assert_eq!(patience(None).as_secs(), 3);
        for (status, seconds, pause) in
            [("False", 0, 3), ("False", 200, 20), ("False", 9999, 60), ("True", 9999, 3), ("False", -50, 3)]
        {
            assert_eq!(patience(Some(&ready(status, seconds))).as_secs(), pause, "{status} for {seconds} s");
        }
        let overtaken = |seconds| retry(&Error::Overtaken("x".into()), Some(&ready("False", seconds)));
        assert_eq!(overtaken(5), Action::requeue(AT_ONCE));
        assert_eq!(overtaken(200), Action::requeue(Duration::from_secs(20)), "somebody writes it all the time");
    }

    #[test]
    fn a_person_hears_why_and_not_of_what_is_ordinary() {
        let ready = Standing { is_ready: true, reason: "Ready", ..Standing::default() };
        let not = |reason| Standing { reason, ..Standing::default() };
        let stalled = |reason| Standing { is_stalled: true, ..not(reason) };
        let (new, normal, warning) = (Standing::default(), Some(EventType::Normal), Some(EventType::Warning));
        for (before, now, expected) in [
            (new, ready, normal),
            (not("PodsStarting"), ready, normal),
            (ready, ready, None),
            (ready, not("RollingOut"), normal),
            (ready, not("PodsFailing"), warning),
            (ready, not("Outage"), warning),
            (ready, not("BrokerError"), warning),
            (ready, not("PodsNotReady"), warning),
            // Of a resource that was never ready.
            (new, not("PodsStarting"), None),
            (new, not("PodsNotReady"), None),
            (not("PodsNotReady"), not("BrokerError"), None),
            (new, not("TopicNotFound"), warning),
            (new, stalled("PodsNotReady"), warning),
            (not("PodsStarting"), not("PodsFailing"), warning),
            (not("PodsStarting"), not("Outage"), warning),
            (not("PodsFailing"), not("PodsFailing"), None),
            (not("PodsFailing"), stalled("PodsFailing"), warning),
            (not("PodsNotReady"), stalled("PodsNotReady"), warning),
            (stalled("PodsFailing"), stalled("PodsFailing"), None),
        ] {
            let (was, is) = (before.reason, now.reason);
            assert_eq!(turn(&before, &now), expected, "{was} → {is}, stalled: {}", now.is_stalled);
        }
    }
}
