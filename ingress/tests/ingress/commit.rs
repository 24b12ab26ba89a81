//! Group commit against a real nats-server.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use futures::future::join_all;
use http::StatusCode;
use tidegate_broker_admin::api::StreamConfig;
use tidegate_broker_admin::streams;
use tidegate_broker_client::stored;
use tidegate_cloudevents::Event;
use tidegate_test_broker::{TestBroker, topic};
use tokio::sync::watch;

use crate::support::{Answer, Running, event, events, limits, messages, start, start_with};

/// Commits that stored these messages: a batch is one, and so is a message that was in none.
fn commits(messages: &[StreamMessage]) -> usize {
    let batches: Vec<Option<&str>> =
        messages.iter().map(|message| message.headers.get("Nats-Batch-Id").map(|id| id.as_str())).collect();
    let different: HashSet<&str> = batches.iter().flatten().copied().collect();
    different.len() + batches.iter().filter(|batch| batch.is_none()).count()
}

fn sequence(answer: &Answer) -> u64 {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.headers["tidegate-sequence"].to_str().unwrap().parse().unwrap()
}

/// So many publishers at once, each with a connection of its own and so many events; what each event was answered.
async fn publish_at_once(ingress: &Running, publishers: usize, each: usize) -> HashMap<String, Answer> {
    let publisher = async |publisher: usize| {
        let mut answers = Vec::new();
        for number in 0..each {
            let id = format!("{publisher}-{number}");
            let answer = ingress.publish(&event(&id)).await;
            answers.push((id, answer));
        }
        answers
    };
    join_all((0..publishers).map(publisher)).await.into_iter().flatten().collect()
}

/// Every event is there once, where its publisher was told that it is.
async fn assert_stored(broker: &TestBroker, answers: &HashMap<String, Answer>) {
    let stored = messages(broker).await;
    let by_id: HashMap<String, u64> = stored
        .iter()
        .map(|message| {
            let event = stored::decode(Some(&message.headers), message.payload.clone()).unwrap();
            (event.id().to_owned(), message.sequence)
        })
        .collect();
    assert_eq!(by_id.len(), stored.len(), "one of them twice");
    for (id, answer) in answers {
        if answer.status == StatusCode::ACCEPTED {
            assert_eq!(by_id.get(id), Some(&sequence(answer)), "{id}");
        }
    }
}

#[tokio::test]
async fn many_publishers_share_few_commits_and_each_is_told_its_sequence() {
    let broker = TestBroker::start_fsync(topic()).await;
    let ingress = start(&broker).await;
    let answers = publish_at_once(&ingress, 64, 4).await;
    assert!(answers.values().all(|answer| answer.status == StatusCode::ACCEPTED));
    assert!(answers.values().all(|answer| !answer.headers.contains_key("tidegate-duplicate")));
    assert_stored(&broker, &answers).await;
    let stored = messages(&broker).await;
    assert_eq!(stored.len(), 256);
    let commits = commits(&stored);
    assert!(commits <= 256 / 2, "{commits} commits for 256 events");
}

#[tokio::test]
async fn a_request_with_many_events_is_one_commit() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let batch: Vec<Event> = (0..1000).map(|id| event(&id.to_string())).collect();
    assert_eq!(sequence(&ingress.publish_batch(&batch).await), 1000);
    assert_eq!(events(&broker).await, batch);
    assert_eq!(commits(&messages(&broker).await), 1);
}

/// The headers of a batch are the broker's, and no attributes of an event.
#[tokio::test]
async fn an_event_of_a_batch_is_stored_as_one_that_came_alone() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let batch: Vec<Event> = (0..40).map(|id| event(&id.to_string())).collect();
    ingress.publish_batch(&batch).await;
    ingress.publish(&event("alone")).await;
    let stored = messages(&broker).await;
    let own = |message: &StreamMessage| {
        let names = message.headers.iter().map(|(name, _)| name.to_string());
        names.filter(|name| !name.starts_with("Nats-Batch-")).collect::<HashSet<_>>()
    };
    assert_eq!(own(&stored[3]), own(&stored[40]));
    assert_eq!(stored[3].subject.split('.').next(), Some("events"));
}

#[tokio::test]
async fn a_repetition_among_many_is_one_and_costs_the_others_nothing() {
    let broker = TestBroker::start().await;
    let before = start(&broker).await;
    assert_eq!(sequence(&before.publish(&event("17")).await), 1);
    // Another ingress, which has not seen the event.
    let ingress = start(&broker).await;
    let batch: Vec<Event> = (0..60).map(|id| event(&(id % 50).to_string())).collect();
    let answer = ingress.publish_batch(&batch).await;
    assert_eq!(sequence(&answer), 50);
    assert_eq!(answer.headers["tidegate-duplicates"], "11", "one from before, ten that were in it twice");
    let ids: Vec<String> = events(&broker).await.iter().map(|event| event.id().to_owned()).collect();
    let expected: Vec<String> =
        [17].into_iter().chain((0..50).filter(|id| *id != 17)).map(|id| id.to_string()).collect();
    assert_eq!(ids, expected, "in the order of the request");
}

