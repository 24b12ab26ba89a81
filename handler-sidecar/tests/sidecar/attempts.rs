//! Attempts are exact, whatever happens in between; and none is used up while the handler as a whole is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{
    Container, HANDLER, Hostile, Misdeed, Running, all_settled, config, dead_letters, eventually, header, publish,
    publish_all, take_and_give_back,
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tidegate_broker_client::contract::Report;
use tidegate_broker_client::{connect, identity, layout};
use tidegate_handler_sidecar::settle::attempts::store::{AttemptHistory, Attempts, EventName};
use tidegate_handler_sidecar::settle::attempts::{Change, Failed, Next};
use tidegate_test_broker::{LIMIT, TestBroker, topic_id};
use tokio::time::{sleep, timeout};

const ACK_WAIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn three_attempts_are_three_whoever_gave_the_event_back_in_between() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (500, Duration::ZERO)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    // Well after the end of a drain: an event that comes as the inbox closes is lost until ack_wait.
    config.delivery.retry.initial = Duration::from_secs(3);
    config.delivery.retry.max = Duration::from_secs(3);
    publish(&broker, "1").await;
    for attempt in 1..=3 {
        let sidecar = Running::start(config.clone());
        eventually("an attempt", async || container.count() == attempt).await;
        sidecar.terminate().await;
        if attempt < 3 {
            take_and_give_back(&broker).await;
            take_and_give_back(&broker).await;
        }
    }
    all_settled(&broker).await;
    let received = container.received();
    let attempts: Vec<_> = received.iter().map(|request| request.header("ce-tidegateattempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(header(&letters[0], "Tidegate-Attempts"), "3");
    assert_eq!(header(&letters[0], "Tidegate-Reason"), "attempts-used-up");
    let history: Value = serde_json::from_str(header(&letters[0], "Tidegate-Attempt-History")).unwrap();
    assert_eq!(history.as_array().unwrap().len(), 3);
    assert_eq!(history[1]["status"], 500);
    assert_eq!(history[1]["error"], "500 Internal Server Error: no  thanks");
    let times: Vec<jiff::Timestamp> =
        history.as_array().unwrap().iter().map(|failed| failed["time"].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.is_sorted());
    assert_eq!(header(&letters[0], "Tidegate-First-Attempt"), history[0]["time"]);
    assert_eq!(header(&letters[0], "Tidegate-Last-Attempt"), history[2]["time"]);
}

#[tokio::test]
async fn an_event_that_kills_its_handler_again_and_again_is_kept_aside() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Hostile::start(Misdeed::Resets).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    assert_eq!(container.requests().len(), 3);
    assert_eq!(header(&dead_letters(&broker).await[0], "Tidegate-Attempts"), "3");
}

#[tokio::test]
async fn an_event_of_which_nobody_lives_to_tell_is_kept_aside_in_the_end() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    publish(&broker, "1").await;
    for _ in 0..17 {
        take_and_give_back(&broker).await;
    }
    let container = Container::start().await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), 0);
    assert_eq!(header(&dead_letters(&broker).await[0], "Tidegate-Reason"), "never-finished");
}

#[tokio::test]
async fn without_their_stream_events_are_still_delivered_and_end_somewhere() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let context = broker.jetstream();
    context.delete_stream(layout::attempt_stream(HANDLER)).await.unwrap();
    let container =
        Container::answering(|request| (if request.id() == "good" { 204 } else { 500 }, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "bad").await;
    publish(&broker, "good").await;
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.iter().map(|letter| header(letter, "ce-id")).collect::<Vec<_>>(), ["bad"]);
    assert!(container.ids().iter().filter(|id| *id == "bad").count() <= 17);
}

#[tokio::test]
async fn a_record_is_never_made_from_an_older_one_and_belongs_to_one_handler() {
    let broker = TestBroker::start().await;
    let folder = broker.handler(HANDLER, ACK_WAIT).await;
    let options = connect::options("test", &broker.servers(), identity::folder(folder)).unwrap();
    let client = tidegate_wire::nats::Client::connect(options).await.unwrap();
    let failed = |number: u16| {
        Change::Failed(
            Failed::new(format!("2026-01-01T00:00:0{number}Z"), Some(500 + number), "no"),
            Next::NotBefore(0, Duration::ZERO),
        )
    };
    let name = |sequence, published_at| EventName { sequence, published_at };
    let seventh = name(7, 1000);
    let attempts = Attempts::new(client.clone(), HANDLER.into(), "uid".into());
    let mut paused = AttemptHistory::default();
    let mut known = AttemptHistory::default();
    attempts.write(seventh, 1, &mut known, &failed(1)).await.unwrap();
    let mut next = attempts.read(seventh, 2).await;
    assert_eq!(next, known);
    attempts.write(seventh, 2, &mut next, &failed(2)).await.unwrap();
    // One that was paused during the first delivery tells of it only now.
    attempts.write(seventh, 1, &mut paused, &failed(3)).await.unwrap();
    assert_eq!((paused.record.attempts(), paused.record.untraced(4)), (3, 0));
    assert_eq!(attempts.read(seventh, 4).await, paused);
    // A handler that was made again under the same name counts from one, and other events have records of their own.
    let again = Attempts::new(client, HANDLER.into(), "another uid".into());
    let mut fresh = again.read(seventh, 2).await;
    assert_eq!(fresh.record.attempts(), 0);
    again.write(seventh, 2, &mut fresh, &failed(4)).await.unwrap();
    assert_eq!(again.read(seventh, 3).await.record.attempts(), 1);
    assert_eq!(attempts.read(name(8, 1000), 2).await, AttemptHistory::default());
}

