//! `tidegate-bench` prints all figures, `bench<TAB>name<TAB>value<TAB>target` each; the spread goes to stderr.
//!
//! `tidegate-handler-sidecar` and `tidegate-ingress` must lie beside it, built alike. `NATS_SERVER` names the broker.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tidegate_bench::{rows, worker};
use tokio::time::timeout;

/// The whole run.
const LIMIT: Duration = Duration::from_secs(210);

fn main() -> anyhow::Result<()> {
    // The only provider in the tree; that it is set already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        None => run("all"),
        Some(worker::ARGUMENT) => worker::main(),
        Some(group) if rows::GROUPS.contains(&group) => run(group),
        Some(other) => bail!("no figures {other:?}: leave it out for all of them, or name one of {:?}", rows::GROUPS),
    }
}

fn run(group: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let measured = runtime.block_on(async { timeout(LIMIT, rows::measure(group)).await });
    measured.with_context(|| format!("not within {LIMIT:?}"))?
}
