//! Our programs as they ship: child processes, their memory and their processor time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;
use tidegate_broker_client::contract::{
    self, Capacity, Delivery, Filter, Format, Ingress, Order, Retry, Routing, Sidecar,
};
use tidegate_test_broker::{TestBroker, free_port};
use tokio::time::sleep;

use crate::LIMIT;
use crate::broker::Broker;

/// How long a program may take to end by itself.
const END: Duration = Duration::from_secs(3);

/// A running program. Dropped, it is ended: in order if that is quick, by force otherwise.
pub struct Process {
    child: Child,
}

/// A sidecar that pulls for this handler (its identity) and delivers to this port, with nothing else asked for.
///
/// # Errors
/// It does not start or never gets ready.
pub async fn sidecar(
    broker: &Broker,
    handler: &str,
    identity: &Path,
    port: u16,
    concurrency: u16,
) -> anyhow::Result<Process> {
    start_sidecar(&sidecar_config(&broker.server, handler, identity, port, concurrency)?).await
}

/// The configuration of such a sidecar, to be changed where something else is asked for.
///
/// # Errors
/// There is no port for its own listener.
pub fn sidecar_config(
    server: &TestBroker,
    handler: &str,
    identity: &Path,
    port: u16,
    concurrency: u16,
) -> anyhow::Result<Sidecar> {
    Ok(Sidecar {
        namespace: "bench".into(),
        topic: "bench".into(),
        handler: handler.into(),
        handler_uid: format!("uid-{handler}"),
        routing: Routing::Queued,
        servers: server.servers(),
        identity: identity.to_owned(),
        admin_port: free_port(),
        resume_after: Duration::from_secs(60),
        probes: Default::default(),
        filter: Filter::default(),
        delivery: delivery(port, concurrency),
        dead_letter: None,
        reply: None,
        ack_wait: Duration::from_secs(30),
    })
}

fn delivery(port: u16, concurrency: u16) -> Delivery {
    Delivery {
        port,
        path: "/events".into(),
        format: Format::Binary,
        order: Order::None,
        concurrency,
        rate: None,
        timeout: Duration::from_secs(60),
        retry: Retry {
            max_attempts: 3,
            initial: Duration::from_secs(1),
            max: Duration::from_secs(10),
            factor: 2.0,
            jitter: 0.2,
        },
    }
}

/// A sidecar with this configuration.
///
/// # Errors
/// It does not start or never gets ready.
pub async fn start_sidecar(config: &Sidecar) -> anyhow::Result<Process> {
    start("tidegate-handler-sidecar", config, config.admin_port).await
}

/// An ingress with HTTPS at this port.
///
/// # Errors
/// It does not start or never gets ready.
pub async fn ingress(broker: &Broker, identity: &Path, https_port: u16) -> anyhow::Result<Process> {
    let admin_port = free_port();
    let config = Ingress {
        namespace: "bench".into(),
        topic: "bench".into(),
        servers: broker.server.servers(),
        identity: identity.to_owned(),
        https_port,
        admin_port,
        broker_monitor: broker.server.monitor(),
        max_event_size: 1 << 20,
        routing: Routing::Queued,
        volume: None,
        mqtt_port: free_port(),
        capacity: Capacity::default(),
    };
    start("tidegate-ingress", &config, admin_port).await
}

impl Process {
    /// Starts a program that is bound to end with this one. It has no environment but the one variable, so that
    /// nothing of this machine (log level, exporters) comes into a figure.
    ///
    /// # Errors
    /// There is no such program.
    pub fn spawn(program: &Path, arguments: &[&str], variable: &str, value: &str) -> anyhow::Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env(variable, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        Ok(Self { child })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by force.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < END && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Resident memory in MB (10⁶ bytes).
///
/// # Errors
/// There is no such process.
pub fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = value.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processor time so far: `utime + stime` of all threads (proc_pid_stat(5)).
///
/// # Errors
/// There is no such process.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name, in parentheses, may contain anything: fields are counted after it, from number 3.
    let (_, fields) = stat.rsplit_once(')').context("no such line")?;
    let ticks: u32 = fields.split_whitespace().skip(14 - 3).take(2).map(str::parse::<u32>).sum::<Result<_, _>>()?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock")?;
    Ok(Duration::from_secs_f64(f64::from(ticks) / per_second as f64))
}

async fn start(name: &str, config: &impl Serialize, admin_port: u16) -> anyhow::Result<Process> {
    let program = beside(name)?;
    let mut process = Process::spawn(&program, &[], contract::VARIABLE, &serde_json::to_string(config)?)?;
    let ready = format!("http://127.0.0.1:{admin_port}/readyz").parse::<http::Uri>()?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let begun = Instant::now();
    while !client.get(ready.clone()).await.is_ok_and(|response| response.status().is_success()) {
        ensure!(process.child.try_wait()?.is_none(), "{name} ended at once");
        ensure!(begun.elapsed() < LIMIT, "{name} is not ready within {LIMIT:?}");
        sleep(Duration::from_millis(10)).await;
    }
    Ok(process)
}

fn beside(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name(name);
    ensure!(program.exists(), "{} is not there: build it with the same profile", program.display());
    Ok(program)
}
