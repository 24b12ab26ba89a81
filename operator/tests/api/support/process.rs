//! An operator in a process of its own, so that its memory, its time and its requests can be measured.
//!
//! It is this test binary once more, which then does what `main` does, at the addresses of the test's brokers.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidegate_broker_admin::server::Server;
use tidegate_operator::context::Context;
use tidegate_operator::run::run;
use tidegate_operator::sessions::brokers::BrokerKey;
use tidegate_telemetry::Service;
use tokio_util::sync::CancellationToken;

use super::brokers::Places;
use super::operator::args;
use super::programs::Program;
use super::server;

/// What the process is told.
const VARIABLE: &str = "TIDEGATE_TEST_OPERATOR";
/// What an operator says when it has reconciled everything for the first time.
const CONVERGED: &str = "every resource has been reconciled since the start";

#[derive(Deserialize, Serialize)]
struct Task {
    kubeconfig: Value,
    /// The servers of each broker.
    places: HashMap<String, Vec<String>>,
    /// What they say when they have loaded their configuration.
    digests: HashMap<String, Vec<String>>,
}

/// Operates until it is killed, if this process is to.
pub fn operate() {
    let Ok(task) = std::env::var(VARIABLE) else { return };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let task: Task = serde_json::from_str(&task).expect("a task");
    let service = Service { name: "tidegate-operator", version: "test", attributes: Vec::new() };
    let _telemetry = tidegate_telemetry::init(service).expect("telemetry");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let kubeconfig: Kubeconfig = serde_json::from_value(task.kubeconfig.clone()).expect("kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("config");
        let context = Context::new(Client::try_from(config).expect("client"), args("operator-0", "default"));
        let Task { places, digests, .. } = task;
        let key = |broker: &BrokerKey| format!("{}/{}", broker.namespace, broker.name);
        let addresses = move |broker: &BrokerKey, _| places.get(&key(broker)).cloned().unwrap_or_default();
        // Of brokers of one server.
        let digests = move |broker: &BrokerKey, _: &Server, _: &str| {
            digests.get(&key(broker)).and_then(|digests| digests.first()).cloned().unwrap_or_default()
        };
        let context = context.with_broker_addresses(Arc::new(addresses)).with_server_digests(Arc::new(digests));
        Box::pin(run(context, CancellationToken::new())).await;
    });
}

/// The running process.
pub struct Process {
    program: Program,
    begun: Instant,
}

impl Process {
    /// `test`: the ignored test that calls [`operate`].
    pub fn start(test: &str, places: &Places) -> Self {
        let (folder, kubeconfig) = server::for_process();
        let task = serde_json::to_string(&Task { kubeconfig, places: places.all(), digests: places.all_digests() })
            .expect("JSON");
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args(["--exact", test, "--ignored", "--nocapture"]).env(VARIABLE, task);
        Self { begun: Instant::now(), program: Program::run("operator", command, &folder.join("operator.log")) }
    }

    /// Waits until it has reconciled everything once. Returns how long that took from its start.
    pub async fn until_converged(&mut self, limit: Duration) -> Duration {
        while !self.program.log().contains(CONVERGED) {
            self.program.check();
            assert!(self.begun.elapsed() < limit, "not converged:\n{}", self.program.last_words());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.begun.elapsed()
    }

    /// Of its memory that is in use, what is its own, in bytes; and all of it, files that are mapped included.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(self.proc("status")).expect("status");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
        };
        (bytes("RssAnon:"), bytes("VmRSS:"))
    }

    /// Processor time that it has used.
    pub fn time(&self) -> Duration {
        let stat = fs::read_to_string(self.proc("stat")).expect("stat");
        // After the name, which is in brackets, the 12th and 13th field, in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// Sockets that it has open: connections to the API server and to brokers, and a few of its own.
    pub fn sockets(&self) -> usize {
        let files = fs::read_dir(self.proc("fd")).expect("files").flatten();
        files
            .filter(|file| fs::read_link(file.path()).is_ok_and(|link| link.to_string_lossy().starts_with("socket:")))
            .count()
    }

    /// Ends it at once.
    pub fn kill(self) {
        self.program.kill();
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.program.pid().to_string()).join(file)
    }
}

/// What the operator asked of the API server, as that took it down.
pub struct Audit {
    log: File,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    pub verb: String,
    pub uri: String,
}

impl Request {
    /// What it is about, for example `eventtopics` or `secrets`.
    pub fn kind(&self) -> &str {
        let path = self.uri.split('?').next().unwrap_or_default();
        let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(2);
        parts.next().unwrap_or_else(|| path.rsplit('/').next().unwrap_or_default())
    }

    /// Whether it could change something.
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}

impl Audit {
    /// From the end of the log on.
    pub fn new(log: &Path) -> Self {
        let mut log = File::open(log).expect("an audit log");
        log.seek(SeekFrom::End(0)).expect("the end");
        Self { log }
    }

    /// The requests that were answered since the last time; a watch is answered when it begins.
    pub fn take(&mut self) -> Vec<Request> {
        let mut text = String::new();
        self.log.read_to_string(&mut text).expect("read");
        // What is written at this moment is read as a whole the next time.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let rest = i64::try_from(text.len() - whole).expect("a number");
        self.log.seek(SeekFrom::Current(-rest)).expect("back");
        let entries = text[..whole].lines().map(|line| serde_json::from_str::<Value>(line).expect("an entry"));
        let answered = |entry: &Value| {
            let stage = if entry["verb"] == "watch" { "ResponseStarted" } else { "ResponseComplete" };
            entry["stage"] == stage
        };
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        entries
            .filter(answered)
            .map(|entry| Request { verb: text(&entry, "verb"), uri: text(&entry, "requestURI") })
            .collect()
    }
}
