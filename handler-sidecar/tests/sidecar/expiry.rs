//! An event that is too old is not delivered, at its first attempt or a later one.

use std::time::Duration;

use async_nats::jetstream;
use serde_json::json;
use tidegate_broker_client::contract::{Expiry, Format, OnExpired, Order, Sidecar};
use tidegate_broker_client::layout;
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

use crate::support::{
    Container, HANDLER, Running, all_settled, all_settled_by, config, dead_letters, eventually, header, publish,
    shelved,
};

const ACK_WAIT: Duration = Duration::from_secs(5);
const MAX_AGE: Duration = Duration::from_secs(2);
const HOUR: Duration = Duration::from_secs(3600);

async fn expiring(broker: &TestBroker, container: &Container, on_expired: OnExpired, order: Order) -> Sidecar {
    let handler = crate::support::consumers_of(order, ACK_WAIT);
    let mut config = config(broker, broker.handler_with(handler).await, container.port, ACK_WAIT);
    config.delivery.expiry = Some(Expiry { max_age: MAX_AGE, on_expired });
    config.delivery.order = order;
    config
}

/// On a machine that is slow enough an event may be too old when it comes: another one follows.
async fn a_young_event_is_delivered(broker: &TestBroker, container: &Container) {
    let mut number = 0;
    eventually("a young event is delivered", async || {
        number += 1;
        publish(broker, &format!("young-{number}")).await;
        sleep(Duration::from_millis(50)).await;
        container.count() > 0
    })
    .await;
}

#[tokio::test]
async fn an_event_that_waited_for_too_long_becomes_a_dead_letter() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = expiring(&broker, &container, OnExpired::DeadLetter, Order::None).await;
    let sequence = publish(&broker, "old").await;
    sleep(MAX_AGE).await;
    let sidecar = Running::ready(config).await;
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 1);
    let said = |name| header(&letters[0], name);
    assert_eq!((said("Tidegate-Reason"), said("Tidegate-Attempts")), ("too-old", "0"));
    assert_eq!((said("Tidegate-Sequence"), said("ce-id")), (sequence.to_string().as_str(), "old"));
    assert!(said("Tidegate-Last-Error").ends_with("delivery.maxEventAge is 2 s"), "{}", said("Tidegate-Last-Error"));
    assert_eq!(container.count(), 0);
    a_young_event_is_delivered(&broker, &container).await;
    sidecar.terminate().await;
}

#[tokio::test]
async fn it_is_skipped_where_that_is_asked_for_in_every_order_and_format() {
    for (order, format) in [
        (Order::None, Format::Structured),
        (Order::None, Format::Batch { max_events: 2, max_wait: Duration::from_millis(10) }),
        (Order::Key { lanes: 1 }, Format::Binary),
    ] {
        let (broker, container) = (TestBroker::start().await, Container::start().await);
        let mut config = expiring(&broker, &container, OnExpired::Skip, order).await;
        config.delivery.format = format;
        publish(&broker, "old").await;
        sleep(MAX_AGE).await;
        let sidecar = Running::ready(config).await;
        let consumer = crate::support::consumers_of(order, ACK_WAIT).configs().remove(0).durable_name.unwrap();
        all_settled_by(&broker, &consumer).await;
        assert_eq!((container.count(), dead_letters(&broker).await.len()), (0, 0), "{order:?} {format:?}");
        a_young_event_is_delivered(&broker, &container).await;
        sidecar.terminate().await;
    }
}

/// Puts an event on the retry shelf that failed once and is due, and that the topic stored this long ago.
async fn put_on_shelf(broker: &TestBroker, id: &str, age: jiff::SignedDuration) {
    let sequence = publish(broker, id).await;
    let context = broker.jetstream();
    let events = context.get_stream(layout::EVENT_STREAM).await.unwrap();
    let event = events.get_raw_message(sequence).await.unwrap();
    events.delete_message(sequence).await.unwrap();
    let now = jiff::Timestamp::now();
    let record = json!({
        "handler": format!("uid-{HANDLER}"), "deliveries": 1, "attempts": 1, "untried": 0,
        "notBefore": now.as_millisecond() - 1, "wait": 6000,
        "failed": [{"time": "2026-01-01T00:00:00Z", "status": 503, "error": "the first"}],
    });
    let mut headers = event.headers.clone();
    headers.insert("Tidegate-Sequence", sequence.to_string());
    headers.insert("Tidegate-Published-At", (now - age).as_nanosecond().to_string());
    headers.insert("Tidegate-Record", record.to_string());
    let stored = context.publish_with_headers(layout::waiting_subject(HANDLER), headers, event.payload.clone());
    stored.await.unwrap().await.unwrap();
}

