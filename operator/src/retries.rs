//! How many events of each handler wait for a retry, as its topic's broker said last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use opentelemetry::KeyValue;

use crate::handler::shelf::News;
use crate::lag::{HandlerKey, STATUS_PERIOD};

/// What is known of each handler.
#[derive(Default)]
pub struct Retries(Mutex<HashMap<HandlerKey, Entry>>);

#[derive(Default)]
struct Entry {
    waiting: u64,
    told: Option<Instant>,
}

impl Retries {
    /// Events of a handler that wait; `None`: the broker has not said yet.
    pub fn waiting(&self, handler: &HandlerKey) -> Option<u64> {
        Some(self.lock().get(handler)?.waiting)
    }

    /// Takes down how many wait. Whether the handler has to be reconciled for what is new: numbers wait for their time.
    pub(crate) fn record(&self, handler: HandlerKey, waiting: u64, news: News) -> bool {
        let mut all = self.lock();
        let entry = all.entry(handler).or_default();
        entry.waiting = waiting;
        let is_due = || entry.told.is_none_or(|told| told.elapsed() >= STATUS_PERIOD);
        let tell = news == News::Urgent || (news == News::Numbers && is_due());
        if tell {
            entry.told = Some(Instant::now());
        }
        tell
    }

    /// Forgets every handler that is no more.
    pub(crate) fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        self.lock().retain(|key, _| is_alive(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HandlerKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exports them as `tidegate.handler.retries`: a series for each handler there is.
pub fn export(retries: &Arc<Retries>) {
    let retries = Arc::clone(retries);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.handler.retries")
        .with_unit("{event}")
        .with_description("Events of a handler that wait for a retry")
        .with_callback(move |gauge| {
            for ((namespace, handler), entry) in retries.lock().iter() {
                let attributes = [
                    KeyValue::new("k8s.namespace.name", namespace.clone()),
                    KeyValue::new("messaging.consumer.group.name", handler.clone()),
                ];
                gauge.observe(entry.waiting, &attributes);
            }
        })
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wait_for_their_time_and_the_rest_does_not() {
        let retries = Retries::default();
        let key = || ("shop".to_owned(), "billing".to_owned());
        assert_eq!(retries.waiting(&key()), None);
        for (waiting, news, tells) in [
            (0, News::None, false),
            (1, News::Urgent, true),
            (2, News::Numbers, false),
            (0, News::Urgent, true),
            (0, News::None, false),
        ] {
            assert_eq!(retries.record(key(), waiting, news), tells, "{waiting} {news:?}");
            assert_eq!(retries.waiting(&key()), Some(waiting));
        }
        assert!(Retries::default().record(key(), 7, News::Numbers), "the first numbers are due");
        retries.keep(|_| false);
        assert_eq!(retries.waiting(&key()), None);
    }
}
