//! Keys that are held are counted, named and released, on a real nats-server.

use tidegate_broker_admin::api::{ApiError, Broker, Missing};
use tidegate_broker_admin::handler_streams;
use tidegate_broker_admin::held_keys::{self, Keys};
use tidegate_broker_client::held_key::Mark;
use tidegate_broker_client::layout;
use tidegate_test_broker::TestBroker;

const HANDLER: &str = "billing";
/// The lane of every key here: it decides nothing.
const LANE: u16 = 3;

async fn world() -> (TestBroker, Broker) {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    for handler in [HANDLER, "shipping"] {
        handler_streams::ensure(&admin, handler, "u").await.unwrap();
    }
    (broker, admin)
}

/// Parks an event of a key.
async fn park(broker: &Broker, handler: &str, key: &str) {
    broker.publish(&layout::parked_subject(handler, LANE, layout::key_digest(key)), None, b"event").await.unwrap();
}

/// The same, and holds the key.
async fn hold(broker: &Broker, handler: &str, key: &str, sequence: u64) {
    park(broker, handler, key).await;
    let mark = Mark::new(Some(key.to_owned()), sequence, Some("refused-by-handler"));
    let mark = serde_json::to_vec(&mark).unwrap();
    let subject = layout::held_subject(handler, LANE, layout::key_digest(key));
    broker.publish(&subject, None, &mark).await.unwrap();
}

fn names(keys: &Keys) -> Vec<&str> {
    keys.named.iter().map(|held| held.mark.key.as_deref().unwrap_or("?")).collect()
}

#[tokio::test]
async fn keys_are_counted_and_those_that_are_held_for_longest_are_named() {
    let (_broker, admin) = world().await;
    assert_eq!(held_keys::look(&admin, HANDLER).await.unwrap(), Keys::default());
    for key in ["a", "a", "b"] {
        park(&admin, HANDLER, key).await;
    }
    hold(&admin, "shipping", "another's", 1).await;
    let found = held_keys::look(&admin, HANDLER).await.unwrap();
    assert_eq!(found, Keys { parked: 2, held: 0, named: Vec::new() });
    // What is no mark holds its key, too.
    admin.publish(&layout::held_subject(HANDLER, LANE, layout::key_digest("a")), None, b"\xFF").await.unwrap();
    for number in 0..12 {
        hold(&admin, HANDLER, &format!("k{number}"), 100 + number).await;
    }
    let found = held_keys::look(&admin, HANDLER).await.unwrap();
    assert_eq!((found.parked, found.held), (14, 13));
    assert_eq!(names(&found), ["?", "k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8"]);
    let third = &found.named[3].mark;
    assert_eq!((third.sequence, third.reason.as_deref()), (Some(102), Some("refused-by-handler")));
    assert_eq!(held_keys::count_events(&admin, HANDLER).await.unwrap(), 15);
    assert_eq!(handler_streams::remove(&admin, HANDLER).await.unwrap(), 15, "marks are no events that waited");
    let gone = held_keys::look(&admin, HANDLER).await;
    assert_eq!(gone, Err(ApiError::NotFound(Missing::Stream)));
    assert_eq!(held_keys::count_events(&admin, HANDLER).await, Ok(0));
}

#[tokio::test]
async fn a_release_removes_marks_and_nothing_else() {
    let (_broker, admin) = world().await;
    for (number, key) in ["a", "b", "c", "größe 1"].into_iter().enumerate() {
        hold(&admin, HANDLER, key, number as u64).await;
        hold(&admin, "shipping", key, number as u64).await;
    }
    let end = held_keys::end(&admin, HANDLER).await.unwrap();
    hold(&admin, HANDLER, "later", 9).await;
    for (key, was_held) in [("größe 1", true), ("größe 1", false), ("no such key", false), ("later", false)] {
        assert_eq!(held_keys::release_one(&admin, HANDLER, key, end).await.unwrap(), was_held, "{key}");
    }
    assert_eq!(names(&held_keys::look(&admin, HANDLER).await.unwrap()), ["a", "b", "c", "later"]);
    assert_eq!(held_keys::release_all(&admin, HANDLER, 0).await.unwrap(), 0, "nothing was held before the first");
    assert_eq!(held_keys::release_all(&admin, HANDLER, end).await.unwrap(), 3);
    assert_eq!(held_keys::release_all(&admin, HANDLER, end).await.unwrap(), 0);
    let left = held_keys::look(&admin, HANDLER).await.unwrap();
    assert_eq!((left.parked, names(&left)), (5, vec!["later"]));
    assert_eq!(held_keys::count_events(&admin, HANDLER).await.unwrap(), 5, "no event is removed");
    assert_eq!(held_keys::look(&admin, "shipping").await.unwrap().held, 4, "nor what is another's");
    // A key that is held again is held.
    hold(&admin, HANDLER, "a", 10).await;
    assert_eq!(names(&held_keys::look(&admin, HANDLER).await.unwrap()), ["later", "a"]);
}

/// The number of names is no bound of the server's answer, and none of them is sent.
#[tokio::test]
async fn many_keys_are_counted_without_their_names() {
    let (broker, admin) = world().await;
    for number in 0..300 {
        park(&admin, HANDLER, &format!("k{number}")).await;
    }
    let stream = layout::retry_stream(HANDLER);
    let (info, total) = admin.stream_with_subjects(&stream, &layout::parked_subjects(HANDLER, None)).await.unwrap();
    assert_eq!((info.state.subjects, total), (300, 300));
    let question = r#"{"subjects_filter":"retries.>","offset":4294967295}"#;
    let answer = broker.operator().request(format!("$JS.API.STREAM.INFO.{stream}"), question.into()).await.unwrap();
    assert!(answer.payload.len() < 4096, "{} bytes", answer.payload.len());
}
