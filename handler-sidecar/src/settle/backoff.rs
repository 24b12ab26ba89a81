//! How long to wait before the next try: exponential, spread by chance, capped. Pure: the chance is passed in.

use std::time::Duration;

/// How waits grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub initial: Duration,
    /// No wait is longer, the random share included.
    pub max: Duration,
    /// Each wait is this many times the one before.
    pub factor: f64,
    /// The share of a wait that is random: 0.2 means ± 20 %.
    pub jitter: f64,
}

impl Backoff {
    /// The wait after this many failures (the first is 1); `random` is in `0.0..1.0`.
    ///
    /// Parameters that make no sense (a negative factor, a NaN) give [`Backoff::max`]: waiting too long is
    /// safer than a hot loop.
    pub fn wait(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.factor.powi(exponent);
        let spread = 1.0 + self.jitter * (2.0 * random - 1.0);
        // `min` of floats prefers the number over a NaN, so a NaN also ends as the maximum.
        let seconds = (grown.min(self.max.as_secs_f64()) * spread).min(self.max.as_secs_f64());
        Duration::try_from_secs_f64(seconds).unwrap_or(self.max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BACKOFF: Backoff =
        Backoff { initial: Duration::from_secs(1), max: Duration::from_secs(60), factor: 2.0, jitter: 0.2 };

    #[test]
    fn it_doubles_up_to_the_maximum() {
        let waits: Vec<_> = (1..=8).map(|failures| BACKOFF.wait(failures, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn chance_spreads_it_both_ways() {
        assert_eq!(BACKOFF.wait(1, 0.0), Duration::from_millis(800));
        assert_eq!(BACKOFF.wait(1, 1.0), Duration::from_millis(1200));
        assert_eq!(BACKOFF.wait(7, 1.0), Duration::from_secs(60));
        assert_eq!(BACKOFF.wait(7, 0.0), Duration::from_secs(48));
    }

    #[test]
    fn nonsense_waits_the_maximum() {
        assert_eq!(Backoff { factor: f64::NAN, ..BACKOFF }.wait(3, 0.5), BACKOFF.max);
        assert_eq!(Backoff { factor: f64::INFINITY, ..BACKOFF }.wait(2, 0.5), BACKOFF.max);
        assert_eq!(Backoff { factor: -2.0, ..BACKOFF }.wait(2, 0.5), BACKOFF.max);
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds(
            failures: u32,
            random in 0.0..1.0f64,
            initial in 1..10_000u64,
            max in 1..100_000u64,
            factor in 1.0..10.0f64,
            jitter in 0.0..1.0f64,
        ) {
            let (initial, max) = (Duration::from_millis(initial), Duration::from_millis(max));
            let wait = Backoff { initial, max, factor, jitter }.wait(failures, random);
            prop_assert!(wait <= max);
            let least = initial.min(max).mul_f64(1.0 - jitter);
            prop_assert!(wait + Duration::from_micros(1) >= least, "{wait:?} < {least:?}");
        }
    }
}
