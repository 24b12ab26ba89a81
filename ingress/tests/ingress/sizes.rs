//! At the limits, one beyond them, and bytes that no well-meaning client sends.

use std::time::{Duration, Instant};

use http::StatusCode;
use tidegate_broker_client::layout;
use tidegate_cloudevents::Event;
use tidegate_ingress::Limits;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{MAX_EVENT, events, limits, messages, start, start_with};

const HEAD: &str = "POST / HTTP/1.1\r\nhost: localhost\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\n";

/// An event of exactly this size.
fn sized(size: usize) -> Event {
    let rest = Event::builder("1", "/s", "t").data("x").build().unwrap().size() - 1;
    let event = Event::builder("1", "/s", "t").data(vec![b'x'; size - rest]).build().unwrap();
    assert_eq!(event.size(), size);
    event
}

#[tokio::test]
async fn an_event_of_the_largest_size_is_taken_and_one_byte_more_is_not() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    assert_eq!(ingress.publish(&sized(MAX_EVENT + 1)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ingress.publish_batch(&[sized(MAX_EVENT + 1)]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(messages(&broker).await.len(), 0);
    assert_eq!(ingress.publish(&sized(MAX_EVENT)).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, [sized(MAX_EVENT)]);
}

#[tokio::test]
async fn attributes_have_a_limit_of_their_own() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let json = |length: usize| {
        let value = "x".repeat(length);
        format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","large":"{value}"}}"#)
    };
    let structured = [("content-type", "application/cloudevents+json")];
    for length in [64 * 1024, 70_000] {
        let answer = ingress.post(&structured, json(length)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.detail().contains("move large values into the data"), "{}", answer.detail());
    }
    for (length, status) in [(64 * 1024, "400"), (128 * 1024, "431")] {
        let large = "x".repeat(length);
        let head = format!("{HEAD}ce-type: t\r\nce-large: {large}\r\nconnection: close\r\n\r\n");
        let answer = ingress.raw(head.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    assert_eq!(ingress.post(&structured, json(40_000)).await.status, StatusCode::ACCEPTED);
    let stored = events(&broker).await;
    assert_eq!(stored[0].attribute("large").map(str::len), Some(40_000));
}

#[tokio::test]
async fn a_line_break_in_a_header_is_no_header_of_ours() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let ending = "content-length: 0\r\nconnection: close\r\n\r\n";
    // What a careless proxy would let through: the second line is a header of the request, and of nothing else.
    let answer = ingress.raw(format!("{HEAD}ce-type: t\r\nNats-Rollup: all\r\n{ending}").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let message = messages(&broker).await.remove(0);
    assert!(message.headers.get("Nats-Rollup").is_none());

    for bad in ["ce-type: t\rNats-Rollup: all\r\n", "ce-type: t\r\n Nats-Rollup: all\r\n", "ce-type: t\0\r\n"] {
        let answer = ingress.raw(format!("{HEAD}{bad}{ending}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad:?}: {answer}");
    }
    assert_eq!(messages(&broker).await.len(), 1);
}

#[tokio::test]
async fn what_is_not_utf_8_is_refused() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let ending = b"content-length: 0\r\nconnection: close\r\n\r\n";
    for value in [&b"\xFF"[..], b"%FF", b"%C0%A0", b"\xC3("] {
        let request = [HEAD.as_bytes(), b"ce-type: ", value, b"\r\n", ending].concat();
        let answer = ingress.raw(&request).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("not UTF-8"), "{value:?}: {answer}");
    }
    let answer = ingress
        .post(&[("content-type", "application/cloudevents+json")], &b"{\"specversion\":\"1.0\",\"id\":\"\xFF\"}"[..])
        .await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(messages(&broker).await.len(), 0);
}

#[tokio::test]
async fn characters_of_subjects_in_type_and_key_are_only_characters() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let odd = [".", "*", ">", "a b", "%", "a..b", ".>", "$JS.API", "a\u{a0}b"];
    let mut expected = Vec::new();
    for (number, text) in odd.iter().enumerate() {
        let event = Event::builder(&number.to_string(), "/s", text).attribute("partitionkey", *text).build().unwrap();
        let answer = ingress.publish(&event).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{text:?}: {answer:?}");
        expected.push(event);
    }
    let messages = messages(&broker).await;
    for (message, text) in messages.iter().zip(odd) {
        assert_eq!(message.subject.as_str(), layout::event_subject(layout::partition(text), text));
        assert!(!message.subject.contains(['*', '>', ' ', '\u{a0}']) && !message.subject.contains(".."));
    }
    assert_eq!(events(&broker).await, expected);
}

#[tokio::test]
async fn a_slow_body_is_given_up_and_holds_up_nobody() {
    let broker = TestBroker::start().await;
    let limits = Limits { body: Duration::from_secs(1), requests: 4, ..limits() };
    let ingress = start_with(&broker, limits).await;
    ingress.until_ready().await;
    let mut slow = ingress.connect(b"http/1.1").await;
    let started = Instant::now();
    slow.write_all(format!("{HEAD}ce-type: t\r\ncontent-length: 5\r\n\r\n12").as_bytes()).await.unwrap();
    let other = Event::builder("2", "/s", "t").build().unwrap();
    assert_eq!(ingress.publish(&other).await.status, StatusCode::ACCEPTED);
    let mut answer = [0; 1024];
    let read = tokio::time::timeout(LIMIT, slow.read(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).starts_with("HTTP/1.1 408"));
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    assert_eq!(events(&broker).await, [other]);
}
