//! What a sidecar holds in memory has a bound, whatever its handler answers.

#![allow(clippy::unwrap_used)] // test code

mod support;

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::{StreamExt as _, stream};
use tidegate_broker_client::contract::{Format, Sidecar};
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep};

use support::ingress::Ingress;
use support::{Container, HANDLER, Process, config, eventually, publish_all};

const ACK_WAIT: Duration = Duration::from_secs(30);
const EVENTS: usize = 96;
/// As large as an answer that is read may be, less what is around it.
const ANSWER: usize = (1 << 20) - 1000;
/// The budget (32 MiB), the program itself, and what its connections read ahead.
const BOUND: u64 = 64 * 1024;

/// A handler with as many requests at a time as there are events.
async fn busy(broker: &TestBroker, port: u16) -> Sidecar {
    let mut config = config(broker, broker.handler(HANDLER, ACK_WAIT).await, port, ACK_WAIT);
    config.delivery.concurrency = u16::try_from(EVENTS).unwrap();
    config.delivery.timeout = Duration::from_secs(60);
    config
}

/// The highest memory until all events have come, and some time after.
async fn peak(process: &Process, container: &Container, come: usize) -> u64 {
    eventually("events come", async || container.count() >= come).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        sleep(Duration::from_millis(50)).await;
    }
    process.peak()
}

/// Replies are kept while their topic is away.
#[tokio::test]
async fn replies_that_wait_for_their_topic_have_a_bound() {
    let broker = TestBroker::start().await;
    let container = Container::responding(|received| {
        let reply = Response::builder()
            .header("ce-specversion", "1.0")
            .header("ce-id", received.id())
            .header("ce-source", "/billing")
            .header("ce-type", "invoice.made");
        (reply.body(Body::from("x".repeat(ANSWER))).unwrap(), Duration::ZERO)
    })
    .await;
    let mut config = busy(&broker, container.port).await;
    let ingress = Ingress::answering(|_, _| (503, Duration::ZERO)).await;
    config.reply = Some(ingress.outlet());
    let process = Process::start(&config).await;
    publish_all(&broker, (0..EVENTS).map(|id| id.to_string())).await;
    let peak = peak(&process, &container, 32).await;
    assert!(peak <= BOUND, "{peak} KiB");
}

/// Answers to batches, all of them all but complete at the same time.
#[tokio::test]
async fn answers_that_do_not_end_have_a_bound() {
    let broker = TestBroker::start().await;
    let container = Container::responding(|_| {
        let begun = Bytes::from(format!(r#"{{"failed":[],"more":"{}"#, "x".repeat(ANSWER)));
        let end = stream::once(async {
            sleep(Duration::from_secs(2)).await;
            Bytes::from(r#""}"#)
        });
        let body = stream::once(async { begun }).chain(end).map(Ok::<_, std::io::Error>);
        let answer = Response::builder().header("content-type", "application/json");
        (answer.body(Body::from_stream(body)).unwrap(), Duration::ZERO)
    })
    .await;
    let mut config = busy(&broker, container.port).await;
    config.delivery.format = Format::Batch { max_events: 1, max_wait: Duration::ZERO };
    let process = Process::start(&config).await;
    publish_all(&broker, (0..EVENTS).map(|id| id.to_string())).await;
    let peak = peak(&process, &container, EVENTS).await;
    assert!(peak <= BOUND, "{peak} KiB");
    support::all_settled(&broker).await;
    assert_eq!(container.count(), EVENTS, "none was given up for want of room");
}
