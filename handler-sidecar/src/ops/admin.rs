//! The sidecar's own listener: probes for the kubelet, and the drain for the `preStop` hooks of the pod.
//!
//! | path | answers 200 when |
//! |---|---|
//! | `/startupz` | the listener is up and the identity could be read: the handler's container may start |
//! | `/livez` | the runner makes progress, whatever the state of broker and handler: events that could be delivered do
//! not wait for long |
//! | `/readyz` | connected, and the consumer answers (or is no longer asked, because the handler is not reachable) |
//! | `/drain` | nothing is in flight any more and the broker knows all outcomes. Begins the drain; answers only inside
//! the pod |
//! | `/drained` | the same, for a drain that has begun or begins in a moment |
//! | `/metrics` | metrics are exported to a Prometheus server: they are the answer |
//!
//! The port is open to the pod network, because the kubelet is there. So what comes from there can only wait: the hook
//! of the handler's container does. The drain is begun by the sidecar's own hook, which runs inside the pod. So a scraper
//! may be let in here: what else it can do is to wait.

mod connections;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::ops::drain::Drain;
use crate::ops::health::{Health, Progress};

/// How long `/drained` waits for a drain to begin: both hooks start at the same time.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);

/// How long `/readyz` waits to be ready, so that the kubelet hears of it without delay. Shorter than the kubelet's
/// patience.
const READY_LIMIT: Duration = Duration::from_secs(2);

/// What the listener needs to know.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What the probes answer.
    pub health: Arc<Health>,
    /// The drain of now: after one that nothing followed there is another.
    pub drain: watch::Receiver<Drain>,
    /// The longest a drain may take.
    pub limit: Duration,
}

type Answer = (StatusCode, &'static str);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, admin: Admin) {
    connections::serve(listener, router(admin)).await;
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/startupz", get(startup))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/drain", get(drain))
        .route("/drained", get(drained))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

async fn startup(State(admin): State<Admin>) -> Answer {
    answer(admin.health.has_started(), "started", Progress::Starting.describe())
}

async fn live(State(admin): State<Admin>) -> Answer {
    answer(admin.drain().has_finished() || admin.health.is_alive(), "alive", "the pipeline makes no progress")
}

async fn ready(State(admin): State<Admin>) -> Answer {
    let drain = admin.drain();
    let is_ready = tokio::select! {
        biased;
        () = drain.begun() => return answer(false, "", Progress::Draining.describe()),
        waited = timeout(READY_LIMIT, admin.health.is_ready()) => waited.is_ok(),
    };
    answer(is_ready, "ready", admin.health.progress().describe())
}

async fn drain(State(admin): State<Admin>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Answer {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::NOT_FOUND, "not found");
    }
    let drain = admin.drain();
    drain.begin();
    finished(&drain, admin.limit).await
}

async fn drained(State(admin): State<Admin>) -> Answer {
    let drain = admin.drain();
    match timeout(BEGIN_LIMIT.min(admin.limit), drain.begun()).await {
        Ok(()) => finished(&drain, admin.limit).await,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not draining"),
    }
}

async fn metrics() -> Response {
    match tidegate_telemetry::exposition() {
        Some(text) => ([(CONTENT_TYPE, tidegate_telemetry::EXPOSITION_CONTENT_TYPE)], text).into_response(),
        None => (StatusCode::NOT_FOUND, "OTEL_METRICS_EXPORTER does not name prometheus\n").into_response(),
    }
}

async fn finished(drain: &Drain, limit: Duration) -> Answer {
    match timeout(limit, drain.finished()).await {
        Ok(()) => (StatusCode::OK, "drained"),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "still draining"),
    }
}

impl Admin {
    fn drain(&self) -> Drain {
        self.drain.borrow().clone()
    }
}

fn answer(good: bool, yes: &'static str, no: &'static str) -> Answer {
    if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::connect_info::MockConnectInfo;
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;

    fn admin() -> (watch::Sender<Drain>, Admin) {
        let (drains, drain) = watch::channel(Drain::default());
        (drains, Admin { health: Arc::default(), drain, limit: Duration::from_millis(50) })
    }

    async fn status_for(peer: &str, admin: &Admin, path: &str) -> u16 {
        let peer: SocketAddr = format!("{peer}:40000").parse().unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        router(admin.clone()).layer(MockConnectInfo(peer)).oneshot(request).await.unwrap().status().as_u16()
    }

    async fn status(admin: &Admin, path: &str) -> u16 {
        status_for("10.0.0.1", admin, path).await
    }

    #[tokio::test]
    async fn probes_follow_the_progress() {
        let (_drains, admin) = admin();
        assert_eq!(status(&admin, "/startupz").await, 503);
        assert_eq!(status(&admin, "/livez").await, 200);
        admin.health.started();
        assert_eq!(status(&admin, "/startupz").await, 200);
        assert_eq!(status(&admin, "/readyz").await, 503);
        admin.health.set(Progress::Pulling);
        assert_eq!(status(&admin, "/readyz").await, 200);
    }

    /// A pod whose program does not take events yet, or never will, is not ready; one that takes them is so at once.
    #[tokio::test(start_paused = true)]
    async fn it_is_not_ready_before_the_handlers_container_was_reached() {
        let (_drains, admin) = admin();
        admin.health.started();
        admin.health.set(Progress::Unreachable);
        assert_eq!(status(&admin, "/readyz").await, 503);
        let began = tokio::time::Instant::now();
        let reached = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            admin.health.set(Progress::Opening);
            tokio::time::sleep(Duration::from_millis(100)).await;
            admin.health.set(Progress::Pulling);
        };
        assert_eq!(tokio::join!(status(&admin, "/readyz"), reached).0, 200);
        assert_eq!(began.elapsed(), Duration::from_millis(200));
    }

    #[tokio::test]
    async fn only_the_pod_itself_drains_and_everyone_waits_for_the_end() {
        let (drains, admin) = admin();
        admin.health.set(Progress::Pulling);
        for peer in ["10.0.0.1", "[fd00::1]", "[::ffff:10.0.0.1]"] {
            assert_eq!(status_for(peer, &admin, "/drain").await, 404, "{peer}");
        }
        assert_eq!(status(&admin, "/drain/0123456789abcdef").await, 404);
        assert_eq!(status(&admin, "/metrics").await, 404, "nobody asked for them");
        assert_eq!(status(&admin, "/drained").await, 503, "it waits, and begins nothing");
        assert!(!admin.drain().has_begun());
        assert_eq!(status_for("127.0.0.1", &admin, "/drain").await, 504);
        assert!(admin.drain().has_begun());
        assert_eq!(status(&admin, "/readyz").await, 503, "draining is not ready");
        admin.drain().finish();
        assert_eq!(status_for("[::1]", &admin, "/drain").await, 200);
        assert_eq!(status(&admin, "/drained").await, 200);
        assert_eq!(status(&admin, "/livez").await, 200);
        drains.send_replace(Drain::default());
        assert_eq!(status(&admin, "/readyz").await, 200, "that drain is over");
    }
}
