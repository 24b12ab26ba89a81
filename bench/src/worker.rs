//! The raw client and POST in a process of its own, so that its processor time can be read as a sidecar's is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::broker::Operator;
use crate::process::Process;
use crate::{LIMIT, handler, raw};

/// The first argument that makes this program a worker.
pub const ARGUMENT: &str = "worker";
/// The environment variable with its [`Task`].
const VARIABLE: &str = "TIDEGATE_BENCH_TASK";

/// What a worker does.
#[derive(Serialize, Deserialize)]
pub struct Task {
    /// Addresses of the broker.
    pub servers: Vec<String>,
    /// Folder of the operator's identity.
    pub identity: PathBuf,
    /// The consumer to pull from.
    pub consumer: String,
    /// The handler's port.
    pub port: u16,
    /// Events to deliver.
    pub count: usize,
}

impl Task {
    /// Starts a worker for it.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(&self) -> anyhow::Result<Process> {
        Process::spawn(&std::env::current_exe()?, &[ARGUMENT], VARIABLE, &serde_json::to_string(self)?)
    }
}

/// The worker's whole life: it delivers its events, and waits to be ended so that it can be measured.
///
/// # Errors
/// Broker or handler fail.
pub fn main() -> anyhow::Result<()> {
    let task: Task = serde_json::from_str(&std::env::var(VARIABLE)?).context(VARIABLE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let operator = Operator { servers: task.servers, identity: task.identity };
        let uri = handler::uri(task.port)?;
        tokio::time::timeout(LIMIT, raw::pull_and_post(operator, &task.consumer, uri, task.count)).await??;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    })
}
