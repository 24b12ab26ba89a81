//! Commands in a running node's namespaces, and commands to its API server.

use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::call;
use crate::modules::{self, Module};
use crate::process::Process;
use crate::state::{Cache, State};

/// A bound for one call to the API server.
const CALL: Duration = Duration::from_secs(15);

/// A cluster with its tools.
pub struct Cluster<'a> {
    /// Its state.
    pub state: &'a State,
    kubectl: PathBuf,
    path: String,
}

impl<'a> Cluster<'a> {
    /// The cluster with this state. The tools must be built.
    ///
    /// # Errors
    /// They are not.
    pub fn new(cache: &Cache, state: &'a State) -> Result<Self> {
        Ok(Self { state, kubectl: modules::program(cache, "kubectl")?, path: search_path(cache)? })
    }

    /// A command in all the node's namespaces.
    ///
    /// # Errors
    /// The node does not run.
    pub fn inside(&self) -> Result<Command> {
        let node = node(self.state)?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &node.pid.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        if let Ok(folder) = std::env::current_dir() {
            let mut option = OsString::from("--wdns=");
            option.push(folder);
            command.arg(option);
        }
        command.arg("--").env("PATH", &self.path).env("KUBECONFIG", self.state.kubeconfig());
        Ok(command)
    }

    /// A `kubectl` command, with its cache kept with the cluster.
    pub fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.state.kubeconfig());
        command.arg("--cache-dir").arg(self.state.join("kubectl-cache"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Asks the API server something. Nothing if it does not answer, or answers with an error: the reason is then the
    /// last line kubectl wrote.
    ///
    /// # Errors
    /// kubectl cannot be run.
    pub fn ask(&self, arguments: &[&str]) -> Result<Result<String, String>> {
        let finished = call::output(self.kubectl(arguments).arg("--request-timeout=5s"), CALL)?;
        if finished.status.success() {
            return Ok(Ok(finished.stdout.trim().to_owned()));
        }
        Ok(Err(call::tail(finished.stderr.trim(), 1)))
    }
}

/// The node's network namespace.
///
/// # Errors
/// The node does not run.
pub fn network(state: &State) -> Result<File> {
    let path = format!("/proc/{}/ns/net", node(state)?.pid);
    File::open(&path).context(path)
}

fn node(state: &State) -> Result<Process> {
    Process::recorded(&state.node())
        .with_context(|| format!("cluster {} does not run: `tidegate-cluster up`", state.name))
}

/// The search path for the node's programs: ours first, then the system's.
///
/// # Errors
/// None of the modules is known.
pub fn search_path(cache: &Cache) -> Result<String> {
    let ours = modules::path(cache, &Module::named(&modules::NODE)?);
    Ok(format!("{ours}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
}
