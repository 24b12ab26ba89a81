//! How much the handler works and how its attempts end. The sidecar reports it, and the operator scales by it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_broker_client::contract::Workload;
use tokio::time::Instant;

/// Counts the attempts of one handler.
#[derive(Debug)]
pub struct WorkloadMeter(Mutex<State>);

#[derive(Debug)]
struct State {
    running: u32,
    /// The sum of the times of all attempts, up to `counted_until`, since the last reading.
    spent: Duration,
    counted_until: Instant,
    read_at: Instant,
    succeeded: u64,
    failed: u64,
}

impl Default for WorkloadMeter {
    fn default() -> Self {
        let now = Instant::now();
        let state =
            State { running: 0, spent: Duration::ZERO, counted_until: now, read_at: now, succeeded: 0, failed: 0 };
        Self(Mutex::new(state))
    }
}

impl State {
    fn count(&mut self, now: Instant) {
        self.spent += (now - self.counted_until) * self.running;
        self.counted_until = now;
    }
}

impl WorkloadMeter {
    /// An event is at the handler until the guard is dropped.
    pub fn start(&self) -> Running<'_> {
        let mut state = self.lock();
        state.count(Instant::now());
        state.running += 1;
        Running(self)
    }

    /// Counts the end of an attempt.
    pub fn attempted(&self, succeeded: bool) {
        let mut state = self.lock();
        if succeeded { state.succeeded += 1 } else { state.failed += 1 }
    }

    /// The workload since the last reading.
    pub fn read(&self) -> Workload {
        let (now, mut state) = (Instant::now(), self.lock());
        state.count(now);
        let (spent, time) = (state.spent.as_micros(), (now - state.read_at).as_micros());
        let average = (spent * 1000).checked_div(time).unwrap_or(u128::from(state.running) * 1000);
        (state.spent, state.read_at) = (Duration::ZERO, now);
        let running_milli = u64::try_from(average).unwrap_or(u64::MAX);
        Workload { running_milli, succeeded: state.succeeded, failed: state.failed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that is at the handler.
#[derive(Debug)]
pub struct Running<'a>(&'a WorkloadMeter);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.count(Instant::now());
        state.running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn running_is_an_average_over_time() {
        let meter = WorkloadMeter::default();
        let (first, second) = (meter.start(), meter.start());
        advance(Duration::from_millis(250)).await;
        drop(first);
        meter.attempted(true);
        advance(Duration::from_millis(500)).await;
        drop(second);
        meter.attempted(false);
        advance(Duration::from_millis(250)).await;
        assert_eq!(meter.read(), Workload { running_milli: 1000, succeeded: 1, failed: 1 });
        advance(Duration::from_secs(1)).await;
        assert_eq!(meter.read(), Workload { running_milli: 0, succeeded: 1, failed: 1 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_attempt_is_running_all_the_time() {
        let meter = WorkloadMeter::default();
        let _running = meter.start();
        for _ in 0..3 {
            advance(Duration::from_secs(1)).await;
            assert_eq!(meter.read().running_milli, 1000);
        }
    }
}