/// Not since it was put on the shelf. One whose time is an hour ahead of the sidecar's is delivered.
#[tokio::test]
async fn on_the_retry_shelf_an_event_is_as_old_as_it_was_in_the_topic() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let mut config = expiring(&broker, &container, OnExpired::DeadLetter, Order::None).await;
    config.delivery.expiry = config.delivery.expiry.map(|expiry| Expiry { max_age: 3 * HOUR, ..expiry });
    for (id, hours) in [("old", 4), ("young", 2), ("early", -1)] {
        put_on_shelf(&broker, id, jiff::SignedDuration::from_hours(hours)).await;
    }
    let sidecar = Running::ready(config).await;
    eventually("the shelf is empty", async || shelved(&broker).await == 0).await;
    let letters = dead_letters(&broker).await;
    let said = |name| header(&letters[0], name);
    assert_eq!((letters.len(), said("ce-id"), said("Tidegate-Reason")), (1, "old", "too-old"));
    assert_eq!((said("Tidegate-Attempts"), said("Tidegate-Last-Status")), ("1", "503"));
    let mut ids = container.ids();
    ids.sort();
    assert_eq!(ids, ["early", "young"]);
    sidecar.terminate().await;
}

/// While there is no room for dead letters it stays, and that is on record: deliveries without a trace would pass for those
/// at which a sidecar died, and its letter would say so.
#[tokio::test]
async fn one_whose_dead_letter_has_no_room_leaves_a_trace() {
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = expiring(&broker, &container, OnExpired::DeadLetter, Order::Key { lanes: 1 }).await;
    let context = broker.jetstream();
    let letters = context.get_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let full = jetstream::stream::Config { max_bytes: 1, ..letters.cached_info().config.clone() };
    context.update_stream(full).await.unwrap();
    let sequence = publish(&broker, "old").await;
    sleep(MAX_AGE).await;
    let sidecar = Running::ready(config).await;
    let records = context.get_stream(layout::attempt_stream(HANDLER)).await.unwrap();
    let subject = layout::attempt_subject(HANDLER, &sequence.to_string());
    eventually("a record", async || records.get_last_raw_message_by_subject(&subject).await.is_ok()).await;
    let record = records.get_last_raw_message_by_subject(&subject).await.unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
    assert_eq!((&record["attempts"], &record["untried"]), (&json!(0), &json!(1)), "{record}");
    assert_eq!(container.count(), 0);
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_retry_that_comes_too_late_is_none() {
    let (broker, container) = (TestBroker::start().await, Container::answering(|_| (500, Duration::ZERO)).await);
    let mut config = expiring(&broker, &container, OnExpired::DeadLetter, Order::None).await;
    config.delivery.retry.initial = MAX_AGE + Duration::from_millis(500);
    config.delivery.retry.max = config.delivery.retry.initial;
    config.delivery.retry.jitter = 0.0;
    let sidecar = Running::ready(config).await;
    let mut letters = Vec::new();
    // On a machine that is slow enough an event may be too old at its first attempt: another one follows.
    while container.count() == 0 {
        publish(&broker, &letters.len().to_string()).await;
        let before = letters.len();
        eventually("its dead letter", async || dead_letters(&broker).await.len() > before).await;
        letters = dead_letters(&broker).await;
    }
    let said = |name| header(letters.last().unwrap(), name);
    assert_eq!((said("Tidegate-Reason"), said("Tidegate-Attempts")), ("too-old", "1"));
    assert_eq!((said("Tidegate-Last-Status"), container.count()), ("500", 1));
    sidecar.terminate().await;
}
