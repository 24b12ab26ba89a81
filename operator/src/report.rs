//! What came of a reconcile, told in one place: log, Kubernetes Event, metric.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

use crate::context::Context;
use crate::error::Error;

/// Kubernetes keeps 1 kB of an Event's note.
const NOTE_LIMIT: usize = 1000;

/// The operator's own metrics, named as dashboards for controllers expect.
#[derive(Clone)]
pub struct Metrics {
    reconciles: Counter<u64>,
    errors: Counter<u64>,
    duration: Histogram<f64>,
    scalings: Counter<u64>,
}

impl Default for Metrics {
    /// On the global meter.
    fn default() -> Self {
        let meter = global::meter("tidegate-operator");
        Self {
            reconciles: meter.u64_counter("controller_runtime_reconcile_total").build(),
            errors: meter.u64_counter("controller_runtime_reconcile_errors_total").build(),
            duration: meter.f64_histogram("controller_runtime_reconcile_time_seconds").with_unit("s").build(),
            scalings: meter.u64_counter("tidegate.handler.scalings").build(),
        }
    }
}

impl Metrics {
    /// Counts a reconcile. Labels are from fixed sets.
    pub fn reconciled(&self, controller: &'static str, took: Duration, outcome: &Result<Action, Error>) {
        let controller = KeyValue::new("controller", controller);
        let result = KeyValue::new("result", if outcome.is_ok() { "success" } else { "error" });
        self.reconciles.add(1, &[controller.clone(), result]);
        self.duration.record(took.as_secs_f64(), std::slice::from_ref(&controller));
        if let Err(error) = outcome {
            self.errors.add(1, &[controller, KeyValue::new("reason", error.reason())]);
        }
    }

    /// Counts a change of a handler's replicas.
    pub fn scaled(&self, up: bool, reason: &'static str) {
        let direction = if up { "up" } else { "down" };
        self.scalings.add(1, &[KeyValue::new("direction", direction), KeyValue::new("reason", reason)]);
    }
}

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