#[tokio::test]
async fn a_batch_that_does_not_fit_stores_what_does() {
    let broker = TestBroker::start_with(streams::Topic { max_bytes: 60_000, ..topic() }).await;
    let ingress = start(&broker).await;
    let large = |id: usize| Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 5_000]).build().unwrap();
    let batch: Vec<Event> = (0..30).map(large).collect();
    let answer = ingress.publish_batch(&batch).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let stored = events(&broker).await;
    assert!(stored.len() > 5 && stored == batch[..stored.len()], "{}", stored.len());
    assert!(answer.detail().starts_with(&format!("{} of 30 events were stored", stored.len())), "{}", answer.detail());
    // Small ones of others still find their room beside it.
    let answers = publish_at_once(&ingress, 40, 1).await;
    assert_stored(&broker, &answers).await;
    let statuses: HashSet<StatusCode> = answers.values().map(|answer| answer.status).collect();
    assert!(statuses.is_subset(&[StatusCode::ACCEPTED, StatusCode::TOO_MANY_REQUESTS].into()), "{statuses:?}");
}

/// One event of the batch is larger than the stream takes: it alone is refused.
#[tokio::test]
async fn one_that_is_too_large_does_not_refuse_its_neighbours() {
    let broker = TestBroker::start_with(streams::Topic { max_message_size: 5_000, ..topic() }).await;
    let ingress = start(&broker).await;
    let large = Event::builder("large", "/s", "t").data(vec![b'x'; 10_000]).build().unwrap();
    let (answers, refused) = tokio::join!(publish_at_once(&ingress, 50, 2), async {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(ingress.publish(&large).await.status);
        }
        statuses
    });
    assert_eq!(refused, [StatusCode::PAYLOAD_TOO_LARGE; 3]);
    assert!(answers.values().all(|answer| answer.status == StatusCode::ACCEPTED));
    assert_stored(&broker, &answers).await;
}

#[tokio::test]
async fn a_stream_that_takes_no_batches_yet_is_published_to_one_by_one() {
    let broker = TestBroker::start_empty(1 << 30).await;
    let before = StreamConfig { allow_atomic_publish: false, ..topic().events() };
    broker.admin().create_stream(&before).await.unwrap();
    let ingress = start(&broker).await;
    let batch = |from: usize| (from..from + 100).map(|id| event(&id.to_string())).collect::<Vec<_>>();
    for round in 0..2 {
        assert_eq!(sequence(&ingress.publish_batch(&batch(round * 100)).await), (round as u64 + 1) * 100);
    }
    assert_eq!(events(&broker).await, batch(0).into_iter().chain(batch(100)).collect::<Vec<_>>());
    assert_eq!(commits(&messages(&broker).await), 200);
    // The operator's next reconcile changes it, and an ingress that starts then finds that out.
    streams::ensure(&broker.admin(), &topic()).await.unwrap();
    let later = start(&broker).await;
    assert_eq!(sequence(&later.publish_batch(&batch(200)).await), 300);
    assert_eq!(commits(&messages(&broker).await), 201);
}

/// Every 202 is in the stream, once; each event can be repeated until it is.
#[tokio::test]
async fn a_broker_that_is_killed_under_load_loses_nothing_and_stores_nothing_twice() {
    let mut broker = TestBroker::start_fsync(topic()).await;
    let ingress = start_with(&broker, limits()).await;
    ingress.until_ready().await;
    let (accepted, mut progress) = watch::channel(0_usize);
    let publisher = async |publisher: usize| {
        let mut answers = Vec::new();
        for number in 0..12 {
            let id = format!("{publisher}-{number}");
            let answer = loop {
                let answer = ingress.publish(&event(&id)).await;
                if answer.status == StatusCode::ACCEPTED {
                    break answer;
                }
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            accepted.send_modify(|count| *count += 1);
            answers.push((id, answer));
        }
        answers
    };
    let killing = async {
        for reached in [150, 400] {
            progress.wait_for(|count| *count >= reached).await.unwrap();
            broker.restart().await;
        }
    };
    let (answers, ()) = tokio::join!(join_all((0..64).map(publisher)), killing);
    let answers: HashMap<String, Answer> = answers.into_iter().flatten().collect();
    assert_eq!(answers.len(), 64 * 12);
    assert_stored(&broker, &answers).await;
    let stored = messages(&broker).await;
    assert_eq!(stored.len(), answers.len());
    assert!(commits(&stored) < stored.len() / 2, "{} commits", commits(&stored));
}

/// Each publisher's own events are in its order, whoever shares its batches.
#[tokio::test]
async fn the_events_of_a_request_stay_in_their_order_among_others() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let batch = |publisher: usize| (0..50).map(|id| event(&format!("{publisher}-{id}"))).collect::<Vec<_>>();
    let answers = join_all((0..8).map(async |publisher| ingress.publish_batch(&batch(publisher)).await)).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::ACCEPTED));
    let stored = events(&broker).await;
    for publisher in 0..8 {
        let own = stored.iter().filter(|event| event.id().starts_with(&format!("{publisher}-"))).cloned();
        assert_eq!(own.collect::<Vec<_>>(), batch(publisher));
    }
}

/// After a lost answer they might no longer be recognised when they are sent again.
#[tokio::test]
async fn with_a_short_deduplication_window_there_are_no_batches() {
    for (seconds, expected) in [(9, 100), (10, 1)] {
        let window = Duration::from_secs(seconds);
        let broker = TestBroker::start_with(streams::Topic { deduplication_window: window, ..topic() }).await;
        let ingress = start(&broker).await;
        let batch: Vec<Event> = (0..100).map(|id| event(&id.to_string())).collect();
        assert_eq!(sequence(&ingress.publish_batch(&batch).await), 100);
        assert_eq!(commits(&messages(&broker).await), expected, "{seconds} s");
    }
}
