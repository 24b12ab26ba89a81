//! One nats-server process.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate_broker_admin::server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net;

use crate::free_port;

/// How long a server may take to listen, on a machine with other work too.
const START: Duration = Duration::from_secs(60);

/// A server with its ports and its folder; running or not.
pub(crate) struct Node {
    name: String,
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) monitor: u16,
    /// Where the other servers of a cluster reach it.
    pub(crate) route: u16,
    /// Where it is woken.
    pub(crate) leaf: u16,
    child: Option<Child>,
}

impl Node {
    /// One that does not run yet; its files are in a folder of its name.
    pub(crate) fn new(name: String, parent: &Path) -> Self {
        let folder = parent.join(&name);
        std::fs::create_dir_all(&folder).expect("folder");
        let (port, monitor, route, leaf) = (free_port(), free_port(), free_port(), free_port());
        Self { name, folder, port, monitor, route, leaf, child: None }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it keeps what it stores.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What a page of its monitoring says.
    pub(crate) async fn monitoring(&self, page: &str) -> serde_json::Value {
        let answer = self.page(page).await.expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }

    /// Whether it serves all its streams.
    pub(crate) async fn is_healthy(&self) -> bool {
        self.page("healthz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    async fn page(&self, page: &str) -> std::io::Result<String> {
        let mut stream = net::TcpStream::connect(("127.0.0.1", self.monitor)).await?;
        stream.write_all(format!("GET /{page} HTTP/1.0\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    pub(crate) fn configure(&self, configuration: &str) {
        std::fs::write(self.folder.join("nats.conf"), configuration).expect("write");
    }

    /// Starts it and waits until it listens.
    pub(crate) async fn start(&mut self) {
        let program = std::env::var("NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned());
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).expect("log");
        let child = Command::new(&program)
            .env(server::NAME_VARIABLE, server::name_value(&self.name))
            .arg("--config")
            .arg(self.folder.join("nats.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} (NATS_SERVER): {error}"));
        self.child = Some(child);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < START, "nats-server does not listen:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it (SIGKILL). What it stored stays.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Ends it in order (SIGTERM), as a restart of its pod does: it writes down what it knows.
    pub(crate) fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("wait");
        }
    }

    /// Sends its process this signal, if it runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal).expect("a signal");
        }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
