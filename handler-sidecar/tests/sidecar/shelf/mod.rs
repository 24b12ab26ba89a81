//! The retry shelf: what waits for long does not hold up the rest, and comes back as what it was.

mod room;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{
    Container, HANDLER, Process, Running, all_settled, config, consumers_of, dead_letters, eventually, header, publish,
    publish_all, shelved,
};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, stream};
use axum::response::Response;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tidegate_broker_admin::{consumers, retries};
use tidegate_broker_client::contract::{Order, Sidecar, TopicAddress};
use tidegate_broker_client::{layout, message_id};
use tidegate_test_broker::TestBroker;

/// Nothing comes twice because the machine stood still.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events in flight at a time, at most.
const CONCURRENCY: usize = 16;

/// What is on the shelf under this number.
async fn copy(broker: &TestBroker, number: u64) -> jetstream::message::StreamMessage {
    let shelf = broker.jetstream().get_stream(layout::retry_stream(HANDLER)).await.unwrap();
    shelf.get_raw_message(number).await.unwrap()
}

async fn shelf_is_empty(broker: &TestBroker) {
    eventually("the shelf is empty", async || shelved(broker).await == 0).await;
}

/// Lets a stream keep so many bytes.
async fn bound(broker: &TestBroker, name: String, max_bytes: i64) {
    let context = broker.jetstream();
    let found = context.get_stream(name).await.unwrap();
    context.update_stream(stream::Config { max_bytes, ..found.cached_info().config.clone() }).await.unwrap();
}

fn asks(status: u16, retry_after: &str) -> Response {
    Response::builder().status(status).header("retry-after", retry_after).body("no".into()).unwrap()
}

fn fine() -> Response {
    Response::builder().status(204).body(String::new().into()).unwrap()
}

/// As a sidecar puts it there whose attempt failed just now.
async fn put_on_shelf(broker: &TestBroker, sequence: u64, record: &Value) {
    let context = broker.jetstream();
    let events = context.get_stream(layout::EVENT_STREAM).await.unwrap();
    let event = events.get_raw_message(sequence).await.unwrap();
    let mut headers = event.headers.clone();
    let stored_at = u64::try_from(event.time.unix_timestamp_nanos()).unwrap();
    headers.insert("Nats-Msg-Id", message_id::of_retry(&format!("uid-{HANDLER}"), sequence, stored_at));
    headers.insert("Tidegate-Sequence", sequence.to_string());
    headers.insert("Tidegate-Published-At", stored_at.to_string());
    headers.insert("Tidegate-Record", record.to_string());
    let stored = context.publish_with_headers(layout::waiting_subject(HANDLER), headers, event.payload.clone());
    stored.await.unwrap().await.unwrap();
}

/// The record of an event that failed once, to be tried again after `wait`, which is over in `left`.
fn failed_once(wait: Duration, left: Duration) -> Value {
    let not_before = jiff::Timestamp::now().as_millisecond() + i64::try_from(left.as_millis()).unwrap();
    json!({
        "handler": format!("uid-{HANDLER}"), "deliveries": 1, "attempts": 1, "untried": 0,
        "notBefore": not_before, "wait": u64::try_from(wait.as_millis()).unwrap(),
        "failed": [{"time": "2026-01-01T00:00:00Z", "status": 503, "error": "the first"}],
    })
}

/// The event is where the sidecars take no notice of it: as if it had been acknowledged.
async fn acknowledged(broker: &TestBroker, sequence: u64) {
    let events = broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
    events.delete_message(sequence).await.unwrap();
}

/// A handler with a window that is smaller than the number of events that wait.
fn narrow() -> consumers::Handler {
    consumers::Handler { max_ack_pending: 32, ..consumers_of(Order::None, ACK_WAIT) }
}

