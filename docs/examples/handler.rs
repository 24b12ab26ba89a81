//! A handler with axum: one POST for each event.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::signal::unix::{SignalKind, signal};

async fn handle(headers: HeaderMap, body: Bytes) -> StatusCode {
    let attribute = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Attributes in headers are percent-encoded.
    let subject = percent_decode_str(attribute("ce-subject")).decode_utf8_lossy();
    let Ok(data) = serde_json::from_slice::<serde_json::Value>(&body) else {
        return StatusCode::BAD_REQUEST; // The event will never be right: a dead letter.
    };
    // Do the work here. The same event (source and id) may come twice.
    eprintln!("handled {} {subject} {data}", attribute("ce-id"));
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").unwrap_or_else(|_| "8080".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    // The pod is drained before this signal comes, so nothing is under way.
    let mut stop = signal(SignalKind::terminate())?;
    tokio::select! {
        served = axum::serve(listener, Router::new().fallback(handle)).into_future() => served,
        _ = stop.recv() => Ok(()),
    }
}
