//! The one process outside that holds a node.
//!
//! It makes the node's namespaces, starts the node's first process in them, and carries connections from a loopback port
//! of the host to the API server inside. It ends when the node ends, and the node ends with it.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use crate::process::Process;
use crate::state::State;
use crate::{cgroup, forward};

/// A node that was started.
struct Node {
    /// Its first process, as numbered outside.
    pid: i32,
    /// Its network namespace.
    network: File,
}

/// Runs until the node ends. `port` is that of the API server, inside and outside.
///
/// # Errors
/// The port is taken, or the node cannot be started.
pub fn run(state: &State, port: u16) -> Result<()> {
    // Of no terminal any more: a Ctrl-C there is not meant for the node.
    nix::unistd::setsid().context("setsid")?;
    let own = Process::of(std::process::id().cast_signed()).context("this process is not in /proc")?;
    own.record(&state.keeper())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("listening on 127.0.0.1:{port} (choose another one with --port)"))?;
    cgroup::enter(state)?;
    let (started, node) = mpsc::channel();
    let node_state = state.clone();
    thread::spawn(move || {
        if let Err(error) = hold(&node_state, port, &started) {
            eprintln!("keeper: {error:#}");
        }
        std::process::exit(1);
    });
    // No answer: the thread has failed, said why, and ends the process.
    let node = node.recv().context("the node did not start")?;
    // Looked up here and not in the thread: that one sees the files of the node, whose `/proc` has other numbers as soon
    // as the node has mounted it.
    Process::of(node.pid).context("the node ended at once")?.record(&state.node())?;
    forward::serve(&listener, &node.network, (Ipv4Addr::LOCALHOST, port).into())
}

/// Starts the node in namespaces of its own, hands it out, and waits for its end.
///
/// In a thread of its own because `unshare` is per thread, and a thread that has left its process namespace cannot start
/// others; all the rest of this process stays outside.
fn hold(state: &State, port: u16, started: &Sender<Node>) -> Result<()> {
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).context("making namespaces")?;
    cgroup::settle(state)?;
    let network = File::open("/proc/thread-self/ns/net")?;
    let mut node = start_node(state, port)?;
    started.send(Node { pid: node.id().cast_signed(), network }).ok();
    let status = node.wait()?;
    anyhow::bail!("the node ended ({status})")
}

fn start_node(state: &State, port: u16) -> Result<Child> {
    let log = File::create(state.log("node"))?;
    Command::new(std::env::current_exe()?)
        .args(["--name", &state.name, "node", "--port", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the node's first process")
}
