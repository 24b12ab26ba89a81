//! What `tidegate dev` does with events.

use bytes::Bytes;
use http_body_util::Full;
use nix::sys::signal::Signal;
use serde_json::json;
use tidegate_test_broker::free_port;

use crate::support::{Handler, Project, handler, raw, status, topic, until};

/// Retries at once, as a person who waits would like it.
const QUICK: &str = "  delivery: {retry: {maxAttempts: 2, backoff: {initial: 10ms, max: 10ms}}}\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_reaches_ones_own_handler_and_is_there_in_the_next_run() {
    let own = Handler::start().await;
    let project = Project::new(&(topic() + &handler("billing", own.port, "  delivery: {path: /events}\n")));
    let dev = project.ready(&[]);
    let sent = project.sent(&["--data", r#"{"amount": 42}"#, "--id", "one", "--type", "order.created"]);
    let expected =
        json!({"id": "one", "source": "/tidegate/send", "type": "order.created", "outcome": "stored", "sequence": 1});
    assert_eq!(sent, [expected]);
    until("it is delivered", || !own.received().is_empty());
    let received = own.received().remove(0);
    assert_eq!((received.id.as_str(), received.path.as_str()), ("one", "/events"));
    assert_eq!(received.body, r#"{"amount":42}"#);
    dev.until_line(&["orders", "one published, type order.created"]);
    dev.until_line(&["billing", "one #1 attempt 1: 204", "acknowledged"]);
    assert_eq!(project.sent(&["--id", "one", "--data", "{}"])[0]["outcome"], "known");
    assert!(dev.terminate(Signal::SIGTERM).success());
    project.until_nothing_is_left();

    let again = project.ready(&[]);
    assert_eq!(project.sent(&["--id", "two"])[0]["sequence"], 2);
    until("it is delivered", || own.received().len() == 2);
    drop(again);
    let _fresh = project.ready(&["--fresh"]);
    assert_eq!(project.sent(&["--id", "three"])[0]["sequence"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_and_is_a_dead_letter_in_the_end() {
    let own = Handler::answering(|_| status(503)).await;
    let project = Project::new(&(topic() + &handler("billing", own.port, QUICK)));
    let dev = project.ready(&[]);
    project.sent(&["--id", "bad"]);
    dev.until_line(&["billing", "bad #1 attempt 1: 503", "retried"]);
    dev.until_line(&["billing", "bad #1 attempt 2: 503", "DEAD LETTER"]);
    dev.until_line(&["handler billing: warn: an event is dead-lettered"]);
    let attempts: Vec<_> = own.received().into_iter().map(|received| received.attempt).collect();
    assert_eq!(attempts, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_go_to_another_topic_and_direct_topics_pass_on() {
    let own = Handler::answering(|received| {
        let mut reply = status(200);
        if received.path == "/orders" {
            let headers = [("ce-specversion", "1.0"), ("ce-id", "reply"), ("ce-source", "/own"), ("ce-type", "reply")];
            for (name, value) in headers {
                reply.headers_mut().insert(name, value.parse().unwrap());
            }
            *reply.body_mut() = Full::new(Bytes::from_static(b"{}"));
        }
        reply
    })
    .await;
    let bills =
        "---\napiVersion: tidegate.io/v1alpha1\nkind: EventTopic\nmetadata: {name: bills}\nspec: {routing: Direct}\n";
    let billing = handler("billing", own.port, "  reply: {topic: bills}\n  delivery: {path: /orders}\n");
    let printing =
        handler("printing", own.port, "  delivery: {path: /bills}\n").replace("topic: orders", "topic: bills");
    let project = Project::new(&(topic() + bills + &billing + &printing));
    let dev = project.ready(&[]);
    until("the reply came", || {
        project.sent(&[]);
        own.received().iter().any(|received| received.path == "/bills" && received.id == "reply")
    });
    dev.until_line(&["bills", "reply published, type reply"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_taken_over_and_wrong_ones_change_nothing() {
    let own = Handler::start().await;
    let with_path = |path: &str| topic() + &handler("billing", own.port, &format!("  delivery: {{path: {path}}}\n"));
    let project = Project::new(&with_path("/old"));
    let dev = project.ready(&[]);
    project.write("spec: [");
    dev.until("not taken over");
    project.write(&with_path("nowhere"));
    dev.until_line(&["not taken over", "spec.delivery.path"]);
    project.sent(&["--id", "one"]);
    until("it is delivered as before", || own.received().iter().any(|received| received.path == "/old"));

    let more = "---\napiVersion: tidegate.io/v1alpha1\nkind: EventTopic\nmetadata: {name: bills}\nspec: {}\n";
    project.write(&(with_path("/new") + more));
    dev.until("handler billing has its new specification");
    dev.until("taken over: the files have changed");
    project.sent(&["--id", "two"]);
    until("it is delivered as it says now", || own.received().iter().any(|received| received.path == "/new"));
    assert_eq!(own.received().len(), 2, "each once");

    project.write(&topic());
    dev.until("handler billing is gone");
    project.sent(&["--id", "three"]);
    dev.until_line(&["orders", "three published"]);
    assert_eq!(own.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_may_publish_in_plain_http_and_a_page_may_not() {
    let own = Handler::start().await;
    let project = Project::new(&(topic() + &handler("billing", own.port, "")));
    let port = free_port();
    let dev = project.ready(&[&format!("--http={port}")]);
    dev.until(&format!("http://127.0.0.1:{port}/orders"));
    let request = |path: &str, more: &str| {
        let event = "ce-specversion: 1.0\r\nce-id: a\r\nce-source: /curl\r\nce-type: t\r\n";
        raw(
            port,
            &format!(
                "POST {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\ncontent-length: 2\r\n\
                 content-type: application/json\r\n{event}{more}\r\n{{}}"
            ),
        )
    };
    for path in ["/orders", "/default/orders"] {
        let answer = request(path, "");
        assert!(answer.starts_with("HTTP/1.1 202") && answer.contains("tidegate-sequence: 1"), "{answer}");
    }
    assert!(request("/bills", "").contains("there is no such topic"), "a topic that is not there");
    assert!(request("/orders", "origin: https://example.com\r\n").starts_with("HTTP/1.1 403"));
    until("it is delivered", || own.received().len() == 1);
}
