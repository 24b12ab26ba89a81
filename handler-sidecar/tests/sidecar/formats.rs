//! The shapes of a delivery: structured, and batches with answers for single events.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tidegate_broker_client::contract::{Format, Sidecar};
use tidegate_cloudevents::{Event, Mode, http as binding};
use tidegate_test_broker::TestBroker;
use tokio::time::Instant;

use crate::support::container::Received;
use crate::support::{
    Container, Hold, Running, all_settled, config, dead_letters, eventually, publish, publish_all, publish_with,
};

const ACK_WAIT: Duration = Duration::from_secs(5);
const SOURCE: &str = "/sensors/1";

async fn formatted(broker: &TestBroker, container: &Container, format: Format, concurrency: u16) -> Sidecar {
    let identity = broker.handler(crate::support::HANDLER, ACK_WAIT).await;
    let mut config = config(broker, identity, container.port, ACK_WAIT);
    config.delivery.format = format;
    config.delivery.concurrency = concurrency;
    config
}

fn batch(max_events: u16, max_wait: u64) -> Format {
    Format::Batch { max_events, max_wait: Duration::from_millis(max_wait) }
}

fn events(received: &Received) -> (Mode, Vec<Event>) {
    binding::decode(&received.headers, received.body.clone()).unwrap()
}

fn ids(received: &Received) -> Vec<String> {
    events(received).1.iter().map(|event| event.id().to_owned()).collect()
}

/// How often each event was delivered.
fn counts(container: &Container) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for id in container.received().iter().flat_map(ids) {
        *counts.entry(id).or_default() += 1;
    }
    counts
}

fn json_answer(body: &serde_json::Value) -> (Response, Duration) {
    (([("content-type", "application/json")], body.to_string()).into_response(), Duration::ZERO)
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_structured_event_is_one_document() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let sidecar = Running::ready(formatted(&broker, &container, Format::Structured, 4).await).await;
    let sequence = publish_with(&broker, "1", &[("traceparent", PARENT)]).await;
    all_settled(&broker).await;
    let received = container.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].header("content-type"), "application/cloudevents+json");
    assert_eq!(received[0].header("traceparent"), PARENT);
    let (mode, events) = events(&received[0]);
    assert_eq!(mode, Mode::Structured);
    expect_extensions(&events[0], sequence);
    assert_eq!(events[0].data().unwrap(), r#"{"id":"1"}"#);
    sidecar.terminate().await;
}

