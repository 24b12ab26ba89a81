//! The program as a process.

use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate_broker_client::contract::{self, Sidecar};
use tokio::net::TcpStream;

use super::eventually;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate-handler-sidecar");

/// A running sidecar. Dropped, it is killed (SIGKILL), and its end is waited for.
pub struct Process(Child);

impl Process {
    /// Starts it and waits until it listens.
    pub async fn start(config: &Sidecar) -> Self {
        Self::start_with(config, &[]).await
    }

    /// The same with further variables.
    pub async fn start_with(config: &Sidecar, variables: &[(&str, &str)]) -> Self {
        let child = Command::new(PROGRAM)
            .envs(variables.iter().copied())
            .env(contract::VARIABLE, serde_json::to_string(config).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let port = config.admin_port;
        eventually("it listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Self(child)
    }

    /// Resident memory in KiB.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most there ever was of it.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    pub async fn terminate(mut self) -> ExitStatus {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let mut status = None;
        eventually("it ends", async || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
