//! Which message ids came lately. Pure.

use std::collections::{HashSet, VecDeque};

/// How many are remembered: more than can wait or be under way, so that no two publishes of one id are in one batch.
const REMEMBERED: usize = 16 * 1024;

/// The ids of the last publishes, by hash. One that is here is probably a repetition, and a single repetition makes the
/// broker refuse a whole batch.
#[derive(Debug, Default)]
pub struct RecentIds {
    order: VecDeque<u64>,
    known: HashSet<u64>,
}

impl RecentIds {
    /// Remembers an id. Whether it was known.
    pub fn insert(&mut self, id: u64) -> bool {
        if !self.known.insert(id) {
            return true;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_lately_is_known_and_the_rest_forgotten() {
        let mut ids = RecentIds::default();
        let remembered = REMEMBERED as u64;
        for id in 0..=remembered {
            assert!(!ids.insert(id));
        }
        assert!(ids.insert(1) && ids.insert(remembered));
        assert!(!ids.insert(0), "the oldest is forgotten");
        assert!(ids.known.len() == REMEMBERED && ids.order.len() == REMEMBERED);
    }
}