/// The topic lost its end, and the record of an event that is gone says that it is settled. Another event has its
/// sequence: it is neither taken for settled nor for one that has used up its attempts.
#[tokio::test]
async fn the_record_of_a_lost_event_says_nothing_about_the_next_of_its_sequence() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|request| {
        (if request.header("ce-tidegateattempt") == "1" { 500 } else { 204 }, Duration::ZERO)
    })
    .await;
    let context = broker.jetstream();
    let ids = ["settled", "used-up"];
    for (sequence, rest) in (1..).zip([json!({"attempts": 0, "settled": true}), json!({"attempts": 3})]) {
        let mut record = json!({"handler": format!("uid-{HANDLER}"), "publishedAt": 1, "deliveries": 5, "failed": []});
        record.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let subject = layout::attempt_subject(HANDLER, &format!("{sequence}"));
        context.publish(subject, record.to_string().into()).await.unwrap().await.unwrap();
        assert_eq!(publish(&broker, ids[sequence - 1]).await, sequence as u64);
    }
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    all_settled(&broker).await;
    let handled = container.received().into_iter().filter(|received| received.status == 204);
    let mut handled: Vec<String> = handled.map(|received| received.id()).collect();
    handled.sort();
    assert_eq!(handled, ids);
    assert!(dead_letters(&broker).await.is_empty());
}

/// The whole handler answers 502 for a while: far longer than the attempts of an event would last.
#[tokio::test]
async fn an_outage_uses_up_no_attempts_and_is_reported() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = broker.reports().await;
    let down = Arc::new(AtomicBool::new(true));
    let container = Container::answering({
        let down = down.clone();
        move |_| (if down.load(Ordering::Relaxed) { 502 } else { 204 }, Duration::ZERO)
    })
    .await;
    publish_all(&broker, (0..40).map(|i| i.to_string())).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let mut next = async || -> Report {
        let message = timeout(LIMIT, reports.next()).await.unwrap().unwrap();
        assert_eq!(message.subject.as_str(), layout::ingress::report_subject(&topic_id(), HANDLER));
        serde_json::from_slice(&message.payload).unwrap()
    };
    let first = loop {
        let report = next().await;
        if report.outage.is_some() {
            break report;
        }
    };
    assert!(first.outage.unwrap().contains("502 Bad Gateway"));
    sleep(Duration::from_secs(2)).await;
    let during = container.count();
    assert!((5..100).contains(&during), "{during} requests: one at a time, with pauses");
    down.store(false, Ordering::Relaxed);
    all_settled(&broker).await;
    while next().await.outage.is_some() {}
    assert!(dead_letters(&broker).await.is_empty());
    let (counted, in_outage) = attempts_on_record(&broker).await;
    assert_eq!(counted, 1, "the first event was alone with it");
    assert_eq!(in_outage, container.count() - 40 - 1, "each request that failed is on record");
    let received = container.received();
    for id in (0..40).map(|id| id.to_string()) {
        let numbers = received.iter().filter(|request| request.id() == id);
        let numbers: Vec<u32> = numbers.map(|request| request.header("ce-tidegateattempt").parse().unwrap()).collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u32), "{id}: {numbers:?}");
    }
}

/// Attempts that count and attempts that do not, of all events.
async fn attempts_on_record(broker: &TestBroker) -> (usize, usize) {
    let context = broker.jetstream();
    let stream = context.get_stream(layout::attempt_stream(HANDLER)).await.unwrap();
    let mut sums = (0, 0);
    // The last record of each event is all that is kept.
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let Ok(message) = stream.get_raw_message(sequence).await else { continue };
        let record: Value = serde_json::from_slice(&message.payload).unwrap();
        let number = |name: &str| record[name].as_u64().unwrap_or(0) as usize;
        sums = (sums.0 + number("attempts"), sums.1 + number("outageAttempts"));
    }
    sums
}
