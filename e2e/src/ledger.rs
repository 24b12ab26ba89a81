//! Which events were accepted, which were received, how often, and in which order of arrival.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

#[derive(clap::Args)]
pub struct Args {
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

#[derive(Default)]
struct Ledger {
    accepted: HashSet<String>,
    received: HashMap<String, u64>,
}

/// What the ledger knows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Events that the ingress accepted.
    pub accepted: usize,
    /// Of these, events that a handler received.
    pub received: usize,
    /// Receipts beyond the first of an event.
    pub repeated: u64,
    /// Accepted and not received.
    pub missing: usize,
    /// Received and never accepted.
    pub unknown: usize,
}

type Shared = Arc<Mutex<Ledger>>;

pub async fn run(args: Args) -> anyhow::Result<()> {
    let ledger = Shared::default();
    let router = Router::new()
        .route("/accepted", post(accepted))
        .route("/received", post(received))
        .route("/report", get(report))
        .with_state(ledger);
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", args.port)).await?;
    Ok(axum::serve(listener, router).await?)
}

fn lock(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accepted(State(ledger): State<Shared>, ids: String) {
    lock(&ledger).accepted.extend(ids.lines().map(str::to_owned));
}

async fn received(State(ledger): State<Shared>, id: String) {
    *lock(&ledger).received.entry(id).or_default() += 1;
}

async fn report(State(ledger): State<Shared>) -> Json<Report> {
    let ledger = lock(&ledger);
    let received = ledger.accepted.iter().filter(|id| ledger.received.contains_key(*id)).count();
    Json(Report {
        accepted: ledger.accepted.len(),
        received,
        repeated: ledger.received.values().map(|times| times - 1).sum(),
        missing: ledger.accepted.len() - received,
        unknown: ledger.received.keys().filter(|id| !ledger.accepted.contains(*id)).count(),
    })
}
