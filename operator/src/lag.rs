//! What is known of the handlers' lag, and when a handler has to be told: at once when its number of pods should
//! change, and about once a minute when only its numbers did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::Lag;

use crate::scaling::{History, Plan, Policy, Sample};
use crate::written::NUMBERS_PERIOD;

/// Numbers in a status are about this old at most while they change: a little more than what lies at least between two
/// writes of them, so that no look at them is in vain.
pub(crate) const STATUS_PERIOD: Duration = Duration::from_secs(NUMBERS_PERIOD.as_secs() + 5);

/// Namespace and name of a handler.
pub type HandlerKey = (String, String);

/// What is known of each handler.
#[derive(Default)]
pub struct Board(Mutex<HashMap<HandlerKey, Entry>>);

#[derive(Default)]
struct Entry {
    uid: String,
    history: History,
    told: Option<Instant>,
    /// Deliveries at that time: while there are more, the handler's position moves.
    told_delivered: u64,
}

impl Board {
    /// The last sample of a handler, as its status shows it.
    pub fn lag(&self, key: &HandlerKey) -> Option<Lag> {
        let sample = self.lock().get(key)?.history.last()?;
        let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
        Some(Lag { pending: signed(sample.pending), in_flight: signed(sample.unacknowledged), oldest_event_age: None })
    }

    /// How many pods a handler should have, given how many are wanted now.
    pub fn decide(&self, key: &HandlerKey, policy: &Policy, current: u32) -> Plan {
        match self.lock().get(key) {
            Some(entry) => entry.history.decide(policy, current),
            None => History::default().decide(policy, current),
        }
    }

    /// Forgets every handler that is no more.
    pub(crate) fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        self.lock().retain(|key, _| is_alive(key));
    }

    /// Takes a sample. Returns whether the handler has to be reconciled.
    pub(crate) fn record(
        &self,
        key: HandlerKey,
        handler: &EventHandler,
        policy: Option<&Policy>,
        sample: Sample,
    ) -> bool {
        let mut board = self.lock();
        let entry = board.entry(key).or_default();
        let uid = handler.metadata.uid.as_deref().unwrap_or_default();
        if entry.uid != uid {
            *entry = Entry { uid: uid.to_owned(), ..Entry::default() };
        }
        let fixed = Policy { min: 0, max: 0, target: Duration::from_secs(1), idle_after: Duration::ZERO, slots: 1 };
        entry.history.record(policy.unwrap_or(&fixed), sample);
        let shown = handler.status.as_ref();
        let desired =
            shown.and_then(|status| status.scaling.as_ref()).and_then(|scaling| u32::try_from(scaling.desired).ok());
        let rescale = policy
            .zip(desired)
            .is_some_and(|(policy, desired)| entry.history.decide(policy, desired).replicas != desired);
        let is_shown = shown.and_then(|status| status.lag.as_ref()).is_some_and(|lag| {
            u64::try_from(lag.pending) == Ok(sample.pending)
                && u64::try_from(lag.in_flight) == Ok(sample.unacknowledged)
        });
        let changed = !is_shown || entry.told_delivered != sample.delivered;
        let due = entry.told.is_none_or(|told| told.elapsed() >= STATUS_PERIOD);
        let tell = rescale || (changed && due);
        if tell {
            (entry.told, entry.told_delivered) = (Some(Instant::now()), sample.delivered);
        }
        tell
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HandlerKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exports the board as `tidegate.handler.lag`: events waiting or in flight, a series for each handler there is.
pub fn export(board: &Arc<Board>) {
    let board = Arc::clone(board);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.handler.lag")
        .with_unit("{event}")
        .with_description("Events that a handler has not acknowledged")
        .with_callback(move |gauge| {
            for ((namespace, handler), entry) in board.lock().iter() {
                let Some(sample) = entry.history.last() else { continue };
                for (state, events) in [("pending", sample.pending), ("in_flight", sample.unacknowledged)] {
                    let attributes = [
                        KeyValue::new("k8s.namespace.name", namespace.clone()),
                        KeyValue::new("messaging.consumer.group.name", handler.clone()),
                        KeyValue::new("state", state),
                    ];
                    gauge.observe(events, &attributes);
                }
            }
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
                Board::default().record(key, &handler(status.clone()), None, sample),
                tells,
                "{status} {pending}"
            );
        }
    }
}
