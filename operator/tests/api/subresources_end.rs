//! Where a list and a watch of the aggregated API end, and what is asked for beyond it.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tidegate_broker_client::{layout, peer};
use tidegate_test_broker::jetstream;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::subresources::{ANN, Data, event, sequences};

const EVENTS: &str = "eventtopics/orders/events";
const LETTERS: &str = "eventhandlers/billing/deadletters";

#[tokio::test]
async fn a_list_says_where_its_stream_ends_and_what_time_it_is_there() {
    let data = Data::start("api-end").await;
    for number in 1..=5 {
        data.store(&event(&number.to_string(), b"x")).await;
    }
    data.dead_letter(&event("a", b"x"), &[]).await;
    for (query, last) in [
        (format!("{EVENTS}?limit=2"), 5),
        (format!("{EVENTS}?continue=3"), 5),
        (format!("{EVENTS}?last=0&limit=1"), 5),
        (format!("{LETTERS}?type=other"), 1),
    ] {
        let metadata = &data.read(&query).await["metadata"];
        assert_eq!((&metadata["firstSequence"], &metadata["lastSequence"]), (&json!(1), &json!(last)), "{query}");
        let time = OffsetDateTime::parse(metadata["time"].as_str().unwrap(), &Rfc3339).unwrap();
        assert!((OffsetDateTime::now_utc() - time).abs() < Duration::from_secs(60), "{query}: {metadata}");
    }
}

/// The stream that gave the sequence was another one.
#[tokio::test]
async fn what_is_beyond_the_end_is_refused_and_the_next_one_is_not() {
    let data = Data::start("api-beyond").await;
    let nothing = async |query: &str| assert_eq!(sequences(&data.read(query).await), Vec::<u64>::new(), "{query}");
    nothing(&format!("{EVENTS}?fromSequence=1")).await;
    nothing(&format!("{LETTERS}?continue=1")).await;
    data.store(&event("1", b"x")).await;
    nothing(&format!("{EVENTS}?fromSequence=2")).await;
    for (query, of) in [
        (format!("{EVENTS}?fromSequence=3"), "EventTopic orders, whose last one is 1"),
        (format!("{EVENTS}?continue=3&limit=1"), "EventTopic orders, whose last one is 1"),
        (format!("{EVENTS}?fromSequence=3&watch=true"), "EventTopic orders, whose last one is 1"),
        (format!("{EVENTS}?fromSequence={}", u64::MAX), "EventTopic orders, whose last one is 1"),
        (format!("{LETTERS}?continue=2"), "EventHandler billing, whose last one is 0"),
    ] {
        let (code, answer): (u16, Value) = data.get(ANN, &data.path(&query)).await;
        let message = answer["message"].as_str().unwrap_or_default();
        let says = format!("is beyond the end of {of}");
        assert!(code == 410 && answer["reason"] == "Expired" && message.contains(&says), "{query}: {code} {answer}");
    }
}

/// More than can be read in its time.
#[tokio::test]
async fn a_watch_that_never_catches_up_ends_too() {
    const EVENTS: usize = 40_000;
    let data = Data::start("api-backlog").await;
    let (headers, payload) = peer::encode(&event("many", b"1"));
    let subject = layout::event_subject(0, "order.new");
    let js = jetstream(data.topic.operator.clone());
    for _ in 0..EVENTS / 1000 {
        let mut acks = Vec::new();
        for _ in 0..1000 {
            acks.push(js.publish_with_headers(subject.clone(), headers.clone(), payload.clone()).await.unwrap());
        }
        for ack in acks {
            ack.await.unwrap();
        }
    }
    let path = data.path("eventtopics/orders/events?watch=true&timeoutSeconds=1&fromSequence=1");
    let (code, watched) = data.call_with(Method::GET, ANN, &path, String::new()).await;
    let count = watched.lines().count();
    assert!(code == 200 && (2..EVENTS).contains(&count), "{code} {count}");
}
