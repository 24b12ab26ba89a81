//! What the probes answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The runner wakes at least every second; a rest this long means that it hangs.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How far the sidecar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The identity was not read yet.
    Starting,
    /// There is no connection to the broker.
    Disconnected,
    /// The consumer has not answered yet.
    Opening,
    /// The handler's container cannot be sent anything, so nothing is asked for.
    Unreachable,
    /// The consumer answers.
    Pulling,
    /// It drains, or has drained.
    Draining,
}

impl Progress {
    /// What a person reads in the probe's response.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Starting => "starting: the identity was not read yet",
            Self::Disconnected => "not connected to the broker",
            Self::Opening => "waiting for the consumer's first answer",
            Self::Unreachable => "the handler's container has not taken a connection yet, or its probes fail",
            Self::Pulling => "ready",
            Self::Draining => "draining",
        }
    }
}

/// What is known of the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HealthState {
    progress: Progress,
    has_pulled: bool,
}

impl HealthState {
    /// Events are pulled, or were until the handler's container went away: which is the business of its own probes. One
    /// that was never reached is not ready, or a rollout would continue with it.
    fn is_ready(&self) -> bool {
        match self.progress {
            Progress::Pulling => true,
            Progress::Unreachable => self.has_pulled,
            Progress::Starting | Progress::Disconnected | Progress::Opening | Progress::Draining => false,
        }
    }
}

/// Written by the runner, read by the probes.
#[derive(Debug)]
pub struct Health {
    origin: Instant,
    started: AtomicBool,
    progress: watch::Sender<HealthState>,
    beat: AtomicU64,
    stalled: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            started: AtomicBool::new(false),
            progress: watch::Sender::new(HealthState { progress: Progress::Starting, has_pulled: false }),
            beat: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
        }
    }
}

impl Health {
    /// Tells that the identity was read: from now on the sidecar has started.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
        self.set(Progress::Disconnected);
    }

    /// Whether [`Self::started`] was told.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Tells how far it is.
    pub fn set(&self, progress: Progress) {
        self.progress.send_if_modified(|known| {
            let has_pulled = known.has_pulled || progress == Progress::Pulling;
            let now = HealthState { progress, has_pulled };
            std::mem::replace(known, now) != now
        });
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().progress
    }

    /// Waits until it is ready.
    pub async fn is_ready(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.progress.subscribe().wait_for(HealthState::is_ready).await;
    }

    /// Tells that the runner is at work.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(elapsed, Ordering::Relaxed);
    }

    /// Tells whether events wait that could be delivered, and nothing is started (`watchdog.rs` of
    /// `tidegate-delivery-core`).
    pub fn set_stalled(&self, stalled: bool) {
        if self.stalled.swap(stalled, Ordering::Relaxed) != stalled && stalled {
            tracing::error!("events wait and nothing is started: the sidecar asks to be restarted");
        }
    }

    /// Whether the runner was at work lately, and works on what there is.
    pub fn is_alive(&self) -> bool {
        if self.stalled.load(Ordering::Relaxed) {
            return false;
        }
        let last = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        self.origin.elapsed().saturating_sub(last) < LONGEST_REST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_that_was_never_reached_is_not_ready() {
        use Progress::{Disconnected, Draining, Opening, Pulling, Starting, Unreachable};
        let health = Health::default();
        let is_ready = || health.progress.borrow().is_ready();
        for (progress, expected) in [
            (Starting, false),
            (Unreachable, false),
            (Opening, false),
            (Pulling, true),
            (Unreachable, true),
            (Disconnected, false),
            (Unreachable, true),
            (Draining, false),
        ] {
            health.set(progress);
            assert_eq!((is_ready(), health.progress()), (expected, progress));
        }
    }

    #[test]
    fn a_long_rest_is_death() {
        let mut health = Health::default();
        assert!(health.is_alive());
        health.origin = Instant::now() - LONGEST_REST - Duration::from_secs(1);
        assert!(!health.is_alive());
        health.beat();
        assert!(health.is_alive());
    }

    #[test]
    fn so_is_a_stall() {
        let health = Health::default();
        health.set_stalled(true);
        health.beat();
        assert!(!health.is_alive());
        health.set_stalled(false);
        assert!(health.is_alive());
    }
}
