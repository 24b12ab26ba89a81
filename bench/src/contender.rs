//! Those that deliver the same events to the same handler, in turn.
//!
//! In each round all get the same backlog, each by a consumer and an account of its own, and each round begins with
//! another one of them.

use std::path::PathBuf;

use tidegate_broker_client::contract::Sidecar;

use crate::bench::Bench;
use crate::broker::Broker;
use crate::daprd::Daprd;
use crate::events::Shape;
use crate::handler::{self, Handler, Script};
use crate::meter::{Meter, Work};
use crate::process::{self, Environment, Process, Programs};
use crate::worker::{self, Task};
use crate::{CONCURRENCY, report};

/// A program that delivers events.
pub enum Program {
    /// A sidecar, and what is asked of it.
    Sidecar {
        /// Where it is.
        programs: Programs,
        /// What differs from a sidecar of which nothing is asked.
        configure: Box<dyn Fn(&mut Sidecar)>,
        /// Besides the configuration.
        environment: Environment,
    },
    /// The raw client and POST.
    Raw,
    /// A peer that is told what a raw client is told.
    Peer(PathBuf),
    /// Dapr's sidecar, with a broker of its own.
    Daprd(Box<Daprd>),
}

/// A program, and the handler for which it works.
pub struct Contender {
    /// Its name in figures.
    pub label: String,
    /// The handler's, and so its consumer's.
    pub handler: String,
    /// The handler's identity.
    pub identity: PathBuf,
    /// What it is.
    pub program: Program,
    /// What the handler does.
    pub script: Script,
    /// Events in flight.
    pub concurrency: u16,
    /// One event in so many waits for its next attempt: so many at the end are not part of the figures.
    pub late_every: Option<u64>,
}

/// What is delivered in a round.
#[derive(Clone, Copy)]
pub struct Load {
    /// How many events.
    pub events: u64,
    /// What they look like.
    pub shape: Shape,
    /// How often.
    pub rounds: usize,
}

/// What a contender did in each round.
pub struct Rounds {
    /// The contender's name.
    pub label: String,
    /// A round each.
    pub works: Vec<Work>,
}

impl Rounds {
    /// One figure of each round.
    pub fn each(&self, figure: fn(&Work) -> f64) -> Vec<f64> {
        self.works.iter().map(figure).collect()
    }

    /// One figure of each round, divided by that of another contender in the same round.
    pub fn ratio(&self, other: &Self, figure: fn(&Work) -> f64) -> Vec<f64> {
        self.works.iter().zip(&other.works).map(|(own, other)| figure(own) / figure(other)).collect()
    }
}

impl Contender {
    /// A program that works for a handler of its own, whose container answers at once.
    pub async fn new(broker: &Broker, label: &str, program: Program) -> Self {
        let handler = label.to_owned();
        let identity = broker.handler(&handler).await;
        Self {
            label: label.to_owned(),
            handler,
            identity,
            program,
            script: handler::prompt(),
            concurrency: CONCURRENCY,
            late_every: None,
        }
    }

    /// A sidecar of which this is asked.
    pub async fn sidecar(
        bench: &Bench,
        broker: &Broker,
        label: &str,
        configure: impl Fn(&mut Sidecar) + 'static,
    ) -> Self {
        let (programs, configure) = (bench.programs.clone(), Box::new(configure));
        Self::new(broker, label, Program::Sidecar { programs, configure, environment: Environment::new() }).await
    }

    /// The same with another container.
    #[must_use]
    pub fn with(mut self, script: Script, concurrency: u16) -> Self {
        (self.script, self.concurrency) = (script, concurrency);
        self
    }

    /// The same, where one event in so many waits for its next attempt.
    #[must_use]
    pub fn late(self, every: u64) -> Self {
        Self { late_every: Some(every), ..self }
    }

    fn config(&self, broker: &Broker, port: u16) -> Sidecar {
        let mut config = process::sidecar_config(&broker.server, &self.handler, &self.identity, port, self.concurrency);
        if let Program::Sidecar { configure, .. } = &self.program {
            configure(&mut config);
        }
        config
    }

    fn spawn(&self, broker: &Broker, port: u16) -> anyhow::Result<Process> {
        let delivery =
            || worker::delivery(broker.server.servers(), self.identity.clone(), &self.handler, port, self.concurrency);
        match &self.program {
            Program::Sidecar { programs, environment, .. } => {
                programs.spawn_sidecar(&self.config(broker, port), environment)
            }
            Program::Raw => Task::Deliver(delivery()).spawn(),
            Program::Peer(program) => {
                let task = (worker::VARIABLE.to_owned(), serde_json::to_string(&delivery())?);
                Process::spawn(program, &[], &vec![task, one_thread()])
            }
            Program::Daprd(daprd) => daprd.spawn(port, self.concurrency),
        }
    }

    /// Delivers what is stored, and waits until the broker knows it.
    ///
    /// # Errors
    /// It does not, or not in time.
    pub async fn deliver(&self, broker: &Broker, events: u64) -> anyhow::Result<Work> {
        let late = self.late_every.map_or(0, |every| events / every);
        let meter = Meter::up_to(events - late, events);
        let handler = Handler::start(&meter, self.script.clone())?;
        let mut process = self.spawn(broker, handler.port)?;
        let servers = match &self.program {
            Program::Daprd(daprd) => vec![daprd.server_pid()],
            _ => broker.pids(),
        };
        meter.watch(process.id(), &servers)?;
        meter.finished(|| process.runs()).await?;
        if let Program::Daprd(daprd) = &self.program {
            daprd.settled().await?;
        } else {
            let order = self.config(broker, handler.port).delivery.order;
            broker.settled(&self.handler, order).await?;
            drop(process);
            broker.left(&self.handler, order).await?;
        }
        meter.work()
    }
}

/// As our programs: a Go program takes no more threads than this for its own work.
pub fn one_thread() -> (String, String) {
    ("GOMAXPROCS".to_owned(), "1".to_owned())
}

/// Lets all deliver, round after round.
///
/// # Errors
/// One of them fails.
pub async fn compare(
    bench: &Bench,
    broker: &Broker,
    contenders: &[Contender],
    load: Load,
) -> anyhow::Result<Vec<Rounds>> {
    let named = |contender: &Contender| Rounds { label: contender.label.clone(), works: Vec::new() };
    let mut all: Vec<Rounds> = contenders.iter().map(named).collect();
    let events = bench.scaled(load.events);
    for round in 0..load.rounds {
        broker.publish(events, load.shape).await?;
        for turn in 0..contenders.len() {
            let index = (round + turn) % contenders.len();
            let contender = &contenders[index];
            if let Program::Daprd(daprd) = &contender.program {
                daprd.publish(events).await?;
            }
            let work = contender.deliver(broker, events).await?;
            report::note(&format!(
                "  round {}: {:<14} {:>6.0}/s, µs per event: program {:.1}, server {:.1}, handler {:.1}",
                round + 1,
                contender.label,
                work.rate,
                work.program,
                work.server,
                work.counter
            ));
            all[index].works.push(work);
        }
    }
    Ok(all)
}
