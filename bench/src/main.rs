//! `tidegate-bench` prints all figures, `bench<TAB>name<TAB>value<TAB>target` each; the spread goes to stderr.
//!
//! `tidegate-handler-sidecar` and `tidegate-ingress` must lie beside it, built alike. `NATS_SERVER` names the broker,
//! `OTELCOL` the Collector.

use anyhow::Context as _;
use clap::Parser as _;
use tidegate_bench::bench::{Bench, Options};
use tidegate_bench::{peers, rows, worker};

fn main() -> anyhow::Result<()> {
    // The only provider in the tree; that it is set already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Ok(task) = std::env::var(worker::VARIABLE) {
        return worker::main(&task);
    }
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        if options.build_peers {
            return peers::build().await;
        }
        let bench = Bench::new(&options)?;
        rows::measure(&bench, &options).await.context("not all was measured")
    })
}
