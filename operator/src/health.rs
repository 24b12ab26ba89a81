//! `/livez` and `/readyz`, and `/metrics` for a Prometheus server.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::time::timeout;

/// The first lists of everything that the operator watches take no longer than this.
pub const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// Whether the operator can do its work: it has reached the API server, and may list what it needs. A pod that waits
/// for another one of its release is ready too; a release that waits for another release is not.
#[derive(Clone, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Ready from now on, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Before everything is `listed` nothing is reconciled, and no condition can say so. If that is late, the operator
    /// is not ready until it is done.
    pub async fn until_listed(&self, limit: Duration, listed: impl Future<Output = ()>) {
        let mut listed = pin!(listed);
        if timeout(limit, &mut listed).await.is_ok() {
            return;
        }
        self.set_ready(false);
        tracing::error!(
            "not everything that the operator watches could be listed, so nothing is reconciled: its warnings name what \
             the API server refuses, for example because the ClusterRole is that of an earlier version"
        );
        listed.await;
        self.set_ready(true);
        tracing::info!("everything is listed: reconciling");
    }

    /// What `/readyz` says.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn readiness(&self) -> StatusCode {
        if self.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }
}

/// Serves until it is dropped.
///
/// # Errors
/// The port is taken.
pub async fn serve(port: u16, health: Health) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await?;
    axum::serve(listener, router(health)).await
}

fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async || StatusCode::OK))
        .route("/readyz", get(async move || health.readiness()))
        .route("/metrics", get(metrics))
}

async fn metrics() -> Response {
    match tidegate_telemetry::exposition() {
        Some(text) => ([(CONTENT_TYPE, tidegate_telemetry::EXPOSITION_CONTENT_TYPE)], text).into_response(),
        None => (StatusCode::NOT_FOUND, "OTEL_METRICS_EXPORTER does not name prometheus\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn it_is_not_ready_while_something_cannot_be_listed() {
        let health = Health::default();
        health.set_ready(true);
        health.until_listed(LIST_TIMEOUT, async {}).await;
        assert!(health.is_ready());
        let (done, listed) = oneshot::channel::<()>();
        let late = health.clone();
        let waiting = tokio::spawn(async move {
            late.until_listed(Duration::ZERO, async { listed.await.unwrap() }).await;
        });
        let said = async {
            while health.is_ready() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(20), said).await.unwrap();
        done.send(()).unwrap();
        waiting.await.unwrap();
        assert!(health.is_ready());
    }
}
