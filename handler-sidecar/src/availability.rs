//! The handler's container as the sidecar knows it: up, taking no connections, or only saying that it is
//! unavailable ([`crate::brake`] decides which).
//!
//! While it takes no connections, a probe waits for one: a TCP connect, closed at once, so nothing is sent to a
//! handler that did not ask for it. While it is unavailable, events try it, one at a time, with a pause in between.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;
use crate::brake::{Brake, State};
use crate::outcome::Answer;

const PROBE_LIMIT: Duration = Duration::from_secs(1);
const PROBES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1), factor: 1.5, jitter: 0.0 };

/// What is known of the handler.
#[derive(Debug)]
pub struct Availability {
    port: u16,
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
    /// Of the listener at this port on loopback.
    pub fn new(port: u16) -> Self {
        Self { port, brake: watch::Sender::default(), trial: Semaphore::new(1) }
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

    /// Tells that a connection could not be made, so nothing was sent.
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
                    tracing::debug!(port, why, "the handler is still not reachable");
                }
                State::Unreachable(why) => {
                    tracing::warn!(port, why, "the handler is not reachable: nothing is pulled until it is");
                }
                State::Unavailable(why) => {
                    tracing::warn!(port, why, "the handler is unavailable: one event at a time is tried");
                }
            }
            true
        });
    }

    /// Probes while nobody takes connections. Never returns.
    pub async fn watch(&self) {
        let mut brake = self.subscribe();
        loop {
            let _ = brake.wait_for(|brake| matches!(brake.state(), State::Unreachable(_))).await;
            let mut failures = 0;
            while !self.probe().await {
                failures += 1;
                sleep(PROBES.wait(failures, 0.5)).await;
            }
            self.change(Brake::connected);
        }
    }

    async fn probe(&self) -> bool {
        matches!(timeout(PROBE_LIMIT, TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;
    use http::StatusCode;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

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
        let handler = Arc::new(Availability::new(port));
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

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_tries_an_unavailable_handler() {
        let handler = Availability::new(1);
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
