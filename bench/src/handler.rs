//! The user's container: an HTTP server with a thread of its own that answers 204.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Collected, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

use crate::events;
use crate::stopwatch::Stopwatch;

/// Room for as many connections at once as there may be events in flight.
const BACKLOG: u32 = 4096;

/// What becomes of an event (its number): how long it takes. Called when it has arrived.
type Script = Arc<dyn Fn(u64) -> Duration + Send + Sync>;

/// A running handler. Dropped, it is gone with all its connections.
pub struct Handler {
    /// Its port on 127.0.0.1.
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handler {
    /// Starts one that takes its time as `script` says.
    ///
    /// # Errors
    /// There is no port or no thread.
    pub fn start(script: impl Fn(u64) -> Duration + Send + Sync + 'static) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            socket.listen(BACKLOG)?
        };
        let port = listener.local_addr()?.port();
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            tokio::select! {
                () = accept(listener, Arc::new(script)) => {}
                _ = stopped => {}
            }
        };
        let thread = std::thread::Builder::new().name("handler".to_owned()).spawn(move || runtime.block_on(serve))?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts one that tells a stopwatch what arrives.
    ///
    /// # Errors
    /// There is no port or no thread.
    pub fn timing(stopwatch: &Arc<Stopwatch>) -> anyhow::Result<Self> {
        let stopwatch = stopwatch.clone();
        Self::start(move |number| {
            stopwatch.arrived(number);
            Duration::ZERO
        })
    }

    /// Where events are posted to.
    ///
    /// # Errors
    /// None that is known.
    pub fn uri(&self) -> anyhow::Result<Uri> {
        Ok(uri(self.port)?)
    }
}

/// Where events are posted to, at a handler's port.
///
/// # Errors
/// None that is known.
pub fn uri(port: u16) -> Result<Uri, http::uri::InvalidUri> {
    format!("http://127.0.0.1:{port}/events").parse()
}

impl Drop for Handler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, script: Script) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let script = script.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| receive(request, &script));
            // Ends with its client, however that ends.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn receive(request: Request<Incoming>, script: &Script) -> Result<Response<Empty<Bytes>>, Infallible> {
    let binary = events::number(request.headers().get("ce-id").and_then(|id| id.to_str().ok()));
    let body = request.into_body().collect().await.map(Collected::to_bytes);
    let number = body.ok().and_then(|body| binary.or_else(|| events::number_in(&body)));
    let mut response = Response::new(Empty::new());
    match number {
        Some(number) => {
            let time = script(number);
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}
