//! How much one identity can use of a real nats-server.

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::Client;
use futures::StreamExt as _;
use serde_json::Value;
use tidegate_broker_client::{identity, peer};
use tidegate_test_broker::{LIMIT, TestBroker};

async fn connect(broker: &TestBroker, folder: &Path) -> Option<Client> {
    peer::connect("limited", &broker.servers(), identity::folder(folder)).await.ok()
}

/// Tries to open so many connections and keeps those that the server let in.
async fn connections(broker: &TestBroker, folder: &Path, wanted: usize) -> Vec<Client> {
    let tries = futures::stream::iter(0..wanted).map(|_| connect(broker, folder)).buffer_unordered(16);
    tries.collect::<Vec<_>>().await.into_iter().flatten().collect()
}

#[tokio::test]
async fn connections_are_bounded() {
    let broker = TestBroker::start().await;
    let publisher = broker.publisher("sensors").await;
    assert_eq!(connections(&broker, &publisher, 300).await.len(), 256);
    // 16 pods: twice as many, and 16 more.
    let handler = broker.handler("billing", Duration::from_secs(5)).await;
    assert_eq!(connections(&broker, &handler, 100).await.len(), 48);
    assert!(connect(&broker, &broker.publisher("other").await).await.is_some(), "another one has room of its own");
}

#[tokio::test]
async fn subscriptions_are_bounded() {
    let broker = TestBroker::start().await;
    let folders = [
        (broker.publisher("sensors").await, 128),
        (broker.handler("billing", Duration::from_secs(5)).await, 256),
        (broker.ingress_client_dir(), 4096),
    ];
    for (folder, limit) in folders {
        let client = connect(&broker, &folder).await.unwrap();
        let id = client.server_info().client_id;
        let mut kept = Vec::new();
        for number in 0..3 * limit {
            kept.push(client.subscribe(format!("_INBOX.{number}")).await.unwrap());
        }
        client.flush().await.unwrap();
        let begun = Instant::now();
        let connection = loop {
            let page = broker.monitoring("connz").await;
            let connections = page["connections"].as_array().unwrap().clone();
            let of_client = |connection: &&Value| connection["cid"] == id;
            if let Some(found) = connections.iter().find(of_client).filter(|found| found["subscriptions"] == limit) {
                break found.clone();
            }
            assert!(begun.elapsed() < LIMIT, "{limit} and no more: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(connection["subscriptions"], limit);
    }
}
