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
    if error.needs_a_person() {
        event(context, resource, EventType::Warning, error.reason(), &error.to_string()).await;
    }
}

/// Tells when a resource becomes ready, and when it no longer is.
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
    let (type_, reason) = if was_ready { (EventType::Warning, "NotReady") } else { (EventType::Normal, "Ready") };
    tracing::info!(kind = %K::kind(&()), name, namespace, reason = now.reason, "{reason}: {}", now.message);
    event(context, resource, type_, reason, &now.message).await;
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
pub fn retry(error: &Error) -> Action {
    Action::requeue(if error.needs_a_person() { Duration::from_secs(30) } else { Duration::from_secs(3) })
}
