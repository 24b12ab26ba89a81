//! How many events a pull of a lane may bring: a pull that is pinned cannot be bounded in bytes ([`super::wire`]), so it
//! is bounded in number, by how large events have been lately. Pure.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The open pulls of all lanes of a process together may bring about so many bytes.
const MAX_PULLED: usize = 8 << 20;

/// The sizes of events, for all lanes of a process.
#[derive(Debug)]
pub struct Sizes {
    /// The largest event of those that came lately; each that is smaller lowers it by a part.
    lately: AtomicUsize,
    lanes: AtomicUsize,
}

impl Sizes {
    /// Before any event has come each is taken for the largest that there can be.
    pub fn new(largest: usize) -> Self {
        Self { lately: AtomicUsize::new(largest), lanes: AtomicUsize::new(1) }
    }

    /// So many lanes share the bytes.
    pub fn share_among(&self, lanes: usize) {
        self.lanes.store(lanes, Ordering::Relaxed);
    }

    /// An event of so many bytes came.
    pub fn came(&self, bytes: usize) {
        let lately = self.lately.load(Ordering::Relaxed);
        self.lately.store(bytes.max(lately - lately / 8), Ordering::Relaxed);
    }

    /// How many events the next pull may bring: at least one, and no more than `most`.
    pub fn batch(&self, most: u32) -> u32 {
        let share = MAX_PULLED / self.lanes.load(Ordering::Relaxed).max(1);
        let events = share / self.lately.load(Ordering::Relaxed).max(1);
        u32::try_from(events).unwrap_or(most).clamp(1, most.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_follow_the_sizes_of_events() {
        let sizes = Sizes::new(4 << 20);
        assert_eq!(sizes.batch(32), 2, "any event may be the largest");
        sizes.share_among(8);
        assert_eq!(sizes.batch(32), 1);
        (0..100).for_each(|_| sizes.came(1000));
        assert_eq!(sizes.batch(32), 32, "small ones are many");
        sizes.came(256 << 10);
        assert_eq!(sizes.batch(32), 4, "a large one is noticed at once");
        (0..8).for_each(|_| sizes.came(1000));
        assert!((5..32).contains(&sizes.batch(32)), "and forgotten slowly: {}", sizes.batch(32));
        sizes.share_among(0);
        (0..100).for_each(|_| sizes.came(0));
        assert_eq!(sizes.batch(32), 32, "nothing is divided by zero");
    }
}