#[tokio::test]
async fn what_waits_for_long_does_not_hold_up_the_rest() {
    let broker = TestBroker::start().await;
    let identity = broker.handler_with(narrow()).await;
    let container = Container::responding(|request| {
        let bad = request.id().starts_with("bad");
        (if bad { asks(500, "120") } else { fine() }, Duration::ZERO)
    })
    .await;
    // Among others, as one in 26 does not make an outage.
    let names = (0..1040).map(|i| if i % 26 == 0 { format!("bad-{i}") } else { format!("good-{i}") });
    let mut good = publish_all(&broker, names).await;
    good.retain(|id| id.starts_with("good"));
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    all_settled(&broker).await;
    let ids = container.ids();
    let delivered: BTreeSet<_> = ids.iter().filter(|id| id.starts_with("good")).cloned().collect();
    assert_eq!(delivered, good.into_iter().collect());
    assert_eq!(ids.len(), 1040, "each has had one attempt");
    assert_eq!(shelved(&broker).await, 40);
    assert!(dead_letters(&broker).await.is_empty());
}

#[tokio::test]
async fn it_comes_back_as_what_it_was() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::responding(|request| {
        let answer = match (&*request.id(), request.header("ce-tidegateattempt")) {
            ("before", _) => fine(),
            (_, "1") => asks(503, "6"),
            _ => asks(500, "0"),
        };
        (answer, Duration::ZERO)
    })
    .await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "before").await;
    let extra = [("ce-partitionkey", "k"), ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    let sequence = crate::support::publish_with(&broker, "1", &extra).await.to_string();
    eventually("it was on the shelf", async || crate::support::ever_shelved(&broker).await == 1).await;
    all_settled(&broker).await;
    shelf_is_empty(&broker).await;

    let received: Vec<_> = container.received().into_iter().filter(|request| request.id() == "1").collect();
    let attempts: Vec<_> = received.iter().map(|request| request.header("ce-tidegateattempt")).collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    // A second of difference between two clocks is none.
    assert!(received[1].at - received[0].at >= Duration::from_secs(5), "it waited");
    for request in &received {
        assert_eq!(request.header("ce-tidegatesequence"), sequence);
        assert_eq!((request.header("ce-partitionkey"), request.header("content-type")), ("k", "application/json"));
        assert!(request.header("traceparent").contains("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(request.body, r#"{"id":"1"}"#);
    }
    let letters = dead_letters(&broker).await;
    let [letter] = &letters[..] else { panic!("{} letters", letters.len()) };
    assert_eq!(header(letter, "Tidegate-Sequence"), sequence);
    assert_eq!(header(letter, "Tidegate-Attempts"), "3");
    assert_eq!(header(letter, "Tidegate-Record"), "", "what is the shelf's stays there");
    let history: Value = serde_json::from_str(header(letter, "Tidegate-Attempt-History")).unwrap();
    let status: Vec<_> = history.as_array().unwrap().iter().map(|failed| failed["status"].as_u64().unwrap()).collect();
    assert_eq!(status, [503, 500, 500]);
}

/// What `Retry-After` may say: a wait is an hour at most, and one that is none is the policy's.
#[tokio::test]
async fn only_a_wait_that_is_long_leads_to_the_shelf() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::responding(|request| {
        let asked = match &*request.id() {
            "year" => "31536000",
            "date" => "Fri, 31 Dec 2100 23:59:59 GMT",
            "past" => "Sun, 06 Nov 1994 08:49:37 GMT",
            "malformed" => "soon, or -1",
            "short" => "5",
            _ => return (fine(), Duration::ZERO),
        };
        (if request.header("ce-tidegateattempt") == "1" { asks(500, asked) } else { fine() }, Duration::ZERO)
    })
    .await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    for id in ["year", "date", "past", "malformed", "short"] {
        publish(&broker, id).await;
        publish_all(&broker, (0..4).map(|i| format!("after-{id}-{i}"))).await;
    }
    all_settled(&broker).await;
    let again: BTreeSet<String> = container
        .received()
        .iter()
        .filter(|request| request.header("ce-tidegateattempt") == "2")
        .map(|request| request.id())
        .collect();
    assert_eq!(again, ["malformed", "past", "short"].map(str::to_owned).into());
    assert_eq!(shelved(&broker).await, 2);
    for number in [1, 2] {
        let copy = copy(&broker, number).await;
        let record: Value = serde_json::from_str(header(&copy, "Tidegate-Record")).unwrap();
        assert_eq!(record["wait"], 3_600_000);
        let left = record["notBefore"].as_i64().unwrap() - jiff::Timestamp::now().as_millisecond();
        assert!((3_500_000..=3_600_000).contains(&left), "{left}");
    }
}

/// The broker kept the copy, and no one lived to hear of it: neither a second copy nor a second attempt comes of it.
#[tokio::test]
async fn an_event_that_is_on_the_shelf_already_is_acknowledged() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let sequence = publish(&broker, "1").await;
    // Delivered once, failed, on record and on the shelf; not acknowledged.
    let record = failed_once(Duration::from_secs(6), Duration::from_secs(2));
    let context = broker.jetstream();
    let subject = layout::attempt_subject(HANDLER, &sequence.to_string());
    context.publish(subject, record.to_string().into()).await.unwrap().await.unwrap();
    put_on_shelf(&broker, sequence, &record).await;
    crate::support::take_and_give_back(&broker).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    all_settled(&broker).await;
    shelf_is_empty(&broker).await;
    let attempts: Vec<_> =
        container.received().iter().map(|request| request.header("ce-tidegateattempt").to_owned()).collect();
    assert_eq!(attempts, ["2"]);
}

