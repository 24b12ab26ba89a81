//! The first process of a node: makes the node's view of files and network, then runs its programs.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;

use crate::config::{GATEWAY_IP, NODE_IP, NODE_NAME};
use crate::state::State;
use crate::{call, cgroup, programs, supervise};

/// Settings of the whole machine that a kubelet would change. It gets files of its own to write to instead.
const MACHINE_SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Runs until it is killed.
///
/// # Errors
/// The namespaces cannot be set up.
pub fn run(state: &State, port: u16) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("ending with the keeper")?;
    nix::unistd::sethostname(NODE_NAME)?;
    mounts(state)?;
    network()?;
    supervise::run(state, programs::all(state, port))
}

fn mounts(state: &State) -> Result<()> {
    // Nothing we mount from here on reaches the host.
    remark("/", MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    fresh("proc", "/proc")?;
    cgroup::remount()?;
    fresh("tmpfs", "/run")?;
    // What these programs keep at fixed places is kept with the cluster.
    bind(&state.join("var/lib"), Path::new("/var/lib"))?;
    bind(&state.join("var/log"), Path::new("/var/log"))?;
    for setting in MACHINE_SETTINGS {
        let real = Path::new("/proc/sys").join(setting);
        let own = Path::new("/run").join(setting.replace('/', "-"));
        fs::write(&own, fs::read(&real)?)?;
        bind(&own, &real)?;
    }
    // Pods' volumes have to appear in containers that already run.
    remark("/", MsFlags::MS_SHARED | MsFlags::MS_REC)
}

fn remark(target: &str, how: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, how, None::<&str>).with_context(|| format!("remounting {target}"))
}

fn fresh(kind: &str, target: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>).with_context(|| format!("mounting {target}"))
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("mounting {} at {}", source.display(), target.display()))
}

/// An interface and a default route that lead nowhere: what is not in the cluster cannot be reached. The interface is a
/// pair with both ends here, because not every kernel has the `dummy` kind.
fn network() -> Result<()> {
    let address = format!("{NODE_IP}/24");
    let steps: [&[&str]; 6] = [
        &["link", "set", "lo", "up"],
        &["link", "add", "eth0", "type", "veth", "peer", "name", "eth0-end"],
        &["addr", "add", &address, "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        &["link", "set", "eth0-end", "up"],
        &["route", "add", "default", "via", GATEWAY_IP],
    ];
    for step in steps {
        call::must(Command::new("ip").args(step), Duration::from_secs(10))?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")
}
