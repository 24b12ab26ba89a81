//! How many pods a handler should have (pure).
//!
//! Two measures, the larger counts:
//! - *backlog*: what waits, worked off within `targetEventAge` beside what arrives meanwhile, at the measured rate of a
//!   pod;
//! - *concurrency*: the events that are being handled, at 70 % of the pods' delivery slots (Little's law: they are the
//!   concurrency that the arrivals ask for). An event that waits for its retry is not being handled.
//!
//! As in Knative's autoscaler there are two windows: the average over a minute counts, unless that of the last six
//! seconds asks for a quarter more pods than there are. Down only to what has been enough for all of `idleAfter`, heard
//! of without a gap. While most attempts fail, never up: further pods would fail, too. Time is given from outside, so
//! the decision can be tested.

pub(crate) mod workload;

use std::collections::VecDeque;
use std::time::Duration;

use tidegate_broker_client::contract::Routing;

/// Pods are planned to have this share of their delivery slots in use.
const UTILISATION: f64 = 0.7;
/// Averages, and the rate of a pod, are measured over this long.
const STABLE_WINDOW: Duration = Duration::from_secs(60);
/// A sudden change is seen in averages over this long.
const PANIC_WINDOW: Duration = Duration::from_secs(6);
/// That many times the pods there are is a sudden change.
const PANIC_FACTOR: f64 = 1.25;
/// With a longer time between two samples it is not known what happened meanwhile.
const MAX_GAP: Duration = Duration::from_secs(5);
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
    pub slots: u32,
}

/// What was seen at one moment. Times are since any fixed origin.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Duration,
    /// Events that no pod has yet.
    pub pending: u64,
    /// Events that a pod was given and has not acknowledged, those that wait for a retry included.
    pub unacknowledged: u64,
    /// Events that wait for a retry on the shelf. One pod is enough to look whether they are due.
    pub retries: u64,
    /// Events that are being handled, on average.
    pub running: f64,
    /// A counter of deliveries to pods, repeated ones included.
    pub delivered: u64,
    /// A counter of attempts that succeeded.
    pub succeeded: u64,
    /// A counter of attempts that failed.
    pub failed: u64,
    /// Whether all pods that report find their container down.
    pub is_down: bool,
    /// Pods that are ready.
    pub ready: u32,
}

impl Sample {
    fn has_work(&self) -> bool {
        self.pending > 0 || self.unacknowledged > 0 || self.retries > 0
    }

    fn handled(&self) -> u64 {
        self.delivered.saturating_sub(self.unacknowledged)
    }
}

/// Why a number was chosen; also `status.scaling.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No autoscaling: `spec.replicas` says so.
    Fixed,
    /// The handler is suspended: `minReplicas`, and on a Direct topic none.
    Suspended,
    /// The handler's place in its topic is moved, which needs that there are no pods.
    Moving,
    /// Events of a Direct topic do not wait anywhere: `minReplicas`, and at least one.
    Direct,
    /// Nothing waits and nothing is in flight.
    Idle,
    /// What waits needs so many to be in time.
    Backlog,
    /// What is in flight needs so many.
    Concurrency,
    /// Events wait for a retry, and nothing else is to do.
    Retries,
    /// Fewer would do, but not for long enough yet.
    Holding,
    /// Most attempts fail: more would not help.
    Failing,
    /// More would be needed.
    AtMaximum,
}

impl Reason {
    /// CamelCase, for status and Events.
    pub fn text(self) -> &'static str {
        match self {
            Self::Fixed => "Fixed",
            Self::Suspended => "Suspended",
            Self::Moving => "Moving",
            Self::Direct => "Direct",
            Self::Idle => "Idle",
            Self::Backlog => "Backlog",
            Self::Concurrency => "Concurrency",
            Self::Retries => "Retries",
            Self::Holding => "Holding",
            Self::Failing => "Failing",
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

impl Plan {
    /// For a handler that is suspended: as few pods as it may have, and on a Direct topic none, because the broker
    /// delivers there to whoever listens. `None`: as many as ever.
    pub fn suspended(policy: Option<&Policy>, routing: Routing) -> Option<Self> {
        let replicas = match (routing, policy) {
            (Routing::Direct, _) => 0,
            (Routing::Queued, policy) => policy?.min,
        };
        Some(Self { replicas, reason: Reason::Suspended })
    }
}

/// How attempts end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outcomes {
    /// At least half of them succeed, or there were none yet.
    #[default]
    Succeed,
    /// Most of them fail.
    MostFail,
    /// All of them fail.
    AllFail,
}

/// What was seen and wanted lately, bounded.
#[derive(Clone, Debug, Default)]
pub struct History {
    samples: VecDeque<Sample>,
    wanted: VecDeque<(Duration, u32)>,
    /// Since when samples come without a gap.
    since: Option<Duration>,
    /// Events a second that one pod handles, as last measured.
    rate: Option<f64>,
    /// How attempts ended when there were some.
    outcomes: Outcomes,
}

impl History {
    /// The last sample.
    pub fn last(&self) -> Option<Sample> {
        self.samples.back().copied()
    }

