//! One run: what is started, in which order, and what happens while it runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidegate_broker_admin::Authority;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::broker::{self, Broker, HOST, ServerPorts};
use super::http::Ways;
use super::keeper::Keeper;
use super::process::{Line, Output, Process, log_file};
use super::programs::Programs;
use super::project::Project;
use super::sidecars::{Place, Sidecars};
use super::state::{self, State};
use super::tokens::{self, Tokens};
use super::watch::Happened;
use super::{Arguments, files, show};
use crate::failure::Failure;
use crate::terminal::{self, print};

/// Between two looks at the files, and at whether all programs run.
const TICK: Duration = Duration::from_millis(250);
/// Lines and happenings that wait to be shown.
const WAITING: usize = 1024;
/// How long a program may take to end: the user's, and nats-server, which writes down what it knows.
const END: Duration = Duration::from_secs(5);
/// The last lines of a program that ended.
const LAST_LINES: usize = 5;

/// One run.
pub struct Session {
    pub(super) arguments: Arguments,
    pub(super) programs: Programs,
    pub(super) state: State,
    pub(super) keeper: Keeper,
    pub(super) tokens: Tokens,
    pub(super) output: Output,
    lines: mpsc::Receiver<Line>,
    happenings: mpsc::Receiver<Happened>,
    pub(super) happened: mpsc::Sender<Happened>,
    /// Handlers that get events from now on.
    ready: mpsc::Receiver<String>,
    becomes_ready: mpsc::Sender<String>,
    pub(super) ways: channel::Sender<Arc<Ways>>,
    /// What the files had when they were read last.
    read: BTreeMap<PathBuf, Vec<u8>>,
    pub(super) program: Option<Process>,
    sidecars: Sidecars,
    pub(super) ingress: Option<Process>,
    pub(super) nats: Option<Process>,
}

/// What a run has once it is up.
pub(super) struct Up {
    pub(super) authority: Authority,
    pub(super) broker: Broker,
    pub(super) project: Project,
    pub(super) server: ServerPorts,
    pub(super) https: u16,
    pub(super) spans: u16,
}

impl Session {
    /// A run that has started nothing.
    ///
    /// # Errors
    /// Its folder cannot be used.
    pub fn new(arguments: Arguments, programs: Programs, keeper: Keeper) -> Result<Self, Failure> {
        let root = match (&arguments.state, arguments.files.first()) {
            (Some(named), _) => named.clone(),
            (None, Some(first)) => state::folder_of(first)?,
            (None, None) => return Err(Failure::Usage("name a YAML file".into())),
        };
        let state = State::open(root, arguments.fresh)?;
        let logs = Some(state.folder("logs")?);
        let ((lines, received), (happened, happenings)) = (mpsc::channel(WAITING), mpsc::channel(WAITING));
        let (becomes_ready, ready) = mpsc::channel(WAITING);
        Ok(Self {
            arguments,
            programs,
            state,
            keeper,
            tokens: Tokens::new(),
            output: Output { lines, logs },
            lines: received,
            happenings,
            happened,
            ready,
            becomes_ready,
            ways: channel::Sender::default(),
            read: BTreeMap::new(),
            program: None,
            sidecars: Sidecars::default(),
            ingress: None,
            nats: None,
        })
    }

    /// Starts everything, and shows what happens until something ends that is needed.
    ///
    /// # Errors
    /// That is always one.
    pub async fn live(&mut self) -> Result<(), Failure> {
        let up = Box::pin(self.start()).await?;
        Box::pin(self.serve(up)).await
    }

    /// Ends everything, the user's program before the broker.
    pub async fn end(&mut self) {
        self.sidecars.end().await;
        if let Some(program) = self.program.take() {
            program.end(END).await;
        }
        if let Some(ingress) = self.ingress.take() {
            // What it has acknowledged is stored; in order it would take its time, for others that there are not.
            ingress.end(Duration::ZERO).await;
        }
        if let Some(nats) = self.nats.take() {
            nats.end(END).await;
        }
    }

    /// Reads the files, and takes note of what they have.
    pub(super) fn read_project(&mut self) -> Result<Project, Failure> {
        let found = files::find(&self.arguments.files)?;
        self.read = content(&found);
        let resources = files::read(&found, &self.arguments.namespace)?;
        Project::new(resources, &self.arguments.ports())
    }

    /// Makes topics and handlers be as the project says.
    pub(super) async fn apply(&mut self, up: &mut Up) -> Result<(), Failure> {
        up.broker.ensure_topics(&up.project.topics).await?;
        let place = Place {
            state: &self.state,
            program: self.programs.sidecar.clone(),
            servers: up.server.servers(),
            ingress: format!("https://{HOST}:{}", up.https),
            spans: up.spans,
            taken: taken(&up.project, self.arguments.http),
            output: &self.output,
            keeper: &self.keeper,
            ready: &self.becomes_ready,
        };
        for done in Box::pin(self.sidecars.ensure(&up.project.handlers, &mut up.broker, &place)).await? {
            print(&done)?;
        }
        self.tell_ways(up)
    }

