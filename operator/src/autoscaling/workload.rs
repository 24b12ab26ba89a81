//! How much the pods of a handler work together, from what their sidecars report. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::contract::Workload;

/// A pod that works reports every second: what is older than this is not what runs now.
const FRESH: Duration = Duration::from_secs(5);
/// A pod that was not heard of for this long is forgotten; an idle one reports every ten seconds.
const LIFETIME: Duration = Duration::from_secs(60);
/// Pods of one handler that are kept apart.
const MAX_PODS: usize = 1000;

/// What all pods of a handler report together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TotalWorkload {
    /// Events that are being handled, on average over a second.
    pub running: f64,
    /// A counter of attempts that succeeded.
    pub succeeded: u64,
    /// A counter of attempts that failed.
    pub failed: u64,
}

/// The pods of a handler.
#[derive(Debug, Default)]
pub struct Workloads {
    pods: HashMap<String, (Duration, Workload)>,
    succeeded: u64,
    failed: u64,
}

impl Workloads {
    /// Takes a pod's report. What a pod did before its first one is not counted.
    pub fn note(&mut self, now: Duration, pod: &str, workload: Workload) {
        self.pods.retain(|_, (at, _)| *at + LIFETIME > now);
        if self.pods.len() >= MAX_PODS && !self.pods.contains_key(pod) {
            return;
        }
        if let Some((_, before)) = self.pods.insert(pod.to_owned(), (now, workload)) {
            // A sidecar that was restarted counts from the start.
            self.succeeded = self.succeeded.saturating_add(workload.succeeded.saturating_sub(before.succeeded));
            self.failed = self.failed.saturating_add(workload.failed.saturating_sub(before.failed));
        }
    }

    /// All of it together; `None`: no pod has reported lately.
    pub fn total(&self, now: Duration) -> Option<TotalWorkload> {
        let pods: Vec<_> = self.pods.values().filter(|(at, _)| *at + LIFETIME > now).collect();
        let fresh = pods.iter().filter(|(at, _)| *at + FRESH > now);
        let running: u64 = fresh.fold(0, |sum, (_, workload)| sum.saturating_add(workload.running_milli));
        let (succeeded, failed) = (self.succeeded, self.failed);
        (!pods.is_empty()).then_some(TotalWorkload { running: running as f64 / 1000.0, succeeded, failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn of(running_milli: u64, succeeded: u64, failed: u64) -> Workload {
        Workload { running_milli, succeeded, failed }
    }

    #[test]
    fn pods_are_added_and_what_they_did_stays_counted() {
        let mut workloads = Workloads::default();
        assert_eq!(workloads.total(seconds(0)), None);
        workloads.note(seconds(0), "a", of(1500, 10, 1));
        workloads.note(seconds(0), "b", of(500, 0, 4));
        let total = |running, succeeded, failed| Some(TotalWorkload { running, succeeded, failed });
        assert_eq!(workloads.total(seconds(1)), total(2.0, 0, 0), "what was before is not known to be recent");
        workloads.note(seconds(2), "a", of(250, 12, 2));
        workloads.note(seconds(3), "a", of(250, 1, 0));
        assert_eq!(workloads.total(seconds(6)), total(0.25, 2, 1), "b is stale, a began again");
        assert_eq!(workloads.total(seconds(100)), None);
    }

    #[test]
    fn a_hostile_reporter_is_bounded() {
        let mut workloads = Workloads::default();
        for pod in 0..2 * MAX_PODS {
            workloads.note(seconds(0), &pod.to_string(), of(u64::MAX, u64::MAX, u64::MAX));
        }
        assert_eq!(workloads.pods.len(), MAX_PODS);
        assert!(workloads.total(seconds(0)).is_some_and(|total| total.running.is_finite()));
    }
}
