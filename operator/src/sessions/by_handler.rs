//! What is known of each handler beside its resource, and when that handler was reconciled for it last.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;

use crate::kubernetes::written::NUMBERS_PERIOD;

/// Numbers in a status are about this old at most while they change: a little more than the least time between two
/// writes of them, so that no look at them is in vain.
pub(crate) const STATUS_PERIOD: Duration = Duration::from_secs(NUMBERS_PERIOD.as_secs() + 5);

/// Namespace and name of a handler.
pub type HandlerKey = (String, String);

/// A value for each handler.
#[derive(Default)]
pub struct ByHandler<T>(Mutex<HashMap<HandlerKey, Entry<T>>>);

#[derive(Default)]
struct Entry<T> {
    value: T,
    told: Option<Instant>,
}

impl<T: Default> ByHandler<T> {
    /// Reads the value of a handler; `None` if there is none.
    pub fn get<R>(&self, handler: &HandlerKey, read: impl FnOnce(&T) -> R) -> Option<R> {
        self.lock().get(handler).map(|entry| read(&entry.value))
    }

    /// Changes the value of a handler. `change` is given whether [`STATUS_PERIOD`] is over since the handler was
    /// reconciled for its value, and returns whether it has to be now; so does this.
    pub(crate) fn record(&self, handler: HandlerKey, change: impl FnOnce(&mut T, bool) -> bool) -> bool {
        let mut all = self.lock();
        let entry = all.entry(handler).or_default();
        let tell = change(&mut entry.value, entry.told.is_none_or(|told| told.elapsed() >= STATUS_PERIOD));
        if tell {
            entry.told = Some(Instant::now());
        }
        tell
    }

    /// Forgets every handler that no longer exists.
    pub(crate) fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        self.lock().retain(|handler, _| is_alive(handler));
    }

    /// Looks at all values, each with the attributes that name its handler in metrics.
    pub(crate) fn for_each(&self, mut look: impl FnMut([KeyValue; 2], &T)) {
        for ((namespace, handler), entry) in self.lock().iter() {
            let attributes = [
                KeyValue::new("k8s.namespace.name", namespace.clone()),
                KeyValue::new("messaging.consumer.group.name", handler.clone()),
            ];
            look(attributes, &entry.value);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HandlerKey, Entry<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
