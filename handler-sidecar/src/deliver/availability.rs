//! The handler's container as the sidecar knows it: whether it may be sent anything, and whether what it is sent fails
//! as a whole ([`crate::deliver::breaker`] judges that).
//!
//! While it takes no connections, a TCP connect waits for one, closed at once, so nothing is sent to a handler that did
//! not ask for it. Where it has probes of its own (startup, readiness), they have to succeed as well, and nothing is
//! sent while the readiness probe fails. While the breaker is open, events try the handler, one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_broker_client::probes::{Probe, Probes};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::deliver::breaker::{Admission, Blame, Breaker, Failure};
use crate::deliver::loopback::{self, Loopback};
use crate::deliver::probe;
use crate::settle::backoff::Backoff;
use crate::settle::outcome::{Answer, Class};

/// Between connects while nothing listens. A pod counts as ready as soon as its program runs, and its first event must
/// not wait much longer: each pause is about a twentieth of the wait so far.
const CONNECT_PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(20), max: Duration::from_secs(1), factor: 1.05, jitter: 0.0 };
/// The same between questions of a probe that has not succeeded yet; its own period is the longest pause.
const PROBE_PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::MAX, factor: 1.05, jitter: 0.0 };

/// What is thought of the handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It answers.
    Up,
    /// Nothing may be sent to it: it takes no connections, or its own readiness probe fails; why.
    Unreachable(String),
    /// Different events fail one after the other.
    Failing {
        /// The first of these failures.
        since: Instant,
        /// The last answer to a trial, in words.
        last: String,
    },
}

/// What is known of the handler.
#[derive(Debug)]
pub struct Availability {
    loopback: Loopback,
    probes: Probes,
    origin: Instant,
    state: watch::Sender<State>,
    inner: Mutex<Inner>,
    /// Events take turns as trials in the order in which they came.
    trials: Semaphore,
    trial_is_over: Notify,
}

#[derive(Debug)]
struct Inner {
    /// Why nothing may be sent.
    unreachable: Option<String>,
    breaker: Breaker,
    /// The last failure that opened the breaker or kept it open.
    last: String,
    /// Whether a trial has failed since the breaker opened, of which a person hears then.
    is_said: bool,
}

/// The right to send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// As many as there are may send.
    Free,
    /// The breaker is open: this is a trial.
    Trial,
}

/// An attempt that ended.
#[derive(Debug)]
pub struct AttemptEnd<'a> {
    /// The event's sequence.
    pub event: u64,
    /// Whether no attempt of the event has failed before.
    pub is_first: bool,
    /// In which turn.
    pub turn: Turn,
    /// When it began.
    pub began: Instant,
    /// How it ended.
    pub answer: &'a Answer,
    /// What that means.
    pub class: Class,
}

impl Availability {
    /// Of the listener at this port on loopback, with these probes.
    pub fn new(loopback: Loopback, probes: Probes) -> Self {
        // Nothing is known before the first connection.
        let why = "it has not taken a connection yet".to_owned();
        let inner =
            Inner { unreachable: Some(why.clone()), breaker: Breaker::default(), last: String::new(), is_said: false };
        Self {
            loopback,
            probes,
            origin: Instant::now(),
            state: watch::Sender::new(State::Unreachable(why)),
            inner: Mutex::new(inner),
            trials: Semaphore::new(1),
            trial_is_over: Notify::new(),
        }
    }

    /// Changes of the state.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Waits until an event may be sent: at once while the handler is up. The wait is the caller's to bound.
    pub async fn turn(&self) -> Turn {
        let mut state = self.subscribe();
        loop {
            let is_failing = match &*state.borrow_and_update() {
                State::Up => return Turn::Free,
                State::Unreachable(_) => false,
                State::Failing { .. } => true,
            };
            // The sender lives as long as `self`: there is no error.
            if is_failing {
                tokio::select! {
                    biased;
                    turn = self.trial() => return turn,
                    _ = state.wait_for(|state| !matches!(state, State::Failing { .. })) => {}
                }
            } else {
                let _ = state.changed().await;
            }
        }
    }

    /// The turn of an event while the handler is up, without waiting.
    pub fn free_turn(&self) -> Option<Turn> {
        matches!(*self.state.borrow(), State::Up).then_some(Turn::Free)
    }

    async fn trial(&self) -> Turn {
        // It is never closed.
        let Ok(_first) = self.trials.acquire().await else { return std::future::pending().await };
        loop {
            let admission = self.inner().breaker.admit(self.origin.elapsed());
            let moment = match admission {
                Admission::Free => return Turn::Free,
                Admission::Trial => return Turn::Trial,
                Admission::Wait(moment) => self.origin + moment,
            };
            tokio::select! {
                () = sleep_until(moment) => {}
                () = self.trial_is_over.notified() => {}
            }
        }
    }

