//! How many pods a handler should have (pure).
//!
//! Two measures, the larger counts:
//! - *backlog*: what waits, worked off within `targetEventAge` at the measured rate of a pod;
//! - *concurrency*: what is in flight, at 70 % of the pods' delivery slots (Little's law: in-flight events
//!   are the concurrency that the arrivals ask for).
//!
//! Up at once. Down only to what has been enough for all of `idleAfter`, so that a slow start or a gap
//! between two events makes no oscillation. Time is given from outside, so the decision can be tested.

use std::collections::VecDeque;
use std::time::Duration;

/// Pods are planned to have this share of their delivery slots in use.
const UTILISATION: f64 = 0.7;
/// The rate of a pod is measured over this long.
const RATE_WINDOW: Duration = Duration::from_secs(60);
/// Entries kept at most; at one a second this covers an `idleAfter` of more than an hour.
const MAX_ENTRIES: usize = 4_096;

/// What the user asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Never fewer.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// What waits is to be worked off within this.
    pub target: Duration,
    /// How long fewer must have been enough.
    pub idle_after: Duration,
    /// Delivery slots of a pod.
    pub concurrency: u32,
}

/// What was seen at one moment. Times are since any fixed origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Duration,
    /// Events that no pod has yet.
    pub pending: u64,
    /// Events that a pod has and has not acknowledged.
    pub in_flight: u64,
    /// A counter of events handled.
    pub handled: u64,
    /// Pods that are ready.
    pub ready: u32,
}

/// Why a number was chosen; also `status.scaling.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No autoscaling: `spec.replicas` says so.
    Fixed,
    /// Events of a Direct topic do not wait anywhere: `minReplicas`, and at least one.
    Direct,
    /// Nothing waits and nothing is in flight.
    Idle,
    /// What waits needs so many to be in time.
    Backlog,
    /// What is in flight needs so many.
    Concurrency,
    /// Fewer would do, but not for long enough yet.
    Holding,
    /// More would be needed.
    AtMaximum,
}

impl Reason {
    /// CamelCase, for status and Events.
    pub fn text(self) -> &'static str {
        match self {
            Self::Fixed => "Fixed",
            Self::Direct => "Direct",
            Self::Idle => "Idle",
            Self::Backlog => "Backlog",
            Self::Concurrency => "Concurrency",
            Self::Holding => "Holding",
            Self::AtMaximum => "AtMaximum",
        }
    }
}

/// A decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Pods there should be.
    pub replicas: u32,
    /// Why.
    pub reason: Reason,
}

/// What was seen and wanted lately, bounded.
#[derive(Clone, Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    wanted: VecDeque<(Duration, u32)>,
    since: Option<Duration>,
}

impl History {
    /// The last sample.
    pub fn last(&self) -> Option<Sample> {
        self.samples.back().copied()
    }

    /// Takes note of a sample and of what it asks for.
    pub fn record(&mut self, policy: &Policy, sample: Sample) {
        self.since.get_or_insert(sample.at);
        self.samples.push_back(sample);
        while self.samples.len() > MAX_ENTRIES
            || self.samples.front().is_some_and(|old| old.at + RATE_WINDOW < sample.at)
        {
            self.samples.pop_front();
        }
        let (wanted, _) = self.needed(policy, sample);
        self.wanted.push_back((sample.at, wanted));
        while self.wanted.len() > MAX_ENTRIES
            || self.wanted.front().is_some_and(|(at, _)| *at + policy.idle_after < sample.at)
        {
            self.wanted.pop_front();
        }
    }

    /// How many pods there should be, given how many are wanted now.
    pub fn decide(&self, policy: &Policy, current: u32) -> Plan {
        let clamp = |replicas: u32| replicas.clamp(policy.min, policy.max.max(policy.min));
        let Some(sample) = self.last() else {
            // Nothing is known yet (an operator that has just started): leave it as it is.
            return Plan { replicas: clamp(current), reason: Reason::Holding };
        };
        let (needed, reason) = self.needed(policy, sample);
        if needed >= current {
            let reason = if needed > policy.max { Reason::AtMaximum } else { reason };
            return Plan { replicas: clamp(needed), reason };
        }
        let watched_long_enough = self.since.is_some_and(|since| since + policy.idle_after <= sample.at);
        let enough = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(needed);
        let target = if watched_long_enough { clamp(enough.min(current)) } else { clamp(current) };
        let reason = if target > clamp(needed) { Reason::Holding } else { reason };
        Plan { replicas: target, reason }
    }

