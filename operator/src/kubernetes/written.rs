//! What the operator wrote last to each topic and handler.
//!
//! Reconciles read from a store that follows the API server by a moment. A store's copy that is older than the
//! operator's own last write must not be taken for what is there: a status compared with it would be written again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// When only numbers changed, a status is written at most this often.
pub(crate) const NUMBERS_PERIOD: Duration = Duration::from_secs(60);

/// Kind, namespace and name.
pub(crate) type Key = (String, String, String);

/// The own last writes.
#[derive(Default)]
pub struct Written(Mutex<HashMap<Key, Last>>);

struct Last {
    version: Option<u64>,
    numbers: Option<Instant>,
}

impl Written {
    /// Something was written; this is what came of it.
    pub(crate) fn note(&self, key: Key, meta: &ObjectMeta) {
        let version = version(meta);
        let mut all = self.lock();
        let numbers = all.get(&key).and_then(|last| last.numbers);
        all.insert(key, Last { version, numbers });
    }

    /// The same, of numbers too.
    pub(crate) fn note_numbers(&self, key: Key, meta: &ObjectMeta) {
        let last = Last { version: version(meta), numbers: Some(Instant::now()) };
        self.lock().insert(key, last);
    }

    /// Whether a copy is at least as new as the operator's own last write. One that cannot be compared is not.
    pub(crate) fn is_current(&self, key: &Key, copy: &ObjectMeta) -> bool {
        match self.lock().get(key) {
            None => true,
            Some(last) => last.version.zip(version(copy)).is_some_and(|(last, copy)| copy >= last),
        }
    }

    /// Whether a status of which only numbers changed may be written.
    pub(crate) fn is_due(&self, key: &Key) -> bool {
        let numbers = self.lock().get(key).and_then(|last| last.numbers);
        numbers.is_none_or(|written| written.elapsed() >= NUMBERS_PERIOD)
    }

    /// Forgets what is gone.
    pub(crate) fn keep(&self, is_alive: impl Fn(&Key) -> bool) {
        self.lock().retain(|key, _| is_alive(key));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Last>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kubernetes defines resource versions of one resource to be comparable as numbers.
fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(version: &str) -> ObjectMeta {
        ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() }
    }

    #[test]
    fn a_copy_older_than_the_own_write_is_not_current() {
        let (written, key) = (Written::default(), ("EventTopic".to_owned(), "n".to_owned(), "t".to_owned()));
        assert!(written.is_current(&key, &meta("1")) && written.is_due(&key));
        written.note(key.clone(), &meta("9"));
        assert!(written.is_due(&key), "there were no numbers in it");
        written.note_numbers(key.clone(), &meta("10"));
        assert!(!written.is_due(&key));
        for (copy, current) in [("9", false), ("10", true), ("11", true), ("x", false)] {
            assert_eq!(written.is_current(&key, &meta(copy)), current, "{copy}");
        }
        written.keep(|_| false);
        assert!(written.is_current(&key, &meta("1")));
    }
}
