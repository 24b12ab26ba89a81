//! The user's container: an HTTP server that answers as it is told and keeps what it got.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use tidegate_test_broker::free_port;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// One request.
#[derive(Clone, Debug)]
pub struct Received {
    pub at: Instant,
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How it is answered.
    pub status: u16,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn id(&self) -> String {
        self.header("ce-id").to_owned()
    }
}

/// What it answers, and after which time.
type Script = Arc<dyn Fn(&Received) -> (Response, Duration) + Send + Sync>;

/// Whose answers it keeps back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    Nothing,
    Everything,
    /// The event with this id.
    Event(&'static str),
}

#[derive(Clone)]
struct Shared {
    ledger: Arc<Mutex<Vec<Received>>>,
    script: Script,
    hold: Arc<watch::Sender<Hold>>,
}

/// A running container. Dropped, it is gone: its listener and all its connections.
pub struct Container {
    pub port: u16,
    shared: Shared,
    task: JoinHandle<()>,
}

impl Container {
    /// One that answers 204 at once.
    pub async fn start() -> Self {
        Self::answering(|_| (204, Duration::ZERO)).await
    }

    /// Keeps answers back from now on, or gives those that it has kept.
    pub fn hold(&self, hold: Hold) {
        self.shared.hold.send_replace(hold);
    }

    /// One that answers as the function says.
    pub async fn answering(script: impl Fn(&Received) -> (u16, Duration) + Send + Sync + 'static) -> Self {
        Self::at(free_port(), script).await
    }

    /// The same at a certain port.
    pub async fn at(port: u16, script: impl Fn(&Received) -> (u16, Duration) + Send + Sync + 'static) -> Self {
        Self::scripted(port, move |received| {
            let (status, wait) = script(received);
            (plain(status), wait)
        })
        .await
    }

    /// One that answers with more than a status.
    pub async fn responding(script: impl Fn(&Received) -> (Response, Duration) + Send + Sync + 'static) -> Self {
        Self::scripted(free_port(), script).await
    }

    /// One that answers 204 at once, on this address.
    pub async fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::listening(listener, |_| (plain(204), Duration::ZERO))
    }

    async fn scripted(port: u16, script: impl Fn(&Received) -> (Response, Duration) + Send + Sync + 'static) -> Self {
        Self::listening(TcpListener::bind(("127.0.0.1", port)).await.unwrap(), script)
    }

    fn listening(
        listener: TcpListener,
        script: impl Fn(&Received) -> (Response, Duration) + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let shared = Shared {
            ledger: Arc::default(),
            script: Arc::new(script),
            hold: Arc::new(watch::Sender::new(Hold::Nothing)),
        };
        let app = Router::new().fallback(receive).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { port, shared, task }
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.ledger.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.ledger.lock().unwrap().len()
    }

    /// What is wanted of each request, in order of arrival. Where it is asked for again and again, a copy of them all would
    /// take the time that the sidecar needs.
    pub fn of_each<T>(&self, wanted: impl FnMut(&Received) -> Option<T>) -> Vec<T> {
        self.shared.ledger.lock().unwrap().iter().filter_map(wanted).collect()
    }

    /// All ids in order of arrival, repeated ones included.
    pub fn ids(&self) -> Vec<String> {
        self.of_each(|received| Some(received.id()))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let mut received = Received { at: Instant::now(), method, path: uri.path().to_owned(), headers, body, status: 0 };
    let (response, wait) = (shared.script)(&received);
    received.status = response.status().as_u16();
    shared.ledger.lock().unwrap().push(received.clone());
    sleep(wait).await;
    let is_free = |hold: &Hold| match *hold {
        Hold::Nothing => true,
        Hold::Everything => false,
        Hold::Event(id) => received.id() != id,
    };
    let _ = shared.hold.subscribe().wait_for(is_free).await;
    response
}

fn plain(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let mut response = Response::builder().status(status);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response = response.header("retry-after", "1");
    }
    response.body(if status.is_success() { "".into() } else { "no\r\nthanks".into() }).unwrap()
}
