//! What is known of the handlers' lag, and when a handler has to be told: at once when its number of pods should
//! change, and about once a minute when only its numbers did.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::Lag;

use crate::autoscaling::{History, Plan, Policy, Sample};
use crate::sessions::by_handler::{ByHandler, HandlerKey};

/// The lag of each handler, and what it was a while ago.
#[derive(Default)]
pub struct LagTracker(ByHandler<Entry>);

#[derive(Default)]
struct Entry {
    uid: String,
    history: History,
    /// Deliveries when the handler was reconciled last: while there are more, its position moves.
    told_delivered: u64,
}

impl LagTracker {
    /// The last sample of a handler, as its status shows it.
    pub fn lag(&self, key: &HandlerKey) -> Option<Lag> {
        let sample = self.0.get(key, |entry| entry.history.last())??;
        let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
        Some(Lag { pending: signed(sample.pending), in_flight: signed(sample.unacknowledged), oldest_event_age: None })
    }

    /// How many pods a handler should have, given how many are wanted now.
    pub fn decide(&self, key: &HandlerKey, policy: &Policy, current: u32) -> Plan {
        let decided = self.0.get(key, |entry| entry.history.decide(policy, current));
        decided.unwrap_or_else(|| History::default().decide(policy, current))
    }

    /// Forgets every handler that no longer exists.
    pub(crate) fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        self.0.keep(is_alive);
    }

    /// Takes a sample. Returns whether the handler has to be reconciled.
    pub(crate) fn record(
        &self,
        key: HandlerKey,
        handler: &EventHandler,
        policy: Option<&Policy>,
        sample: Sample,
    ) -> bool {
        self.0.record(key, |entry, is_due| {
            let uid = handler.metadata.uid.as_deref().unwrap_or_default();
            let is_new = entry.uid != uid;
            if is_new {
                *entry = Entry { uid: uid.to_owned(), ..Entry::default() };
            }
            let fixed = Policy { min: 0, max: 0, target: Duration::from_secs(1), idle_after: Duration::ZERO, slots: 1 };
            entry.history.record(policy.unwrap_or(&fixed), sample);
            let changed = !is_shown(handler, &sample) || entry.told_delivered != sample.delivered;
            let tell = has_to_scale(handler, policy, &entry.history) || (changed && (is_due || is_new));
            if tell {
                entry.told_delivered = sample.delivered;
            }
            tell
        })
    }
}

/// Whether another number of pods is wanted than the status shows.
fn has_to_scale(handler: &EventHandler, policy: Option<&Policy>, history: &History) -> bool {
    let scaling = handler.status.as_ref().and_then(|status| status.scaling.as_ref());
    let desired = scaling.and_then(|scaling| u32::try_from(scaling.desired).ok());
    policy.zip(desired).is_some_and(|(policy, desired)| history.decide(policy, desired).replicas != desired)
}

/// Whether the status shows this sample.
fn is_shown(handler: &EventHandler, sample: &Sample) -> bool {
    handler.status.as_ref().and_then(|status| status.lag.as_ref()).is_some_and(|lag| {
        u64::try_from(lag.pending) == Ok(sample.pending) && u64::try_from(lag.in_flight) == Ok(sample.unacknowledged)
    })
}

/// Exports it as `tidegate.handler.lag`: events waiting or in flight, two series for each handler there is.
pub fn export(lag: &Arc<LagTracker>) {
    let lag = Arc::clone(lag);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.handler.lag")
        .with_unit("{event}")
        .with_description("Events that a handler has not acknowledged")
        .with_callback(move |gauge| {
            lag.0.for_each(|[namespace, handler], entry| {
                let Some(sample) = entry.history.last() else { return };
                for (state, events) in [("pending", sample.pending), ("in_flight", sample.unacknowledged)] {
                    gauge.observe(events, &[namespace.clone(), handler.clone(), KeyValue::new("state", state)]);
                }
            });
        })
        .build();
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn handler(status: Value) -> EventHandler {
        let spec = json!({"topic": "orders", "template": {}});
        serde_json::from_value(json!({"metadata": {"name": "billing", "uid": "u"}, "spec": spec, "status": status}))
            .unwrap()
    }

    #[test]
    fn a_lag_is_told_when_another_is_shown_or_none() {
        let shown = |pending: i64| json!({"lag": {"pending": pending, "inFlight": 0}});
        for (status, pending, tells) in [
            (json!(null), 0, true),
            (json!({}), 0, true),
            (shown(0), 0, false),
            (shown(0), 1, true),
            (shown(-1), 0, true),
        ] {
            let sample = Sample { pending, ..Sample::default() };
            let key = ("shop".to_owned(), "billing".to_owned());
            assert_eq!(
                LagTracker::default().record(key, &handler(status.clone()), None, sample),
                tells,
                "{status} {pending}"
            );
        }
    }
}
