//! The broker goes, comes back, or is full: nothing is acknowledged that is not stored.

use std::collections::HashSet;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::{INGRESS_REPORT_PERIOD, IngressFailure, IngressReport, StoreFailure};
use tidegate_cloudevents::Event;
use tidegate_ingress::Limits;
use tidegate_test_broker::{LIMIT, TestBroker, eventually, topic};
use tokio::sync::watch;

use crate::support::{Frozen, event, events, limits, messages, start, start_with};

/// A broker whose stream holds only this many bytes.
async fn small_broker(max_bytes: i64) -> TestBroker {
    let mut topic = topic();
    topic.max_bytes = max_bytes;
    TestBroker::start_with(topic).await
}

fn large(id: usize) -> Event {
    Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 10_000]).build().unwrap()
}

fn ids(events: &[Event]) -> HashSet<String> {
    events.iter().map(|event| event.id().to_owned()).collect()
}

#[tokio::test]
async fn a_stopped_broker_is_503_and_its_return_is_noticed() {
    let mut broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    broker.stop();
    ingress.until(StatusCode::SERVICE_UNAVAILABLE).await;
    let answer = ingress.publish(&event("lost")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(ingress.probe("/livez").await, StatusCode::OK, "a restart would not help");

    broker.restart().await;
    ingress.until_ready().await;
    assert_eq!(ingress.publish(&event("kept")).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, [event("kept")], "what was refused is not sent later");
}

#[tokio::test]
async fn the_ingress_starts_before_its_broker() {
    let mut broker = TestBroker::start().await;
    broker.stop();
    let ingress = start_with(&broker, limits()).await;
    assert_eq!(ingress.probe("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    broker.restart().await;
    ingress.until_ready().await;
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_503_in_time() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { publish: Duration::from_secs(1), ..limits() }).await;
    ingress.until_ready().await;
    let frozen = Frozen::new(broker.pid().unwrap()).await;
    let answer = tokio::time::timeout(LIMIT, ingress.publish(&event("1"))).await;
    drop(frozen);
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.detail().contains("did not acknowledge it in time"), "{}", answer.detail());
}

#[tokio::test]
async fn the_operator_hears_of_a_full_topic_at_most_once_in_a_while() {
    let broker = small_broker(50_000).await;
    let mut reports = broker.ingress_reports().await;
    let ingress = start(&broker).await;
    let begun = std::time::Instant::now();
    for id in 0..30 {
        ingress.publish(&large(id)).await;
    }
    broker.operator().flush().await.unwrap();
    let took = begun.elapsed();
    let first = tokio::time::timeout(LIMIT, reports.next()).await.expect("a report").unwrap();
    let report: IngressFailure = serde_json::from_slice(&first.payload).unwrap();
    assert_eq!(report.failure, StoreFailure::Full);
    let mut more = 0;
    while let Some(Some(message)) = reports.next().now_or_never() {
        let report: IngressReport = serde_json::from_slice(&message.payload).unwrap();
        more += i32::from(matches!(report, IngressReport::Failure(_)));
    }
    let periods = took.as_secs_f64() / INGRESS_REPORT_PERIOD.as_secs_f64();
    assert!(f64::from(more) <= periods, "{more} more within {took:?}");
}

#[tokio::test]
async fn a_full_topic_is_429_and_keeps_what_it_has() {
    let broker = small_broker(100_000).await;
    let ingress = start(&broker).await;
    let mut accepted = HashSet::new();
    let mut refused = 0;
    for id in 0..20 {
        let answer = ingress.publish(&large(id)).await;
        match answer.status {
            StatusCode::ACCEPTED => assert!(accepted.insert(id.to_string())),
            StatusCode::TOO_MANY_REQUESTS => {
                assert_eq!(answer.headers["retry-after"], "5");
                assert!(answer.detail().contains("the topic is full"), "{}", answer.detail());
                refused += 1;
            }
            other => panic!("{other}: {answer:?}"),
        }
    }
    assert!(refused > 0 && !accepted.is_empty());
    assert_eq!(ids(&events(&broker).await), accepted);
}

#[tokio::test]
async fn a_batch_that_fits_only_in_part_says_so_and_can_be_repeated() {
    let broker = small_broker(60_000).await;
    let ingress = start(&broker).await;
    let batch: Vec<Event> = (0..10).map(large).collect();
    let answer = ingress.publish_batch(&batch).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let stored = messages(&broker).await.len();
    assert!(stored > 0 && stored < batch.len());
    assert!(answer.detail().starts_with(&format!("{stored} of 10 events were stored")), "{}", answer.detail());

    let mut larger = topic();
    larger.max_bytes = 1_000_000;
    streams::ensure(&broker.admin(), &larger).await.unwrap();
    assert_eq!(ingress.publish_batch(&batch).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await.len(), batch.len(), "the stored part was recognised");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (progress, mut acknowledgements) = watch::channel(0);
    let publishing = async {
        let mut acknowledged = HashSet::new();
        for id in 0..150 {
            let event = event(&id.to_string());
            if ingress.publish(&event).await.status == StatusCode::ACCEPTED {
                acknowledged.insert(event.id().to_owned());
                progress.send_replace(acknowledged.len());
            }
        }
        acknowledged
    };
    let killing = async {
        acknowledgements.wait_for(|count| *count >= 50).await.unwrap();
        broker.restart().await;
    };
    let (acknowledged, ()) = tokio::join!(publishing, killing);
    let stored = ids(&events(&broker).await);
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn the_brokers_probes_pass_through() {
    let mut broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    for page in ["/broker/startup", "/broker/ready", "/broker/live"] {
        assert_eq!(ingress.probe(page).await, StatusCode::OK, "{page}");
    }
    assert_eq!(ingress.probe("/broker/varz").await, StatusCode::NOT_FOUND);
    broker.stop();
    for page in ["/broker/startup", "/broker/ready", "/broker/live"] {
        assert_eq!(ingress.probe(page).await, StatusCode::SERVICE_UNAVAILABLE, "{page}");
    }
}

/// Its pod would never be ready, and the operator never reach it to make the consumer again.
#[tokio::test]
async fn a_consumer_that_cannot_be_read_holds_up_no_start() {
    let mut broker = TestBroker::start().await;
    broker.handler("billing", std::time::Duration::from_secs(30)).await;
    let ingress = start(&broker).await;
    broker.stop();
    broker.damage_consumer(0, "billing");
    broker.restart().await;
    eventually("the server has started", async || ingress.probe("/broker/startup").await == StatusCode::OK).await;
    let health = broker.monitoring("healthz").await;
    assert!(health["error"].as_str().is_some_and(|error| error.contains("consumer")), "{health}");
    assert_eq!(ingress.publish(&event("1")).await.status, StatusCode::ACCEPTED);
}
