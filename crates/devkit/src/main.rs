//! A real single-node Kubernetes for Tidegate's tests and demo, without an image registry.
//!
//! `tidegate-cluster up`, in short:
//! 1. [`packages`] installs the few Debian packages that are missing; [`modules`] builds Kubernetes, etcd, containerd and
//!    the rest from pinned Go modules into a cache outside the checkout, once.
//! 2. [`cluster`] writes certificates ([`pki`]) and configuration ([`config`]) to the cluster's folder and starts the
//!    [`keeper`], the only process on the host's side.
//! 3. The keeper puts itself into [`cgroup`]s of the cluster, makes namespaces for everything else (mount, pid, network,
//!    uts, ipc, cgroup), starts the node's first process in them, and carries connections from a loopback port of the host
//!    to the API server inside ([`forward`]).
//! 4. The first process ([`node`]) mounts and connects what the node needs, starts the [`programs`] as soon as what each
//!    needs is there, and notes when one ends ([`supervise`]).
//! 5. Meanwhile `up` imports the base [`images`], applies the first objects ([`manifests`]) and waits for a Ready node and
//!    working DNS. Every wait is bounded, says what it waits for, and ends in a diagnosis ([`diagnose`]).
//!
//! The node's network leads nowhere: pod and Service addresses exist only inside (`tidegate-cluster exec`). Killing the
//! node's first process is the end of all of it; the host's interfaces, firewall, mounts and settings are not touched.

mod archive;
mod cgroup;
mod cluster;
mod config;
mod diagnose;
mod forward;
mod images;
mod inside;
mod keeper;
mod manifests;
mod node;
mod oci;
mod packages;
mod pki;
mod process;
mod programs;
mod smoke;
mod status;
mod supervise;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tidegate_cluster::{call, modules, progress, state};
use time::OffsetDateTime;

use crate::archive::{Content, Image};
use crate::inside::Cluster;
use crate::modules::Module;
use crate::progress::Progress;
use crate::state::{Cache, State};

