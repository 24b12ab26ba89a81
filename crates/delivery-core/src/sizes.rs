//! How many events a pull of a lane may bring: a pull that is pinned cannot be bounded in bytes (`broker/pull.rs` of
//! the sidecar), so it is bounded in number, by how large events have been lately.

/// The open pulls of all lanes of a process together may bring about so many bytes.
const MAX_PULLED: usize = 8 << 20;

/// The sizes of events, for all lanes of a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sizes {
    /// The largest event of those that came lately; each that is smaller lowers it by a part.
    lately: usize,
}

impl Sizes {
    /// Before any event has come each is taken for the largest that there can be.
    pub fn new(largest: usize) -> Self {
        Self { lately: largest }
    }

    /// An event of so many bytes came.
    pub fn came(&mut self, bytes: usize) {
        self.lately = bytes.max(self.lately - self.lately / 8);
    }

    /// How many events the next pull may bring where so many lanes share the bytes: at least one, and no more than
    /// `most`.
    pub fn batch(&self, most: u32, lanes: usize) -> u32 {
        let events = MAX_PULLED / lanes.max(1) / self.lately.max(1);
        u32::try_from(events).unwrap_or(most).clamp(1, most.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_follow_the_sizes_of_events() {
        let mut sizes = Sizes::new(4 << 20);
        assert_eq!(sizes.batch(32, 1), 2, "any event may be the largest");
        assert_eq!(sizes.batch(32, 8), 1);
        (0..100).for_each(|_| sizes.came(1000));
        assert_eq!(sizes.batch(32, 8), 32, "small ones are many");
        sizes.came(256 << 10);
        assert_eq!(sizes.batch(32, 8), 4, "a large one is noticed at once");
        (0..8).for_each(|_| sizes.came(1000));
        assert!((5..32).contains(&sizes.batch(32, 8)), "and forgotten slowly: {}", sizes.batch(32, 8));
        (0..100).for_each(|_| sizes.came(0));
        assert_eq!(sizes.batch(32, 0), 32, "nothing is divided by zero");
    }
}
