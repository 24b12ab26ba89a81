//! The series of an instrument, bound to their attributes once, so that a measurement costs no look-up by attributes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

/// The bound series of one instrument by a key, which stands for their attributes and has few values.
///
/// A series exists from its first measurement on, as one that is measured with its attributes does.
pub struct SeriesBy<K, B>(RwLock<BTreeMap<K, B>>);

impl<K: Ord + Copy, B: Clone> SeriesBy<K, B> {
    /// No series yet.
    pub const fn new() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    /// The series of a key, which `bind` makes if it is the first measurement of that key.
    pub fn get(&self, key: K, bind: impl FnOnce() -> B) -> B {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.unwrap_or_else(|| {
            let mut series = self.0.write().unwrap_or_else(PoisonError::into_inner);
            series.entry(key).or_insert_with(bind).clone()
        })
    }
}

impl<K: Ord + Copy, B: Clone> Default for SeriesBy<K, B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, B> fmt::Debug for SeriesBy<K, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeriesBy").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_bound_once() {
        let (series, mut bound) = (SeriesBy::new(), 0);
        for key in [1, 2, 1, 1, 2] {
            let found = series.get(key, || {
                bound += 1;
                key * 10
            });
            assert_eq!(found, key * 10);
        }
        assert_eq!(bound, 2);
    }
}