/// A real single-node Kubernetes in namespaces of its own. Progress goes to standard error.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Which cluster: each has a folder, a cgroup and namespaces of its own.
    #[arg(long, global = true, default_value = "tidegate")]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install missing Debian packages, build the Go programs; prints their folders, joined as for PATH.
    Tools {
        /// Only these modules (parts, kube, storage, collector, kwok, kube-1.29), and no Debian packages. Without it: all but
        /// the last two.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// Print the path of a built program (kubectl, helm, nats-server, kube-apiserver, etcd, otelcol, ...).
    Bin {
        /// Its name.
        program: String,
    },
    /// Bring the cluster up; the last line of output is `export KUBECONFIG=<path>`.
    Up {
        /// The API server's port, on 127.0.0.1.
        #[arg(long, default_value_t = 16443)]
        port: u16,
    },
    /// End the cluster and remove its state. Built programs stay.
    Down,
    /// Tell how the cluster is.
    Status,
    /// Write a docker-archive.
    Image {
        /// Its reference, for example localhost/tidegate/operator:dev.
        reference: String,
        /// The file to write.
        archive: PathBuf,
        /// The program to run, and with further `--entry` its arguments.
        #[arg(long, required = true, allow_hyphen_values = true)]
        entry: Vec<String>,
        /// `uid:gid` it runs as.
        #[arg(long, default_value = archive::NOBODY)]
        user: String,
        /// `path-in-image=file`, each copied as an executable.
        #[arg(required = true, value_parser = file_in_image)]
        files: Vec<(String, PathBuf)>,
    },
    /// Write an OCI archive with one program for several architectures, as a release publishes it; prints its digest.
    Oci(oci::Release),
    /// Import docker-archives into the cluster, unless it has the same content already.
    Load {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run a command inside the node, where pod and Service addresses exist.
    Exec {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Carry connections to a port of the node, as a client outside of the cluster reaches a NodePort; prints the address on
    /// 127.0.0.1 that it listens on, and works until it is ended.
    Forward {
        /// The port, on the node's own address.
        port: u16,
    },
    /// Test the cluster itself: restricted pods, a native sidecar, volumes, a Service, DNS.
    Smoke,
    /// The process that holds a node. Started by `up`.
    #[command(hide = true)]
    Keeper {
        #[arg(long)]
        port: u16,
    },
    /// The first process of a node. Started by the keeper.
    #[command(hide = true)]
    Node {
        #[arg(long)]
        port: u16,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let progress = Progress::start();
    let cache = Cache::open()?;
    let state = cache.cluster(&arguments.name)?;
    match arguments.command {
        Command::Tools { only } => tools(&cache, &only, &progress),
        Command::Bin { program } => print(modules::program(&cache, &program)?.to_string_lossy()),
        Command::Up { port } => {
            cluster::up(&cache, &state, port, &progress)?;
            print(format!("export KUBECONFIG={}", state.kubeconfig().display()))
        }
        Command::Down => cluster::down(&cache, &state, &progress),
        Command::Status => print(status::describe(&Cluster::new(&cache, &state)?)?.trim_end()),
        Command::Image { reference, archive, entry, user, files } => {
            let files: BTreeMap<_, _> = files.into_iter().map(|(path, file)| (path, Content::File(file))).collect();
            let out = File::create(&archive).with_context(|| format!("writing {}", archive.display()))?;
            let image = Image {
                name: reference,
                entrypoint: entry,
                user,
                architecture: archive::host_architecture(),
                created: OffsetDateTime::UNIX_EPOCH,
                files,
            };
            image.write(io::BufWriter::new(out))
        }
        Command::Oci(release) => print(release.write()?),
        Command::Load { archives } => cluster::load(&cache, &state, &archives, &progress),
        Command::Exec { command } => {
            let mut inside = Cluster::new(&cache, &state)?.inside()?;
            Err(inside.args(command).exec()).context("running nsenter")
        }
        Command::Forward { port } => forward(&state, port),
        Command::Smoke => smoke::run(&Cluster::new(&cache, &state)?, &progress),
        Command::Keeper { port } => keeper::run(&state, port),
        Command::Node { port } => node::run(&state, port),
    }
}

fn tools(cache: &Cache, only: &[String], progress: &Progress) -> Result<()> {
    let modules = Module::named(only)?;
    if only.is_empty() {
        packages::install(progress)?;
    }
    modules::ensure(cache, &modules, progress)?;
    print(modules::path(cache, &modules))
}

fn forward(state: &State, port: u16) -> Result<()> {
    let network = inside::network(state)?;
    let node: Ipv4Addr = config::NODE_IP.parse()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    print(listener.local_addr()?.to_string())?;
    forward::serve(&listener, &network, (node, port).into())
}

fn print(line: impl AsRef<str>) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{}", line.as_ref())?)
}

fn file_in_image(text: &str) -> Result<(String, PathBuf), String> {
    let (path, file) = text.split_once('=').ok_or("expected path-in-image=file")?;
    Ok((path.to_owned(), file.into()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_image_is_described_on_the_command_line() {
        let words = ["c", "image", "localhost/a:1", "a.tar", "--entry", "/a", "--entry", "--b", "/a=target/a"];
        let Command::Image { entry, user, files, .. } = Arguments::parse_from(words).command else {
            panic!("not an image")
        };
        assert_eq!(entry, ["/a", "--b"]);
        assert_eq!(user, "65532:65532");
        assert_eq!(files, [("/a".to_owned(), PathBuf::from("target/a"))]);
    }

    #[test]
    fn a_command_to_run_inside_keeps_its_own_options() {
        let words = ["c", "--name", "x", "exec", "--", "ls", "--name", "y"];
        let arguments = Arguments::parse_from(words);
        assert_eq!(arguments.name, "x");
        assert!(matches!(arguments.command, Command::Exec { command } if command == ["ls", "--name", "y"]));
    }
}