    /// Takes note of a sample and of what it asks for.
    pub fn record(&mut self, policy: &Policy, sample: Sample) {
        if self.last().is_some_and(|last| last.at + MAX_GAP < sample.at) {
            (self.samples, self.wanted, self.since) = Default::default();
        }
        self.since.get_or_insert(sample.at);
        self.samples.push_back(sample);
        while self.samples.len() > MAX_ENTRIES
            || self.samples.front().is_some_and(|old| old.at + STABLE_WINDOW < sample.at)
        {
            self.samples.pop_front();
        }
        self.outcomes = self.measured_outcomes(sample).unwrap_or(self.outcomes);
        if self.outcomes == Outcomes::Succeed {
            self.rate = self.measured_rate().or(self.rate);
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
        let (mut needed, mut reason) = self.needed(policy, sample);
        if self.outcomes != Outcomes::Succeed && needed > current.max(1) {
            (needed, reason) = (current.max(1), Reason::Failing);
        }
        if needed >= current {
            let reason = if needed > policy.max { Reason::AtMaximum } else { reason };
            return Plan { replicas: clamp(needed), reason };
        }
        // More than one sample, however short the time.
        let watched = self.since.is_some_and(|since| since < sample.at && since + policy.idle_after <= sample.at);
        let enough = self.wanted.iter().map(|(_, wanted)| *wanted).max().unwrap_or(needed);
        let target = if watched { clamp(enough.min(current)) } else { clamp(current) };
        let reason = if target > clamp(needed) { Reason::Holding } else { reason };
        Plan { replicas: target, reason }
    }

    fn needed(&self, policy: &Policy, sample: Sample) -> (u32, Reason) {
        if !sample.has_work() {
            return (0, Reason::Idle);
        }
        if self.outcomes == Outcomes::AllFail || sample.is_down {
            return (1, Reason::Failing);
        }
        if sample.pending == 0 && sample.unacknowledged == 0 {
            return (1, Reason::Retries);
        }
        let (backlog, concurrency) = (self.for_backlog(policy, sample), self.for_concurrency(policy, sample));
        let (needed, reason) =
            if backlog >= concurrency { (backlog, Reason::Backlog) } else { (concurrency, Reason::Concurrency) };
        // A float that is too large saturates.
        ((needed.ceil() as u32).max(1), reason)
    }

    /// Pods that work off what waits in time. What arrives counts besides while events wait for more than a moment:
    /// the pods there are do not keep up.
    fn for_backlog(&self, policy: &Policy, sample: Sample) -> f64 {
        if sample.pending == 0 {
            return 0.0;
        }
        let rate = self.rate.unwrap_or_else(|| f64::from(policy.slots.max(1)));
        let waits = self.samples.iter().rev().take(2).all(|sample| sample.pending > 0);
        let arriving = if waits { self.arrivals(sample) } else { 0.0 };
        (sample.pending as f64 / policy.target.as_secs_f64() + arriving) / rate
    }

    fn for_concurrency(&self, policy: &Policy, sample: Sample) -> f64 {
        let pods = |running: f64| running / (f64::from(policy.slots.max(1)) * UTILISATION);
        let (stable, panic) = (pods(self.running(sample, STABLE_WINDOW)), pods(self.running(sample, PANIC_WINDOW)));
        if panic >= PANIC_FACTOR * f64::from(sample.ready.max(1)) { stable.max(panic) } else { stable }
    }

    fn window(&self, sample: Sample, window: Duration) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |other| other.at + window >= sample.at)
    }

    /// The mean number of events that are being handled.
    fn running(&self, sample: Sample, window: Duration) -> f64 {
        let (mut sum, mut count) = (0.0, 0.0);
        for sample in self.window(sample, window) {
            sum += sample.running;
            count += 1.0;
        }
        if count > 0.0 { sum / count } else { 0.0 }
    }

    /// Deliveries a second that would have kept the backlog as it was, lately.
    fn arrivals(&self, sample: Sample) -> f64 {
        let Some(first) = self.window(sample, PANIC_WINDOW).next().filter(|first| first.at < sample.at) else {
            return 0.0;
        };
        let delivered = sample.delivered.saturating_sub(first.delivered) as f64;
        let grown = sample.pending as f64 - first.pending as f64;
        (delivered + grown).max(0.0) / (sample.at - first.at).as_secs_f64()
    }

    /// How attempts ended, in the shorter window if there were some; `None`: there were none.
    fn measured_outcomes(&self, sample: Sample) -> Option<Outcomes> {
        [PANIC_WINDOW, STABLE_WINDOW].into_iter().find_map(|window| {
            let first = self.window(sample, window).next()?;
            let succeeded = sample.succeeded.saturating_sub(first.succeeded);
            let failed = sample.failed.saturating_sub(first.failed);
            match (succeeded, failed) {
                (0, 0) => None,
                (0, _) => Some(Outcomes::AllFail),
                _ if failed > succeeded => Some(Outcomes::MostFail),
                _ => Some(Outcomes::Succeed),
            }
        })
    }

    /// Events a second that one pod handles, from the times when there was always something to do.
    fn measured_rate(&self) -> Option<f64> {
        let (mut handled, mut pod_seconds) = (0.0, 0.0);
        for (before, after) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            let ready = before.ready.min(after.ready);
            let busy = |sample: &Sample| sample.pending > 0 && !sample.is_down;
            if busy(before) && busy(after) && ready > 0 {
                handled += after.handled().saturating_sub(before.handled()) as f64;
                pod_seconds += (after.at.saturating_sub(before.at)).as_secs_f64() * f64::from(ready);
            }
        }
        (handled > 0.0 && pod_seconds > 0.5).then(|| handled / pod_seconds)
    }
}

#[cfg(test)]
mod tests;
