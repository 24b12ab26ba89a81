//! How deliveries end, for the operator: counts, the last failure, and whether deliveries fail as a rule.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_broker_client::outcomes::{Failing, Failure, MAX_FAILING_EVENTS, OUTCOME_WINDOW, Outcomes};
use tokio::sync::Notify;
use tokio::time::Instant;

/// So many different events that fail one after the other are a rule.
const FAILING_EVENTS: usize = 5;
/// So many failed attempts are one, too, while no event was ever handled.
const FAILING_ATTEMPTS: u32 = 3;
/// So many events that are handled one after the other end it.
const RECOVERED_EVENTS: u32 = 5;
/// One event that is handled ends it, too, if nothing has failed for so long.
const RECOVERY_TIME: Duration = Duration::from_secs(10);
/// The window moves in steps of this length.
const WINDOW_STEP: Duration = Duration::from_secs(30);

/// How an event, or one attempt of it, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was handled.
    Handled,
    /// It was refused for good.
    Refused,
    /// An attempt failed; there may be others.
    Failed,
}

/// Takes down how the deliveries of one handler end.
#[derive(Debug)]
pub struct OutcomeLog {
    origin: Instant,
    url: String,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

impl OutcomeLog {
    /// Of events that are posted to this address.
    pub fn new(url: String) -> Self {
        Self { origin: Instant::now(), url, ledger: Mutex::default(), changed: Notify::new() }
    }

    /// The event with this sequence was handled.
    pub fn handled(&self, sequence: u64) {
        self.change(|ledger, now| ledger.count(now, sequence, Ending::Handled));
    }

    /// A delivery of the event with this id and type failed.
    pub fn failed(
        &self,
        sequence: u64,
        (id, event_type): (&str, &str),
        ending: Ending,
        status: Option<u16>,
        error: &str,
    ) {
        let failure = self.failure(id, event_type, status, error);
        self.change(|ledger, now| {
            ledger.last_failure = Some(failure);
            ledger.count(now, sequence, ending);
        });
    }

    /// An event became a dead letter.
    pub fn dead_lettered(&self) {
        self.change(|ledger, _| ledger.dead_lettered = ledger.dead_lettered.saturating_add(1));
    }

    /// What became a dead letter was not posted at all.
    pub fn undeliverable(&self, id: &str, event_type: &str, error: &str) {
        let failure = Failure { url: String::new(), ..self.failure(id, event_type, None, error) };
        self.change(|ledger, _| ledger.last_failure = Some(failure));
    }

    /// As it is reported to the operator.
    pub fn read(&self) -> Outcomes {
        self.ledger().read(self.origin.elapsed())
    }

    /// Waits for what the operator should hear of at once.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn failure(&self, id: &str, event_type: &str, status: Option<u16>, error: &str) -> Failure {
        Failure {
            time: jiff::Timestamp::now().to_string(),
            event_id: id.to_owned(),
            event_type: event_type.to_owned(),
            status,
            error: error.to_owned(),
            url: self.url.clone(),
        }
        .sanitized()
    }

