//! What came of reconciles, counted.

use std::time::Duration;

use kube::runtime::controller::Action;
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

use crate::reconcile::error::Error;

/// The operator's own metrics, named as dashboards for controllers expect.
#[derive(Clone)]
pub struct Metrics {
    reconciles: Counter<u64>,
    errors: Counter<u64>,
    duration: Histogram<f64>,
    scalings: Counter<u64>,
    audits: Counter<u64>,
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
            audits: meter.u64_counter("tidegate.broker.audits").build(),
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

    /// Counts a look at what the servers of a broker store: passed, damaged, lost, or unfinished.
    pub fn audited(&self, result: &'static str) {
        self.audits.add(1, &[KeyValue::new("result", result)]);
    }

    /// Counts a change of a handler's replicas.
    pub fn scaled(&self, up: bool, reason: &'static str) {
        let direction = if up { "up" } else { "down" };
        self.scalings.add(1, &[KeyValue::new("direction", direction), KeyValue::new("reason", reason)]);
    }
}
