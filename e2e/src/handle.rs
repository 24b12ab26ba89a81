//! The user's container: an ordinary HTTP program.

use std::time::Duration;

use axum::extract::State;
use axum::response::{AppendHeaders, IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};

use crate::client::Http;

#[derive(Clone, clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// The ledger's address.
    #[arg(long)]
    ledger: String,
    /// What the ledger is told with each receipt of who received it.
    #[arg(long, default_value = "")]
    name: String,
    /// How long each event takes.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Events of this type are answered with 400.
    #[arg(long, default_value = "")]
    refuse_type: String,
    /// Events of this partition key are answered with 400.
    #[arg(long, default_value = "")]
    refuse_key: String,
    /// Every event is answered with this status.
    #[arg(long)]
    answer: Option<u16>,
    /// Each event is answered with an event of this type.
    #[arg(long, default_value = "")]
    reply_type: String,
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

async fn handle(State(handler): State<Handler>, headers: HeaderMap) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let refused = |header: &str, value: &str| !value.is_empty() && text(header) == value;
    if refused("ce-type", &handler.args.refuse_type) || refused("ce-partitionkey", &handler.args.refuse_key) {
        return (StatusCode::BAD_REQUEST, "refused by the test").into_response();
    }
    if let Some(answer) = handler.args.answer {
        return StatusCode::from_u16(answer).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
    }
    tokio::time::sleep(Duration::from_millis(handler.args.delay_ms)).await;
    let receipt = format!("{}\n{}\n{}", text("ce-id"), text("ce-partitionkey"), handler.args.name);
    match handler.http.post(&format!("{}/received", handler.args.ledger), receipt).await {
        Ok(()) if handler.args.reply_type.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => reply(&handler.args.reply_type, &text("ce-id")),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the ledger is away").into_response(),
    }
}

/// An event in binary mode.
fn reply(event_type: &str, to: &str) -> Response {
    let id = format!("reply-to-{to}");
    let attributes =
        [("ce-specversion", "1.0"), ("ce-type", event_type), ("ce-source", "/e2e/handler"), ("ce-id", id.as_str())];
    (AppendHeaders(attributes), Json(serde_json::json!({"to": to}))).into_response()
}
