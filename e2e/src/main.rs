//! What plays the user's part in the end-to-end tests: one program, started as pods inside the cluster.
//!
//! - `ledger`: writes down which events were accepted and which were received, and tells what is missing.
//! - `handle`: an ordinary HTTP program; it answers an event only after the ledger has it.
//! - `publish`: publishes events over HTTPS until each was accepted, and tells the ledger.

mod client;
mod handle;
mod ledger;
mod publish;

use clap::Parser;

#[derive(Parser)]
enum Program {
    /// Keep the ledger.
    Ledger(ledger::Args),
    /// Receive events.
    Handle(handle::Args),
    /// Publish events.
    Publish(publish::Args),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("crypto provider"))?;
    match Program::parse() {
        Program::Ledger(args) => ledger::run(args).await,
        Program::Handle(args) => handle::run(args).await,
        Program::Publish(args) => publish::run(args).await,
    }
}
