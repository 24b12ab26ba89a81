//! Up, down and status of a cluster.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::inside::{Cluster, search_path};
use crate::modules::{self, Module};
use crate::process::Process;
use crate::progress::{Look, Progress};
use crate::state::{Cache, State};
use crate::{call, cgroup, config, diagnose, images, manifests, packages, pki, programs};

/// A bound for each step of the start. Together they take about twelve seconds on two idle cores.
const STEP: Duration = Duration::from_secs(300);
const PERIOD: Duration = Duration::from_millis(200);

/// How a cluster is.
pub enum Health {
    /// There is none.
    Absent,
    /// There is one, and it does not work, because.
    Broken(String),
    /// It works, with its API at this port.
    Running(u16),
}

/// Looks at a cluster.
///
/// # Errors
/// kubectl cannot be run.
pub fn health(cluster: &Cluster<'_>) -> Result<Health> {
    let state = cluster.state;
    if !state.root.exists() {
        return Ok(Health::Absent);
    }
    if let Err(reason) = lives(state) {
        return Ok(Health::Broken(reason));
    }
    let port = fs::read_to_string(state.join("port")).ok().and_then(|text| text.trim().parse().ok());
    Ok(match (port, node_ready(cluster)?) {
        (None, _) => Health::Broken("its start was not finished".into()),
        (Some(port), _) if !programs::are_of_this_build(state, port) => {
            Health::Broken("another build of this program started it, with other arguments".into())
        }
        (Some(port), Look::Ready(())) => Health::Running(port),
        (_, Look::NotYet(reason)) => Health::Broken(reason),
    })
}

/// Whether all processes of a cluster are there; otherwise the reason.
fn lives(state: &State) -> Result<(), String> {
    if let Some(death) = state.deaths().first() {
        return Err(format!("{} ended ({})", death.program, death.how));
    }
    for (record, what) in [(state.keeper(), "keeper"), (state.node(), "first process of the node")] {
        if Process::recorded(&record).is_none() {
            return Err(format!("the {what} is gone"));
        }
    }
    Ok(())
}

/// Brings a cluster up, unless it runs and is healthy. What is left of a broken one is removed first.
///
/// # Errors
/// Told with a diagnosis.
pub fn up(cache: &Cache, state: &State, port: u16, progress: &Progress) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "a node needs root (its namespaces, mounts and cgroups)");
    packages::install(progress)?;
    modules::ensure(cache, &Module::named(&modules::NODE)?, progress)?;
    let _lock = lock(cache, state, progress)?;
    let cluster = Cluster::new(cache, state)?;
    match health(&cluster)? {
        Health::Running(at) if at == port => {
            progress.say(format!("cluster {} runs already", state.name));
            return Ok(());
        }
        Health::Running(at) => bail!(
            "cluster {} runs with its API at port {at}, not {port}: `tidegate-cluster down` first, or choose another --name",
            state.name
        ),
        Health::Broken(reason) => {
            progress.say(format!("cluster {} is not healthy: {reason}; starting it again", state.name));
            remove(state, progress)?;
        }
        Health::Absent => {}
    }
    start(cache, &cluster, port, progress).inspect_err(|_| diagnose::print(&cluster))
}

fn start(cache: &Cache, cluster: &Cluster<'_>, port: u16, progress: &Progress) -> Result<()> {
    let state = cluster.state;
    state.create()?;
    pki::create(state)?;
    config::write(state, port, &modules::path(cache, &Module::named(&["parts"])?))?;
    let archives = images::base(state)?;
    progress.say(format!("starting the node of cluster {}", state.name));
    let mut keeper = start_keeper(cache, state, port)?;
    let mut wait = |what: &str, look: &mut dyn FnMut() -> Result<Look<()>>| {
        progress.wait(what, STEP, PERIOD, || {
            still_lives(&mut keeper, state)?;
            look()
        })
    };
    wait("the container runtime", &mut || runtime_ready(cluster))?;
    images::load(cluster, &archives, progress)?;
    wait("the API server", &mut || answered(cluster.ask(&["get", "--raw", "/readyz"])?))?;
    progress.say("the API server is ready");
    let base = state.join("etc/base.json");
    fs::write(&base, serde_json::to_vec_pretty(&manifests::base())?)?;
    wait("the first objects", &mut || answered(cluster.ask(&["apply", "--filename", &base.to_string_lossy()])?))?;
    wait("the node to be Ready", &mut || node_ready(cluster))?;
    progress.say("the node is Ready");
    let account = ["get", "serviceaccount", "default", "--namespace=default"];
    wait("the default ServiceAccount", &mut || answered(cluster.ask(&account)?))?;
    wait("cluster DNS", &mut || dns_ready(cluster))?;
    // Written last: a start that was broken off is not taken for a cluster.
    programs::record(state, port)?;
    fs::write(state.join("port"), port.to_string())?;
    progress.say(format!("cluster {} is up", state.name));
    Ok(())
}

