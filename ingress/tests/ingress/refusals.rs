//! What is not an event is refused with the reason, and nothing of it is stored.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;

use crate::support::{MAX_EVENT, event, exchange, messages, post, start};

const BINARY: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

fn binary<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&BINARY, more].concat()
}

#[tokio::test]
async fn bad_requests() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;

    let malformed = [
        (vec![("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-type", "t")], "", "\"source\" is missing"),
        (binary(&[("ce-time", "yesterday")]), "", "RFC 3339"),
        (binary(&[("ce-id", "2")]), "", "more than once"),
        (binary(&[("ce-datacontenttype", "text/plain")]), "", "send Content-Type"),
        (binary(&[("ce-subject", "a%0D%0ANats-Msg-Id:%20x")]), "", "control character"),
        (binary(&[("ce-nats-msg-id", "x")]), "", "a-z and 0-9"),
        (vec![("content-type", "application/cloudevents+json")], "{", "not a CloudEvent in JSON"),
        (vec![("content-type", "application/cloudevents-batch+json")], r#"[{"id":"1"}]"#, "event 0 of the batch"),
    ];
    for (headers, body, reason) in malformed {
        let answer = ingress.post(&headers, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{reason}");
        assert!(answer.detail().contains(reason), "{} does not say {reason}", answer.detail());
    }

    for content_type in ["application/json", "application/cloudevents+xml"] {
        let answer = ingress.post(&[("content-type", content_type)], "{}").await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert!(answer.headers["accept"].to_str().unwrap().contains("application/cloudevents+json"));
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let request = Request::builder().method(method).uri("/").header("host", "localhost");
        let answer = ingress.send(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers["allow"], "POST, OPTIONS");
    }
    let mut elsewhere = post(&BINARY, "");
    *elsewhere.uri_mut() = "/events".parse().unwrap();
    assert_eq!(ingress.send(elsewhere).await.status, StatusCode::NOT_FOUND);

    assert_eq!(messages(&broker).await.len(), 0);
}

#[tokio::test]
async fn what_is_too_large_is_told_the_limit() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;

    let answer = ingress.post(&BINARY, vec![b'x'; MAX_EVENT]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "attributes count too");
    assert!(answer.detail().contains(&format!("{MAX_EVENT} are allowed")), "{}", answer.detail());

    let answer = ingress.post(&BINARY, vec![b'x'; 8 * MAX_EVENT]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "of a known length");
    assert!(answer.detail().contains(&format!("larger than {} bytes", 4 * MAX_EVENT)), "{}", answer.detail());

    let chunk = || Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; MAX_EVENT])));
    let chunked = StreamBody::new(futures::stream::iter((0..8).map(move |_| chunk())));
    let (head, _) = post(&BINARY, "").into_parts();
    let answer = exchange(ingress.connect(b"http/1.1").await, Request::from_parts(head, chunked)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "of an unknown length");

    let batch: Vec<Event> = (0..1001).map(|i| Event::builder(&i.to_string(), "/", "t").build().unwrap()).collect();
    let answer = ingress.publish_batch(&batch).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.detail().contains("more than 1000 events"), "{}", answer.detail());

    let almost = Event::builder("1", "/s", "t").data(vec![b'x'; MAX_EVENT - 100]).build().unwrap();
    assert_eq!(messages(&broker).await.len(), 0);
    assert_eq!(ingress.publish(&almost).await.status, StatusCode::ACCEPTED, "base64 needs room in the request");
}

#[tokio::test]
async fn a_publisher_cannot_set_headers_of_the_broker() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let smuggled = [
        ("nats-msg-id", "same"),
        ("nats-ttl", "1s"),
        ("nats-rollup", "all"),
        ("nats-expected-stream", "other"),
        ("ce-natsmsgid", "same"),
        ("ce-subject", "%25%30%44"),
    ];
    for id in ["1", "2"] {
        let mut headers = vec![("ce-specversion", "1.0"), ("ce-id", id), ("ce-source", "/s"), ("ce-type", "a.>.*.$JS")];
        headers.extend(smuggled);
        let answer = ingress.post(&headers, "").await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    }
    let structured = event("3").with_extension("natsmsgid", "same").unwrap();
    assert_eq!(ingress.publish(&structured).await.status, StatusCode::ACCEPTED);

    let messages = messages(&broker).await;
    assert_eq!(messages.len(), 3, "nothing was taken for a repetition or a rollup");
    for message in &messages {
        let ours = ["Nats-Msg-Id", "Nats-Expected-Stream", "content-type", "traceparent"];
        for (name, _) in message.headers.iter() {
            let name = name.to_string();
            assert!(name.starts_with("ce-") || ours.contains(&name.as_str()), "{name}");
        }
        assert_ne!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "same");
    }
    assert!(messages[0].subject.ends_with(".a.%3E.%2A.$JS"), "{}", messages[0].subject);
    assert_eq!(messages[0].headers.get("ce-subject").unwrap().as_str(), "%250D");
}