/// The record in the stream of attempts is gone (it lives for a day): the copy's counts.
#[tokio::test]
async fn attempts_count_on_without_their_record() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (500, Duration::ZERO)).await;
    let sequence = publish(&broker, "1").await;
    put_on_shelf(&broker, sequence, &failed_once(Duration::from_secs(6), Duration::ZERO)).await;
    acknowledged(&broker, sequence).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    shelf_is_empty(&broker).await;
    let attempts: Vec<_> =
        container.received().iter().map(|request| request.header("ce-tidegateattempt").to_owned()).collect();
    assert_eq!(attempts, ["2", "3"]);
    let letters = dead_letters(&broker).await;
    let history: Value = serde_json::from_str(header(&letters[0], "Tidegate-Attempt-History")).unwrap();
    assert_eq!((history[0]["error"].as_str(), history.as_array().unwrap().len()), (Some("the first"), 3));
    assert_eq!(header(&letters[0], "Tidegate-Sequence"), sequence.to_string());
}

/// The clock of the node where the event failed is an hour ahead of ours: it waits twice, not an hour.
#[tokio::test]
async fn a_clock_that_is_off_by_an_hour_delays_an_event_by_its_wait() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let sequence = publish(&broker, "1").await;
    let wait = Duration::from_millis(1500);
    put_on_shelf(&broker, sequence, &failed_once(wait, wait + Duration::from_secs(3600))).await;
    acknowledged(&broker, sequence).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    shelf_is_empty(&broker).await;
    assert_eq!(container.received()[0].header("ce-tidegateattempt"), "2");
}

/// No sidecar wrote it: it is neither delivered nor lost, and holds up nothing.
#[tokio::test]
async fn what_is_no_copy_stays_on_the_shelf() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let sequence = publish(&broker, "1").await;
    let context = broker.jetstream();
    for _ in 0..20 {
        let stored = context.publish(layout::waiting_subject(HANDLER), "what?".into());
        stored.await.unwrap().await.unwrap();
    }
    put_on_shelf(&broker, sequence, &failed_once(Duration::from_secs(6), Duration::ZERO)).await;
    acknowledged(&broker, sequence).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    eventually("the copy behind them is delivered", async || container.count() == 1).await;
    eventually("it is removed", async || shelved(&broker).await == 20).await;
    assert!(dead_letters(&broker).await.is_empty());
}

