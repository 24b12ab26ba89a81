//! From publish to handler at low load, beside the sum of its parts: publish to pull, and POST to handler.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use tokio::time::{sleep, timeout};

use crate::broker::Broker;
use crate::handler::Handler;
use crate::stats::quantile;
use crate::stopwatch::Stopwatch;
use crate::{CONCURRENCY, LIMIT, ROUNDS, events, process, raw, report};

/// Events of a round, of each.
const EVENTS: u64 = 170;
const EVERY: Duration = Duration::from_millis(10);
/// After this, nothing is left from before a round, and nothing under way at its end.
const SETTLED: Duration = Duration::from_millis(300);

const SIDECAR: &str = "latency-sidecar";
const PULL: &str = "latency-pull";

/// Milliseconds.
struct Latency {
    p50: f64,
    p99: f64,
}

pub async fn measure(broker: &Broker) -> anyhow::Result<()> {
    let identity = broker.handler(SIDECAR).await;
    broker.consumer(PULL).await?;
    report::note(&format!("latency: {EVENTS} events a round, one every {EVERY:?}"));
    let (mut p50, mut p99, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let pull = pull(broker).await?;
        let post = post().await?;
        let whole = whole(broker, &identity).await?;
        report::note(&format!(
            "  ms p50/p99: pull {:.3}/{:.3}, POST {:.3}/{:.3}, publish to handler {:.3}/{:.3}",
            pull.p50, pull.p99, post.p50, post.p99, whole.p50, whole.p99
        ));
        p50.push(whole.p50 / (pull.p50 + post.p50));
        p99.push(whole.p99 / (pull.p50 + post.p50));
        tails.push(whole.p99 / (pull.p99 + post.p99));
    }
    report::row("end-to-end-p50-ratio", &p50, "<= 1.3")?;
    report::row("end-to-end-p99-ratio", &p99, "<= 2")?;
    // On a busy machine the parts have such a tail themselves.
    report::row("end-to-end-p99-to-parts-p99-ratio", &tails, "reported")?;
    Ok(())
}

/// From publish to the handler, through the sidecar.
async fn whole(broker: &Broker, identity: &Path) -> anyhow::Result<Latency> {
    let stopwatch = Stopwatch::new(numbers());
    let handler = Handler::timing(&stopwatch)?;
    let _process = process::sidecar(broker, SIDECAR, identity, handler.port, CONCURRENCY).await?;
    sleep(SETTLED).await;
    publish(broker, &stopwatch).await?;
    latency(&stopwatch)
}

/// From publish to a raw client.
async fn pull(broker: &Broker) -> anyhow::Result<Latency> {
    let stopwatch = Stopwatch::new(numbers());
    let (operator, taken) = (broker.as_operator(), stopwatch.clone());
    let client = raw::on_one_thread(move || take(operator, taken));
    let publisher = async {
        sleep(SETTLED).await;
        publish(broker, &stopwatch).await
    };
    tokio::try_join!(client, publisher)?;
    latency(&stopwatch)
}

/// From a raw client to the handler.
async fn post() -> anyhow::Result<Latency> {
    let stopwatch = Stopwatch::new(numbers());
    let handler = Handler::timing(&stopwatch)?;
    let (uri, sent) = (handler.uri()?, stopwatch.clone());
    raw::on_one_thread(async move || {
        let poster = raw::poster(1);
        sent.pace(EVERY, async |number| raw::post(&poster, events::request(number, &uri)?).await).await
    })
    .await?;
    latency(&stopwatch)
}

async fn publish(broker: &Broker, stopwatch: &Stopwatch) -> anyhow::Result<()> {
    let send = async |number| {
        let events::Message { subject, headers, payload } = events::message(number)?;
        broker.stream.publish_with_headers(subject, headers, payload).await?.await?;
        Ok(())
    };
    stopwatch.pace(EVERY, send).await?;
    sleep(SETTLED).await;
    Ok(())
}

/// Takes what comes until all of the stopwatch's events are here.
async fn take(operator: crate::broker::Operator, stopwatch: Arc<Stopwatch>) -> anyhow::Result<()> {
    let (client, mut messages) = raw::open(&operator, PULL).await?;
    let work = async {
        while stopwatch.missing() > 0 {
            let message = messages.next().await.context("the pull ended")??;
            let headers = message.headers.as_ref();
            if let Some(number) = events::number(headers.and_then(|all| all.get("ce-id")).map(|id| id.as_str())) {
                stopwatch.arrived(number);
            }
            raw::acknowledge(&message).await?;
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, work).await??;
    client.flush().await?;
    Ok(())
}

fn numbers() -> Range<u64> {
    events::numbers(EVENTS)
}

fn latency(stopwatch: &Stopwatch) -> anyhow::Result<Latency> {
    let samples = stopwatch.milliseconds()?;
    Ok(Latency { p50: quantile(&samples, 0.5), p99: quantile(&samples, 0.99) })
}
