//! Throughput and processor time of the sidecar, beside raw clients and a naive one.
//!
//! All of them get the same events in turn, each by a consumer of its own. The baseline is `B`: the rate of one
//! who does first the pulls and acknowledgements, then the requests, at the rate of each alone.

use std::path::Path;

use crate::broker::Broker;
use crate::handler::Handler;
use crate::pace::{Pace, Work};
use crate::worker::Task;
use crate::{CONCURRENCY, ROUNDS, process, raw, report, stats};

/// Events of a round.
const EVENTS: u64 = 15_000;
/// Of these, so many for the naive client.
const NAIVE_EVENTS: u64 = 500;

const SIDECAR: &str = "delivery-sidecar";
const PULL: &str = "delivery-pull";
const NAIVE: &str = "delivery-naive";
const WORKER: &str = "delivery-worker";

struct Round {
    pull: f64,
    post: f64,
    naive: f64,
    sidecar: Work,
    worker: Work,
}

pub async fn measure(broker: &Broker) -> anyhow::Result<()> {
    let identity = broker.handler(SIDECAR).await;
    for name in [PULL, NAIVE, WORKER] {
        broker.consumer(name).await?;
    }
    report::note(&format!("delivery: {EVENTS} events of 256 bytes a round, {CONCURRENCY} in flight"));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = round(broker, &identity).await?;
        report::note(&format!(
            "  per second: pull {:.0}, POST {:.0}, sidecar {:.0}, worker {:.0}, naive {:.0}; \
             processor per event: sidecar {:.1?}, worker {:.1?}",
            round.pull,
            round.post,
            round.sidecar.rate,
            round.worker.rate,
            round.naive,
            round.sidecar.cpu,
            round.worker.cpu
        ));
        rounds.push(round);
    }
    let each = |ratio: fn(&Round) -> f64| rounds.iter().map(ratio).collect::<Vec<_>>();
    let throughput = each(|round| round.sidecar.rate / stats::in_sequence(round.pull, round.post));
    report::row("sidecar-throughput-ratio", &throughput, ">= 0.90")?;
    report::row("sidecar-vs-naive", &each(|round| round.sidecar.rate / round.naive), ">= 15x")?;
    let cpu = each(|round| round.sidecar.cpu.div_duration_f64(round.worker.cpu));
    report::row("sidecar-cpu-per-event-ratio", &cpu, "<= 1.15")?;
    Ok(())
}

async fn round(broker: &Broker, identity: &Path) -> anyhow::Result<Round> {
    broker.publish(EVENTS).await?;
    let operator = broker.as_operator();
    let pull = raw::on_one_thread(move || raw::pull(operator, PULL, EVENTS)).await?;
    let post = post().await?;
    let sidecar = sidecar(broker, identity).await?;
    let worker = worker(broker).await?;
    let naive = naive(broker).await?;
    Ok(Round { pull, post, naive, sidecar, worker })
}

async fn post() -> anyhow::Result<f64> {
    let pace = Pace::of(EVENTS);
    let handler = Handler::start(raw::counting(&pace))?;
    let uri = handler.uri()?;
    raw::on_one_thread(move || raw::post_all(uri, EVENTS)).await?;
    pace.rate()
}

async fn sidecar(broker: &Broker, identity: &Path) -> anyhow::Result<Work> {
    let pace = Pace::of(EVENTS);
    let handler = Handler::start(raw::counting(&pace))?;
    let process = process::sidecar(broker, SIDECAR, identity, handler.port, CONCURRENCY).await?;
    pace.watch(process.id()).await
}

async fn worker(broker: &Broker) -> anyhow::Result<Work> {
    let pace = Pace::of(EVENTS);
    let handler = Handler::start(raw::counting(&pace))?;
    let operator = broker.as_operator();
    let task = Task {
        servers: operator.servers,
        identity: operator.identity,
        consumer: WORKER.to_owned(),
        port: handler.port,
        count: usize::try_from(EVENTS)?,
    };
    let process = task.spawn()?;
    pace.watch(process.id()).await
}

async fn naive(broker: &Broker) -> anyhow::Result<f64> {
    let pace = Pace::of(NAIVE_EVENTS);
    let handler = Handler::start(raw::counting(&pace))?;
    let (operator, uri) = (broker.as_operator(), handler.uri()?);
    raw::on_one_thread(move || raw::naive(operator, NAIVE, uri, NAIVE_EVENTS)).await
}
