//! The sidecar's own listener: probes for the kubelet, and the drain for the `preStop` hook of the handler.
//!
//! | path | answers 200 when |
//! |---|---|
//! | `/startupz` | the listener is up and the identity could be read: the handler's container may start |
//! | `/livez` | the pipeline makes progress, whatever the state of broker and handler: events that could be delivered do not wait for long |
//! | `/readyz` | connected, and the consumer answers (or is not asked while the handler is not reachable) |
//! | `/drain/<token>` | nothing is in flight any more and all of it was told to the broker |

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::drain::Drain;
use crate::health::{Health, Progress};

/// What the listener needs to know.
#[derive(Clone, Debug)]
pub struct Admin {
    /// What the probes are told.
    pub health: Arc<Health>,
    /// What the drain path starts and waits for.
    pub drain: Drain,
    /// The secret part of the drain path.
    pub token: Arc<str>,
    /// The longest a drain may take.
    pub limit: Duration,
}

type Answer = (StatusCode, &'static str);

/// Serves until it is dropped.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, admin: Admin) -> std::io::Result<()> {
    axum::serve(listener, router(admin)).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/startupz", get(startup))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/drain/{token}", get(drain))
        .with_state(admin)
}

async fn startup(State(admin): State<Admin>) -> Answer {
    answer(admin.health.has_started(), "started", Progress::Starting.describe())
}

async fn live(State(admin): State<Admin>) -> Answer {
    answer(admin.drain.has_finished() || admin.health.is_alive(), "alive", "the pipeline makes no progress")
}

async fn ready(State(admin): State<Admin>) -> Answer {
    let progress = if admin.drain.has_begun() { Progress::Draining } else { admin.health.progress() };
    answer(progress == Progress::Pulling, "ready", progress.describe())
}

async fn drain(State(admin): State<Admin>, Path(token): Path<String>) -> Answer {
    if !same(token.as_bytes(), admin.token.as_bytes()) {
        return (StatusCode::NOT_FOUND, "not found");
    }
    admin.drain.begin();
    match timeout(admin.limit, admin.drain.finished()).await {
        Ok(()) => (StatusCode::OK, "drained"),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "still draining"),
    }
}

fn answer(good: bool, yes: &'static str, no: &'static str) -> Answer {
    if good { (StatusCode::OK, yes) } else { (StatusCode::SERVICE_UNAVAILABLE, no) }
}

/// Compares without telling by its duration how much of it is right.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |difference, (l, r)| difference | (l ^ r)) == 0
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;

    fn admin() -> Admin {
        Admin {
            health: Arc::default(),
            drain: Drain::default(),
            token: "0123456789abcdef".into(),
            limit: Duration::from_millis(50),
        }
    }

    async fn status(admin: &Admin, path: &str) -> u16 {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router(admin.clone()).oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn probes_follow_the_progress() {
        let admin = admin();
        assert_eq!(status(&admin, "/startupz").await, 503);
        assert_eq!(status(&admin, "/livez").await, 200);
        admin.health.started();
        assert_eq!(status(&admin, "/startupz").await, 200);
        assert_eq!(status(&admin, "/readyz").await, 503);
        admin.health.set(Progress::Pulling);
        assert_eq!(status(&admin, "/readyz").await, 200);
    }

    #[tokio::test]
    async fn only_the_token_drains_and_everyone_waits_for_the_end() {
        let admin = admin();
        admin.health.set(Progress::Pulling);
        assert_eq!(status(&admin, "/drain/0123456789abcdeX").await, 404);
        assert_eq!(status(&admin, "/drain/").await, 404);
        assert!(!admin.drain.has_begun());
        assert_eq!(status(&admin, "/drain/0123456789abcdef").await, 504);
        assert!(admin.drain.has_begun());
        assert_eq!(status(&admin, "/readyz").await, 503, "draining is not ready");
        admin.drain.finish();
        assert_eq!(status(&admin, "/drain/0123456789abcdef").await, 200);
        assert_eq!(status(&admin, "/livez").await, 200);
    }
}
