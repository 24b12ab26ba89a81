//! What the operator applied last.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kubernetes::written::Key;

/// What was applied last: the object's mark since then, and the hash of what was wanted.
#[derive(Default)]
pub struct Applied(Mutex<HashMap<Key, (u64, String)>>);

impl Applied {
    pub(super) fn holds(&self, key: &Key, mark: Option<u64>, hash: &str) -> bool {
        let all = self.lock();
        mark.zip(all.get(key)).is_some_and(|(mark, (applied, wanted))| mark == *applied && hash == wanted)
    }

    pub(super) fn note(&self, key: Key, mark: u64, hash: String) {
        self.lock().insert(key, (mark, hash));
    }

    /// Forgets what is gone.
    pub(crate) fn keep(&self, is_there: impl Fn(&Key) -> bool) {
        self.lock().retain(|key, _| is_there(key));
    }

    pub(super) fn mark(&self, key: &Key) -> Option<u64> {
        self.lock().get(key).map(|(mark, _)| *mark)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (u64, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
