//! What has to be looked at again: each thing once, however often it changed.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// The things that changed and were not taken yet.
pub struct Changes<K> {
    changed: Mutex<HashSet<K>>,
    news: Notify,
}

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self { changed: Mutex::default(), news: Notify::new() }
    }
}

impl<K: Eq + Hash> Changes<K> {
    /// Says that this changed.
    pub fn add(&self, key: K) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.news.notify_one();
    }

    /// Takes what changed; empty: nothing did.
    pub fn take(&self) -> HashSet<K> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something changed, and takes it.
    pub async fn next(&self) -> HashSet<K> {
        loop {
            let changed = self.take();
            if !changed.is_empty() {
                return changed;
            }
            self.news.notified().await;
        }
    }
}
