//! What a sidecar reports of its handler's work.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use tidegate_broker_client::contract::{Report, Retry, Sidecar, Workload};
use tidegate_test_broker::TestBroker;

use crate::support::{Container, Hold, Running, config, eventually, in_flight, publish, publish_all, shelved};

const ACK_WAIT: Duration = Duration::from_secs(3);

/// The workload of the next report.
async fn reported(reports: &mut async_nats::Subscriber) -> Workload {
    let report: Report = serde_json::from_slice(&reports.next().await.unwrap().payload).unwrap();
    report.workload.unwrap()
}

async fn start(broker: &TestBroker, container: &Container) -> (Running, async_nats::Subscriber) {
    let reports = broker.reports().await;
    let mut config: Sidecar =
        config(broker, broker.handler(crate::support::HANDLER, ACK_WAIT).await, container.port, ACK_WAIT);
    let wait = Duration::from_secs(60);
    config.delivery.retry = Retry { initial: wait, max: wait, ..config.delivery.retry.clone() };
    (Running::ready(config).await, reports)
}

/// They are all there still, on the shelf or lent by the broker, but nothing runs.
#[tokio::test]
async fn events_that_wait_for_a_retry_do_not_run() {
    let broker = TestBroker::start().await;
    let container =
        Container::responding(|_| (Response::builder().status(500).body(Body::empty()).unwrap(), Duration::ZERO)).await;
    let (sidecar, mut reports) = start(&broker, &container).await;
    publish_all(&broker, (0..10).map(|id| id.to_string())).await;
    let mut last = Workload::default();
    eventually("all have failed, and none runs", async || {
        last = reported(&mut reports).await;
        last.failed >= 10 && last.running_milli == 0
    })
    .await;
    assert_eq!(last.succeeded, 0);
    eventually("none is lost", async || in_flight(&broker).await as u64 + shelved(&broker).await == 10).await;
    sidecar.terminate().await;
}

#[tokio::test]
async fn an_event_at_the_handler_runs() {
    let broker = TestBroker::start().await;
    let container = Container::start().await;
    container.hold(Hold::Everything);
    let (sidecar, mut reports) = start(&broker, &container).await;
    publish(&broker, "1").await;
    eventually("one runs all the time", async || reported(&mut reports).await.running_milli >= 990).await;
    container.hold(Hold::Nothing);
    eventually("it has ended", async || {
        let last = reported(&mut reports).await;
        last.running_milli == 0 && last.succeeded == 1
    })
    .await;
    sidecar.terminate().await;
}
