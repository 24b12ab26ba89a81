//! `/livez` and `/readyz`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

/// Whether the operator can do its work: it has reached the API server. A pod that waits for another one of its release
/// is ready too; a release that waits for another release is not.
#[derive(Clone, Default)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Ready from now on, or no longer.
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
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
    let router = Router::new()
        .route("/livez", get(async || StatusCode::OK))
        .route("/readyz", get(async move || health.readiness()));
    axum::serve(listener, router).await
}
