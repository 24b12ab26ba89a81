//! The raw clients in a process of their own, so that their processor time can be read as a program's is.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_test_broker::topic_id;

use anyhow::{Context as _, ensure};
use async_nats::jetstream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::events::{self, Shape};
use crate::hostile::Attack;
use crate::meter::{Meter, Work};
use crate::process::Process;
use crate::{LIMIT, handler, hostile, raw};

/// The environment variable that makes this program a worker, with its [`Task`].
pub const VARIABLE: &str = "TIDEGATE_BENCH_TASK";

/// What a worker, or a peer, delivers until it is ended.
#[derive(Serialize, Deserialize)]
pub struct Delivery {
    /// Addresses of the broker.
    pub servers: Vec<String>,
    /// Folder of the handler's identity.
    pub identity: PathBuf,
    /// The consumer to pull from.
    pub consumer: String,
    /// Where the handler listens.
    pub url: String,
    /// Events in flight.
    pub concurrency: usize,
}

/// What a worker publishes, each event awaited.
#[derive(Serialize, Deserialize)]
pub struct Publishing {
    /// Addresses of the broker.
    pub servers: Vec<String>,
    /// Folder of the ingress's identity.
    pub identity: PathBuf,
    /// The servers' processes.
    pub server_pids: Vec<u32>,
    /// The numbers of the events.
    pub numbers: std::ops::Range<u64>,
    /// Events in flight.
    pub concurrency: usize,
}

/// What a worker does.
#[derive(Serialize, Deserialize)]
pub enum Task {
    /// Pulls, posts and acknowledges.
    Deliver(Delivery),
    /// Publishes, and writes its [`Work`] to standard output.
    Publish(Publishing),
    /// Attacks an ingress until it is ended.
    Attack(Attack),
}

impl Task {
    /// Starts a worker for it.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(&self) -> anyhow::Result<Process> {
        let own = std::env::current_exe()?;
        Process::spawn(&own, &[], &vec![(VARIABLE.to_owned(), serde_json::to_string(self)?)])
    }

    /// Runs a worker for it to its end, and returns what it did.
    ///
    /// # Errors
    /// It fails, or not in time.
    pub async fn run(&self) -> anyhow::Result<Work> {
        let mut worker = Command::new(std::env::current_exe()?);
        worker.env_clear().env(VARIABLE, serde_json::to_string(self)?).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = timeout(LIMIT, worker.kill_on_drop(true).output()).await.context("a worker takes too long")??;
        ensure!(output.status.success(), "a worker ended: {}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The worker's whole life.
///
/// # Errors
/// Broker or handler fail.
pub fn main(task: &str) -> anyhow::Result<()> {
    let task: Task = serde_json::from_str(task).context(VARIABLE)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match task {
            Task::Deliver(Delivery { servers, identity, consumer, url, concurrency }) => {
                let client = raw::client(&servers, identity).await?;
                raw::deliver(client, &consumer, url.parse()?, concurrency).await
            }
            Task::Attack(attack) => hostile::run(attack).await,
            Task::Publish(publishing) => {
                let work = publish(publishing).await?;
                let mut out = std::io::stdout().lock();
                writeln!(out, "{}", serde_json::to_string(&work)?)?;
                Ok(())
            }
        }
    })
}

async fn publish(publishing: Publishing) -> anyhow::Result<Work> {
    let Publishing { servers, identity, server_pids, numbers, concurrency } = publishing;
    let stream = jetstream::new(raw::client(&servers, identity).await?);
    let meter = Meter::new(numbers.end - numbers.start);
    meter.watch(std::process::id(), &server_pids)?;
    let messages = numbers.map(|number| events::message(number, Shape::default()));
    let messages: Vec<events::Message> = messages.collect::<anyhow::Result<_>>()?;
    let subjects = TopicSubjects::new(&topic_id(), Routing::Queued);
    let publish = async |events::Message { subject, headers, payload }: events::Message| {
        stream.publish_with_headers(subjects.event(&subject), headers, payload).await?.await?;
        meter.step();
        anyhow::Ok(())
    };
    stream::iter(messages).map(Ok).try_for_each_concurrent(concurrency, publish).await?;
    meter.work()
}

/// Where a handler listens.
pub fn delivery(servers: Vec<String>, identity: PathBuf, consumer: &str, port: u16, concurrency: u16) -> Delivery {
    let (consumer, url) = (consumer.to_owned(), handler::url(port));
    Delivery { servers, identity, consumer, url, concurrency: concurrency.into() }
}
