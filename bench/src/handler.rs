//! The user's container: an HTTP server with a thread of its own.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::events;
use crate::meter::Meter;

/// Room for as many connections at once as there may be events in flight.
const BACKLOG: u32 = 4096;

/// What the handler does with an event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer {
    /// How long it takes.
    pub after: Duration,
    /// Whether it refuses the event for now (503), which then does not count.
    pub unavailable: bool,
    /// Whether it answers with an event of its own.
    pub reply: bool,
}

/// What becomes of an event: its number, and which attempt it is. Called when it has arrived.
pub type Script = Arc<dyn Fn(u64, u64) -> Answer + Send + Sync>;

/// All at once, and without a word.
pub fn prompt() -> Script {
    Arc::new(|_, _| Answer::default())
}

/// Takes so long for each.
pub fn taking(after: Duration) -> Script {
    Arc::new(move |_, _| Answer { after, ..Answer::default() })
}

/// A running handler. Dropped, it is gone with all its connections.
pub struct Handler {
    /// Its port on 127.0.0.1.
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handler {
    /// Starts one that does as `script` says, and counts on this meter.
    ///
    /// # Errors
    /// There is no port or no thread.
    pub fn start(meter: &Arc<Meter>, script: Script) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            socket.listen(BACKLOG)?
        };
        let port = listener.local_addr()?.port();
        let (stop, stopped) = oneshot::channel();
        let work = Arc::new(Container { meter: meter.clone(), script });
        let serve = async move {
            tokio::select! {
                () = accept(listener, work) => {}
                _ = stopped => {}
            }
        };
        let thread = std::thread::Builder::new().name("handler".to_owned()).spawn(move || runtime.block_on(serve))?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }
}

/// Where events are posted to, at a handler's port.
pub fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/events")
}

impl Drop for Handler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Container {
    meter: Arc<Meter>,
    script: Script,
}

async fn accept(listener: TcpListener, container: Arc<Container>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let container = container.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| container.receive(request));
            // Ends with its client, however that ends.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Container {
    async fn receive(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        // daprd asks for subscriptions.
        if request.method() != Method::POST {
            return Ok(plain(StatusCode::NOT_FOUND));
        }
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let binary = events::number(header("ce-id"));
        let attempt = events::number(header("ce-tidegateattempt")).unwrap_or(1);
        let Ok(body) = request.into_body().collect().await.map(Collected::to_bytes) else {
            return Ok(plain(StatusCode::BAD_REQUEST));
        };
        let numbers = binary.map_or_else(|| events::numbers_in(&body), |number| vec![number]);
        Ok(self.answer(&numbers, attempt).await)
    }

    async fn answer(&self, numbers: &[u64], attempt: u64) -> Response<Full<Bytes>> {
        let answers: Vec<Answer> = numbers.iter().map(|number| (self.script)(*number, attempt)).collect();
        if answers.is_empty() {
            return plain(StatusCode::BAD_REQUEST);
        }
        if answers.iter().any(|answer| answer.unavailable) {
            return plain(StatusCode::SERVICE_UNAVAILABLE);
        }
        for _ in &answers {
            self.meter.step();
        }
        let time = answers.iter().map(|answer| answer.after).max().unwrap_or_default();
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        match numbers {
            [number] if answers.iter().any(|answer| answer.reply) => reply(*number),
            _ => plain(StatusCode::NO_CONTENT),
        }
    }
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// An event about this one, in binary mode.
fn reply(number: u64) -> Response<Full<Bytes>> {
    let id = format!("reply-{number}");
    let headers = [("ce-specversion", "1.0"), ("ce-id", &id), ("ce-source", "/bench"), ("ce-type", "seen")];
    let named = headers.into_iter().fold(Response::builder(), |response, (name, value)| response.header(name, value));
    let response = named.header("content-type", "application/json").body(Full::from("{}"));
    response.unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
}
