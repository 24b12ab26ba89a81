//! etcd, kube-apiserver and others as processes that end with the test binary, however it ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tidegate_test_broker::free_port;

use super::pki::{FRONT_PROXY, OPERATOR, Pki};

/// A running program and the file it writes to.
pub struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// The kernel ends a program when the thread that started it ends, so that thread must live as long as
    /// the tests.
    fn start(name: &'static str, variable: &str, folder: &Path, arguments: &[String]) -> Self {
        let path = std::env::var_os(variable).unwrap_or_else(|| {
            panic!("set {variable} to the path of {name}, or run the tests by `make test`, which does")
        });
        let mut command = Command::new(path);
        command.args(arguments);
        Self::run(name, command, &folder.join(format!("{name}.log")))
    }

    /// The same with a command of the caller's.
    pub fn run(name: &'static str, mut command: Command, log: &Path) -> Self {
        let output = File::create(log).expect("log");
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("log")).stderr(output);
        let child = ending_with_us(&mut command).spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Panics with the end of its log if it has ended.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait") {
            panic!("{} ended ({status}):\n{}", self.name, self.last_words());
        }
    }

    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// A test binary that is killed runs no destructor.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn ending_with_us(command: &mut Command) -> &mut Command {
    use nix::sys::prctl::set_pdeathsig;
    use nix::sys::signal::Signal;
    // SAFETY: prctl is one system call; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(|| set_pdeathsig(Signal::SIGKILL).map_err(Into::into)) }
}

/// Elsewhere they end when the tests do.
#[cfg(not(target_os = "linux"))]
fn ending_with_us(command: &mut Command) -> &mut Command {
    command
}

/// Starts etcd; returns its address too.
pub fn etcd(folder: &Path) -> (Program, String) {
    let client = format!("http://127.0.0.1:{}", free_port());
    let peer = format!("http://127.0.0.1:{}", free_port());
    let arguments = [
        format!("--data-dir={}", folder.join("etcd").display()),
        "--unsafe-no-fsync".into(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    (Program::start("etcd", "ETCD", folder, &arguments), client)
}

/// Starts kube-apiserver, which signs tokens with this key of the [`Pki`]; returns its address too. `audit`: where it takes
/// down what an operator with a process of its own asks.
pub fn api_server(folder: &Path, etcd: &str, pki: &Pki, tokens: &str, audit: Option<&Path>) -> (Program, String) {
    let port = free_port();
    let file = |flag: &str, file: &str| format!("--{flag}={}", pki.folder.join(file).display());
    let mut arguments = vec![
        format!("--etcd-servers={etcd}"),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        "--endpoint-reconciler-type=none".into(),
        format!("--secure-port={port}"),
        "--service-cluster-ip-range=10.0.0.0/16".into(),
        "--authorization-mode=RBAC".into(),
        // Without the controller that makes them, no namespace has a ServiceAccount.
        "--disable-admission-plugins=ServiceAccount".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        file("tls-cert-file", "server.crt"),
        file("tls-private-key-file", "server.key"),
        file("client-ca-file", "ca.crt"),
        // Aggregated APIs know by these for whom it asks.
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        file("proxy-client-cert-file", "front-proxy.crt"),
        file("proxy-client-key-file", "front-proxy.key"),
        format!("--requestheader-allowed-names={FRONT_PROXY}"),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        file("service-account-key-file", &format!("{tokens}.pub")),
        file("service-account-signing-key-file", &format!("{tokens}.key")),
    ];
    if let Some(log) = audit {
        let policy = folder.join("audit-policy.json");
        let rules = json!([{"level": "Metadata", "users": [OPERATOR]}, {"level": "None"}]);
        let content = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules,
        });
        fs::write(&policy, content.to_string()).expect("written");
        arguments.push(format!("--audit-policy-file={}", policy.display()));
        arguments.push(format!("--audit-log-path={}", log.display()));
    }
    (Program::start("kube-apiserver", "KUBE_APISERVER", folder, &arguments), format!("https://127.0.0.1:{port}"))
}

/// Starts what makes pods of Deployments, puts them on a node, and says that they run: two controllers, the scheduler, and
/// KWOK in the place of kubelets.
pub fn nodes(folder: &Path, kubeconfig: &Path) -> [Program; 3] {
    let start = |name, variable, flags: &[&str]| {
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        let arguments: Vec<_> = flags.chain([format!("--kubeconfig={}", kubeconfig.display())]).collect();
        Program::start(name, variable, folder, &arguments)
    };
    let stages = folder.join("kwok.yaml");
    fs::write(&stages, include_str!("kwok.yaml")).expect("written");
    let stages = format!("--config={}", stages.display());
    let (rate, burst) = ("--kube-api-qps=500", "--kube-api-burst=1000");
    let common = ["--leader-elect=false", "--secure-port=0", rate, burst];
    let controllers = [&common[..], &["--controllers=deployment-controller,replicaset-controller"]].concat();
    [
        start("kube-controller-manager", "KUBE_CONTROLLER_MANAGER", &controllers),
        start("kube-scheduler", "KUBE_SCHEDULER", &common),
        start("kwok", "KWOK", &["--manage-all-nodes", &stages]),
    ]
}
