//! `tidegate dev`: a real nats-server, the ingress and a sidecar for each handler as programs on this machine, made from the
//! same YAML and by the same functions as the operator makes them in a cluster, TLS and accounts included.

mod broker;
mod files;
mod formed;
mod http;
pub mod keeper;
mod ports;
mod process;
mod programs;
mod project;
pub mod running;
mod session;
mod show;
mod sidecars;
mod start;
pub mod state;
mod tokens;
mod told;
mod unknown;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::dev::keeper::Keeper;
use crate::dev::programs::Programs;
use crate::dev::project::Project;
use crate::dev::session::Session;
use crate::failure::Failure;
use crate::terminal;

/// The port of plain HTTP, where none is named.
pub const HTTP_PORT: u16 = 7080;

/// What `tidegate dev` is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// YAML files with EventTopics and EventHandlers, or folders of them. They are read again when they change.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Program that gets the events, with its arguments. It is started once, with the literal variables of the handlers'
    /// first containers, and listens where the YAML says. Without it, what listens there already gets them.
    #[arg(last = true)]
    pub program: Vec<String>,
    /// Take events in plain HTTP on this port of 127.0.0.1, without a token.
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "7080")]
    pub http: Option<u16>,
    /// Port on which the program of a handler listens here, in place of what the YAML says.
    #[arg(long, value_name = "HANDLER=PORT", value_parser = handler_port)]
    pub port: Vec<(String, u16)>,
    /// Namespace of resources that name none.
    #[arg(short, long, default_value = "default")]
    pub namespace: String,
    /// Begin without the events of earlier runs.
    #[arg(long)]
    pub fresh: bool,
    /// Folder for events, keys and logs. Default: one for each folder of YAML files, below $XDG_STATE_HOME/tidegate/dev
    /// (~/.local/state/tidegate/dev).
    #[arg(long, value_name = "FOLDER")]
    pub state: Option<PathBuf>,
    /// Folder with tidegate-ingress and tidegate-handler-sidecar. Default: that of this program.
    #[arg(long, value_name = "FOLDER")]
    pub programs: Option<PathBuf>,
}

fn handler_port(text: &str) -> Result<(String, u16), String> {
    let (handler, port) = text.split_once('=').ok_or("expected HANDLER=PORT, such as billing=8081")?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or("the port must be from 1 to 65535")?;
    Ok((handler.to_owned(), port))
}

impl Arguments {
    /// The ports by handler.
    fn ports(&self) -> BTreeMap<String, u16> {
        self.port.iter().cloned().collect()
    }
}

/// Runs until it is asked to end (SIGINT, SIGTERM, SIGHUP), or something that it needs ends.
///
/// # Errors
/// It could not run, or not any longer. Nothing that it started runs then.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    // A build of nats-server ends with a Ctrl-C as any other. So this comes first, but for a look at the files.
    Project::new(files::read(&files::find(&arguments.files)?, &arguments.namespace)?, &arguments.ports())?;
    let programs = Programs::find(arguments.programs.as_deref())?;
    // Before anything is started, so that whatever is started is also ended.
    let mut stop = Stop::new()?;
    let keeper = Keeper::start()?;
    let mut session = Session::new(arguments, programs, keeper.clone())?;
    let outcome = tokio::select! {
        outcome = Box::pin(session.live()) => outcome,
        () = stop.asked() => terminal::print("ending; a second Ctrl-C ends it at once"),
    };
    tokio::select! {
        () = session.end() => {}
        () = stop.asked() => {}
    }
    drop(session);
    keeper.end();
    outcome
}

/// What asks this program to end.
struct Stop([Signal; 3]);

impl Stop {
    fn new() -> Result<Self, Failure> {
        let install = |kind| signal(kind).map_err(Failure::failed);
        let [interrupt, terminate, hangup] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Ok(Self([install(interrupt)?, install(terminate)?, install(hangup)?]))
    }

    async fn asked(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
