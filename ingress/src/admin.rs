//! The plain listener for the kubelet: probes of the ingress, and those of the broker beside it. A Prometheus server that is
//! let in finds the metrics here, too.
//!
//! The broker's monitoring port stays on loopback because it shows much more than health. The probes of its
//! container come through here, and only the status code is passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tidegate_wire::nats::{Client, Link};

use crate::auth::Peer;
use crate::connection::Answers;

/// How long the broker may take to say how it is.
const PROBE: Duration = Duration::from_secs(2);
/// Bytes of what it says: each consumer that is not there yet has some hundred.
const MAX_HEALTH: usize = 4 << 20;
/// What a server says of a consumer that it cannot make, for example because it cannot read the file with its progress.
/// That does not change by waiting.
const DEAD_CONSUMER: &str = "consumer assignment error";

/// What the probes look at.
pub struct Health {
    /// The connection that events leave by.
    client: Client,
    /// The connection that publishers over NATS come by.
    publishers: Client,
    /// The last connection of theirs over which the broker has confirmed that it sends them here.
    served: AtomicU64,
    leaving: AtomicBool,
    monitor: String,
    probe: legacy::Client<HttpConnector, Empty<Bytes>>,
}

impl Health {
    /// Of these connections, and of the broker with this monitoring address (`http://host:port`). The subscription for
    /// publishers over NATS is made already.
    pub fn new(client: Client, publishers: Client, monitor: &str) -> Self {
        let probe = legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let monitor = monitor.trim_end_matches('/').to_owned();
        Self { client, publishers, served: AtomicU64::new(0), leaving: AtomicBool::new(false), monitor, probe }
    }

    /// Watches whether the broker sends publishers over NATS here. Never returns.
    pub async fn watch(&self) {
        let mut link = self.publishers.link();
        loop {
            // The sender lives as long as the client: there is no error.
            let epoch = link.wait_for(|link| link.connected).await.map_or(0, |link| link.epoch);
            // On each connection the subscription goes out first, so an answer to what comes after it confirms it.
            if self.publishers.flush().await.is_ok() {
                self.served.store(epoch, Ordering::Relaxed);
            }
            let _ = link.wait_for(|link| !link.connected || link.epoch != epoch).await;
        }
    }

    /// From now on not ready, for good.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    fn ready(&self) -> (StatusCode, &'static str) {
        let (is_leaving, served) = (self.leaving.load(Ordering::Relaxed), self.served.load(Ordering::Relaxed));
        match why_not(is_leaving, self.client.current_link(), self.publishers.current_link(), served) {
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            None => (StatusCode::OK, "ready\n"),
        }
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