/// The keeper continues when we end.
fn start_keeper(cache: &Cache, state: &State, port: u16) -> Result<Child> {
    let log = File::create(state.log("keeper"))?;
    Command::new(std::env::current_exe()?)
        .args(["--name", &state.name, "keeper", "--port", &port.to_string()])
        .env("PATH", search_path(cache)?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the keeper")
}

fn still_lives(keeper: &mut Child, state: &State) -> Result<()> {
    if let Some(death) = state.deaths().first() {
        bail!("{} ended ({})", death.program, death.how);
    }
    if let Some(status) = keeper.try_wait()? {
        bail!("the keeper of the node ended ({status})");
    }
    Ok(())
}

fn answered(answer: Result<String, String>) -> Result<Look<()>> {
    Ok(match answer {
        Ok(_) => Look::Ready(()),
        Err(reason) => Look::NotYet(reason),
    })
}

fn runtime_ready(cluster: &Cluster<'_>) -> Result<Look<()>> {
    if Process::recorded(&cluster.state.node()).is_none() {
        return Ok(Look::NotYet("the node has not started".into()));
    }
    let mut version = cluster.inside()?;
    let finished = call::output(version.args(["ctr", "version"]), Duration::from_secs(10))?;
    answered(if finished.status.success() { Ok(String::new()) } else { Err(call::tail(finished.stderr.trim(), 1)) })
}

fn node_ready(cluster: &Cluster<'_>) -> Result<Look<()>> {
    let path = r#"jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}"#;
    Ok(match cluster.ask(&["get", "node", config::NODE_NAME, "--output", path])? {
        Ok(condition) if condition.starts_with("True") => Look::Ready(()),
        Ok(condition) => Look::NotYet(condition),
        Err(reason) => Look::NotYet(reason),
    })
}

/// Asks the DNS Service, so that kube-proxy is seen to work too.
fn dns_ready(cluster: &Cluster<'_>) -> Result<Look<()>> {
    let mut lookup = cluster.inside()?;
    lookup.args(["busybox", "nslookup", "kubernetes.default.svc.cluster.local", config::DNS_IP]);
    let finished = call::output(&mut lookup, Duration::from_secs(15))?;
    let found = finished.stdout.contains(config::API_SERVICE_IP);
    answered(if found { Ok(String::new()) } else { Err(call::tail(finished.stdout.trim(), 1)) })
}

/// Imports archives, see [`images::load`].
///
/// # Errors
/// Those of [`images::load`].
pub fn load(cache: &Cache, state: &State, archives: &[PathBuf], progress: &Progress) -> Result<()> {
    let _lock = lock(cache, state, progress)?;
    images::load(&Cluster::new(cache, state)?, archives, progress)
}

/// Ends a cluster and removes what it left. Nothing to do if there is none.
///
/// # Errors
/// A process or a cgroup does not go away.
pub fn down(cache: &Cache, state: &State, progress: &Progress) -> Result<()> {
    let _lock = lock(cache, state, progress)?;
    if !state.root.exists() {
        progress.say(format!("cluster {} is not there", state.name));
        return Ok(());
    }
    remove(state, progress)?;
    progress.say(format!("cluster {} is down", state.name));
    Ok(())
}

/// The end of the node's first process is the end of all in it; their mounts, interfaces and rules end with the
/// namespaces.
fn remove(state: &State, progress: &Progress) -> Result<()> {
    for (record, what) in [(state.node(), "the node"), (state.keeper(), "the keeper")] {
        if let Some(process) = Process::recorded(&record) {
            process.end(what, progress)?;
        }
    }
    cgroup::remove(state, progress)?;
    remove_folder(&state.root, progress)
}

fn remove_folder(folder: &Path, progress: &Progress) -> Result<()> {
    let what = format!("the removal of {}", folder.display());
    // The last mounts of the node go away a moment after its last process.
    progress.wait(&what, Duration::from_secs(60), Duration::from_millis(100), || {
        Ok(match fs::remove_dir_all(folder) {
            Ok(()) => Look::Ready(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Look::Ready(()),
            Err(error) => Look::NotYet(error.to_string()),
        })
    })
}

/// One `up`, `down` or `load` of a cluster at a time.
fn lock(cache: &Cache, state: &State, progress: &Progress) -> Result<File> {
    fs::create_dir_all(cache.join("cluster"))?;
    let lock = File::create(cache.join("cluster").join(format!("{}.lock", state.name)))?;
    if lock.try_lock().is_err() {
        progress.say(format!("waiting for another command on cluster {}", state.name));
        lock.lock()?;
    }
    Ok(lock)
}
