//! How the deliveries of a handler end, over all its pods, from what their sidecars report. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::outcomes::{Failure, Outcomes};

/// Numbers are shown at most this often; what changes a condition is shown at once.
const NUMBERS_PERIOD: Duration = Duration::from_secs(60);
/// Dead letters are warned of at most this often.
const WARNING_PERIOD: Duration = Duration::from_secs(300);

/// How deliveries end, over all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Pods that have delivered anything lately.
    pub pods: usize,
    /// How many of them fail as a rule.
    pub failing: usize,
    /// Different events that failed one after the other, in the failing pods.
    pub events: u64,
    /// Whether all of these were refused for good.
    pub refused_only: bool,
    /// Within the window of a report: events that were handled.
    pub handled: u64,
    /// Events that were refused.
    pub refused: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// The last failure of all.
    pub last_failure: Option<Failure>,
}

impl Deliveries {
    fn of<'a>(reports: impl Iterator<Item = &'a Outcomes>) -> Self {
        let mut all = Self { refused_only: true, ..Self::default() };
        for report in reports {
            let sum = |total: &mut u64, more: u64| *total = total.saturating_add(more);
            sum(&mut all.handled, report.handled);
            sum(&mut all.refused, report.refused);
            sum(&mut all.failed, report.failed);
            let is_idle = report.handled == 0 && report.refused == 0 && report.failed == 0;
            all.pods += usize::from(!is_idle || report.failing.is_some());
            if let Some(failing) = report.failing {
                all.failing += 1;
                sum(&mut all.events, failing.events.into());
                all.refused_only &= failing.refused;
            }
            if let Some(failure) = &report.last_failure
                && all.last_failure.as_ref().is_none_or(|last| last.time < failure.time)
            {
                all.last_failure = Some(failure.clone());
            }
        }
        all
    }

    /// Whether all pods that deliver fail as a rule.
    pub fn are_failing(&self) -> bool {
        self.failing > 0 && self.failing >= self.pods
    }
}

/// New dead letters that a person should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterWarning {
    /// How many there are since the last warning.
    pub letters: u64,
    /// The last failure.
    pub last_failure: Option<Failure>,
}

/// What is shown of a handler's deliveries, and when that is renewed.
#[derive(Debug, Default)]
pub struct Showcase {
    shown: Deliveries,
    shown_at: Option<Duration>,
    /// Dead letters that each pod has reported.
    letters: HashMap<String, u64>,
    unwarned: u64,
    warned_at: Option<Duration>,
}

impl Showcase {
    /// What is shown.
    pub fn shown(&self) -> &Deliveries {
        &self.shown
    }

    /// Takes a pod's dead letters. Those from before the operator first heard of the pod count: whether another
    /// operator warned of them is not known.
    pub fn note_letters(&mut self, pod: &str, dead_lettered: u64) {
        let before = self.letters.insert(pod.to_owned(), dead_lettered).unwrap_or(0);
        // A sidecar that was restarted counts from zero.
        let new = dead_lettered.checked_sub(before).unwrap_or(dead_lettered);
        self.unwarned = self.unwarned.saturating_add(new);
    }

    /// Forgets pods.
    pub fn keep(&mut self, is_alive: impl Fn(&str) -> bool) {
        self.letters.retain(|pod, _| is_alive(pod));
    }

    /// Renews what is shown if it is due, and tells whether it was.
    pub fn renew<'a>(&mut self, now: Duration, reports: impl Iterator<Item = &'a Outcomes>) -> bool {
        let current = Deliveries::of(reports);
        let headline = |of: &Deliveries| (of.are_failing(), of.failing > 0, of.pods > 0);
        let is_new = headline(&current) != headline(&self.shown);
        let is_due = is_over(self.shown_at, NUMBERS_PERIOD, now) && current != self.shown;
        let renew = is_new || is_due;
        if renew {
            (self.shown, self.shown_at) = (current, Some(now));
        }
        renew || self.is_warning_due(now)
    }

    /// The warning that is due, if any; it is not due again for a while.
    pub fn take_warning(&mut self, now: Duration) -> Option<LetterWarning> {
        if !self.is_warning_due(now) {
            return None;
        }
        self.warned_at = Some(now);
        let letters = std::mem::take(&mut self.unwarned);
        Some(LetterWarning { letters, last_failure: self.shown.last_failure.clone() })
    }

    fn is_warning_due(&self, now: Duration) -> bool {
        self.unwarned > 0 && is_over(self.warned_at, WARNING_PERIOD, now)
    }
}

