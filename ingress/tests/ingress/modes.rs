//! What is published is what is stored.

use http::StatusCode;
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;
use tidegate_ingress::Limits;
use tidegate_test_broker::TestBroker;

use crate::support::{event, events, exchange_http2, limits, messages, post, start, start_with};

fn order(id: &str) -> Event {
    Event::builder(id, "/shop/größe", "com.shop.order.created")
        .attribute("subject", "order \"7\" 50%")
        .attribute("time", "2026-01-31T17:31:00Z")
        .attribute("partitionkey", "customer-7")
        .attribute("datacontenttype", "application/json")
        .data(r#"{"amount":1.10}"#)
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_three_modes_are_stored_and_read_back() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;

    let (headers, body) = tidegate_cloudevents::http::encode_binary(&order("binary")).unwrap();
    let mut request = post(&[], body);
    request.headers_mut().extend(headers);
    let answer = ingress.send(request).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::ACCEPTED, 0));
    assert_eq!(ingress.publish(&order("structured")).await.status, StatusCode::ACCEPTED);
    let batch = [order("batched-0"), order("batched-1")];
    assert_eq!(ingress.publish_batch(&batch).await.status, StatusCode::ACCEPTED);
    assert_eq!(ingress.publish_batch(&[]).await.status, StatusCode::ACCEPTED);

    let expected = ["binary", "structured", "batched-0", "batched-1"].map(order);
    assert_eq!(events(&broker).await, expected);
}

#[tokio::test]
async fn http2_is_served_too() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let body = tidegate_cloudevents::json::encode(&event("1")).unwrap();
    let mut request = post(&[("content-type", "application/cloudevents+json")], body);
    request.headers_mut().remove("host");
    *request.uri_mut() = "https://localhost/".parse().unwrap();
    let answer = exchange_http2(ingress.connect(b"h2").await, request).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, [event("1")]);
}

#[tokio::test]
async fn the_subject_carries_partition_and_type() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    assert_eq!(ingress.publish(&order("1")).await.status, StatusCode::ACCEPTED);
    let message = messages(&broker).await.remove(0);
    let partition = layout::partition("customer-7");
    assert_eq!(message.subject.as_str(), format!("events.{partition}.com.shop.order.created"));
}

#[tokio::test]
async fn repeated_events_are_stored_once() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let of = |source| Event::builder("1", source, "t").data("x").build().unwrap();
    for source in ["/a", "/b", "/a", "/b"] {
        assert_eq!(ingress.publish(&of(source)).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(ingress.publish_batch(&[of("/a"), of("/c"), of("/c")]).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, [of("/a"), of("/b"), of("/c")]);
}

#[tokio::test]
async fn a_batch_keeps_its_order() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let batch: Vec<Event> = (0..300).map(|i| event(&format!("{i}"))).collect();
    assert_eq!(ingress.publish_batch(&batch).await.status, StatusCode::ACCEPTED);
    let ids: Vec<usize> = events(&broker).await.iter().map(|event| event.id().parse().unwrap()).collect();
    assert_eq!(ids, Vec::from_iter(0..300));
}

#[tokio::test]
async fn a_batch_may_be_larger_than_what_may_be_in_flight() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { publishes: 4, ..limits() }).await;
    ingress.until_ready().await;
    let batch: Vec<Event> = (0..100).map(|i| event(&format!("{i}"))).collect();
    assert_eq!(ingress.publish_batch(&batch).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, batch);
}

#[tokio::test]
async fn the_trace_context_is_stored_and_the_requests_goes_before_the_events() {
    const REQUEST: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const EVENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let traced = |id| event(id).with_extension("traceparent", EVENT).unwrap();
    let json = [("content-type", "application/cloudevents+json"), ("traceparent", REQUEST)];
    ingress.post(&json, tidegate_cloudevents::json::encode(&traced("1")).unwrap()).await;
    ingress.publish(&traced("2")).await;
    ingress.publish(&event("3")).await;

    let messages = messages(&broker).await;
    let parents: Vec<Option<&str>> =
        messages.iter().map(|message| message.headers.get("traceparent").map(|value| value.as_str())).collect();
    assert_eq!(parents, [Some(REQUEST), Some(EVENT), None]);
    let first = stored::decode(Some(&messages[0].headers), messages[0].payload.clone()).unwrap();
    assert_eq!(first.attribute("traceparent"), Some(EVENT), "the event itself is not changed");
}
