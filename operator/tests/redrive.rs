//! Dead letters are given to their handler again, against a real nats-server.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream::Stream};
use serde_json::{Value, json};
use tidegate_broker_admin::handler_streams;
use tidegate_broker_client::peer;
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;
use tidegate_crds::handler::{Redrive, RedrivePhase, RedriveStatus};
use tidegate_operator::handler::redrive;
use tidegate_test_broker::{LIMIT, TestBroker};

const HANDLER: &str = "billing";

struct World {
    broker: TestBroker,
    js: jetstream::Context,
}

impl World {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let js = broker.jetstream();
        for handler in [HANDLER, "shipping"] {
            handler_streams::ensure(&broker.admin(), handler, "u").await.unwrap();
        }
        Self { broker, js }
    }

    /// A dead letter as the sidecar writes it.
    async fn letter(&self, handler: &str, id: &str) {
        self.letter_with(handler, id, "{}").await;
    }

    async fn letter_with(&self, handler: &str, id: &str, data: &str) {
        let event =
            Event::builder(id, "/sensors/1", "order.new").attribute("partitionkey", "k").data(data.to_owned()).build();
        let (mut headers, payload) = peer::encode(&event.unwrap());
        for (name, value) in [("Tidegate-Reason", "refused-by-handler"), ("traceparent", "00-a-b-01")] {
            headers.insert(name, value);
        }
        headers.insert("Nats-Msg-Id", format!("{handler}:{id}"));
        let subject = layout::dead_letter_subject(handler);
        self.js.publish_with_headers(subject, headers, payload).await.unwrap().await.unwrap();
    }

    async fn stream(&self, name: &str) -> Stream {
        self.js.get_stream(name).await.unwrap()
    }

    /// Ids of the messages that a stream has, with their subjects and headers.
    async fn messages(&self, name: &str) -> Vec<(String, String, HeaderMap)> {
        let stream = self.stream(name).await;
        let mut found = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                let event = stored::decode(Some(&message.headers), message.payload.clone());
                let id = event.map(|event| event.id().to_owned()).unwrap_or_default();
                found.push((id, message.subject.to_string(), message.headers));
            }
        }
        found
    }

    /// Ids of the handler's dead letters.
    async fn letters(&self, handler: &str) -> Vec<String> {
        self.ids(&layout::dead_letter_stream(handler)).await
    }

    async fn ids(&self, stream: &str) -> Vec<String> {
        self.messages(stream).await.into_iter().map(|(id, ..)| id).collect()
    }

    /// All steps, as reconciles do them.
    async fn redrive(&self, wanted: &Redrive, mut before: Option<RedriveStatus>) -> RedriveStatus {
        for _ in 0..100 {
            let done = redrive::step(&self.broker.admin(), &handler(&[]), wanted, before.as_ref()).await.unwrap();
            let Some(again) = done.again else { return done.status };
            tokio::time::sleep(again).await;
            before = Some(done.status);
        }
        panic!("a redrive without an end: {before:?}");
    }
}

fn handler(types: &[String]) -> redrive::Handler<'_> {
    redrive::Handler { name: HANDLER, uid: "uid", generation: 1, types }
}

fn wanted(changes: Value) -> Redrive {
    let mut whole = json!({"request": "1"});
    whole.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

#[tokio::test]
async fn a_redriven_event_keeps_its_identity_and_is_for_its_handler_only() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    world.letter("shipping", "2").await;
    world.letter(HANDLER, "3").await;
    let status = world.redrive(&wanted(json!({})), None).await;
    assert_eq!((status.phase, status.examined, status.redriven), (RedrivePhase::Done, 2, 2));
    assert!(world.letters(HANDLER).await.is_empty());
    assert_eq!(world.letters("shipping").await, ["2"], "another handler's stay");
    let events = world.messages("events").await;
    let subject = layout::redrive_subject(HANDLER, layout::partition("k"), "order.new");
    assert_eq!(events.iter().map(|(id, ..)| id.as_str()).collect::<Vec<_>>(), ["1", "3"]);
    assert!(events.iter().all(|(_, found, _)| *found == subject), "{events:?}");
    let headers = &events[0].2;
    assert_eq!(headers.get("traceparent").unwrap().as_str(), "00-a-b-01");
    assert!(headers.get("Tidegate-Reason").is_none(), "{headers:?}");
    let again = world.redrive(&wanted(json!({})), Some(status.clone())).await;
    assert_eq!(again, status, "the same request is answered once");
}

