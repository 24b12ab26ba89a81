//! A Direct topic: events pass through to whoever listens, and nothing is stored.

use std::time::Duration;

use futures::StreamExt as _;
use http::StatusCode;
use tidegate_broker_client::{contract, identity, layout, peer, stored};
use tidegate_cloudevents::Event;
use tidegate_ingress::Limits;
use tidegate_test_broker::hostile::{Attack, HostileBroker};
use tidegate_test_broker::{LIMIT, TestBroker};

use crate::device::{Device, binary};
use crate::support::{Frozen, config, event, limits, run, start, start_with};

/// Listens as a handler of this name.
async fn listen(broker: &TestBroker, handler: &'static str) -> async_nats::Subscriber {
    let identity = broker.direct_handler(handler).await;
    let client = peer::connect(handler, &broker.servers(), identity::folder(identity)).await.unwrap();
    let subscriber = client.queue_subscribe(layout::EVENT_SUBJECTS, handler.into()).await.unwrap();
    // A round trip: the broker knows of it then, whether somebody answers or not.
    let _ = client.request(layout::report_subject(handler), "".into()).await;
    // The subscription lives as long as its client does.
    std::mem::forget(client);
    subscriber
}

async fn heard(subscriber: &mut async_nats::Subscriber) -> Event {
    let message = tokio::time::timeout(LIMIT, subscriber.next()).await.unwrap().unwrap();
    stored::decode(message.headers.as_ref(), message.payload).unwrap()
}

#[tokio::test]
async fn who_listens_hears_what_is_published_in_order() {
    let broker = TestBroker::start_direct().await;
    let ingress = start(&broker).await;
    // Accepted is on its way to the broker; that somebody heard it shows that it has been there.
    let mut earlier = listen(&broker, "earlier").await;
    assert_eq!(ingress.publish(&event("0")).await.status, StatusCode::ACCEPTED);
    assert_eq!(heard(&mut earlier).await, event("0"));

    let mut subscriber = listen(&broker, "later").await;
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::ACCEPTED);
    let batch: Vec<Event> = (2..100).map(|id| event(&id.to_string())).collect();
    assert_eq!(ingress.publish_batch(&batch).await.status, StatusCode::ACCEPTED);
    let (mut device, _) = Device::v5(&ingress, 60).await;
    device.send(binary(1, &event("100"))).await;
    assert_eq!(device.puback().await.1, 0);
    for id in 1..=100 {
        assert_eq!(heard(&mut subscriber).await, event(&id.to_string()));
    }
}

#[tokio::test]
async fn no_header_is_for_a_stream() {
    let broker = TestBroker::start_direct().await;
    let ingress = start(&broker).await;
    let mut subscriber = listen(&broker, "later").await;
    ingress.publish(&event("1")).await;
    let message = tokio::time::timeout(LIMIT, subscriber.next()).await.unwrap().unwrap();
    assert_eq!(message.reply, None);
    assert!(message.headers.unwrap().iter().all(|(name, _)| !name.to_string().starts_with("Nats-")));
}

/// A round trip for each event would make a batch as slow as single requests.
#[tokio::test]
async fn a_request_with_many_events_asks_the_broker_once() {
    let broker = TestBroker::start_direct().await;
    let counting = HostileBroker::start(broker.authority(), Attack::Pong).await;
    let servers = vec![counting.address.clone()];
    let ingress = run(&contract::Ingress { servers, ..config(&broker) }, limits()).await;
    ingress.until_ready().await;
    let batch: Vec<Event> = (0..100).map(|id| event(&id.to_string())).collect();
    let before = counting.pings();
    assert_eq!(ingress.publish_batch(&batch).await.status, StatusCode::ACCEPTED);
    // Both connections ask now and then whether the server is there.
    assert!((1..20).contains(&(counting.pings() - before)), "{} PINGs", counting.pings() - before);
}

/// That the client has written it is not enough: no one reads it.
#[tokio::test]
async fn what_a_frozen_broker_has_not_taken_in_is_503_in_time() {
    let broker = TestBroker::start_direct().await;
    let ingress = start_with(&broker, Limits { publish: Duration::from_secs(2), ..limits() }).await;
    ingress.until_ready().await;
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::ACCEPTED);
    let frozen = Frozen::new(broker.pid().unwrap()).await;
    let answer = tokio::time::timeout(LIMIT, ingress.publish(&event("2"))).await;
    drop(frozen);
    assert_eq!(answer.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn without_a_broker_it_is_503() {
    let mut broker = TestBroker::start_direct().await;
    let ingress = start(&broker).await;
    broker.stop();
    ingress.until(StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::SERVICE_UNAVAILABLE);
}
