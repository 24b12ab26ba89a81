//! The user's container: an ordinary HTTP program.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};

use crate::client::Http;

#[derive(Clone, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The ledger's address.
    #[arg(long)]
    ledger: String,
    /// How long each event takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Events of this type are answered with 400.
    #[arg(long, default_value = "")]
    refuse_type: String,
}

#[derive(Clone)]
struct Handler {
    args: Args,
    http: Http,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    let handler = Handler { http: Http::new(None)?, args: args.clone() };
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", args.port)).await?;
    let router = Router::new().route("/", post(handle)).with_state(handler);
    // Ends at SIGTERM as an ordinary program does: what is being answered is answered.
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    Ok(axum::serve(listener, router)
        .with_graceful_shutdown(async move { terminate.recv().await.unwrap_or_default() })
        .await?)
}

async fn handle(State(handler): State<Handler>, headers: HeaderMap) -> (StatusCode, &'static str) {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if !handler.args.refuse_type.is_empty() && text("ce-type") == handler.args.refuse_type {
        return (StatusCode::BAD_REQUEST, "refused by the test");
    }
    tokio::time::sleep(Duration::from_millis(handler.args.delay_ms)).await;
    match handler.http.post(&format!("{}/received", handler.args.ledger), text("ce-id")).await {
        Ok(()) => (StatusCode::NO_CONTENT, ""),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger is away"),
    }
}
