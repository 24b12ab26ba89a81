//! What a sidecar holds in memory has a bound, whatever its handler answers.

#![allow(clippy::unwrap_used)] // test code

mod support;

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use tidegate_broker_client::contract::{Format, Order, Sidecar};
use tidegate_cloudevents::Event;
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

/// The highest memory of a sidecar with large events, more than it may hold, and answers of this size.
async fn peak_with_large_events(order: Order, answer: usize) -> u64 {
    let broker = TestBroker::start().await;
    let container = Container::responding(move |received| {
        let reply = Response::builder()
            .header("ce-specversion", "1.0")
            .header("ce-id", received.id())
            .header("ce-source", "/billing")
            .header("ce-type", "invoice.made");
        (reply.body(Body::from("x".repeat(answer))).unwrap(), Duration::from_millis(1500))
    })
    .await;
    let identity = broker.handler_with(support::consumers_of(order, ACK_WAIT)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.order = order;
    let ingress = Ingress::answering(|_, _| (503, Duration::ZERO)).await;
    config.reply = (answer > 0).then(|| ingress.topic_address());
    let process = Process::start(&config).await;
    eventually("it is ready", async || support::get(config.admin_port, "/readyz").await == Some(200)).await;
    let events = (0..2 * EVENTS).map(|id| id.to_string()).collect::<Vec<_>>();
    for some in events.chunks(32) {
        join_all(some.iter().map(async |id| {
            let event = Event::builder(id, "/sensors/1", "temperature").attribute("partitionkey", id);
            support::store(&broker, &event.data("x".repeat(900_000)).build().unwrap(), &[]).await
        }))
        .await;
    }
    peak(&process, &container, 16).await
}

/// Each lane asks for events of its own, its pulls cannot be bounded in bytes, and at its beginning it waits until it
/// has all that the broker waits for.
#[tokio::test]
async fn large_events_of_many_lanes_have_a_bound() {
    let peak = peak_with_large_events(Order::Key { lanes: 8 }, 0).await;
    assert!(peak <= BOUND, "{peak} KiB");
}

#[tokio::test]
async fn so_they_have_with_replies_that_wait_for_their_topic() {
    let peak = peak_with_large_events(Order::Key { lanes: 8 }, ANSWER).await;
    // The events besides.
    assert!(peak <= BOUND + 16 * 1024, "{peak} KiB");
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
    config.reply = Some(ingress.topic_address());
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
