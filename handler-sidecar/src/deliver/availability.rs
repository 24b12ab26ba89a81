//! The handler's container as the sidecar knows it: up, not to be sent anything, or only saying that it is unavailable
//! ([`crate::deliver::brake`] decides which).
//!
//! While it takes no connections, a TCP connect waits for one, closed at once, so nothing is sent to a handler that did
//! not ask for it. Where it has probes of its own (startup, readiness), they have to succeed as well, and nothing is sent
//! while the readiness probe fails. While it is unavailable, events try it, one at a time, with a pause in between.

use std::time::Duration;

use tidegate_broker_client::probes::{Probe, Probes};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::deliver::brake::{Brake, State};
use crate::deliver::loopback;
use crate::deliver::probe;
use crate::settle::backoff::Backoff;
use crate::settle::outcome::Answer;

/// Between connects while nothing listens. A pod counts as ready as soon as its program runs, and its first event must
/// not wait much longer: each pause is about a twentieth of the wait so far.
const CONNECT_PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(20), max: Duration::from_secs(1), factor: 1.05, jitter: 0.0 };
/// The same between questions of a probe that has not succeeded yet; its own period is the longest pause.
const PROBE_PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::MAX, factor: 1.05, jitter: 0.0 };

/// What is known of the handler.
#[derive(Debug)]
pub struct Availability {
    port: u16,
    probes: Probes,
    brake: watch::Sender<Brake>,
    trial: Semaphore,
}

/// The right to send now; to be held until the answer was told.
#[derive(Debug)]
pub enum Turn<'a> {
    /// As many as there are may send.
    Free,
    /// Nobody else does.
    Trial(SemaphorePermit<'a>),
}

impl Availability {
    /// Of the listener at this port on loopback, with these probes.
    pub fn new(port: u16, probes: Probes) -> Self {
        Self { port, probes, brake: watch::Sender::default(), trial: Semaphore::new(1) }
    }

    /// Changes of the state.
    pub fn subscribe(&self) -> watch::Receiver<Brake> {
        self.brake.subscribe()
    }

