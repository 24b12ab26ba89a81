//! What one handler stores takes nothing from another, on a real nats-server.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::{Client, HeaderMap};
use serde_json::Value;
use tidegate_broker_admin::handler_streams::{self, HandlerStreamsError};
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_client::{identity, layout, peer};
use tidegate_test_broker::{TestBroker, topic};

const ACK_WAIT: Duration = Duration::from_secs(30);

/// A handler's sidecar, as far as the broker can tell.
async fn sidecar(broker: &TestBroker, handler: &str) -> Client {
    let folder = broker.handler(handler, ACK_WAIT).await;
    peer::connect("test", &broker.servers(), identity::folder(folder)).await.unwrap()
}

/// What the broker says of a message: its sequence, or why it is not stored.
async fn store(client: &Client, subject: String, bytes: usize) -> Result<u64, String> {
    let answer = client.request(subject, vec![b'x'; bytes].into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    // A refusal has a sequence, too: 0.
    match answer["error"]["description"].as_str() {
        Some(why) => Err(why.to_owned()),
        None => Ok(answer["seq"].as_u64().unwrap()),
    }
}

async fn messages(js: &Context, stream: &str) -> u64 {
    js.get_stream(stream).await.unwrap().cached_info().state.messages
}

async fn max_bytes(js: &Context, handler: &str) -> i64 {
    js.get_stream(layout::dead_letter_stream(handler)).await.unwrap().cached_info().config.max_bytes
}

fn small() -> Topic {
    Topic {
        dead_letter_bytes: 8 << 20,
        retry_bytes: 8 << 20,
        attempt_bytes: 1 << 20,
        max_message_size: 1 << 20,
        ..topic()
    }
}

/// With one stream for all handlers the second was refused (maximum bytes exceeded), and its record was gone.
#[tokio::test]
async fn one_handler_uses_up_no_room_of_another() {
    let broker = TestBroker::start_with(small()).await;
    let (billing, shipping) = (sidecar(&broker, "billing").await, sidecar(&broker, "shipping").await);
    store(&shipping, layout::attempt_subject("shipping", "1"), 200).await.unwrap();
    let mut stored = 0;
    let refused = loop {
        match store(&billing, layout::dead_letter_subject("billing"), 900 << 10).await {
            Ok(_) => stored += 1,
            Err(why) => break why,
        }
        assert!(stored < 20, "there is no end of it");
    };
    assert!(stored >= 1 && refused.contains("maximum bytes"), "{stored}, {refused}");
    for sequence in 0..100 {
        store(&billing, layout::attempt_subject("billing", &sequence.to_string()), 60 << 10).await.unwrap();
    }
    store(&shipping, layout::dead_letter_subject("shipping"), 900 << 10).await.unwrap();
    let record = shipping.request(layout::attempt_read_subject("shipping", "1"), "".into()).await.unwrap();
    assert_eq!((record.status, record.payload.len()), (None, 200));
}

#[tokio::test]
async fn a_handler_that_comes_takes_its_share_and_one_that_goes_leaves_only_dead_letters() {
    let broker = TestBroker::start_with(small()).await;
    let js = broker.jetstream();
    let billing = sidecar(&broker, "billing").await;
    assert_eq!(max_bytes(&js, "billing").await, 8 << 20);
    for _ in 0..5 {
        store(&billing, layout::dead_letter_subject("billing"), 900 << 10).await.unwrap();
    }
    // What billing has stays, though it is more than its share now; shipping gets what fits beside it.
    let shipping = sidecar(&broker, "shipping").await;
    assert_eq!((max_bytes(&js, "billing").await, max_bytes(&js, "shipping").await), (2 << 20, 2 << 20));
    assert_eq!(messages(&js, &layout::dead_letter_stream("billing")).await, 5);
    assert!(store(&billing, layout::dead_letter_subject("billing"), 1).await.is_err());
    store(&shipping, layout::dead_letter_subject("shipping"), 900 << 10).await.unwrap();

    handler_streams::remove(&broker.admin(), "billing").await.unwrap();
    handler_streams::remove(&broker.admin(), "billing").await.unwrap();
    assert!(js.get_stream(layout::attempt_stream("billing")).await.is_err());
    assert_eq!(messages(&js, &layout::dead_letter_stream("billing")).await, 5, "nothing deletes a dead letter");
    assert!(store(&billing, layout::dead_letter_subject("billing"), 1).await.is_err(), "it is gone");
    let made = streams::ensure(&broker.admin(), &small()).await.unwrap();
    assert_eq!((made.dead_letters, made.refused), (6, None));
    assert!(max_bytes(&js, "shipping").await > 3 << 20, "what billing does not keep is shipping's");

    // Of its name again: it has what was left, and a share.
    handler_streams::ensure(&broker.admin(), "billing", "u").await.unwrap();
    assert_eq!(messages(&js, &layout::dead_letter_stream("billing")).await, 5);
    js.get_stream(layout::dead_letter_stream("billing")).await.unwrap().purge().await.unwrap();
    handler_streams::remove(&broker.admin(), "billing").await.unwrap();
    assert!(js.get_stream(layout::dead_letter_stream("billing")).await.is_err(), "without dead letters nothing stays");
}

#[tokio::test]
async fn who_would_have_too_little_is_refused_and_changes_nothing() {
    let broker = TestBroker::start_with(small()).await;
    let js = broker.jetstream();
    for handler in ["a", "b", "c", "d"] {
        handler_streams::ensure(&broker.admin(), handler, "u").await.unwrap();
    }
    let refused = handler_streams::ensure(&broker.admin(), "e", "u").await;
    assert!(matches!(refused, Err(HandlerStreamsError::NoShare(_))), "{refused:?}");
    assert_eq!(max_bytes(&js, "a").await, 2 << 20);
    assert!(js.get_stream(layout::attempt_stream("e")).await.is_err());
    handler_streams::ensure(&broker.admin(), "a", "u").await.unwrap();
}

#[tokio::test]
async fn what_gone_handlers_left_is_removed_but_for_dead_letters() {
    let broker = TestBroker::start_with(topic()).await;
    let js = broker.jetstream();
    for handler in ["alive", "gone", "buried"] {
        handler_streams::ensure(&broker.admin(), handler, "u").await.unwrap();
    }
    js.publish(layout::dead_letter_subject("buried"), "kept".into()).await.unwrap().await.unwrap();
    let found = handler_streams::list(&broker.admin()).await.unwrap();
    handler_streams::remove_orphans(&broker.admin(), &found, &BTreeSet::from(["alive"])).await.unwrap();
    let mut left: Vec<_> =
        handler_streams::list(&broker.admin()).await.unwrap().into_iter().map(|stream| stream.config.name).collect();
    left.sort();
    assert_eq!(left, ["attempts_alive", "dead-letters_alive", "dead-letters_buried", "events", "retries_alive"]);
}

/// Version 0.1 had one stream of dead letters and one of attempts.
#[tokio::test]
async fn dead_letters_of_version_0_1_are_moved() {
    let broker = TestBroker::start_empty(1 << 30).await;
    let js = broker.jetstream();
    let shared = |name: &str, subjects: &str| Config {
        name: name.to_owned(),
        subjects: vec![subjects.to_owned()],
        max_bytes: topic().dead_letter_bytes,
        discard: DiscardPolicy::New,
        ..Config::default()
    };
    js.create_stream(shared("dead-letters", layout::DEAD_LETTER_SUBJECTS)).await.unwrap();
    js.create_stream(shared("attempts", layout::ATTEMPT_SUBJECTS)).await.unwrap();
    for number in 0..700 {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", number.to_string());
        let subject = layout::dead_letter_subject(if number % 7 == 0 { "shipping" } else { "billing" });
        js.publish_with_headers(subject, headers, number.to_string().into()).await.unwrap().await.unwrap();
    }
    let first = streams::ensure(&broker.admin(), &topic()).await.unwrap();
    assert_eq!(first.refused, None);
    let second = streams::ensure(&broker.admin(), &topic()).await.unwrap();
    assert_eq!((second.dead_letters, second.refused), (700, None));
    assert_eq!(messages(&js, &layout::dead_letter_stream("billing")).await, 600);
    assert_eq!(messages(&js, &layout::dead_letter_stream("shipping")).await, 100);
    let stream = js.get_stream(layout::dead_letter_stream("shipping")).await.unwrap();
    let last = stream.get_raw_message(100).await.unwrap();
    assert_eq!((&*last.payload, last.headers.get("Nats-Msg-Id").unwrap().as_str()), (&b"693"[..], "693"));
    let mut names: Vec<_> =
        handler_streams::list(&broker.admin()).await.unwrap().into_iter().map(|stream| stream.config.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "attempts_billing",
            "attempts_shipping",
            "dead-letters_billing",
            "dead-letters_shipping",
            "events",
            "retries_billing",
            "retries_shipping"
        ]
    );
}

/// With a look and then a removal, what was stored between the two was acknowledged and gone.
#[tokio::test]
async fn what_is_stored_while_a_handler_is_removed_is_kept() {
    let broker = TestBroker::start_with(topic()).await;
    let js = broker.jetstream();
    let admin = broker.admin();
    let mut stored = 0;
    for round in 0..40_u64 {
        handler_streams::ensure(&admin, "racing", "u").await.unwrap();
        let store = async {
            tokio::time::sleep(Duration::from_micros(round * 60)).await;
            js.publish(layout::dead_letter_subject("racing"), "kept".into()).await.unwrap().await
        };
        let (answer, removed) = tokio::join!(store, handler_streams::remove(&admin, "racing"));
        removed.unwrap();
        if answer.is_ok() {
            stored += 1;
            assert_eq!(messages(&js, &layout::dead_letter_stream("racing")).await, 1, "round {round}");
            js.get_stream(layout::dead_letter_stream("racing")).await.unwrap().purge().await.unwrap();
        }
    }
    assert!(stored > 0, "each came too late");
}
