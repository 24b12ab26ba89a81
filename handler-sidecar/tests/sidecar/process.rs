//! The program as a process: its size, its end by SIGTERM, and what it says to a bad configuration.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use crate::support::{Container, HANDLER, PROGRAM, Process, all_settled, config, eventually, publish, publish_all};
use futures::future::join_all;
use tidegate_broker_client::contract;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::timeout;

const ACK_WAIT: Duration = Duration::from_secs(10);
/// Resident memory of an idle sidecar, in KiB.
const MEMORY: u64 = 12 * 1024;

/// The port of probes is open to the pod network.
#[tokio::test]
async fn strangers_that_connect_keep_no_probe_out() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let process = Process::start(&config).await;
    // What it takes to begin is not the strangers'.
    eventually("it is ready", async || crate::support::get(config.admin_port, "/readyz").await == Some(200)).await;
    let before = process.resident();
    let mut strangers = Vec::new();
    for _ in 0..400 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(([127, 0, 0, 1], config.admin_port).into()).await.unwrap();
        // As much of a head as a server reads.
        let _ = stream.write_all(&[b"GET /livez HTTP/1.1\r\nx: ".as_slice(), &[b'x'; 8000]].concat()).await;
        strangers.push(stream);
        assert_eq!(crate::support::get(config.admin_port, "/livez").await, Some(200));
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB for strangers");
    let ends =
        join_all(strangers.iter_mut().map(async |stream| timeout(LIMIT, stream.read(&mut [0; 512])).await.is_ok()));
    assert!(ends.await.into_iter().all(|ended| ended), "none stays for ever");
}

#[tokio::test]
async fn it_is_small_and_ends_well() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|request| {
        (204, if request.id() == "slow" { Duration::from_secs(1) } else { Duration::ZERO })
    })
    .await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let process = Process::start(&config).await;
    for i in 0..100 {
        publish(&broker, &i.to_string()).await;
    }
    all_settled(&broker).await;
    assert_eq!(container.count(), 100);
    let resident = process.resident();
    assert!(resident <= MEMORY, "{resident} KiB resident");
    publish(&broker, "slow").await;
    eventually("it is in flight", async || container.count() == 101).await;
    let status = process.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(crate::support::in_flight(&broker).await, 0, "the delivery in flight was finished and acknowledged");
    assert_eq!(container.count(), 101);
}

/// What a Prometheus server scrapes costs no memory that counts, and nothing where nobody asked for it.
#[tokio::test]
async fn metrics_are_scraped_from_the_port_of_the_probes() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let process = Process::start_with(&config, &[("OTEL_METRICS_EXPORTER", "prometheus")]).await;
    for i in 0..100 {
        publish(&broker, &i.to_string()).await;
    }
    all_settled(&broker).await;
    let settled = r#"tidegate_delivery_settled_total{outcome="acknowledged",tidegate_handler="billing",tidegate_topic="orders"} 100"#;
    let mut answer = String::new();
    eventually("all are counted", async || {
        answer = crate::support::response(config.admin_port, "/metrics").await.unwrap();
        answer.lines().any(|line| line == settled)
    })
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for part in [
        "messaging_process_duration_seconds_count{",
        "tidegate_handler_available{",
        "target_info{",
        r#"service_name="tidegate-sidecar""#,
    ] {
        assert!(answer.contains(part), "{part} is not in\n{answer}");
    }
    for _ in 0..200 {
        crate::support::response(config.admin_port, "/metrics").await.unwrap();
    }
    let resident = process.resident();
    assert!(resident <= MEMORY, "{resident} KiB resident");
    drop(process);
    let _silent = Process::start(&config).await;
    assert_eq!(crate::support::get(config.admin_port, "/metrics").await, Some(404));
}

/// The hook of the sidecar's container: it ends when the drain has.
#[tokio::test]
async fn the_programs_own_command_drains_the_running_one() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (204, Duration::from_millis(700))).await;
    let config = config(&broker, identity, container.port, ACK_WAIT);
    let drain = async || {
        let mut command = Command::new(PROGRAM);
        command.arg("drain").env(contract::VARIABLE, serde_json::to_string(&config).unwrap());
        tokio::task::spawn_blocking(move || command.output().unwrap().status.success()).await.unwrap()
    };
    assert!(!drain().await, "nothing runs yet");
    let _process = Process::start(&config).await;
    publish(&broker, "1").await;
    eventually("it is in flight", async || container.count() == 1).await;
    assert!(drain().await);
    assert_eq!(crate::support::in_flight(&broker).await, 0, "the delivery in flight was waited for");
    publish(&broker, "2").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(container.ids(), ["1"]);
}

#[tokio::test]
async fn another_takes_over_from_one_that_was_killed() {
    let ack_wait = Duration::from_secs(3);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ack_wait).await;
    let container = Container::answering(|_| (204, Duration::from_millis(20))).await;
    let config = config(&broker, identity, container.port, ack_wait);
    let first = Process::start(&config).await;
    let ids = publish_all(&broker, (0..300).map(|i| i.to_string())).await;
    eventually("it is at work", async || container.count() > 20).await;
    // SIGKILL, and waits for its end.
    drop(first);
    assert!(container.count() < 300, "there is something left to take over");
    let _second = Process::start(&config).await;
    all_settled(&broker).await;
    let received: BTreeSet<_> = container.ids().into_iter().collect();
    assert_eq!(received, ids.into_iter().collect());
    let twice = container.count() - 300;
    // What was in flight, and what had been answered while its acknowledgement was still to be written.
    assert!(twice <= 2 * usize::from(config.delivery.concurrency), "{twice} came twice");
}

#[test]
fn a_bad_configuration_is_named() {
    for (value, expected) in [(None, "TIDEGATE_CONFIG: "), (Some("{}"), "TIDEGATE_CONFIG: missing field")] {
        let mut command = Command::new(PROGRAM);
        command.env_remove(contract::VARIABLE);
        if let Some(value) = value {
            command.env(contract::VARIABLE, value);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(expected), "{error}");
    }
}
