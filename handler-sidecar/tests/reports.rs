//! What a sidecar reports of its deliveries, and what it logs. Read as JSON, as another version would.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt as _;
use serde_json::{Value, json};
use support::{
    Container, HANDLER, Running, all_settled, config, eventually, publish, publish_all, publish_with, store,
};
use tidegate_broker_client::contract::{Filter, Format};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::time::timeout;

const ACK_WAIT: Duration = Duration::from_secs(10);

async fn reports(broker: &TestBroker) -> Subscriber {
    broker.reports().await
}

/// The first report that satisfies a condition.
async fn report(reports: &mut Subscriber, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let found = timeout(LIMIT, async {
        loop {
            let message = reports.next().await.unwrap();
            let report: Value = serde_json::from_slice(&message.payload).unwrap();
            if holds(&report["outcomes"]) {
                return report;
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("no report: {what}"))
}

#[tokio::test]
async fn a_handler_that_refuses_everything_says_what_and_where() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = reports(&broker).await;
    let container = Container::answering(|_| (404, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish_all(&broker, (0..20).map(|i| i.to_string())).await;
    let first = report(&mut reports, "it fails", |outcomes| !outcomes["failing"].is_null()).await;
    assert_eq!(first["outcomes"]["failing"]["refused"], true);
    all_settled(&broker).await;
    let all = report(&mut reports, "all are refused", |outcomes| outcomes["deadLettered"] == 20).await;
    let outcomes = &all["outcomes"];
    assert_eq!(outcomes["failing"], json!({"events": 20, "refused": true}));
    assert_eq!((&outcomes["handled"], &outcomes["refused"], &outcomes["failed"]), (&json!(0), &json!(20), &json!(0)));
    let failure = &outcomes["lastFailure"];
    assert_eq!(failure["url"], format!("http://127.0.0.1:{}/events", container.port));
    assert_eq!((&failure["status"], &failure["eventType"]), (&json!(404), &json!("temperature")));
    assert_eq!(failure["error"], "404 Not Found: no  thanks");
    assert!(failure["eventId"].as_str().unwrap().parse::<u32>().unwrap() < 20, "{failure}");
    assert!(failure["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{failure}");
}

/// It is not posted, and so has no address.
#[tokio::test]
async fn an_event_that_the_filter_cannot_judge_is_the_last_failure() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = reports(&broker).await;
    let container = Container::start().await;
    let expression = Some("data.tags.exists(t, data.text.contains(t))".to_owned());
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.filter = Filter { expression, ..Filter::default() };
    let _sidecar = Running::ready(config).await;
    let data = format!(r#"{{"tags":[{}"no"],"text":"{}"}}"#, r#""no","#.repeat(20_000), "y".repeat(500_000));
    let costly = Event::builder("costly", "/s", "order").attribute("datacontenttype", "application/json").data(data);
    store(&broker, &costly.build().unwrap(), &[]).await;
    let told = report(&mut reports, "a dead letter", |outcomes| outcomes["deadLettered"] == 1).await;
    let failure = &told["outcomes"]["lastFailure"];
    assert_eq!((&failure["eventId"], &failure["url"]), (&json!("costly"), &json!("")), "{told}");
}

#[tokio::test]
async fn failed_attempts_are_told_before_they_are_used_up_and_success_ends_it() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = reports(&broker).await;
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let container = Container::answering({
        let broken = broken.clone();
        move |_| (if broken.load(std::sync::atomic::Ordering::Relaxed) { 500 } else { 204 }, Duration::ZERO)
    })
    .await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.retry.max_attempts = 1000;
    let _sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    let failing = report(&mut reports, "it fails", |outcomes| !outcomes["failing"].is_null()).await;
    assert_eq!(failing["outcomes"]["failing"], json!({"events": 1, "refused": false}));
    assert_eq!(failing["outcomes"]["deadLettered"], 0);
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    publish_all(&broker, (2..12).map(|i| i.to_string())).await;
    all_settled(&broker).await;
    let fine = report(&mut reports, "it is fine again", |outcomes| outcomes["failing"].is_null()).await;
    assert!(fine["outcomes"]["handled"].as_u64().unwrap() >= 5, "{fine}");
}

/// One bad event among good ones is a dead letter and no more.
#[tokio::test]
async fn one_event_that_is_refused_is_no_rule() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = reports(&broker).await;
    let container =
        Container::answering(|request| (if request.id() == "bad" { 422 } else { 204 }, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    publish(&broker, "bad").await;
    all_settled(&broker).await;
    let found = report(&mut reports, "its dead letter", |outcomes| outcomes["deadLettered"] == 1).await;
    assert!(found["outcomes"]["failing"].is_null(), "{found}");
    assert_eq!(found["outcomes"]["lastFailure"]["eventId"], "bad");
}

/// Of a batch each event has its own end.
#[tokio::test]
async fn events_of_a_batch_are_told_apart() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = reports(&broker).await;
    let container = Container::answering(|_| (404, Duration::ZERO)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.format = Format::Batch { max_events: 10, max_wait: Duration::from_millis(50) };
    let _sidecar = Running::ready(config).await;
    publish_all(&broker, (0..10).map(|i| i.to_string())).await;
    report(&mut reports, "ten dead letters", |outcomes| outcomes["deadLettered"] == 10).await;
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_names_a_dead_letters_event_also_if_it_is_none() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // For all tests of this program: one for a thread alone sees nothing of what another thread was the first to log.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let mut reports = reports(&broker).await;
    let container = Container::answering(|_| (404, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "order-17").await;
    all_settled(&broker).await;
    publish_with(&broker, "no-event-18", &[("ce-specversion", "0.1")]).await;
    all_settled(&broker).await;
    for id in ["order-17", "no-event-18"] {
        eventually(id, async || {
            let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            log.lines().any(|line| line.contains("is dead-lettered") && line.contains(id))
        })
        .await;
    }
    let found = report(&mut reports, "both", |outcomes| outcomes["deadLettered"] == 2).await;
    let failure = &found["outcomes"]["lastFailure"];
    assert_eq!((&failure["eventId"], &failure["url"]), (&json!("no-event-18"), &json!("")));
}
