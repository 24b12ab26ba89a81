//! From publish to handler at low load, in an open loop: a sidecar, beside the raw client and POST.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tidegate_broker_client::contract::Order;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::bench::Bench;
use crate::broker::{Broker, Durability};
use crate::events::{self, Shape};
use crate::figures::{Curve, Group};
use crate::handler::{Answer, Handler};
use crate::meter::Meter;
use crate::process::{self, Environment, Process};
use crate::stopwatch::{self, Stopwatch, milliseconds};
use crate::worker::{self, Task};
use crate::{CONCURRENCY, LIMIT, report};

/// Events of a round; nine tenths of them are timed.
const EVENTS: u64 = 5_600;
const EVERY: Duration = Duration::from_millis(2);
/// What a curve shows.
const SHARES: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999];

const SIDECAR: &str = "sidecar";
const RAW: &str = "raw";

/// One of the two, and its latencies of all rounds.
struct Path {
    name: &'static str,
    identity: PathBuf,
    p50: Vec<f64>,
    p99: Vec<f64>,
    all: Histogram<u64>,
}

pub async fn measure(bench: &Bench) -> anyhow::Result<Group> {
    // The disk's time is the broker's, and the same for both.
    let broker = Broker::start(Durability::Relaxed, 1).await;
    let mut paths = Vec::new();
    for name in [SIDECAR, RAW] {
        let identity = broker.handler(name).await;
        paths.push(Path { name, identity, p50: Vec::new(), p99: Vec::new(), all: stopwatch::empty()? });
    }
    let note = format!(
        "{EVENTS} events of 256 bytes a round, one every {EVERY:?} in an open loop, from the time it was to be sent; \
         without the first tenth; Relaxed, one server"
    );
    report::note(&format!("latency: {note}"));
    for round in 0..bench.rounds {
        for turn in 0..paths.len() {
            let index = (round + turn) % paths.len();
            let latencies = once(bench, &broker, &paths[index]).await?;
            paths[index].record(&latencies)?;
        }
    }
    let mut group = Group { notes: vec![note], ..Group::default() };
    if let [sidecar, raw] = &paths[..] {
        group.row("end-to-end-p50-ratio", &ratio(&sidecar.p50, &raw.p50), "<= 1.2")?;
        group.row("end-to-end-p99-ratio", &ratio(&sidecar.p99, &raw.p99), "<= 2")?;
        group.row("end-to-end-p99-to-raw-p50-ratio", &ratio(&sidecar.p99, &raw.p50), "reported")?;
    }
    for path in &paths {
        group.row(&format!("end-to-end-{}-p50-ms", path.name), &path.p50, "reported")?;
        group.row(&format!("end-to-end-{}-p99-ms", path.name), &path.p99, "reported")?;
        let points = SHARES.map(|share| (share * 100.0, milliseconds(&path.all, share))).to_vec();
        group.curves.push(Curve { label: path.name.to_owned(), points });
    }
    Ok(group)
}

impl Path {
    fn record(&mut self, latencies: &Histogram<u64>) -> anyhow::Result<()> {
        let (p50, p99) = (milliseconds(latencies, 0.5), milliseconds(latencies, 0.99));
        report::note(&format!("  {:<8} p50 {p50:.3} ms, p99 {p99:.3} ms of {} events", self.name, latencies.len()));
        self.p50.push(p50);
        self.p99.push(p99);
        Ok(self.all.add(latencies)?)
    }

    fn spawn(&self, bench: &Bench, broker: &Broker, port: u16) -> anyhow::Result<Process> {
        if self.name == SIDECAR {
            let config = process::sidecar_config(&broker.server, self.name, &self.identity, port, CONCURRENCY);
            return bench.programs.spawn_sidecar(&config, &Environment::new());
        }
        let servers = broker.server.servers();
        Task::Deliver(worker::delivery(servers, self.identity.clone(), self.name, port, CONCURRENCY)).spawn()
    }
}

/// A program that has just started is late; it is ready before the first tenth is over.
async fn once(bench: &Bench, broker: &Broker, path: &Path) -> anyhow::Result<Histogram<u64>> {
    let count = bench.scaled(EVENTS);
    // What the other one published in between is not of this round.
    broker.skip(path.name).await?;
    let stopwatch = Stopwatch::new(events::numbers(count), EVERY);
    let meter = Meter::new(count);
    let handler = Handler::start(&meter, {
        let stopwatch = stopwatch.clone();
        Arc::new(move |number, _| {
            stopwatch.arrived(number);
            Answer::default()
        })
    })?;
    let mut process = path.spawn(bench, broker, handler.port)?;
    publish(broker, &stopwatch).await?;
    meter.finished(|| process.runs()).await.context(path.name)?;
    broker.settled(path.name, Order::None).await?;
    drop(process);
    broker.left(path.name, Order::None).await?;
    stopwatch.latencies()
}

async fn publish(broker: &Broker, stopwatch: &Arc<Stopwatch>) -> anyhow::Result<()> {
    // Awaited while others are sent: the client allows so many open acknowledgements and no more.
    let mut stored = JoinSet::new();
    let send = async |number| {
        let events::Message { subject, headers, payload } = events::message(number, Shape::default())?;
        stored.spawn(broker.stream.publish_with_headers(subject, headers, payload).await?.into_future());
        Ok(())
    };
    timeout(LIMIT, stopwatch.pace(send)).await.context("publishing takes too long")??;
    while let Some(acknowledged) = stored.join_next().await {
        acknowledged??;
    }
    Ok(())
}

fn ratio(these: &[f64], those: &[f64]) -> Vec<f64> {
    these.iter().zip(those).map(|(this, that)| this / that).collect()
}