    /// Waits until an event may be sent: at once while the handler is up. The wait is the caller's to bound.
    pub async fn turn(&self) -> Turn<'_> {
        let mut brake = self.subscribe();
        loop {
            let state = brake.borrow_and_update().state().clone();
            match state {
                State::Up => return Turn::Free,
                State::Unreachable(_) => {
                    // The sender lives as long as `self`: there is no error.
                    let _ = brake.changed().await;
                }
                State::Unavailable(_) => tokio::select! {
                    turn = self.trial() => return turn,
                    _ = brake.changed() => {}
                },
            }
        }
    }

    /// The turn of an event while the handler is up, without waiting.
    pub fn free_turn(&self) -> Option<Turn<'_>> {
        matches!(self.brake.borrow().state(), State::Up).then_some(Turn::Free)
    }

    async fn trial(&self) -> Turn<'_> {
        match self.trial.acquire().await {
            Ok(permit) => {
                let pause = self.brake.borrow().pause();
                sleep(pause).await;
                Turn::Trial(permit)
            }
            // It is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Tells of the answer that an event got in its turn. Returns whether it was an attempt of the event, or only a
    /// sign of the outage.
    pub fn answered(&self, event: u64, answer: &Answer, turn: &Turn<'_>) -> bool {
        if self.brake.borrow().is_clear() && matches!(answer, Answer::Status { code, .. } if !code.is_server_error()) {
            return true;
        }
        let mut counts = true;
        let trial = matches!(turn, Turn::Trial(_));
        self.change(|brake| counts = brake.answered(event, answer, trial));
        counts
    }

    /// Tells that nothing can or may be sent, and why.
    pub fn unreachable(&self, why: &str) {
        self.change(|brake| brake.unreachable(why));
    }

    fn change(&self, how: impl FnOnce(&mut Brake)) {
        self.brake.send_if_modified(|brake| {
            let before = brake.state().clone();
            how(brake);
            let (port, after) = (self.port, brake.state());
            if *after == before {
                return false;
            }
            match after {
                State::Up => tracing::info!(port, "the handler is available"),
                State::Unreachable(why) if matches!(before, State::Unreachable(_)) => {
                    tracing::debug!(port, why, "still nothing is pulled");
                }
                State::Unreachable(why) => tracing::warn!(port, why, "nothing is pulled until the handler is ready"),
                State::Unavailable(why) => {
                    tracing::warn!(port, why, "the handler is unavailable: one event at a time is tried");
                }
            }
            true
        });
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
            self.change(Brake::connected);
            tokio::select! {
                () = self.closed() => {}
                problem = self.unready() => self.unreachable(&problem),
            }
        }
    }

    /// Waits until nothing may be sent any more.
    async fn closed(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.subscribe().wait_for(|brake| matches!(brake.state(), State::Unreachable(_))).await;
    }

    /// Waits until a connection can be made, and tells whether it had to.
    async fn listening(&self) -> bool {
        let mut failures = 0;
        while let Err(why) = loopback::connect(self.port).await {
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt as _;
    use http::StatusCode;
    use tidegate_broker_client::probes::Check;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn status(code: StatusCode) -> Answer {
        Answer::Status { code, retry_after: None, text: String::new() }
    }

    #[tokio::test]
    async fn it_follows_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let handler = Arc::new(Availability::new(port, Probes::default()));
        let watcher = tokio::spawn({
            let handler = handler.clone();
            async move { handler.watch().await }
        });
        assert!(timeout(Duration::from_millis(250), handler.turn()).await.is_err());
        let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        assert!(matches!(timeout(LONG, handler.turn()).await.unwrap(), Turn::Free));
        handler.unreachable("test");
        assert!(handler.free_turn().is_none());
        timeout(LONG, handler.turn()).await.unwrap();
        watcher.abort();
    }

    /// A readiness probe decides; a listener that was closed has a new program, whose startup probe comes first.
    #[tokio::test]
    async fn its_probes_decide() {
        let gate = || Arc::new(AtomicBool::new(false));
        let (started, ready) = (gate(), gate());
        let answer = |gate: Arc<AtomicBool>| {
            axum::routing::get(move || async move {
                if gate.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
            })
        };
        let app = axum::Router::new().route("/s", answer(started.clone())).route("/r", answer(ready.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let _server = tokio::spawn(async move { axum::serve(listener, app).await });
        let probe = |path: &str| Probe {
            check: Check::Http { tls: false, port, path: path.into(), headers: Vec::new() },
            initial_delay: Duration::from_millis(50),
            period: Duration::from_millis(20),
            timeout: LONG,
            success_threshold: 2,
            failure_threshold: 2,
        };
        let handler =
            Arc::new(Availability::new(port, Probes { startup: Some(probe("/s")), readiness: Some(probe("/r")) }));
        let _watcher = tokio::spawn({
            let handler = handler.clone();
            async move { handler.watch().await }
        });
        let says = async |expected: &str| {
            let mut brake = handler.subscribe();
            let said =
                brake.wait_for(|brake| matches!(brake.state(), State::Unreachable(why) if why.contains(expected)));
            timeout(LONG, said).await.unwrap_or_else(|_| panic!("never says {expected}")).unwrap();
        };
        says("its startupProbe is asked 50ms after the start").await;
        ready.store(true, Ordering::Relaxed);
        says(&format!("its startupProbe fails: GET http://127.0.0.1:{port}/s answers 503")).await;
        started.store(true, Ordering::Relaxed);
        timeout(LONG, handler.turn()).await.unwrap();
        ready.store(false, Ordering::Relaxed);
        started.store(false, Ordering::Relaxed);
        says("its readinessProbe fails").await;
        assert!(handler.free_turn().is_none());
        ready.store(true, Ordering::Relaxed);
        // It is the same program: it has started.
        timeout(LONG, handler.turn()).await.unwrap();
    }

    /// However long a program takes to listen or to be ready, what waits for it is found out soon after.
    #[test]
    fn a_pause_is_short_beside_the_wait_so_far() {
        for pauses in [CONNECT_PAUSES, PROBE_PAUSES] {
            let mut waited = Duration::ZERO;
            for failures in 1..200 {
                let pause = pauses.wait(failures, 0.5);
                assert!(pause <= pauses.initial + waited / 10, "{pause:?} after {waited:?}");
                waited += pause;
            }
        }
    }

    /// A program that is ready long before its probe's next question is due.
    #[tokio::test]
    async fn a_long_period_does_not_hold_up_the_first_event() {
        let is_ready = Arc::new(AtomicBool::new(false));
        let answer = axum::routing::get({
            let is_ready = is_ready.clone();
            move || async move {
                if is_ready.load(Ordering::Relaxed) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = axum::Router::new().route("/r", answer);
        let _server = tokio::spawn(async move { axum::serve(listener, app).await });
        let readiness = Probe {
            check: Check::Http { tls: false, port, path: "/r".into(), headers: Vec::new() },
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(3600),
            timeout: LONG,
            success_threshold: 1,
            failure_threshold: 3,
        };
        let handler = Arc::new(Availability::new(port, Probes { startup: None, readiness: Some(readiness) }));
        let _watcher = tokio::spawn({
            let handler = handler.clone();
            async move { handler.watch().await }
        });
        let mut brake = handler.subscribe();
        let unready = brake.wait_for(|brake| matches!(brake.state(), State::Unreachable(why) if why.contains("503")));
        timeout(LONG, unready).await.unwrap().unwrap();
        is_ready.store(true, Ordering::Relaxed);
        assert!(matches!(timeout(LONG, handler.turn()).await.unwrap(), Turn::Free));
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_tries_an_unavailable_handler() {
        let handler = Availability::new(1, Probes::default());
        handler.change(Brake::connected);
        for event in 0..5 {
            handler.answered(event, &status(StatusCode::SERVICE_UNAVAILABLE), &Turn::Free);
        }
        let begun = Instant::now();
        let first = handler.turn().await;
        assert!(matches!(first, Turn::Trial(_)));
        assert_eq!(begun.elapsed(), Duration::from_millis(100));
        let second = handler.turn();
        tokio::pin!(second);
        assert!(timeout(LONG, &mut second).await.is_err(), "two at a time");
        assert!(!handler.answered(0, &status(StatusCode::BAD_GATEWAY), &first));
        let begun = Instant::now();
        drop(first);
        assert!(matches!((&mut second).await, Turn::Trial(_)));
        assert_eq!(begun.elapsed(), Duration::from_millis(200), "the pause has grown");
        assert!(handler.turn().now_or_never().is_none());
        assert!(handler.answered(1, &status(StatusCode::OK), &Turn::Free));
        assert!(matches!(handler.turn().now_or_never(), Some(Turn::Free)));
    }
}