#[tokio::test]
async fn it_takes_what_is_asked_for_and_leaves_the_rest() {
    let world = World::start().await;
    for id in 0..10 {
        world.letter(HANDLER, &id.to_string()).await;
    }
    let by_count = world.redrive(&wanted(json!({"count": 2})), None).await;
    assert_eq!((by_count.redriven, world.ids("events").await), (2, vec!["0".to_owned(), "1".to_owned()]));
    let by_id = wanted(json!({"request": "2", "ids": ["5", "7", "nobody"]}));
    assert_eq!(world.redrive(&by_id, Some(by_count)).await.redriven, 2);
    assert_eq!(world.letters(HANDLER).await, ["2", "3", "4", "6", "8", "9"]);
    let past = wanted(json!({"request": "3", "until": "2020-01-01T00:00:00Z"}));
    assert_eq!(world.redrive(&past, None).await.redriven, 0);
    let future = wanted(json!({"request": "4", "since": "2020-01-01T00:00:00Z", "until": "2999-01-01T00:00:00Z"}));
    assert_eq!(world.redrive(&future, None).await.redriven, 6);
}

#[tokio::test]
async fn what_dies_again_meanwhile_is_not_redriven_again() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    let limited = wanted(json!({"count": 5, "rate": 1}));
    let first = redrive::step(&world.broker.admin(), &handler(&[]), &limited, None).await.unwrap();
    assert_eq!(first.status.redriven, 1);
    world.letter(HANDLER, "later").await;
    let status = world.redrive(&limited, Some(first.status)).await;
    assert_eq!((status.phase, status.redriven), (RedrivePhase::Done, 1));
    assert_eq!(world.letters(HANDLER).await, ["later"]);
}

/// A crash after the broker's confirmation and before the dead letter was removed: the event is there once.
#[tokio::test]
async fn a_crash_in_between_gives_no_second_event() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    let mut headers = HeaderMap::new();
    let letter = world.broker.admin().message(&layout::dead_letter_stream(HANDLER), 1).await.unwrap();
    let stored = letter.time.unix_timestamp_nanos();
    headers.insert("Nats-Msg-Id", format!("redrive:uid:1:1:{stored}"));
    headers.insert("ce-specversion", "1.0");
    let subject = layout::redrive_subject(HANDLER, 0, "order.new");
    world.js.publish_with_headers(subject, headers, "".into()).await.unwrap().await.unwrap();
    let status = world.redrive(&wanted(json!({})), None).await;
    assert_eq!((status.redriven, world.messages("events").await.len()), (1, 1));
    assert!(world.letters(HANDLER).await.is_empty());
}

/// Its consumers may have passed over the copy while the handler asked for other types.
#[tokio::test]
async fn the_copy_for_an_earlier_specification_does_not_stand_for_one_of_now() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    let admin = world.broker.admin();
    let letter = admin.message(&layout::dead_letter_stream(HANDLER), 1).await.unwrap();
    let before = handler(&[]);
    let copy = redrive::Copy::of(&before, &letter).unwrap();
    for was_known in [false, true] {
        let redrive::Published::Confirmed(confirmed) = copy.publish(&admin).await.unwrap() else { panic!("refused") };
        assert_eq!((confirmed.sequence(), confirmed.was_known), (1, was_known));
    }
    assert_eq!(world.letters(HANDLER).await, ["1"], "it is not removed by that");
    let now = redrive::Handler { generation: 2, ..before };
    let done = redrive::step(&admin, &now, &wanted(json!({})), None).await.unwrap();
    assert_eq!((done.status.redriven, world.ids("events").await.len()), (1, 2));
    assert!(world.letters(HANDLER).await.is_empty());
}

/// A stream that has lost its end gives the same sequences again.
#[tokio::test]
async fn another_letter_with_the_same_sequence_is_redriven_too() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    assert_eq!(world.redrive(&wanted(json!({})), None).await.redriven, 1);
    let stream = world.broker.admin().stream(&layout::dead_letter_stream(HANDLER)).await.unwrap();
    assert_eq!(stream.state.last_sequence, 1);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "redrive:uid:2");
    headers.insert("ce-specversion", "1.0");
    let subject = layout::redrive_subject(HANDLER, 0, "order.new");
    // The copy of a former letter 2, by an id that only has its sequence.
    world.js.publish_with_headers(subject, headers, "".into()).await.unwrap().await.unwrap();
    world.letter(HANDLER, "2").await;
    assert_eq!(world.redrive(&wanted(json!({"request": "again"})), None).await.redriven, 1);
    assert_eq!(world.messages("events").await.len(), 3);
}

