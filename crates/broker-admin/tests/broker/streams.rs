//! A topic's streams are changed while they are there, on a real nats-server.

use tidegate_broker_admin::api::StreamConfig;
use tidegate_broker_admin::handler_streams;
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_client::layout;
use tidegate_test_broker::{LIMIT, TestBroker, topic};

const STORE: u64 = 100 << 20;

/// Streams that fill the store together.
fn sizes(events: i64) -> Topic {
    let left = i64::try_from(STORE).unwrap() - events;
    Topic {
        max_bytes: events,
        dead_letter_bytes: left / 20 * 9,
        retry_bytes: left / 20 * 9,
        attempt_bytes: left / 10,
        ..topic()
    }
}

/// On f49a93a the broker refused each of these (10047): the streams were changed in the order of their names.
#[tokio::test]
async fn sizes_go_up_and_down_within_a_store_that_is_all_promised() {
    let broker = TestBroker::start_empty(STORE).await;
    for handler in ["billing", "shipping", "stock"] {
        streams::ensure(&broker.admin(), &sizes(80 << 20)).await.unwrap();
        handler_streams::ensure(&broker.admin(), handler, "u").await.unwrap();
    }
    for megabytes in [80, 20, 90, 50, 10, 95, 80] {
        let made = streams::ensure(&broker.admin(), &sizes(megabytes << 20)).await.unwrap();
        assert_eq!(made.refused, None, "{megabytes} MiB");
        assert_eq!(made.events.config.max_bytes, megabytes << 20);
        let all = handler_streams::list(&broker.admin()).await.unwrap();
        let promised: i64 = all.iter().map(|stream| stream.config.max_bytes).sum();
        assert!(
            promised > i64::try_from(STORE).unwrap() / 2 && promised <= i64::try_from(STORE).unwrap(),
            "{promised}"
        );
    }
}

/// A stream of a version that did not write in batches takes them from now on, and keeps its events.
#[tokio::test]
async fn a_stream_made_before_atomic_batches_is_changed_where_it_is() {
    let broker = TestBroker::start_empty(1 << 30).await;
    let before = StreamConfig { allow_atomic_publish: false, ..topic().events() };
    broker.admin().create_stream(&before).await.unwrap();
    let js = broker.jetstream();
    let event = js.publish("events.0.t", "kept".into()).await.unwrap().await.unwrap();
    let made = streams::ensure(&broker.admin(), &topic()).await.unwrap();
    assert_eq!(made.refused, None);
    assert!(made.events.config.allow_atomic_publish, "{:?}", made.events.config);
    assert_eq!(made.events.state.last_sequence, event.sequence);
}

/// On f49a93a this was an error, and all that comes after the streams did not happen.
#[tokio::test]
async fn what_the_broker_refuses_is_told_and_changes_nothing_else() {
    let broker = TestBroker::start_empty(STORE).await;
    let js = broker.jetstream();
    streams::ensure(&broker.admin(), &sizes(50 << 20)).await.unwrap();
    handler_streams::ensure(&broker.admin(), "billing", "u").await.unwrap();
    let event = js.publish("events.0.t", "kept".into()).await.unwrap().await.unwrap();
    let wrong = Topic { max_bytes: 200 << 20, dead_letter_bytes: 3 << 20, ..sizes(50 << 20) };
    let made = streams::ensure(&broker.admin(), &wrong).await.unwrap();
    let refused = made.refused.unwrap();
    assert!(refused.contains("stream events stays as it is") && refused.contains("10047"), "{refused}");
    assert_eq!((made.events.config.max_bytes, made.events.state.last_sequence), (50 << 20, event.sequence));
    let letters = js.get_stream(layout::dead_letter_stream("billing")).await.unwrap();
    assert_eq!(letters.cached_info().config.max_bytes, 3 << 20, "what can be done is done");
}

/// A store that became smaller than the streams were promised: they survive, and only what they are cannot be changed.
#[tokio::test]
async fn streams_survive_a_store_that_became_smaller() {
    let mut broker = TestBroker::start_empty(STORE).await;
    let js = broker.jetstream();
    streams::ensure(&broker.admin(), &sizes(80 << 20)).await.unwrap();
    handler_streams::ensure(&broker.admin(), "billing", "u").await.unwrap();
    js.publish("events.0.t", "kept".into()).await.unwrap().await.unwrap();
    broker.set_file_store(STORE / 10 * 9);
    broker.restart().await;
    let smaller = Topic { dead_letter_bytes: 1 << 20, retry_bytes: 1 << 20, attempt_bytes: 1 << 20, ..sizes(80 << 20) };
    let begun = std::time::Instant::now();
    let streams = loop {
        match streams::ensure(&broker.admin(), &smaller).await {
            Ok(streams) => break streams,
            Err(error) => assert!(begun.elapsed() < LIMIT, "{error}\n{}", broker.log()),
        }
    };
    assert_eq!(streams.events.state.messages, 1);
    // Why the operator promises less than the store it names, and does not make that smaller in an upgrade.
    assert!(streams.refused.is_some_and(|refused| refused.contains("10047")));
}

/// What the topic took once is copied to the shelf and redriven after its topic takes only smaller events, and has room
/// by the size of these.
#[tokio::test]
async fn larger_events_that_are_stored_have_a_way_when_the_topic_takes_only_smaller_ones() {
    let broker = TestBroker::start_empty(STORE).await;
    let js = broker.jetstream();
    // A share has to hold a largest message, and is a whole, a half or a quarter.
    let sized = |max_message_size| Topic {
        dead_letter_bytes: 8 << 20,
        retry_bytes: 8 << 20,
        max_message_size,
        ..sizes(80 << 20)
    };
    let (large, small) = (3 << 20, 300 << 10);
    streams::ensure(&broker.admin(), &sized(large)).await.unwrap();
    for handler in ["billing", "shipping"] {
        handler_streams::ensure(&broker.admin(), handler, "u").await.unwrap();
    }
    let refused = handler_streams::ensure(&broker.admin(), "stock", "u").await.unwrap_err();
    assert!(refused.to_string().contains("no room"), "{refused}");
    for size in [small, small, large, small] {
        let made = streams::ensure(&broker.admin(), &sized(size)).await.unwrap();
        assert_eq!((made.refused, made.events.config.max_message_size), (None, large), "{size}");
    }
    handler_streams::ensure(&broker.admin(), "stock", "u").await.unwrap();
    let event = "x".repeat(3 << 19);
    for handler in ["billing", "stock"] {
        let subject = layout::waiting_subject(handler);
        js.publish(subject, event.clone().into()).await.unwrap().await.expect(handler);
    }
    let redriven = layout::redrive_subject("billing", 0, "t");
    js.publish(redriven, event.into()).await.unwrap().await.unwrap();
}