    /// Whether the broker has started: it has all that it stores, but for consumers that it will never have. The operator
    /// makes those again where they were, and reaches the broker only after it has started.
    async fn broker_started(&self) -> StatusCode {
        let asking = async {
            let page = format!("{}/healthz?details=true", self.monitor).parse::<Uri>().ok()?;
            let response = self.probe.get(page).await.ok()?;
            let status = response.status();
            let said = Limited::new(response.into_body(), MAX_HEALTH).collect().await.ok()?.to_bytes();
            Some(status == StatusCode::OK || lacks_only_dead_consumers(&said))
        };
        match tokio::time::timeout(PROBE, asking).await {
            Ok(Some(true)) => StatusCode::OK,
            Ok(Some(false) | None) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Whether a server that is not healthy says of nothing else why than of consumers that it cannot make. Pure.
fn lacks_only_dead_consumers(said: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Health {
        #[serde(default)]
        errors: Vec<HealthError>,
    }
    #[derive(Deserialize)]
    struct HealthError {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        error: String,
    }
    let Ok(Health { errors }) = serde_json::from_slice(said) else { return false };
    let is_dead = |it: &HealthError| it.kind == "CONSUMER" && it.error.contains(DEAD_CONSUMER);
    !errors.is_empty() && errors.iter().all(is_dead)
}

/// Why an ingress is not ready, where it is not. Pure.
fn why_not(is_leaving: bool, events: Link, publishers: Link, served: u64) -> Option<&'static str> {
    match (is_leaving, events.connected, publishers.connected && publishers.epoch == served) {
        (true, ..) => Some("leaving\n"),
        (_, false, _) => Some("no connection to the broker\n"),
        (.., false) => Some("the broker does not send publishers over NATS here yet\n"),
        (false, true, true) => None,
    }
}

/// The admin listener.
#[derive(Clone)]
pub struct Routes(pub Arc<Health>);

impl Answers for Routes {
    async fn answer(&self, request: Request<Incoming>, _: &Peer) -> Response<Full<Bytes>> {
        let Self(health) = self;
        if request.uri().path() == "/metrics"
            && let Some(text) = tidegate_telemetry::exposition()
        {
            let mut response = Response::new(Full::from(text));
            let text = HeaderValue::from_static(tidegate_telemetry::EXPOSITION_CONTENT_TYPE);
            response.headers_mut().insert(CONTENT_TYPE, text);
            return response;
        }
        let (status, text) = match request.uri().path() {
            "/livez" => (StatusCode::OK, "alive\n"),
            "/readyz" => health.ready(),
            "/broker/startup" => (health.broker_started().await, ""),
            "/broker/ready" => (health.broker("/healthz?js-server-only=true").await, ""),
            "/broker/live" => (health.broker("/healthz?js-enabled-only=true").await, ""),
            "/metrics" => (StatusCode::NOT_FOUND, "OTEL_METRICS_EXPORTER does not name prometheus\n"),
            _ => (StatusCode::NOT_FOUND, ""),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_consumer_holds_up_no_start_and_all_else_does() {
        let error = |kind: &str, text: &str| serde_json::json!({"type": kind, "account": "A", "error": text});
        let dead =
            error("CONSUMER", "JetStream consumer 'A > events > b' is not current: consumer assignment error: x");
        let behind = error("CONSUMER", "JetStream consumer 'A > events > b' is not current: group node unhealthy");
        let stream = error("STREAM", "JetStream stream 'A > events' is not current: consumer assignment error");
        for (errors, expected) in [
            (vec![dead.clone()], true),
            (vec![dead.clone(), dead.clone()], true),
            (vec![dead.clone(), behind], false),
            (vec![dead, stream], false),
            (vec![error("JETSTREAM", "has not established contact with a meta leader")], false),
            (vec![], false),
        ] {
            let said = serde_json::json!({"status": "unavailable", "errors": errors}).to_string();
            assert_eq!(lacks_only_dead_consumers(said.as_bytes()), expected, "{said}");
        }
        assert!(!lacks_only_dead_consumers(br#"{"status":"unavailable","error":"consumer assignment error"}"#));
        assert!(!lacks_only_dead_consumers(b"no JSON"));
    }

    #[test]
    fn every_way_in_has_to_be_open() {
        let (no, yes) = (Link { connected: false, epoch: 2 }, Link { connected: true, epoch: 2 });
        for (is_leaving, events, publishers, served, expected) in [
            (false, no, no, 0, Some("no connection")),
            (false, no, yes, 2, Some("no connection")),
            (false, yes, no, 0, Some("publishers over NATS")),
            (false, yes, no, 2, Some("publishers over NATS")),
            (false, yes, yes, 0, Some("publishers over NATS")),
            (false, yes, yes, 1, Some("publishers over NATS")),
            (false, yes, yes, 2, None),
            (true, yes, yes, 2, Some("leaving")),
        ] {
            let why = why_not(is_leaving, events, publishers, served);
            assert_eq!(why.is_some(), expected.is_some(), "{events:?} {publishers:?} {served}");
            assert!(why.unwrap_or_default().contains(expected.unwrap_or_default()), "{why:?}");
        }
    }
}
