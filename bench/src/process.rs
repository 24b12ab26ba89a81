//! Our programs as they ship: child processes, and their memory.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use tidegate_broker_client::contract::{
    self, Capacity, Delivery, Filter, Flush, Format, Ingress, OnExhausted, Order, PortSource, Retry, Routing, Sidecar,
};
use tidegate_broker_client::statuses::StatusRules;
use tidegate_test_broker::{TestBroker, free_port};
use tokio::time::sleep;

use crate::LIMIT;
use crate::broker::Durability;

/// How long a program may take to end by itself.
const END: Duration = Duration::from_secs(3);

/// Variables of a program's environment.
pub type Environment = Vec<(String, String)>;

/// A running program. Dropped, it is ended: in order if that is quick, by force otherwise.
pub struct Process {
    child: Child,
    name: String,
}

/// The folder of the programs that are measured.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// Those in a folder; `None`: those beside this program.
    ///
    /// # Errors
    /// One is not there.
    pub fn at(folder: Option<&Path>) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let folder = folder.or_else(|| own.parent()).context("a folder with the programs")?;
        for name in ["tidegate-handler-sidecar", "tidegate-ingress"] {
            let program = folder.join(name);
            ensure!(program.exists(), "{} is not there: build it with the same profile", program.display());
        }
        Ok(Self(folder.to_owned()))
    }

    /// Starts a sidecar, ready or not.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn_sidecar(&self, config: &Sidecar, environment: &Environment) -> anyhow::Result<Process> {
        self.spawn("tidegate-handler-sidecar", config, environment)
    }

    /// Starts a sidecar and waits until it is ready.
    ///
    /// # Errors
    /// It does not start or never gets ready.
    pub async fn sidecar(&self, config: &Sidecar) -> anyhow::Result<Process> {
        let mut process = self.spawn_sidecar(config, &Environment::new())?;
        process.ready(config.admin_port).await?;
        Ok(process)
    }

    /// Starts an ingress and waits until it is ready.
    ///
    /// # Errors
    /// It does not start or never gets ready.
    pub async fn ingress(&self, config: &Ingress) -> anyhow::Result<Process> {
        let mut process = self.spawn("tidegate-ingress", config, &Environment::new())?;
        process.ready(config.admin_port).await?;
        Ok(process)
    }

    fn spawn(&self, name: &str, config: &impl Serialize, environment: &Environment) -> anyhow::Result<Process> {
        let mut environment = environment.clone();
        environment.push((contract::VARIABLE.to_owned(), serde_json::to_string(config)?));
        Process::spawn(&self.0.join(name), &[], &environment)
    }
}

/// The configuration of a sidecar that pulls for this handler (its identity) and delivers to this port, with nothing
/// else asked for.
pub fn sidecar_config(server: &TestBroker, handler: &str, identity: &Path, port: u16, concurrency: u16) -> Sidecar {
    Sidecar {
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
        relocation: Default::default(),
    }
}

fn delivery(port: u16, concurrency: u16) -> Delivery {
    Delivery {
        port,
        port_source: PortSource::Setting,
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
            statuses: StatusRules::default(),
        },
        on_exhausted: OnExhausted::DeadLetter,
        expiry: None,
    }
}

/// The configuration of an ingress of this broker of one server, as the operator would write it.
pub fn ingress_config(server: &TestBroker, durability: Durability) -> Ingress {
    let flush = match durability {
        Durability::Fsync => Flush::PerCommit,
        Durability::Relaxed => Flush::Shared,
    };
    Ingress {
        namespace: "bench".into(),
        broker: "bench".into(),
        topics: server.topics_dir(),
        servers: server.servers(),
        identity: server.ingress_identity_dir(),
        https_port: free_port(),
        admin_port: free_port(),
        broker_monitor: server.monitor(),
        broker_wake: server.wake_address(),
        volume: None,
        mqtt_port: free_port(),
        capacity: Capacity::default(),
        flush,
        certificates: Vec::new(),
    }
}

impl Process {
    /// Starts a program that is bound to end with this one. It has no environment but the one that is given, so that
    /// nothing of this machine (log level, exporters) comes into a figure.
    ///
    /// # Errors
    /// There is no such program.
    pub fn spawn(program: &Path, arguments: &[String], environment: &Environment) -> anyhow::Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { child, name })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// It has.
    pub fn runs(&mut self) -> anyhow::Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{} ended: {}", self.name, ended.unwrap_or_default());
        Ok(())
    }

    async fn ready(&mut self, admin_port: u16) -> anyhow::Result<()> {
        let ready = format!("http://127.0.0.1:{admin_port}/readyz").parse::<http::Uri>()?;
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let begun = Instant::now();
        while !client.get(ready.clone()).await.is_ok_and(|response| response.status().is_success()) {
            self.runs()?;
            ensure!(begun.elapsed() < LIMIT, "{} is not ready within {LIMIT:?}", self.name);
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
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
