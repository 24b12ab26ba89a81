//! From the stream to the container, and what becomes of an event there, with a real broker.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{Container, HANDLER, Running, all_settled, config, dead_letters, eventually, free_port, publish};
use tidegate_broker_client::layout;
use tidegate_test_broker::TestBroker;

const ACK_WAIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_event_is_delivered_as_a_cloud_event_and_acknowledged() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let sequence = crate::support::publish_with(&broker, "größe 1", &[("traceparent", parent)]).await;
    all_settled(&broker).await;
    let received = container.received();
    assert_eq!(received.len(), 1);
    let request = &received[0];
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/events"));
    assert_eq!(request.body, r#"{"id":"größe 1"}"#);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "gr%C3%B6%C3%9Fe%201"),
        ("ce-source", "/sensors/1"),
        ("ce-type", "temperature"),
        ("content-type", "application/json"),
        ("ce-tidegatetopic", "orders"),
        ("ce-tidegateattempt", "1"),
        ("ce-tidegatesequence", &sequence.to_string()),
        ("ce-traceparent", parent),
        ("traceparent", parent),
    ] {
        assert_eq!(request.header(name), value, "{name}");
    }
    sidecar.terminate().await;
}

#[tokio::test]
async fn many_events_arrive_once_each() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let ids = crate::support::publish_all(&broker, (0..2000).map(|i| i.to_string())).await;
    let sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), ids.len());
    assert_eq!(container.ids().into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    sidecar.terminate().await;
}

#[tokio::test]
async fn no_more_than_concurrency_are_in_flight() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (204, Duration::from_millis(300))).await;
    crate::support::publish_all(&broker, (0..9).map(|i| i.to_string())).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.concurrency = 3;
    let _sidecar = Running::start(config);
    all_settled(&broker).await;
    let received = container.received();
    assert_eq!(received.len(), 9);
    for (earlier, later) in received.iter().zip(&received[3..]) {
        assert!(later.at - earlier.at >= Duration::from_millis(290), "a fourth was in flight");
    }
}

#[tokio::test]
async fn a_failing_event_is_tried_three_times_and_then_kept_with_its_reasons() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (500, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let sequence = publish(&broker, "1").await;
    all_settled(&broker).await;
    let received = container.received();
    let attempts: Vec<_> = received.iter().map(|request| request.header("ce-tidegateattempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(received[1].at - received[0].at >= Duration::from_millis(40), "the first wait");
    assert!(received[2].at - received[1].at >= Duration::from_millis(80), "the second is longer");
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].subject.as_str(), layout::dead_letter_subject(HANDLER));
    assert_eq!(letters[0].payload, r#"{"id":"1"}"#);
    let headers = &letters[0].headers;
    for (name, value) in [
        ("ce-id", "1"),
        ("ce-type", "temperature"),
        ("content-type", "application/json"),
        ("Tidegate-Handler", HANDLER),
        ("Tidegate-Reason", "attempts-used-up"),
        ("Tidegate-Attempts", "3"),
        ("Tidegate-Last-Status", "500"),
        ("Tidegate-Last-Error", "500 Internal Server Error: no  thanks"),
        ("Tidegate-Sequence", &sequence.to_string()),
    ] {
        assert_eq!(headers.get(name).map(|value| value.as_str()), Some(value), "{name}");
    }
    // Keyed, so that no other handler can use it up.
    assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str().len(), 43);
    assert!(headers.get("Tidegate-Time").unwrap().as_str().parse::<jiff::Timestamp>().is_ok());
}

#[tokio::test]
async fn what_can_never_succeed_is_kept_at_once() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|request| match request.id().as_str() {
        "moved" => (301, Duration::ZERO),
        "refused" => (422, Duration::ZERO),
        _ => (200, Duration::ZERO),
    })
    .await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    for id in ["moved", "refused", "good"] {
        publish(&broker, id).await;
    }
    let raw = bytes::Bytes::from_static(b"not an event");
    // A request, since its answer says that it is stored.
    broker.operator().request("events.0.raw", raw.clone()).await.unwrap();
    all_settled(&broker).await;
    assert_eq!(container.count(), 3, "each once, the invalid one never");
    let letters = dead_letters(&broker).await;
    let mut kept: Vec<_> = letters
        .iter()
        .map(|letter| {
            let header = |name| letter.headers.get(name).map_or("", |value| value.as_str());
            (header("ce-id"), header("Tidegate-Reason"), header("Tidegate-Last-Status"))
        })
        .collect();
    kept.sort_unstable();
    let expected =
        [("", "invalid-event", ""), ("moved", "refused-by-handler", "301"), ("refused", "refused-by-handler", "422")];
    assert_eq!(kept, expected);
    assert!(letters.iter().any(|letter| letter.payload == raw));
}

#[tokio::test]
async fn a_handler_that_is_down_uses_up_no_attempts() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let port = free_port();
    let sidecar = Running::start(config(&broker, identity, port, ACK_WAIT));
    crate::support::publish_all(&broker, (0..20).map(|i| i.to_string())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let container = Container::at(port, |_| (204, Duration::ZERO)).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), 20);
    // Again, with events that are in flight when it turns out: the connections of the first one are gone.
    drop(container);
    tokio::time::sleep(Duration::from_millis(100)).await;
    crate::support::publish_all(&broker, (20..40).map(|i| i.to_string())).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let container = Container::at(port, |_| (204, Duration::ZERO)).await;
    all_settled(&broker).await;
    assert!(container.received().iter().all(|request| request.header("ce-tidegateattempt") == "1"));
    assert_eq!(container.count(), 20);
    assert!(dead_letters(&broker).await.is_empty());
    sidecar.terminate().await;
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    // The container sends `Retry-After: 1` with each 503.
    let container = Container::answering(|request| match request.header("ce-tidegateattempt") {
        "1" => (503, Duration::ZERO),
        _ => (204, Duration::ZERO),
    })
    .await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    let received = container.received();
    assert_eq!(received.len(), 2);
    assert!(received[1].at - received[0].at >= Duration::from_millis(990), "{received:?}");
}

#[tokio::test]
async fn a_long_delivery_is_not_given_to_somebody_else() {
    let ack_wait = Duration::from_secs(4);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ack_wait).await;
    let container = Container::answering(move |_| (204, ack_wait * 9 / 4)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ack_wait)).await;
    publish(&broker, "1").await;
    eventually("it is delivered", async || container.count() > 0).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), 1);
}

#[tokio::test]
async fn a_delivery_ends_at_its_timeout() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|request| match request.header("ce-tidegateattempt") {
        "1" => (204, Duration::from_secs(60)),
        _ => (204, Duration::ZERO),
    })
    .await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.timeout = Duration::from_millis(500);
    let _sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    assert_eq!(container.count(), 2);
}

#[tokio::test]
async fn an_event_whose_dead_letter_is_not_stored_is_kept() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let context = broker.jetstream();
    context.delete_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let container = Container::answering(|_| (400, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "1").await;
    // After all tries to store the dead letter.
    eventually("it is on the shelf", async || crate::support::shelved(&broker).await == 1).await;
    all_settled(&broker).await;
    assert_eq!((crate::support::shelved(&broker).await, container.count()), (1, 1));
}
