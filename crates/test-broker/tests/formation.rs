//! A server becomes a cluster of one and stays it: what the seed and the waking connection rely on is nats-server's own,
//! so this is run against every version that we move to.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::time::Duration;

use tidegate_broker_client::layout;
use tidegate_broker_client::seed::{self, Seeded};
use tidegate_test_broker::{LIMIT, TestBroker, eventually};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longer than any election takes.
const NO_ELECTION: Duration = Duration::from_secs(12);

/// One that has formed, with the streams of a topic.
async fn formed() -> TestBroker {
    let mut broker = TestBroker::unformed();
    assert_eq!(broker.seed().unwrap(), Seeded::Written);
    broker.wake();
    assert!(broker.serves_within(LIMIT).await, "{}", broker.log());
    broker.add_first_topic().await;
    broker
}

/// Publishes events, each until it is acknowledged, as long as there is no end; how many there were.
fn publish(broker: &TestBroker, end: CancellationToken) -> JoinHandle<u64> {
    let jetstream = broker.jetstream();
    tokio::spawn(async move {
        let mut acknowledged = 0_u64;
        while !end.is_cancelled() {
            let id = acknowledged.to_string();
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.as_str());
            let attempt = async {
                let answer = jetstream.publish_with_headers("events.0.test", headers, id.clone().into()).await.ok()?;
                answer.await.ok()
            };
            // No answer, or a refusal while it starts: again, with the same id.
            match timeout(Duration::from_secs(1), attempt).await {
                Ok(Some(_)) => acknowledged += 1,
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
        acknowledged
    })
}

async fn stored(broker: &TestBroker) -> (u64, u64) {
    let mut stream = broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
    let state = &stream.info().await.unwrap().state;
    (state.messages, state.last_sequence)
}

#[tokio::test]
async fn it_leads_itself_and_is_the_only_member() {
    let broker = formed().await;
    let meta = &broker.monitoring("jsz").await["meta_cluster"];
    assert_eq!((&meta["leader"], &meta["cluster_size"]), (&"test-0".into(), &1.into()), "{meta}");
    let peer = String::from_utf8(seed::peer_id("test-0").to_vec()).unwrap();
    assert_eq!(meta["peer"], peer, "{meta}");
}

#[tokio::test]
async fn without_a_seed_it_waits_for_others_for_ever() {
    let mut broker = TestBroker::unformed();
    broker.wake();
    assert!(!broker.serves_within(NO_ELECTION).await, "{}", broker.log());
    assert_eq!(broker.monitoring("jsz").await["meta_cluster"]["leader"], serde_json::Value::Null);
    assert_eq!(broker.seed().unwrap(), Seeded::Member, "it may be one that lost its volume");
}

#[tokio::test]
async fn nothing_is_served_before_it_was_woken() {
    let mut broker = TestBroker::unformed();
    broker.seed().unwrap();
    assert!(!broker.serves_within(NO_ELECTION).await, "{}", broker.log());
    broker.wake();
    assert!(broker.serves_within(LIMIT).await, "{}", broker.log());
    // A running one needs it no more.
    broker.stop_waking();
    broker.add_first_topic().await;
    sleep(Duration::from_secs(1)).await;
    assert!(broker.serves_within(Duration::ZERO).await);
}

#[tokio::test]
async fn every_acknowledged_event_is_there_after_kills_and_restarts_under_load() {
    let mut broker = formed().await;
    let end = CancellationToken::new();
    let publisher = publish(&broker, end.clone());
    for round in 0..6 {
        sleep(Duration::from_millis(500)).await;
        if round % 2 == 0 {
            broker.restart().await;
        } else {
            broker.restart_in_order(0).await;
        }
        assert!(broker.serves_within(Duration::from_secs(20)).await, "{}", broker.log());
    }
    end.cancel();
    let acknowledged = timeout(LIMIT, publisher).await.unwrap().unwrap();
    assert_eq!(stored(&broker).await, (acknowledged, acknowledged));
    assert!(acknowledged > 100, "{acknowledged}");
}

#[tokio::test]
async fn a_seed_that_is_damaged_later_is_not_missed() {
    for damage in [&b"\x01\0\0"[..], &[0; seed::SEED_BYTES]] {
        let mut broker = formed().await;
        broker.stop();
        std::fs::write(broker.seed_file(), damage).unwrap();
        assert!(broker.serves_within(LIMIT).await, "{}", broker.log());
        assert_eq!(stored(&broker).await, (0, 0));
    }
}

/// What a broker has to do again and again while it runs: renew certificates, and later take in others.
#[tokio::test]
async fn its_configuration_can_be_loaded_again_while_it_runs() {
    let mut broker = formed().await;
    broker.set_file_store(3 << 30);
    broker.reload();
    eventually("the new bound", async || broker.monitoring("jsz").await["config"]["max_storage"] == 3_u64 << 30).await;
    assert!(!broker.log().contains("config reload not supported"), "{}", broker.log());
}
