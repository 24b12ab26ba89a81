//! When a handler's container may be sent events, and what is said while it may not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{
    Container, HANDLER, Hostile, Misdeed, Running, all_settled, config, dead_letters, eventually, free_port, publish,
    publish_all,
};
use futures::StreamExt as _;
use serde_json::Value;
use tidegate_broker_client::probes::{Check, Probe, Probes};
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::time::{sleep, timeout};

const ACK_WAIT: Duration = Duration::from_secs(10);

fn readiness(port: u16) -> Probes {
    let probe = Probe {
        check: Check::Http { tls: false, port, path: "/ready".into(), headers: Vec::new() },
        initial_delay: Duration::ZERO,
        period: Duration::from_millis(50),
        timeout: Duration::from_secs(5),
        success_threshold: 1,
        failure_threshold: 2,
    };
    Probes { startup: None, readiness: Some(probe) }
}

/// A program that listens at once; its routes, its readiness among them, are there only while the switch is on.
async fn program(is_ready: Arc<AtomicBool>) -> Container {
    Container::answering(move |request| {
        let status = match (is_ready.load(Ordering::Relaxed), request.path.as_str()) {
            (true, _) => 204,
            (false, "/ready") => 503,
            (false, _) => 404,
        };
        (status, Duration::ZERO)
    })
    .await
}

/// Deliveries, without the probes.
fn deliveries(container: &Container) -> usize {
    container.received().iter().filter(|request| request.path == "/events").count()
}

/// The first outage that is reported.
async fn outage(broker: &TestBroker) -> String {
    let mut reports = broker.reports().await;
    let found = timeout(LIMIT, async {
        loop {
            let report: Value = serde_json::from_slice(&reports.next().await.unwrap().payload).unwrap();
            if let Some(outage) = report["outage"].as_str() {
                return outage.to_owned();
            }
        }
    });
    found.await.unwrap()
}

#[tokio::test]
async fn nothing_is_delivered_before_the_readiness_probe_passes_nor_while_it_fails() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let is_ready = Arc::new(AtomicBool::new(false));
    let container = program(is_ready.clone()).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.probes = readiness(container.port);
    let _sidecar = Running::start(config);
    publish_all(&broker, (0..20).map(|i| i.to_string())).await;
    eventually("it is asked", async || container.count() >= 5).await;
    assert_eq!(deliveries(&container), 0);
    is_ready.store(true, Ordering::Relaxed);
    all_settled(&broker).await;
    assert_eq!((deliveries(&container), dead_letters(&broker).await.len()), (20, 0));
    is_ready.store(false, Ordering::Relaxed);
    let why = outage(&broker).await;
    assert_eq!(why, format!("its readinessProbe fails: GET http://127.0.0.1:{}/ready answers 503", container.port));
    publish_all(&broker, (20..40).map(|i| i.to_string())).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(deliveries(&container), 20, "delivery pauses");
    is_ready.store(true, Ordering::Relaxed);
    all_settled(&broker).await;
    assert_eq!((deliveries(&container), dead_letters(&broker).await.len()), (40, 0));
}

/// What happens to the same program without a probe, and what happened to every such program.
#[tokio::test]
async fn without_a_probe_a_connection_is_enough() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = program(Arc::new(AtomicBool::new(false))).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish_all(&broker, (0..20).map(|i| i.to_string())).await;
    all_settled(&broker).await;
    assert_eq!(dead_letters(&broker).await.len(), 20);
}

#[tokio::test]
async fn a_program_on_the_other_loopback_gets_its_events() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::on("[::1]:0").await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish_all(&broker, (0..5).map(|i| i.to_string())).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), 5);
}

#[tokio::test]
async fn an_outage_says_what_was_tried_and_what_listens() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let port = free_port();
    let sidecar = Running::start(config(&broker, identity.clone(), port, ACK_WAIT));
    let why = outage(&broker).await;
    assert!(
        why.starts_with(&format!(
            "nothing listens on 127.0.0.1:{port} or [::1]:{port}, delivery.port: the pod listens on"
        )),
        "{why}"
    );
    // As a program on the pod's address does.
    let container = Container::on(&format!("127.0.0.3:{port}")).await;
    let said = format!("the pod listens on 127.0.0.3:{port} only");
    eventually("it is found", async || outage(&broker).await.contains(&said)).await;
    assert_eq!(container.count(), 0);
    assert_eq!(sidecar.get("/readyz").await, Some(503), "a program that takes no events is not ready");
    let _container = Container::on(&format!("127.0.0.1:{port}")).await;
    eventually("it is ready", async || sidecar.get("/readyz").await == Some(200)).await;
}

/// A program that closes idle connections in silence: what is sent into such a close is no attempt.
#[tokio::test]
async fn a_connection_that_closes_without_an_answer_uses_up_no_attempt() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Hostile::start(Misdeed::AnswersOnce).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.concurrency = 1;
    config.delivery.retry.max_attempts = 1;
    let _sidecar = Running::ready(config).await;
    for id in 0..20 {
        publish(&broker, &id.to_string()).await;
    }
    all_settled(&broker).await;
    assert_eq!(dead_letters(&broker).await.len(), 0);
    let requests = container.requests();
    assert!(requests.len() > 20, "some were sent into a close");
    for id in 0..20 {
        let of_this: Vec<_> = requests.iter().filter(|request| request.contains(&format!("ce-id: {id}\r\n"))).collect();
        assert!(!of_this.is_empty(), "{id}");
        assert!(of_this.windows(2).all(|pair| pair[0] == pair[1]), "it is the same request again: {of_this:?}");
    }
}