    /// Shows what happens, and takes over what changes in the files.
    async fn serve(&mut self, mut up: Up) -> Result<(), Failure> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tokens = interval(tokens::REFRESH);
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    self.check_programs().await?;
                    Box::pin(self.reload(&mut up)).await?;
                }
                _ = tokens.tick() => self.tell_ways(&up)?,
                Some(handler) = self.ready.recv() => print(&format!("handler {handler} is ready"))?,
                Some(line) = self.lines.recv() => self.show(&line)?,
                Some(happened) = self.happenings.recv() => print(&show::happened(&happened))?,
            }
        }
    }

    fn show(&self, line: &Line) -> Result<(), Failure> {
        // What nats-server logs is in its file.
        let shown = match line.program.as_str() {
            _ if line.is_users => Some(show::of_program(line)),
            "nats-server" => None,
            _ => show::warning(line),
        };
        shown.map_or(Ok(()), |shown| print(&shown))
    }

    /// Fails if a program has ended that is needed.
    pub(super) async fn check_programs(&mut self) -> Result<(), Failure> {
        if let Some(how) = self.program.as_mut().and_then(Process::try_ended) {
            self.show_rest().await?;
            let name = self.arguments.program.join(" ");
            return Err(Failure::Program(format!(
                "{} ended ({how}), so nothing gets the events any more: run it by itself to see why, and start tidegate dev again",
                terminal::text(&name)
            )));
        }
        let own = [("nats-server", &mut self.nats), ("ingress", &mut self.ingress)];
        let ended = own.into_iter().find_map(|(name, program)| Some((name.to_owned(), program.as_mut()?.try_ended()?)));
        match ended.or_else(|| self.sidecars.ended()) {
            Some((name, how)) => Err(self.ended(&name, &how).await),
            None => Ok(()),
        }
    }

    /// Why a program of ours is not there, with its last lines.
    pub(super) async fn ended(&mut self, name: &str, how: &str) -> Failure {
        // Its last lines may be on their way.
        sleep(TICK).await;
        let log = log_file(&self.state.root().join("logs"), name);
        let text = fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(LAST_LINES).collect();
        for line in last.into_iter().rev() {
            // The sentence that follows is what counts.
            let _ = print(&format!("{name}: {}", terminal::line(line)));
        }
        Failure::Failed(format!("{name} ended ({how}): see its last lines above and {}", log.display()))
    }

    /// The lines that are left of a program that has ended.
    async fn show_rest(&mut self) -> Result<(), Failure> {
        sleep(TICK).await;
        while let Ok(line) = self.lines.try_recv() {
            self.show(&line)?;
        }
        Ok(())
    }

    /// Takes over what has changed in the files. Those that are wrong change nothing.
    async fn reload(&mut self, up: &mut Up) -> Result<(), Failure> {
        let Ok(found) = files::find(&self.arguments.files) else { return Ok(()) };
        if content(&found) == self.read {
            return Ok(());
        }
        let taken = self.read_project().and_then(|project| changeable(&up.project, &project).map(|()| project));
        match taken {
            Err(error) => print(&format!("not taken over: {}", terminal::line(&error.to_string()))),
            Ok(project) => {
                let notes: Vec<String> =
                    project.notes.iter().filter(|note| !up.project.notes.contains(note)).cloned().collect();
                notes.iter().try_for_each(|note| print(&format!("note: {note}")))?;
                up.project = project;
                broker::write_topics(&self.state, &up.authority, &up.project.topics, &self.tokens.trust())?;
                match Box::pin(self.apply(up)).await {
                    Err(error @ Failure::Usage(_)) => {
                        print(&format!("not taken over: {}", terminal::line(&error.to_string())))
                    }
                    Err(error) => Err(error),
                    Ok(()) => print("taken over: the files have changed"),
                }
            }
        }
    }
}

/// What cannot become of a topic that is there.
fn changeable(before: &Project, after: &Project) -> Result<(), Failure> {
    for topic in &after.topics {
        let known = before.topics.iter().find(|known| known.id() == topic.id());
        if known.is_some_and(|known| known.served.routing != topic.served.routing) {
            return Err(Failure::Usage(format!(
                "EventTopic {}: routing cannot be changed: make a second topic with the other routing",
                topic.id()
            )));
        }
    }
    if before.broker != after.broker {
        return Err(Failure::Usage("the broker cannot be changed while it runs: start tidegate dev again".into()));
    }
    Ok(())
}

/// Ports that are not ours to choose.
pub(super) fn taken(project: &Project, http: Option<u16>) -> Vec<u16> {
    project.handlers.iter().map(|handler| handler.settings.delivery.port).chain(http).collect()
}

/// What files have now.
fn content(files: &[PathBuf]) -> BTreeMap<PathBuf, Vec<u8>> {
    files.iter().map(|file| (file.clone(), fs::read(file).unwrap_or_default())).collect()
}
