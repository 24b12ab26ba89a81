//! A handler that is suspended finishes what runs, starts nothing else, and continues where it was.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tidegate_broker_admin::consumers::{self, Handler};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;

use crate::support::{Container, HANDLER, Hold, Running, config, eventually, store};

const ACK_WAIT: Duration = Duration::from_secs(30);
const KEYS: usize = 3;
const EVENTS: usize = 30;
const LANES: u16 = 2;

/// What the broker says of a consumer.
async fn info(broker: &TestBroker, consumer: &str) -> Value {
    let subject = layout::info_subject(consumer);
    let answer = broker.operator().request(subject, "".into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Events that these consumers have not acknowledged.
async fn left(broker: &TestBroker, consumers: &[String]) -> u64 {
    let mut left = 0;
    for consumer in consumers {
        let info = info(broker, consumer).await;
        left += info["num_pending"].as_u64().unwrap() + info["num_ack_pending"].as_u64().unwrap();
    }
    left
}

/// Whether no one owns a lane.
async fn is_left(broker: &TestBroker, lane: &str) -> bool {
    info(broker, lane).await["priority_groups"][0]["pinned_client_id"].as_str().unwrap_or_default().is_empty()
}

async fn suspend(broker: &TestBroker, handler: &Handler, is_suspended: bool) {
    let wanted = Handler { is_suspended, ..handler.clone() };
    consumers::ensure(&broker.admin(), &wanted, &Position::default()).await.unwrap();
}

async fn publish_of(broker: &TestBroker, id: usize) {
    let event = Event::builder(&id.to_string(), "/sensors/1", "temperature");
    store(broker, &event.attribute("partitionkey", format!("{}", id % KEYS)).build().unwrap(), &[]).await;
}

/// The lane and the key of an event ([`store`] makes the partition of its id): such events wait for each other.
fn place(id: usize) -> (u32, usize) {
    (layout::partition(&id.to_string()) % u32::from(LANES), id % KEYS)
}

/// Suspends it while its container works, and resumes it when what ran is settled.
async fn suspended_and_resumed(order: Order, concurrency: u16) -> Vec<usize> {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let handler = crate::support::consumers_of(order, ACK_WAIT);
    let consumers: Vec<_> = handler.configs().into_iter().filter_map(|config| config.durable_name).collect();
    let mut config = config(&broker, broker.handler_with(handler.clone()).await, container.port, ACK_WAIT);
    (config.delivery.order, config.delivery.concurrency) = (order, concurrency);
    config.delivery.timeout = Duration::from_secs(60);
    let sidecar = Running::ready(config).await;
    container.hold(Hold::Everything);
    for id in 0..EVENTS {
        publish_of(&broker, id).await;
    }
    let running = match order {
        Order::None => usize::from(concurrency),
        Order::Key { .. } => (0..EVENTS).map(place).collect::<BTreeSet<_>>().len(),
    };
    eventually("some run", async || container.count() == running).await;
    suspend(&broker, &handler, true).await;
    if order != Order::None {
        for lane in &consumers {
            eventually("the lane is left", async || is_left(&broker, lane).await).await;
        }
    }
    container.hold(Hold::Nothing);
    let rest = u64::try_from(EVENTS - running).unwrap();
    eventually("what ran is settled", async || left(&broker, &consumers).await == rest).await;
    assert_eq!((sidecar.get("/readyz").await, sidecar.get("/livez").await), (Some(200), Some(200)));
    publish_of(&broker, EVENTS).await;
    assert_eq!(container.count(), running, "nothing else was started");
    suspend(&broker, &handler, false).await;
    eventually("all are settled", async || left(&broker, &consumers).await == 0).await;
    sidecar.terminate().await;
    container.ids().iter().map(|id| id.parse().unwrap()).collect()
}

#[tokio::test]
async fn by_key_also_what_waits_behind_another_event_is_kept() {
    let mut ids = suspended_and_resumed(Order::Key { lanes: LANES }, 16).await;
    ids.sort_by_key(|id| place(*id));
    let mut in_order: Vec<_> = (0..=EVENTS).collect();
    in_order.sort_by_key(|id| place(*id));
    assert_eq!(ids, in_order, "each once, and those of a key in order");
}

#[tokio::test]
async fn without_order_no_more_is_pulled() {
    let mut ids = suspended_and_resumed(Order::None, 3).await;
    ids.sort_unstable();
    assert_eq!(ids, (0..=EVENTS).collect::<Vec<_>>(), "each once");
}

/// A sidecar that starts while its handler is suspended takes nothing, and a retry waits as well.
#[tokio::test]
async fn a_retry_waits_too() {
    let (broker, container) = (TestBroker::start().await, Container::answering(|_| (500, Duration::ZERO)).await);
    let handler = crate::support::consumers_of(Order::None, ACK_WAIT);
    let config = config(&broker, broker.handler_with(handler.clone()).await, container.port, ACK_WAIT);
    let sidecar = Running::ready(config.clone()).await;
    container.hold(Hold::Everything);
    publish_of(&broker, 0).await;
    eventually("the first attempt", async || container.count() == 1).await;
    suspend(&broker, &handler, true).await;
    container.hold(Hold::Nothing);
    sidecar.terminate().await;
    let sidecar = Running::ready(config).await;
    let js = broker.jetstream();
    let attempts = js.get_stream(layout::attempt_stream(HANDLER)).await.unwrap();
    assert_eq!(attempts.cached_info().state.messages, 1, "it is on record");
    assert_eq!(container.count(), 1);
    suspend(&broker, &handler, false).await;
    eventually("the second attempt", async || container.count() == 2).await;
    sidecar.terminate().await;
}