/// Deliveries of the shelf of which no one lived to tell are counted as those of the topic are.
#[tokio::test]
async fn an_event_that_never_finishes_is_found_on_the_shelf_too() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let sequence = publish(&broker, "1").await;
    put_on_shelf(&broker, sequence, &failed_once(Duration::from_secs(6), Duration::ZERO)).await;
    acknowledged(&broker, sequence).await;
    let shelf = layout::retry_stream(HANDLER);
    let consumer: PullConsumer = broker.jetstream().get_consumer_from_stream(HANDLER, shelf).await.unwrap();
    // The first is that by which it came there, and of two for each attempt and ten more no one needs to tell.
    for _ in 0..1 + 2 * 3 + 10 + 1 {
        crate::support::give_back_one_of(&broker, &consumer).await;
    }
    let container = Container::start().await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    shelf_is_empty(&broker).await;
    let letters = dead_letters(&broker).await;
    assert_eq!((letters.len(), container.count()), (1, 0));
    assert_eq!(header(&letters[0], "Tidegate-Reason"), "never-finished");
    assert_eq!(header(&letters[0], "Tidegate-Attempts"), "1");
}

/// The shelf does not answer: events of the topic come, and a pod is ready.
#[tokio::test]
async fn without_its_consumer_the_shelf_waits_alone() {
    let broker = TestBroker::start().await;
    let handler = consumers_of(Order::None, ACK_WAIT);
    let identity = broker.handler_with(handler.clone()).await;
    let context = broker.jetstream();
    let shelf = context.get_stream(layout::retry_stream(HANDLER)).await.unwrap();
    shelf.delete_consumer(HANDLER).await.unwrap();
    let container = Container::start().await;
    let sequence = publish(&broker, "shelved").await;
    put_on_shelf(&broker, sequence, &failed_once(Duration::from_secs(6), Duration::ZERO)).await;
    acknowledged(&broker, sequence).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "other").await;
    all_settled(&broker).await;
    assert_eq!((container.ids(), shelved(&broker).await), (vec!["other".to_owned()], 1));
    retries::ensure(&broker.admin(), &handler).await.unwrap();
    shelf_is_empty(&broker).await;
    assert_eq!(container.ids(), ["other", "shelved"]);
}

/// Kills the sidecar at the 30th failure, while those before are on their way to the shelf, each at another point.
#[tokio::test]
async fn a_sidecar_that_is_killed_on_the_way_to_the_shelf_loses_nothing() {
    let ack_wait = Duration::from_secs(3);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ack_wait).await;
    let (pid, failures) = (Arc::new(AtomicI32::new(0)), AtomicUsize::new(0));
    let struck = Arc::new(AtomicBool::new(false));
    let container = Container::responding({
        let (pid, struck) = (pid.clone(), struck.clone());
        move |request| {
            if request.header("ce-tidegateattempt") != "1" || request.id().starts_with("good") {
                return (fine(), Duration::ZERO);
            }
            if failures.fetch_add(1, Ordering::SeqCst) + 1 == 30 {
                kill(Pid::from_raw(pid.load(Ordering::SeqCst)), Signal::SIGKILL).unwrap();
                struck.store(true, Ordering::SeqCst);
            }
            (asks(500, "6"), Duration::ZERO)
        }
    })
    .await;
    let config = config(&broker, identity, container.port, ack_wait);
    let first = Process::start(&config).await;
    pid.store(first.pid().as_raw(), Ordering::SeqCst);
    let names = (0..300).map(|i| if i % 5 == 0 { format!("bad-{i}") } else { format!("good-{i}") });
    let mut ids: BTreeSet<_> = publish_all(&broker, names).await.into_iter().collect();
    ids.retain(|id| id.starts_with("bad"));
    eventually("it was struck", async || struck.load(Ordering::SeqCst)).await;
    drop(first);
    let config = Sidecar { admin_port: crate::support::free_port(), ..config };
    let _second = Process::start(&config).await;
    all_settled(&broker).await;
    shelf_is_empty(&broker).await;
    let handled: Vec<_> = container
        .received()
        .iter()
        .filter(|request| request.header("ce-tidegateattempt") != "1")
        .map(|request| request.id())
        .collect();
    assert_eq!(handled.iter().cloned().collect::<BTreeSet<_>>(), ids, "lost");
    // What had its acknowledgement on the way when a machine stood still comes again.
    assert!(handled.len() <= ids.len() + CONCURRENCY, "{} came twice", handled.len() - ids.len());
    assert!(dead_letters(&broker).await.is_empty());
}
