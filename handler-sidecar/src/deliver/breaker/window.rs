//! How the attempts of the last seconds ended: what is usual for the handler.

use std::time::Duration;

/// So far back it looks.
pub const WINDOW: Duration = Duration::from_secs(WINDOW_SECONDS as u64);
const WINDOW_SECONDS: usize = 10;
/// However few events fail usually, and however many.
pub const MIN_NEEDED: usize = 5;
/// See [`MIN_NEEDED`].
pub const MAX_NEEDED: usize = 32;
/// How probable it may be that an ordinary series of failures passes for an outage: its logarithm.
const LN_CHANCE: f64 = -13.8; // one in a million

/// What ended in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    successes: u32,
    /// First attempts only: an event that fails again and again says no more than once.
    failures: u32,
}

/// The last seconds.
#[derive(Debug, Default)]
pub struct Window([Second; WINDOW_SECONDS]);

impl Window {
    /// An attempt succeeded.
    pub fn note_success(&mut self, now: Duration) {
        let second = self.second(now);
        second.successes = second.successes.saturating_add(1);
    }

    /// The first attempt of an event failed.
    pub fn note_failure(&mut self, now: Duration) {
        let second = self.second(now);
        second.failures = second.failures.saturating_add(1);
    }

    /// How many events in a row have to fail before that is more than chance, with the share of failures of the last
    /// seconds: five where failures are rare, and the more the more usual they are.
    pub fn needed(&self, now: Duration) -> usize {
        let oldest = (now.as_secs() + 1).saturating_sub(WINDOW_SECONDS as u64);
        let recent = self.0.iter().filter(|second| second.number >= oldest);
        let (successes, failures) = recent.fold((0.0, 0.0), |(successes, failures), second| {
            (successes + f64::from(second.successes), failures + f64::from(second.failures))
        });
        if failures == 0.0 {
            return MIN_NEEDED;
        }
        // Where nothing succeeded its logarithm is zero, and the number is the largest.
        let share: f64 = failures / (failures + successes);
        (MIN_NEEDED..MAX_NEEDED).find(|needed| *needed as f64 * share.ln() <= LN_CHANCE).unwrap_or(MAX_NEEDED)
    }

    fn second(&mut self, now: Duration) -> &mut Second {
        let number = now.as_secs();
        let index = usize::try_from(number % WINDOW_SECONDS as u64).unwrap_or_default();
        let second = &mut self.0[index];
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(successes: u32, failures: u32) -> usize {
        let mut window = Window::default();
        let now = Duration::from_secs(100);
        (0..successes).for_each(|_| window.note_success(now));
        (0..failures).for_each(|_| window.note_failure(now));
        window.needed(now)
    }

    #[test]
    fn what_is_usual_decides_how_many_it_takes() {
        for (successes, failures, expected) in [
            (0, 0, 5),
            (1000, 0, 5),
            (980, 20, 5),
            (90, 10, 6),
            (70, 30, 12),
            (50, 50, 20),
            (40, 60, 28),
            (10, 90, 32),
            (0, 7, 32),
        ] {
            assert_eq!(needed(successes, failures), expected, "{successes} {failures}");
        }
    }

    #[test]
    fn what_is_long_past_is_forgotten() {
        let mut window = Window::default();
        (0..60).for_each(|_| window.note_failure(Duration::from_secs(100)));
        (0..40).for_each(|_| window.note_success(Duration::from_secs(100)));
        assert_eq!(window.needed(Duration::from_millis(109_999)), 28);
        assert_eq!(window.needed(Duration::from_secs(110)), MIN_NEEDED);
        window.note_success(Duration::from_secs(110));
        assert_eq!(window.needed(Duration::from_secs(110)), MIN_NEEDED, "the place of a second is used again");
    }
}