    /// Tells how an attempt ended. Returns what it says something about, if it failed.
    pub fn ended(&self, ended: &AttemptEnd<'_>) -> Blame {
        let AttemptEnd { event, is_first, turn, began, answer, class } = *ended;
        let (now, is_trial) = (self.origin.elapsed(), turn == Turn::Trial);
        let mut inner = self.inner();
        if class != Class::Retryable {
            if inner.breaker.succeeded(now, is_trial) {
                self.tell(inner);
                self.trial_is_over.notify_one();
            }
            return Blame::Event;
        }
        let was_open = inner.breaker.is_open();
        let asked = answer.asked_pause();
        let began = began.duration_since(self.origin);
        let blame = inner.breaker.failed(now, Failure { event, is_first, began, asked, is_trial });
        if inner.breaker.is_open() && (is_trial || !was_open) {
            inner.last = answer.to_string();
            if is_trial && !std::mem::replace(&mut inner.is_said, true) {
                let (port, last) = (self.loopback.port, &inner.last);
                tracing::warn!(port, last, "one event after the other fails: one at a time tries the handler");
            }
            self.tell(inner);
            self.trial_is_over.notify_one();
        }
        blame
    }

    /// Tells that nothing can or may be sent, and why.
    pub fn unreachable(&self, why: &str) {
        let mut inner = self.inner();
        match inner.unreachable.replace(why.to_owned()) {
            Some(before) if before == why => return,
            Some(_) => tracing::debug!(port = self.loopback.port, why, "still nothing is pulled"),
            None => tracing::warn!(port = self.loopback.port, why, "nothing is pulled until the handler is ready"),
        }
        self.tell(inner);
    }

    /// Tells that a connection can be made and that the probes succeed. It says nothing about how events end, but it
    /// may be another program that takes them.
    fn reachable(&self) {
        let mut inner = self.inner();
        if inner.unreachable.take().is_some() {
            inner.breaker.has_news(self.origin.elapsed());
            self.tell(inner);
        }
    }

    /// Tells everybody of what changed.
    fn tell(&self, mut inner: MutexGuard<'_, Inner>) {
        let state = match (&inner.unreachable, inner.breaker.open_since()) {
            (Some(why), _) => State::Unreachable(why.clone()),
            (None, Some(since)) => State::Failing { since: self.origin + since, last: inner.last.clone() },
            (None, None) => State::Up,
        };
        let port = self.loopback.port;
        if !inner.breaker.is_open() && std::mem::take(&mut inner.is_said) {
            tracing::info!(port, "an event is handled: the handler gets all of them again");
        }
        self.state.send_if_modified(|before| {
            if *before == state {
                return false;
            }
            match (&*before, &state) {
                (State::Unreachable(_), State::Up) => tracing::info!(port, "the handler is available"),
                (State::Up, State::Failing { last, .. }) => tracing::debug!(port, last, "the breaker opens"),
                _ => {}
            }
            *before = state;
            true
        });
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches the container. Never returns.
    pub async fn watch(&self) {
        let mut is_new = true;
        loop {
            // A port that was closed was opened by a container that has just started.
            is_new |= self.listening().await;
            if is_new && let Some(startup) = &self.probes.startup {
                self.succeeded("startupProbe", startup, true).await;
            }
            if let Some(readiness) = &self.probes.readiness {
                self.succeeded("readinessProbe", readiness, is_new).await;
            }
            is_new = false;
            self.reachable();
            tokio::select! {
                () = self.closed() => {}
                problem = self.unready() => self.unreachable(&problem),
            }
        }
    }

    /// Waits until nothing may be sent any more.
    async fn closed(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.subscribe().wait_for(|state| matches!(state, State::Unreachable(_))).await;
    }

    /// Waits until a connection can be made, and tells whether it had to.
    async fn listening(&self) -> bool {
        let mut failures = 0;
        while let Err(why) = loopback::connect(self.loopback.port, self.loopback.named).await {
            self.unreachable(&why);
            failures += 1;
            sleep(CONNECT_PAUSES.wait(failures, 0.5)).await;
        }
        failures > 0
    }

    /// Waits until a probe has succeeded as often as it has to.
    async fn succeeded(&self, name: &str, probe: &Probe, is_new: bool) {
        if is_new && !probe.initial_delay.is_zero() {
            self.unreachable(&format!("its {name} is asked {:?} after the start", probe.initial_delay));
            sleep(probe.initial_delay).await;
        }
        let (mut successes, mut failures) = (0, 0);
        loop {
            let asked = Instant::now();
            let pause = match probe::ask(&probe.check, probe.timeout).await {
                Ok(()) => {
                    successes += 1;
                    if successes >= probe.success_threshold.max(1) {
                        return;
                    }
                    period(probe)
                }
                Err(problem) => {
                    successes = 0;
                    failures += 1;
                    self.unreachable(&format!("its {name} fails: {problem}"));
                    PROBE_PAUSES.wait(failures, 0.5).min(period(probe))
                }
            };
            sleep_until(asked + pause).await;
        }
    }

    /// Waits until the readiness probe has failed as often as it has to, and says how. Without one, for ever.
    async fn unready(&self) -> String {
        let Some(probe) = &self.probes.readiness else { return std::future::pending().await };
        let mut failures = 0;
        loop {
            sleep(period(probe)).await;
            match probe::ask(&probe.check, probe.timeout).await {
                Ok(()) => failures = 0,
                Err(problem) => {
                    failures += 1;
                    if failures >= probe.failure_threshold {
                        return format!("its readinessProbe fails: {problem}");
                    }
                }
            }
        }
    }
}

/// Never zero, which would ask without a pause.
fn period(probe: &Probe) -> Duration {
    probe.period.max(Duration::from_millis(10))
}

#[cfg(test)]
#[path = "availability_tests.rs"]
mod tests;
