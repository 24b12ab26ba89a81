//! The plain listener for the kubelet: probes of the ingress, and those of the broker beside it.
//!
//! The broker's monitoring port stays on loopback because it shows much more than health. The probes of its
//! container come through here, and only the status code is passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tidegate_wire::nats::Client;

use crate::connection::Answers;
use crate::share::Share;

/// How long the broker may take to say how it is.
const PROBE: Duration = Duration::from_secs(2);

/// What the probes look at.
pub struct Health {
    client: Client,
    leaving: AtomicBool,
    monitor: String,
    probe: legacy::Client<HttpConnector, Empty<Bytes>>,
}

impl Health {
    /// Of this connection, and of the broker with this monitoring address (`http://host:port`).
    pub fn new(client: Client, monitor: &str) -> Self {
        let probe = legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let monitor = monitor.trim_end_matches('/').to_owned();
        Self { client, leaving: AtomicBool::new(false), monitor, probe }
    }

    /// From now on not ready, for good.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn ready(&self) -> (StatusCode, &'static str) {
        if self.leaving.load(Ordering::Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, "leaving\n");
        }
        if !self.client.current_link().connected {
            return (StatusCode::SERVICE_UNAVAILABLE, "no connection to the broker\n");
        }
        (StatusCode::OK, "ready\n")
    }

    /// The status of one of the broker's health pages; 503 if there is none in time.
    async fn broker(&self, page: &str) -> StatusCode {
        let Ok(page) = format!("{}{page}", self.monitor).parse::<Uri>() else {
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        match tokio::time::timeout(PROBE, self.probe.get(page)).await {
            Ok(Ok(response)) => response.status(),
            Ok(Err(_)) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The admin listener.
#[derive(Clone)]
pub struct Routes(pub Arc<Health>);

impl Answers for Routes {
    async fn answer(&self, request: Request<Incoming>, _: &Arc<Share>) -> Response<Full<Bytes>> {
        let Self(health) = self;
        let (status, text) = match request.uri().path() {
            "/livez" => (StatusCode::OK, "alive\n"),
            "/readyz" => health.ready(),
            "/broker/startup" => (health.broker("/healthz").await, ""),
            "/broker/ready" => (health.broker("/healthz?js-server-only=true").await, ""),
            "/broker/live" => (health.broker("/healthz?js-enabled-only=true").await, ""),
            _ => (StatusCode::NOT_FOUND, ""),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    }
}