#[tokio::test]
async fn the_rate_is_kept() {
    let world = World::start().await;
    for id in 0..30 {
        world.letter(HANDLER, &id.to_string()).await;
    }
    for (request, count, rate, least) in [("1", 3, 2, 900), ("2", 27, 20, 1200)] {
        let began = Instant::now();
        world.redrive(&wanted(json!({"request": request, "count": count, "rate": rate})), None).await;
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(least), "{count} at {rate} a second took {took:?}");
    }
}

/// A changed status brings the next step at once; a step knows nothing of the one before.
#[tokio::test]
async fn a_low_rate_is_kept_by_steps_that_follow_at_once() {
    let world = World::start().await;
    for id in 0..4 {
        world.letter(HANDLER, &id.to_string()).await;
    }
    let slowly = wanted(json!({"count": 3, "rate": 1}));
    let (began, mut status) = (Instant::now(), None);
    while status.as_ref().is_none_or(|status: &RedriveStatus| status.phase == RedrivePhase::Running) {
        let before = status.as_ref().map_or(0, |status| status.redriven);
        let done = redrive::step(&world.broker.admin(), &handler(&[]), &slowly, status.as_ref()).await.unwrap();
        assert!(done.status.redriven <= before + 2, "a step is short: {:?}", done.status);
        status = Some(done.status);
    }
    let took = began.elapsed();
    assert_eq!(status.unwrap().redriven, 3);
    assert!(took >= Duration::from_millis(2900), "3 at 1 a second took {took:?}");
    assert!(took < LIMIT, "3 at 1 a second took {took:?}");
}

/// The topic takes smaller events than when these were stored.
#[tokio::test]
async fn what_is_too_large_stays_a_letter_and_the_next_one_is_redriven() {
    let world = World::start().await;
    for (id, size) in [("1", 1), ("large", 20_000), ("3", 1)] {
        world.letter_with(HANDLER, id, &format!("\"{}\"", "x".repeat(size))).await;
    }
    let mut config = world.stream("events").await.cached_info().config.clone();
    config.max_message_size = 10_000;
    world.js.update_stream(config).await.unwrap();
    // One in each step, however long that takes.
    let slowly = wanted(json!({"rate": 1}));
    let (admin, handler) = (world.broker.admin(), handler(&[]));
    let first = redrive::step(&admin, &handler, &slowly, None).await.unwrap();
    assert_eq!((first.status.phase, first.status.redriven, first.refused), (RedrivePhase::Running, 1, None));
    let second = redrive::step(&admin, &handler, &slowly, Some(&first.status)).await.unwrap();
    assert_eq!((second.status.phase, second.status.redriven), (RedrivePhase::Running, 1));
    assert!(second.refused.unwrap().contains("number 2"), "an Event tells of it");
    let status = world.redrive(&slowly, Some(second.status)).await;
    assert_eq!((status.phase, status.examined, status.redriven), (RedrivePhase::Done, 3, 2));
    let message = status.message.unwrap();
    assert!(message.starts_with("what is larger than the topic takes stays a dead letter: the last is number 2"));
    assert_eq!(
        (world.ids("events").await, world.letters(HANDLER).await.join(" ")),
        (vec!["1".into(), "3".into()], "large".into())
    );
}

/// A dead letter of a type that the handler no longer gets would become an event that no one reads.
#[tokio::test]
async fn what_the_handler_no_longer_gets_stays_a_letter() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    let types = ["payment.*".to_owned()];
    let done = redrive::step(&world.broker.admin(), &handler(&types), &wanted(json!({})), None).await.unwrap();
    assert_eq!((done.status.phase, done.status.examined, done.status.redriven), (RedrivePhase::Done, 1, 0));
    assert_eq!(world.letters(HANDLER).await, ["1"]);
}

/// Headers are their publisher's doing: a dead letter whose headers are none is left to people, and the next one is
/// looked at.
#[tokio::test]
async fn a_letter_with_malformed_headers_stays_and_stops_nothing() {
    let world = World::start().await;
    world.letter(HANDLER, "1").await;
    let mut headers = HeaderMap::new();
    headers.insert("ce-id", "2\u{1}");
    let subject = layout::dead_letter_subject(HANDLER);
    world.js.publish_with_headers(subject, headers, "{}".into()).await.unwrap().await.unwrap();
    world.letter(HANDLER, "3").await;
    let status = world.redrive(&wanted(json!({})), None).await;
    assert_eq!((status.phase, status.examined, status.redriven), (RedrivePhase::Done, 3, 2));
    assert_eq!(world.ids("events").await, ["1", "3"]);
    let left = world.stream(&layout::dead_letter_stream(HANDLER)).await;
    assert_eq!(left.cached_info().state.messages, 1);
}
