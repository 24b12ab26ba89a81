//! The user's container for the tests of order: it notes, for each key, which event starts when, and fails some
//! attempts on purpose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What was seen of one key. Its events are numbered from 1.
#[derive(Debug, Default)]
struct Key {
    /// Events up to this one were handled.
    handled: u64,
    /// The latest event that ever started.
    latest: u64,
    /// Requests under way.
    running: u32,
}

/// Figures of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub requests: u64,
    /// Attempts that were answered with 500.
    pub failed: u64,
    /// Events that came again after they had been handled.
    pub repeated: u64,
    /// Requests that began while another one of the same key was under way.
    pub overlaps: u64,
    /// Events that started before an earlier one was handled, or that came again after a later one had started: it
    /// was not settled then.
    pub violations: u64,
}

#[derive(Debug, Default)]
struct Ledger {
    keys: BTreeMap<String, Key>,
    figures: Figures,
}

#[derive(Clone)]
struct Shared {
    ledger: Arc<Mutex<Ledger>>,
    /// Of a hundred attempts, so many fail.
    failures: u64,
    time: Duration,
    /// One of a thousand takes this long.
    long: Duration,
}

/// A running container.
pub struct Recorder {
    pub port: u16,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Recorder {
    /// One of whose attempts this percentage fails, and which takes up to this time for each, but `long` for one of
    /// a thousand.
    pub async fn start(failures: u64, time: Duration, long: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared { ledger: Arc::default(), failures, time, long };
        let app = Router::new().fallback(receive).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, shared, task }
    }

    pub fn figures(&self) -> Figures {
        self.shared.ledger.lock().unwrap().figures
    }

    /// Events handled, each once.
    pub fn handled(&self) -> u64 {
        self.shared.ledger.lock().unwrap().keys.values().map(|key| key.handled).sum()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap) -> StatusCode {
    let id = headers.get("ce-id").and_then(|id| id.to_str().ok()).unwrap();
    let (key, number) = id.split_once('-').unwrap();
    let mut request = Request { ledger: &shared.ledger, key, number: number.parse().unwrap(), fails: true };
    shared.ledger.lock().unwrap().begin(key, request.number);
    let long = fastrand::u64(0..1000) == 0;
    sleep(if long { shared.long } else { shared.time.mul_f64(fastrand::f64()) }).await;
    request.fails = fastrand::u64(0..100) < shared.failures;
    if request.fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
}

/// A request under way; its drop is its end, also if the sidecar is killed meanwhile.
struct Request<'a> {
    ledger: &'a Mutex<Ledger>,
    key: &'a str,
    number: u64,
    fails: bool,
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.ledger.lock().unwrap().end(self.key, self.number, self.fails);
    }
}

impl Ledger {
    fn begin(&mut self, name: &str, number: u64) {
        let key = self.keys.entry(name.to_owned()).or_default();
        self.figures.requests += 1;
        if key.running > 0 {
            self.figures.overlaps += 1;
        }
        if number <= key.handled {
            self.figures.repeated += 1;
        }
        if number > key.handled + 1 || number < key.latest {
            self.figures.violations += 1;
        }
        key.latest = key.latest.max(number);
        key.running += 1;
    }

    fn end(&mut self, name: &str, number: u64, fails: bool) {
        let key = self.keys.entry(name.to_owned()).or_default();
        key.running -= 1;
        if fails {
            self.figures.failed += 1;
        } else {
            key.handled = key.handled.max(number);
        }
    }
}