fn is_over(since: Option<Duration>, period: Duration, now: Duration) -> bool {
    since.is_none_or(|since| since + period <= now)
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::outcomes::Failing;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn failing(dead_lettered: u64, time: &str) -> Outcomes {
        let failure = Failure { time: time.into(), event_id: format!("of {time}"), ..Failure::default() };
        Outcomes {
            refused: 5,
            dead_lettered,
            failing: Some(Failing { events: 5, refused: true }),
            last_failure: Some(failure),
            ..Outcomes::default()
        }
    }

    fn fine(handled: u64) -> Outcomes {
        Outcomes { handled, ..Outcomes::default() }
    }

    #[test]
    fn it_fails_only_if_every_pod_that_delivers_does() {
        let idle = Outcomes::default();
        let both = [failing(0, "1"), failing(0, "2"), idle.clone()];
        let all = Deliveries::of(both.iter());
        assert!(all.are_failing());
        assert_eq!((all.pods, all.events, all.refused_only), (2, 10, true));
        assert_eq!(all.last_failure.unwrap().event_id, "of 2");
        assert!(!Deliveries::of([failing(0, "1"), fine(1)].iter()).are_failing());
        assert!(!Deliveries::of([idle].iter()).are_failing());
        assert!(!Deliveries::of([].iter()).are_failing());
    }

    #[test]
    fn a_change_is_shown_at_once_and_numbers_once_a_minute() {
        let mut showcase = Showcase::default();
        assert!(showcase.renew(seconds(0), [fine(1)].iter()));
        for now in 1..60 {
            assert!(!showcase.renew(seconds(now), [fine(1 + now)].iter()), "{now}");
        }
        assert!(showcase.renew(seconds(60), [fine(99)].iter()));
        assert_eq!(showcase.shown().handled, 99);
        assert!(showcase.renew(seconds(61), [failing(0, "1")].iter()));
        assert!(!showcase.renew(seconds(999), [failing(0, "1")].iter()), "nothing is new");
    }

    #[test]
    fn letters_are_warned_of_at_once_and_then_once_in_a_while() {
        let mut showcase = Showcase::default();
        let mut at = |now, letters| {
            let report = failing(letters, "1");
            showcase.note_letters("a", report.dead_lettered);
            showcase.renew(seconds(now), [report].iter());
            showcase.take_warning(seconds(now)).map(|warning| warning.letters)
        };
        assert_eq!(at(0, 0), None);
        assert_eq!(at(1, 2), Some(2));
        assert_eq!(at(2, 5), None);
        assert_eq!(at(300, 6), None);
        assert_eq!(at(301, 6), Some(4));
        assert_eq!(at(700, 6), None);
        assert_eq!(at(701, 1), Some(1), "a sidecar that was restarted");
    }

    #[test]
    fn hostile_numbers_do_not_overflow() {
        let most = Outcomes {
            handled: u64::MAX,
            refused: u64::MAX,
            failed: u64::MAX,
            dead_lettered: u64::MAX,
            ..failing(0, "1")
        };
        assert_eq!(Deliveries::of([most.clone(), most].iter()).handled, u64::MAX);
        let mut showcase = Showcase::default();
        showcase.note_letters("a", u64::MAX);
        showcase.note_letters("b", u64::MAX);
        assert_eq!(showcase.take_warning(seconds(1)).unwrap().letters, u64::MAX);
    }
}
