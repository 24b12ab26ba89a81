//! etcd and kube-apiserver as processes that end with the test binary, however it ends.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tidegate_test_broker::free_port;

use super::pki::Pki;

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
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).expect("log");
        let mut command = Command::new(path);
        command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone().expect("log")).stderr(output);
        let child = ending_with_us(&mut command).spawn().unwrap_or_else(|error| panic!("{variable}: {error}"));
        Self { name, child, log }
    }

    /// Panics with the end of its log if it has ended.
    pub fn check(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait") {
            panic!("{} ended ({status}):\n{}", self.name, self.last_words());
        }
    }

    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
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

/// Starts kube-apiserver, which signs tokens with this key of the [`Pki`]; returns its address too.
pub fn api_server(folder: &Path, etcd: &str, pki: &Pki, tokens: &str) -> (Program, String) {
    let port = free_port();
    let file = |flag: &str, file: &str| format!("--{flag}={}", pki.folder.join(file).display());
    let arguments = [
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
        file("service-account-key-file", &format!("{tokens}.pub")),
        file("service-account-signing-key-file", &format!("{tokens}.key")),
    ];
    (Program::start("kube-apiserver", "KUBE_APISERVER", folder, &arguments), format!("https://127.0.0.1:{port}"))
}
