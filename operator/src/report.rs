//! What came of a reconcile, told to people in one place: log and Kubernetes Event. (Counted: [`crate::metrics`].)

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};

use crate::context::Context;
use crate::error::Error;

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

/// Why a resource may not be ready for a while without anybody having to look: something that was asked for, or began by
/// itself, is under way.
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

/// Tells when a resource becomes ready, and when it no longer is. Only what a person should look at is a Warning.
pub async fn readiness<K: Resource<DynamicType = ()>>(
    context: &Context,
    resource: &K,
    before: Option<&Condition>,
    after: Option<&Condition>,
) {
    let was_ready = before.is_some_and(|condition| condition.status == "True");
    let Some(now) = after.filter(|condition| (condition.status == "True") != was_ready) else {
        return;
    };
    let name = resource.meta().name.as_deref().unwrap_or_default();
    let namespace = resource.meta().namespace.as_deref().unwrap_or_default();
    let (type_, reason) = turn(was_ready, &now.reason);
    tracing::info!(kind = %K::kind(&()), name, namespace, reason = now.reason, "{reason}: {}", now.message);
    event(context, resource, type_, reason, &now.message).await;
}

fn turn(was_ready: bool, why: &str) -> (EventType, &'static str) {
    match was_ready {
        false => (EventType::Normal, "Ready"),
        true if ORDINARY.contains(&why) => (EventType::Normal, "NotReady"),
        true => (EventType::Warning, "NotReady"),
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
    Action::requeue(if error.needs_a_person() { Duration::from_secs(30) } else { patience(ready) })
}

/// When to look again at what is not ready: soon at first, and once a minute when it has been so for long.
pub fn patience(ready: Option<&Condition>) -> Duration {
    let since = ready.filter(|ready| ready.status != "True").map(|ready| ready.last_transition_time.0);
    let seconds = since.map_or(0, |since| jiff::Timestamp::now().duration_since(since).as_secs());
    Duration::from_secs(u64::try_from(seconds / 10).unwrap_or(0).clamp(3, 60))
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
    }

    #[test]
    fn what_is_ordinary_is_no_warning() {
        assert_eq!(turn(false, "Ready"), (EventType::Normal, "Ready"));
        assert_eq!(turn(true, "RollingOut"), (EventType::Normal, "NotReady"));
        for why in ["PodsFailing", "Outage", "BrokerError"] {
            assert_eq!(turn(true, why), (EventType::Warning, "NotReady"), "{why}");
        }
    }
}
