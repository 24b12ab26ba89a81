//! Which events were accepted, which were received, by whom, how often, and in which order of arrival.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
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
    latest: HashMap<String, u64>,
    disordered: u64,
    received_by: Receivers,
    longest_gap_ms: u64,
}

/// For each handler that tells its name, how many receipts it had of the events of each publisher (the part of an
/// event's id before its number).
type Receivers = BTreeMap<String, BTreeMap<String, u64>>;

/// What the ledger knows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Events that the ingress accepted.
    pub accepted: usize,
    /// Of these, events that a handler received.
    pub received: usize,
    /// Events that a handler received, accepted or not (yet).
    pub seen: usize,
    /// Receipts beyond the first of an event.
    pub repeated: u64,
    /// Accepted and not received.
    pub missing: usize,
    /// Received and never accepted.
    pub unknown: usize,
    /// First receipts of an event after a later one of the same key.
    pub disordered: u64,
    /// Receipts by handler and publisher.
    pub received_by: Receivers,
    /// The longest time in which a publisher that is done had nothing accepted, in milliseconds.
    pub longest_gap_ms: u64,
}

/// A receipt: the event's id (`<prefix>-<number>`) and, on a second and third line, its key and the receiver's name, if
/// there are any.
struct Receipt<'a> {
    id: &'a str,
    key: &'a str,
    receiver: &'a str,
    prefix: &'a str,
    number: Option<u64>,
}

impl<'a> Receipt<'a> {
    fn read(text: &'a str) -> Self {
        let mut lines = text.split('\n');
        let mut line = || lines.next().unwrap_or_default();
        let (id, key, receiver) = (line(), line(), line());
        let (prefix, number) = id.rsplit_once('-').unwrap_or((id, ""));
        Self { id, key, receiver, prefix, number: number.parse().ok() }
    }
}

impl Ledger {
    fn receive(&mut self, receipt: &Receipt<'_>) {
        let times = self.received.entry(receipt.id.to_owned()).or_default();
        *times += 1;
        if !receipt.receiver.is_empty() {
            let receiver = self.received_by.entry(receipt.receiver.to_owned()).or_default();
            *receiver.entry(receipt.prefix.to_owned()).or_default() += 1;
        }
        if let Some(number) = receipt.number.filter(|_| *times == 1 && !receipt.key.is_empty()) {
            let latest = self.latest.entry(receipt.key.to_owned()).or_default();
            self.disordered += u64::from(number < *latest);
            *latest = number.max(*latest);
        }
    }
}

type Shared = Arc<Mutex<Ledger>>;

pub async fn run(args: Args) -> anyhow::Result<()> {
    let ledger = Shared::default();
    let router = Router::new()
        .route("/accepted", post(accepted))
        .route("/received", post(received))
        .route("/gap", post(gap))
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

async fn received(State(ledger): State<Shared>, receipt: String) {
    lock(&ledger).receive(&Receipt::read(&receipt));
}

async fn gap(State(ledger): State<Shared>, milliseconds: String) -> StatusCode {
    let Ok(gap) = milliseconds.parse::<u64>() else { return StatusCode::BAD_REQUEST };
    let longest = &mut lock(&ledger).longest_gap_ms;
    *longest = gap.max(*longest);
    StatusCode::OK
}

async fn report(State(ledger): State<Shared>) -> Json<Report> {
    let ledger = lock(&ledger);
    let received = ledger.accepted.iter().filter(|id| ledger.received.contains_key(*id)).count();
    Json(Report {
        accepted: ledger.accepted.len(),
        received,
        seen: ledger.received.len(),
        repeated: ledger.received.values().map(|times| times - 1).sum(),
        missing: ledger.accepted.len() - received,
        unknown: ledger.received.keys().filter(|id| !ledger.accepted.contains(*id)).count(),
        disordered: ledger.disordered,
        received_by: ledger.received_by.clone(),
        longest_gap_ms: ledger.longest_gap_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_judged_within_a_key_and_by_first_receipts() {
        let mut ledger = Ledger::default();
        for (receipt, disordered) in [
            ("a-1\nk", 0),
            ("a-3\nk", 0),
            ("a-2\nother", 0),
            ("a-1\nk", 0),
            ("a-2\nk", 0),
            ("a-5\nk", 0),
            ("a-4\nk", 1),
            ("a-0", 1),
        ] {
            ledger.receive(&Receipt::read(receipt));
            // An event has one key: a-2 was received before, by another.
            assert_eq!(ledger.disordered, disordered, "{receipt}");
        }
        assert_eq!(ledger.received["a-1"], 2);
    }

    #[test]
    fn receipts_are_counted_by_receiver_and_publisher() {
        let mut ledger = Ledger::default();
        for receipt in
            ["a-b-1\n\nworker", "a-b-2\nk\nworker", "a-b-2\nk\nworker", "c-1\n\nother", "c-1\n\nworker", "c-2"]
        {
            ledger.receive(&Receipt::read(receipt));
        }
        let expected = [("other", "c", 1), ("worker", "a-b", 3), ("worker", "c", 1)];
        let counted: Vec<_> = ledger
            .received_by
            .iter()
            .flat_map(|(receiver, prefixes)| {
                prefixes.iter().map(move |(prefix, times)| (receiver.as_str(), prefix.as_str(), *times))
            })
            .collect();
        assert_eq!(counted, expected);
    }
}
