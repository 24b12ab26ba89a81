//! A broker that restarts in order, while its events are delivered: they come again as soon as it is back, not when the
//! time is over for which it waits for acknowledgements.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use support::{Container, Running, config, consumers_of, eventually, store_by};
use tidegate_broker_client::contract::Order;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep, timeout};

/// What the operator sets.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Much more than a reconnect takes, much less than [`ACK_WAIT`].
const LIMIT: Duration = Duration::from_secs(10);

fn event(id: &str) -> Event {
    Event::builder(id, "/sensors/1", "temperature").attribute("partitionkey", id).data("x").build().unwrap()
}

/// Publishes until it is told to stop; returns what is stored for certain.
async fn publish(client: async_nats::Client, stop: tokio::sync::watch::Receiver<bool>) -> BTreeSet<String> {
    let mut stored = BTreeSet::new();
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        let id = format!("load-{number}");
        let sent = timeout(Duration::from_millis(500), store_by(&client, &event(&id), &[])).await;
        if let Ok(Some(_)) = sent {
            stored.insert(id);
        }
        sleep(Duration::from_millis(3)).await;
    }
    stored
}

async fn resumes(order: Order, restarts: usize) {
    let mut broker = TestBroker::start().await;
    let container = Container::answering(|_| (204, Duration::from_millis(20))).await;
    let identity = broker.handler_with(consumers_of(order, ACK_WAIT)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.order = order;
    let sidecar = Running::ready(config).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(publish(broker.operator(), stopped));
    for _ in 0..restarts {
        let before = container.count();
        eventually("events are delivered", async || container.count() > before + 100).await;
        broker.restart_in_order(0).await;
        let back = Instant::now();
        eventually("it delivers", async || container.received().iter().any(|received| received.at > back)).await;
        eprintln!("{order:?}: first after {:?}", back.elapsed());
    }
    stop.send(true).unwrap();
    let stored = load.await.unwrap();
    let begun = Instant::now();
    let seen = || container.ids().into_iter().collect::<BTreeSet<_>>();
    while !stored.is_subset(&seen()) && begun.elapsed() < 3 * ACK_WAIT {
        sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{order:?}: all {} after {:?}", stored.len(), begun.elapsed());
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    sidecar.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_by_key_go_on_at_once() {
    resumes(Order::Key { lanes: 4 }, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_any_order_go_on_at_once() {
    resumes(Order::None, 3).await;
}
