//! What the probes are told.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The pipeline wakes at least every second; a rest this long means that it hangs.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How far the sidecar is. Ready is only [`Progress::Pulling`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Progress {
    /// The identity was not read yet.
    Starting = 0,
    /// There is no connection to the broker.
    Disconnected = 1,
    /// The consumer has not answered yet.
    Opening = 2,
    /// The consumer answers, or is not asked because the handler is not reachable: which is the business of
    /// the handler's own probes.
    Pulling = 3,
    /// It drains, or has drained.
    Draining = 4,
}

impl Progress {
    /// What a person reads in the probe's response.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Starting => "starting: the identity was not read yet",
            Self::Disconnected => "not connected to the broker",
            Self::Opening => "waiting for the consumer's first answer",
            Self::Pulling => "ready",
            Self::Draining => "draining",
        }
    }

    fn from_number(number: u8) -> Self {
        [Self::Starting, Self::Disconnected, Self::Opening, Self::Pulling, Self::Draining]
            .into_iter()
            .find(|progress| *progress as u8 == number)
            .unwrap_or(Self::Starting)
    }
}

/// Written by the pipeline, read by the probes.
#[derive(Debug)]
pub struct Health {
    origin: Instant,
    started: AtomicBool,
    reached: watch::Sender<bool>,
    progress: AtomicU8,
    beat: AtomicU64,
    stalled: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            started: AtomicBool::new(false),
            reached: watch::Sender::new(false),
            progress: AtomicU8::new(Progress::Starting as u8),
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

    /// Tells that the handler's container could be sent something, for the first time.
    pub fn reached(&self) {
        self.reached.send_replace(true);
    }

    /// Waits until [`Self::reached`] was called.
    pub async fn has_been_reached(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.reached.subscribe().wait_for(|reached| *reached).await;
    }

    /// Tells how far it is.
    pub fn set(&self, progress: Progress) {
        self.progress.store(progress as u8, Ordering::Relaxed);
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress::from_number(self.progress.load(Ordering::Relaxed))
    }

    /// Tells that the pipeline is at work.
    pub fn beat(&self) {
        let elapsed = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.beat.store(elapsed, Ordering::Relaxed);
    }

    /// Tells whether events wait that could be delivered, and nothing is started ([`crate::watchdog`]).
    pub fn set_stalled(&self, stalled: bool) {
        if self.stalled.swap(stalled, Ordering::Relaxed) != stalled && stalled {
            tracing::error!("events wait and nothing is started: the sidecar asks to be restarted");
        }
    }

    /// Whether the pipeline was at work lately, and works on what there is.
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
    fn progress_survives_the_number() {
        let health = Health::default();
        assert!(!health.has_started());
        health.started();
        assert!(health.has_started());
        for progress in
            [Progress::Disconnected, Progress::Opening, Progress::Pulling, Progress::Draining, Progress::Starting]
        {
            health.set(progress);
            assert_eq!(health.progress(), progress);
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