    fn change(&self, how: impl FnOnce(&mut Ledger, Duration)) {
        let mut ledger = self.ledger();
        let before = ledger.headline();
        how(&mut ledger, self.origin.elapsed());
        if ledger.headline() != before {
            self.changed.notify_one();
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`OutcomeLog`] knows. Pure: time comes in.
#[derive(Debug, Default)]
struct Ledger {
    /// What ended in each step of the window, the newest last.
    steps: VecDeque<Step>,
    streak: Streak,
    dead_lettered: u64,
    last_failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    began: Duration,
    handled: u64,
    refused: u64,
    failed: u64,
}

impl Ledger {
    fn count(&mut self, now: Duration, sequence: u64, ending: Ending) {
        self.streak.count(now, sequence, ending);
        self.expire(now);
        if self.steps.back().is_none_or(|step| step.began + WINDOW_STEP <= now) {
            self.steps.push_back(Step { began: now, ..Step::default() });
        }
        if let Some(step) = self.steps.back_mut() {
            match ending {
                Ending::Handled => step.handled += 1,
                Ending::Refused => step.refused += 1,
                Ending::Failed => step.failed += 1,
            }
        }
    }

    fn expire(&mut self, now: Duration) {
        while self.steps.front().is_some_and(|step| step.began + OUTCOME_WINDOW <= now) {
            self.steps.pop_front();
        }
    }

    fn read(&mut self, now: Duration) -> Outcomes {
        self.expire(now);
        self.streak.recover(now);
        let sum = |of: fn(&Step) -> u64| self.steps.iter().map(of).sum();
        Outcomes {
            handled: sum(|step| step.handled),
            refused: sum(|step| step.refused),
            failed: sum(|step| step.failed),
            dead_lettered: self.dead_lettered,
            failing: self.streak.failing(),
            last_failure: self.last_failure.clone(),
        }
    }

    /// What is reported at once when it changes.
    fn headline(&self) -> (bool, bool) {
        (self.streak.is_failing, self.dead_lettered > 0)
    }
}

/// Deliveries that ended alike, one after the other.
#[derive(Debug, Default)]
struct Streak {
    is_failing: bool,
    was_ever_handled: bool,
    /// Different events that failed since one was handled, at most [`MAX_FAILING_EVENTS`].
    events: BTreeSet<u64>,
    attempts: u32,
    has_failed_attempts: bool,
    handled: u32,
    last_failure: Duration,
}

impl Streak {
    fn count(&mut self, now: Duration, sequence: u64, ending: Ending) {
        if ending == Ending::Handled {
            self.was_ever_handled = true;
            self.handled = self.handled.saturating_add(1);
            self.events.clear();
            self.attempts = 0;
            self.has_failed_attempts = false;
            return self.recover(now);
        }
        self.handled = 0;
        self.last_failure = now;
        self.attempts = self.attempts.saturating_add(1);
        self.has_failed_attempts |= ending == Ending::Failed;
        if self.events.len() < MAX_FAILING_EVENTS as usize {
            self.events.insert(sequence);
        }
        let first = ending == Ending::Refused || self.attempts >= FAILING_ATTEMPTS;
        self.is_failing |= self.events.len() >= FAILING_EVENTS || (first && !self.was_ever_handled);
    }

    fn recover(&mut self, now: Duration) {
        let quiet = self.handled > 0 && now.saturating_sub(self.last_failure) >= RECOVERY_TIME;
        if quiet || self.handled >= RECOVERED_EVENTS {
            self.is_failing = false;
        }
    }

    fn failing(&self) -> Option<Failing> {
        let events = u32::try_from(self.events.len()).unwrap_or(MAX_FAILING_EVENTS);
        self.is_failing.then_some(Failing { events, refused: !self.has_failed_attempts })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ending::{Failed, Handled, Refused};
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// After these endings, each of another event and a second later than the one before.
    fn after(endings: &[Ending]) -> Ledger {
        let mut ledger = Ledger::default();
        for (sequence, ending) in (1..).zip(endings) {
            ledger.count(at(sequence), sequence, *ending);
        }
        ledger
    }

    fn failing(endings: &[Ending]) -> Option<Failing> {
        let now = at(endings.len() as u64);
        after(endings).read(now).failing
    }

    #[test]
    fn a_rule_needs_several_events_unless_none_was_ever_handled() {
        let (refused, mixed) = (Failing { events: 1, refused: true }, Failing { events: 5, refused: false });
        for (what, endings, expected) in [
            ("nothing", vec![], None),
            ("handled", vec![Handled], None),
            ("the first is refused", vec![Refused], Some(refused)),
            ("the first fails", vec![Failed], None),
            ("the first ones fail", vec![Failed; 3], Some(Failing { events: 3, refused: false })),
            ("one of many is refused", vec![Handled, Refused, Handled, Refused], None),
            ("four in a row", vec![Handled, Refused, Refused, Failed, Refused], None),
            ("five in a row", vec![Handled, Refused, Refused, Failed, Refused, Refused], Some(mixed)),
            ("many", vec![Refused; 40], Some(Failing { events: 20, refused: true })),
        ] {
            assert_eq!(failing(&endings), expected, "{what}");
        }
    }

    #[test]
    fn one_event_again_and_again_is_no_rule_once_others_were_handled() {
        let mut ledger = after(&[Handled]);
        for second in 2..60 {
            ledger.count(at(second), 7, Failed);
        }
        assert_eq!(ledger.read(at(60)).failing, None);
    }

    #[test]
    fn it_ends_with_several_handled_events_or_with_one_and_a_while_without_failures() {
        let mut ledger = after(&[Refused; 5]);
        ledger.count(at(6), 6, Handled);
        assert!(ledger.read(at(6)).failing.is_some(), "one that is handled between failures is not enough");
        assert_eq!(ledger.read(at(15)).failing, None);
        let mut ledger = after(&[Refused; 5]);
        for sequence in 6..11 {
            assert!(ledger.read(at(6)).failing.is_some());
            ledger.count(at(6), sequence, Handled);
        }
        assert_eq!(ledger.read(at(6)).failing, None);
        assert!(after(&[Refused]).read(at(9999)).failing.is_some(), "time alone proves nothing");
    }

    #[test]
    fn counts_are_of_the_window() {
        let mut ledger = after(&[Handled, Refused, Failed, Refused]);
        let found = ledger.read(at(5));
        assert_eq!((found.handled, found.refused, found.failed), (1, 2, 1));
        ledger.count(at(299), 9, Handled);
        assert_eq!(ledger.read(at(301)).handled, 1);
        assert_eq!(ledger.read(at(700)).handled, 0);
    }

    #[test]
    fn news_is_what_changes_the_headline() {
        let log = OutcomeLog::new("http://127.0.0.1:1/".into());
        log.failed(1, ("17", "order.new"), Refused, Some(404), "404 Not Found: \r\nno");
        let told = || futures::FutureExt::now_or_never(log.changed()).is_some();
        assert!(told());
        log.dead_lettered();
        assert!(told());
        log.failed(2, ("17", "order.new"), Refused, Some(404), "");
        log.dead_lettered();
        log.handled(3);
        assert!(!told());
        let found = log.read();
        assert_eq!(found.dead_lettered, 2);
        let failure = found.last_failure.unwrap();
        assert_eq!((failure.event_id.as_str(), failure.event_type.as_str()), ("17", "order.new"));
    }

    proptest! {
        #[test]
        fn it_is_bounded(endings in proptest::collection::vec((0u64..40, 0u64..60, 0u8..3), 0..300)) {
            let mut ledger = Ledger::default();
            let mut now = Duration::ZERO;
            for (sequence, later, ending) in endings {
                now += at(later);
                ledger.count(now, sequence, [Handled, Refused, Failed][usize::from(ending)]);
                prop_assert!(ledger.steps.len() <= 11 && ledger.streak.events.len() <= 20);
            }
            let found = ledger.read(now + OUTCOME_WINDOW + WINDOW_STEP);
            prop_assert_eq!((found.handled, found.refused, found.failed), (0, 0, 0));
        }
    }
}
