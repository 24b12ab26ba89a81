//! The circuit breaker: whether the handler as a whole fails, judged by how attempts end. Pure: time comes in.
//!
//! One event that fails says something about the event. Different ones that fail one after the other say something
//! about the handler, and how many it takes depends on what is usual for it ([`Window::needed`]). While the breaker is
//! open, one event at a time tries the handler, and what fails is not the event's fault. A trial that succeeds closes
//! it.

mod window;

use std::time::Duration;

use self::window::{MAX_NEEDED, MIN_NEEDED, WINDOW, Window};

/// The shortest and the longest pause between two trials, unless the handler asks for more.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// `Retry-After` makes a pause no longer than this: well below the time that an event waits here for its turn.
const MAX_ASKED_PAUSE: Duration = Duration::from_secs(30);
/// A trial that has no answer after this time holds up the next one no longer.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// An outage of which no more than a few events have told for so long may as well be these events' fault: their attempts
/// count again. More than a few of them, and nothing that succeeds, say that it is the handler's, however long it lasts.
const DOUBT_AFTER: Duration = Duration::from_secs(600);

/// A failed attempt of an event; only such failures as may be followed by a success of the same event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The event's sequence.
    pub event: u64,
    /// Whether no attempt of the event has failed before.
    pub is_first: bool,
    /// When the attempt began.
    pub began: Duration,
    /// How long the handler asked to be left alone (`Retry-After` of a 429 or 503).
    pub asked: Option<Duration>,
    /// Whether it tried an open breaker.
    pub is_trial: bool,
}

/// What a failed attempt says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The event: the attempt counts.
    Event,
    /// The handler, which has failed for so long: the attempt does not count.
    Handler(Duration),
}

/// What an event may do that wants to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is sent, like all others.
    Free,
    /// It is sent as a trial.
    Trial,
    /// It waits until this moment, unless something changes before.
    Wait(Duration),
}

/// The judge.
#[derive(Debug, Default)]
pub struct Breaker {
    window: Window,
    last_success: Option<Duration>,
    /// The failures since then.
    run: Option<Run>,
    opening: Option<Opening>,
}

/// Failures without a success in between.
#[derive(Debug)]
struct Run {
    since: Duration,
    /// So many different events whose first attempt fails open the breaker.
    needed: usize,
    /// These events; at most [`MAX_NEEDED`].
    first_attempts: Vec<u64>,
    events: Distinct,
    /// Those whose attempt began after the last success, so that it says more than what was known by then.
    begun_since: Distinct,
}

/// Whether there is one event, or a few, or more than that.
#[derive(Debug, Default)]
struct Distinct {
    /// At most [`MIN_NEEDED`] of them.
    some: Vec<u64>,
}

impl Distinct {
    fn note(&mut self, event: u64) {
        if self.some.len() < MIN_NEEDED && !self.some.contains(&event) {
            self.some.push(event);
        }
    }

    fn has_another(&self) -> bool {
        self.some.len() > 1
    }

    fn are_few(&self) -> bool {
        self.some.len() < MIN_NEEDED
    }
}

/// While it is open.
#[derive(Debug)]
struct Opening {
    /// When the next trial may begin.
    trial_at: Duration,
}

impl Breaker {
    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.opening.is_some()
    }

    /// When the failures began, if it is open.
    pub fn open_since(&self) -> Option<Duration> {
        self.opening.as_ref().and(self.run.as_ref()).map(|run| run.since)
    }

    /// An attempt ended with an answer that says that the handler works. Returns whether that closed the breaker: what
    /// was under way when it opened does not.
    pub fn succeeded(&mut self, now: Duration, is_trial: bool) -> bool {
        self.window.note_success(now);
        self.last_success = Some(now);
        let closes = is_trial && self.opening.take().is_some();
        if self.opening.is_none() && self.run.is_some() {
            self.run = None;
        }
        closes
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Duration, failure: Failure) -> Blame {
        let Failure { event, is_first, began, asked, is_trial } = failure;
        let run = self.run.get_or_insert_with(|| Run {
            since: now,
            needed: self.window.needed(now),
            first_attempts: Vec::new(),
            events: Distinct::default(),
            begun_since: Distinct::default(),
        });
        if is_first {
            self.window.note_failure(now);
        }
        run.note(event, is_first, self.last_success.is_none_or(|success| success <= began));
        let is_quiet = self.last_success.is_none_or(|success| now.saturating_sub(success) >= WINDOW);
        let judged = run.first_attempts.len() >= run.needed || (is_quiet && run.begun_since.has_another());
        let lasted = now.saturating_sub(run.since);
        let asked = asked.filter(|asked| !asked.is_zero());
        if is_trial || (self.opening.is_none() && (judged || asked.is_some())) {
            self.opening = Some(Opening { trial_at: now + pause(lasted, asked) });
        }
        let is_in_doubt = lasted >= DOUBT_AFTER && run.events.are_few();
        match &self.opening {
            Some(_) if run.events.has_another() && !is_in_doubt => Blame::Handler(lasted),
            _ => Blame::Event,
        }
    }

    /// What an event may do now. A trial that is admitted keeps others waiting until its answer, or for a while.
    pub fn admit(&mut self, now: Duration) -> Admission {
        match &mut self.opening {
            None => Admission::Free,
            Some(opening) if opening.trial_at <= now => {
                opening.trial_at = now + TRIAL_TIMEOUT;
                Admission::Trial
            }
            Some(opening) => Admission::Wait(opening.trial_at),
        }
    }

    /// Something else says that the handler may work again: the next trial may begin.
    pub fn has_news(&mut self, now: Duration) {
        if let Some(opening) = &mut self.opening {
            opening.trial_at = now;
        }
    }
}

impl Run {
    fn note(&mut self, event: u64, is_first: bool, begun_since: bool) {
        self.events.note(event);
        if begun_since {
            self.begun_since.note(event);
        }
        if is_first && self.first_attempts.len() < MAX_NEEDED && !self.first_attempts.contains(&event) {
            self.first_attempts.push(event);
        }
    }
}

/// The pause before the next trial: a tenth of the outage so far.
fn pause(lasted: Duration, asked: Option<Duration>) -> Duration {
    let (shortest, longest) = PAUSES;
    let longest = asked.map_or(longest, |asked| asked.clamp(longest, MAX_ASKED_PAUSE));
    (lasted / 10).clamp(shortest, longest)
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