    fn needed(&self, policy: &Policy, sample: Sample) -> (u32, Reason) {
        if sample.pending == 0 && sample.in_flight == 0 {
            return (0, Reason::Idle);
        }
        let rate = self.rate_per_pod().unwrap_or_else(|| f64::from(policy.concurrency));
        let backlog = sample.pending as f64 / (rate * policy.target.as_secs_f64());
        let concurrency = sample.in_flight as f64 / (f64::from(policy.concurrency) * UTILISATION);
        let (needed, reason) =
            if backlog >= concurrency { (backlog, Reason::Backlog) } else { (concurrency, Reason::Concurrency) };
        // A float that is too large saturates.
        ((needed.ceil() as u32).max(1), reason)
    }

    /// Events a second that one pod handles, from the times when there was always something to do.
    fn rate_per_pod(&self) -> Option<f64> {
        let (mut handled, mut pod_seconds) = (0.0, 0.0);
        for (before, after) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            let ready = before.ready.min(after.ready);
            if before.pending > 0 && after.pending > 0 && ready > 0 {
                handled += after.handled.saturating_sub(before.handled) as f64;
                pod_seconds += (after.at.saturating_sub(before.at)).as_secs_f64() * f64::from(ready);
            }
        }
        (handled > 0.0 && pod_seconds > 0.5).then(|| handled / pod_seconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy { min: 0, max: 10, target: Duration::from_secs(5), idle_after: Duration::from_secs(30), concurrency: 10 }
    }

    fn sample(second: u64, pending: u64, in_flight: u64) -> Sample {
        Sample { at: Duration::from_secs(second), pending, in_flight, handled: 0, ready: 0 }
    }

    fn after(samples: &[Sample]) -> History {
        let mut history = History::default();
        for sample in samples {
            history.record(&policy(), *sample);
        }
        history
    }

    #[test]
    fn the_first_event_wakes_a_handler_at_once() {
        assert_eq!(after(&[sample(0, 1, 0)]).decide(&policy(), 0), Plan { replicas: 1, reason: Reason::Backlog });
    }

    #[test]
    fn a_backlog_asks_for_as_many_as_work_it_off_in_time() {
        // 10 events/s assumed, 5 s: 50 for each pod.
        assert_eq!(after(&[sample(0, 301, 0)]).decide(&policy(), 1).replicas, 7);
    }

    #[test]
    fn the_measured_rate_takes_the_place_of_the_assumed_one() {
        let at = |second: u64, handled| Sample { handled, ready: 1, ..sample(second, 1000, 10) };
        // 100 events/s measured: 500 for each pod.
        assert_eq!(after(&[at(0, 0), at(1, 100), at(2, 200)]).decide(&policy(), 1).replicas, 2);
    }

    #[test]
    fn full_pods_ask_for_more() {
        assert_eq!(after(&[sample(0, 0, 20)]).decide(&policy(), 2), Plan { replicas: 3, reason: Reason::Concurrency });
    }

    #[test]
    fn never_beyond_the_limits() {
        assert_eq!(
            after(&[sample(0, 1_000_000, 0)]).decide(&policy(), 1),
            Plan { replicas: 10, reason: Reason::AtMaximum }
        );
        let one = Policy { min: 1, ..policy() };
        let idle: Vec<_> = (0..60).map(|second| sample(second, 0, 0)).collect();
        assert_eq!(after(&idle).decide(&one, 1), Plan { replicas: 1, reason: Reason::Idle });
    }

    #[test]
    fn down_only_after_it_was_enough_for_the_whole_window() {
        let mut history = after(&[sample(0, 301, 0)]);
        for second in 1..=30 {
            history.record(&policy(), sample(second, 0, 0));
            assert_eq!(history.decide(&policy(), 7), Plan { replicas: 7, reason: Reason::Holding }, "second {second}");
        }
        history.record(&policy(), sample(31, 0, 0));
        assert_eq!(history.decide(&policy(), 7), Plan { replicas: 0, reason: Reason::Idle });
    }

    #[test]
    fn an_operator_that_has_just_started_takes_nothing_away() {
        assert_eq!(History::default().decide(&policy(), 4), Plan { replicas: 4, reason: Reason::Holding });
        assert_eq!(after(&[sample(0, 0, 0)]).decide(&policy(), 4).replicas, 4);
    }

    proptest! {
        #[test]
        fn within_limits_and_never_zero_with_work(
            pendings in proptest::collection::vec((0u64..100_000, 0u64..5_000, 0u32..20), 1..100),
            current in 0u32..20,
        ) {
            let policy = policy();
            let mut history = History::default();
            for (second, (pending, in_flight, ready)) in pendings.iter().enumerate() {
                let handled = second as u64 * 17;
                history.record(&policy, Sample { handled, ready: *ready, ..sample(second as u64, *pending, *in_flight) });
            }
            let plan = history.decide(&policy, current);
            prop_assert!(plan.replicas >= policy.min && plan.replicas <= policy.max);
            let last = history.last().unwrap();
            prop_assert!(plan.replicas > 0 || (last.pending == 0 && last.in_flight == 0));
        }
    }
}