fn expect_extensions(event: &Event, sequence: u64) {
    for (name, value) in [
        ("tidegatetopic", "orders"),
        ("tidegateattempt", "1"),
        ("tidegatesequence", &sequence.to_string()),
        ("traceparent", PARENT),
    ] {
        assert_eq!(event.attribute(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_batch_is_full_or_has_waited() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = formatted(&broker, &container, batch(10, 400), 2).await;
    let published = publish_all(&broker, (0..25).map(|i| i.to_string())).await;
    publish_with(&broker, "last", &[("traceparent", PARENT)]).await;
    let sidecar = Running::ready(config).await;
    all_settled(&broker).await;
    let received = container.received();
    let sizes: Vec<_> = received.iter().map(|request| ids(request).len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), published.len() + 1);
    assert_eq!(sizes[..2], [10, 10], "as many as may be in one: {sizes:?}");
    let waited = received.last().unwrap().at - received[0].at;
    assert!(waited >= Duration::from_millis(350), "the last one was not full, and waited only {waited:?}");
    assert!(counts(&container).values().all(|count| *count == 1));
    let (mode, last) = events(received.last().unwrap());
    assert_eq!(received[0].header("content-type"), "application/cloudevents-batch+json");
    assert_eq!(mode, Mode::Batched);
    expect_extensions(last.iter().find(|event| event.id() == "last").unwrap(), 26);
    sidecar.terminate().await;
}

#[tokio::test]
async fn only_what_failed_is_delivered_again() {
    let broker = TestBroker::start().await;
    let container = Container::responding(|received| {
        let failed: Vec<_> = ids(received)
            .into_iter()
            .filter_map(|id| match (id.as_str(), first_attempt(received, &id)) {
                ("3" | "4", true) => Some(json!({"source": SOURCE, "id": id, "status": 503, "error": "later"})),
                ("5", true) => Some(json!({"source": SOURCE, "id": id})),
                ("6", _) => Some(json!({"source": SOURCE, "id": id, "status": 422, "error": "never"})),
                _ => None,
            })
            .collect();
        json_answer(&json!({"failed": failed}))
    })
    .await;
    let config = formatted(&broker, &container, batch(10, 100), 2).await;
    publish_all(&broker, (0..10).map(|i| i.to_string())).await;
    let sidecar = Running::ready(config).await;
    all_settled(&broker).await;
    for (id, count) in counts(&container) {
        assert_eq!(count, if ["3", "4", "5"].contains(&id.as_str()) { 2 } else { 1 }, "{id}");
    }
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 1);
    let header = |name: &str| letters[0].headers.get(name).unwrap().as_str();
    assert_eq!(header("ce-id"), "6");
    assert_eq!(header("Tidegate-Reason"), "refused-by-handler");
    assert_eq!(header("Tidegate-Last-Status"), "422");
    assert!(header("Tidegate-Last-Error").ends_with("never"), "{}", header("Tidegate-Last-Error"));
    sidecar.terminate().await;
}

fn first_attempt(received: &Received, id: &str) -> bool {
    let (_, events) = events(received);
    let event = events.iter().find(|event| event.id() == id).unwrap();
    event.attribute("tidegateattempt") == Some("1")
}

#[tokio::test]
async fn an_answer_that_is_not_understood_is_a_failure_of_all() {
    let broker = TestBroker::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let container = Container::responding(move |_| {
        let named = json!({"failed": [{"source": SOURCE, "id": "somebody else's"}]});
        json_answer(&if calls.fetch_add(1, Ordering::Relaxed) == 0 { named } else { json!({}) })
    })
    .await;
    let config = formatted(&broker, &container, batch(5, 100), 1).await;
    publish_all(&broker, (0..5).map(|i| i.to_string())).await;
    let sidecar = Running::ready(config).await;
    all_settled(&broker).await;
    assert!(counts(&container).values().all(|count| *count == 2), "{:?}", counts(&container));
    assert_eq!(dead_letters(&broker).await.len(), 0);
    sidecar.terminate().await;
}

#[tokio::test]
async fn concurrency_is_requests_in_flight() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    container.hold(Hold::Everything);
    let max_wait = 10;
    let sidecar = Running::ready(formatted(&broker, &container, batch(5, max_wait), 2).await).await;
    for count in 1..=2 {
        publish(&broker, &count.to_string()).await;
        eventually("a request is in flight", async || container.count() == count).await;
    }
    publish_all(&broker, (3..=7).map(|i| i.to_string())).await;
    eventually("all are here", async || crate::support::in_flight(&broker).await == 7).await;
    tokio::time::sleep(Duration::from_millis(30 * max_wait)).await;
    assert_eq!(container.count(), 2, "as many as there may be");
    container.hold(Hold::Nothing);
    all_settled(&broker).await;
    let requests = container.count();
    assert!((3..=4).contains(&requests), "what waits for a turn is gathered: {requests} requests for 7 events");
    sidecar.terminate().await;
}

#[tokio::test]
async fn large_events_go_in_small_batches() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = formatted(&broker, &container, batch(100, 200), 1).await;
    for id in 0..8 {
        let event = Event::builder(&id.to_string(), SOURCE, "t").attribute("datacontenttype", "text/plain");
        crate::support::store(&broker, &event.data(vec![b'x'; 700_000]).build().unwrap(), &[]).await;
    }
    let sidecar = Running::ready(config).await;
    all_settled(&broker).await;
    let largest = container.received().iter().map(|request| request.body.len()).max().unwrap();
    assert!(largest < 3 << 20, "{largest}");
    assert_eq!(counts(&container).len(), 8);
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_more_events() {
    const MAX_WAIT: Duration = Duration::from_secs(60);
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let format = Format::Batch { max_events: 100, max_wait: MAX_WAIT };
    let sidecar = Running::ready(formatted(&broker, &container, format, 1).await).await;
    publish(&broker, "1").await;
    eventually("the event is in flight", async || crate::support::in_flight(&broker).await == 1).await;
    let begun = Instant::now();
    sidecar.terminate().await;
    assert!(begun.elapsed() < MAX_WAIT / 2, "{:?}", begun.elapsed());
    all_settled(&broker).await;
    assert_eq!(counts(&container).len(), 1, "what was gathered is sent");
}
