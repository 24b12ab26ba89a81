//! A handler's key is replaced while its events are delivered: the sidecar uses the new one before the broker refuses the
//! one before, and no delivery fails.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{Container, Process, config, consumers_of, dead_letters, eventually, get, store_by};
use tidegate_broker_admin::UserKey;
use tidegate_broker_client::contract::Order;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// What the operator sets.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// 500 events a second.
const PERIOD: Duration = Duration::from_millis(2);
const ROTATIONS: usize = 2;

fn event(id: &str) -> Event {
    Event::builder(id, "/sensors/1", "temperature").attribute("partitionkey", id).data("x").build().unwrap()
}

/// Publishes until it is told to stop; returns what is stored.
async fn publish(client: async_nats::Client, stop: watch::Receiver<bool>) -> BTreeSet<String> {
    let (mut tasks, mut ticks) = (JoinSet::new(), interval(PERIOD));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        ticks.tick().await;
        let client = client.clone();
        tasks.spawn(async move {
            let id = format!("load-{number}");
            store_by(&client, &event(&id), &[]).await.map(|_| id)
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

/// The number of the sidecar's connection.
async fn connection(broker: &TestBroker) -> Option<u64> {
    let page = broker.monitoring("connz?auth=true").await;
    let all = page["connections"].as_array()?;
    all.iter().find(|found| found["name"].as_str().is_some_and(|name| name.contains("sidecar")))?["cid"].as_u64()
}

async fn rotates(order: Order) {
    let broker = TestBroker::start().await;
    let container = Container::answering(|_| (204, Duration::from_millis(5))).await;
    let handler = consumers_of(order, ACK_WAIT);
    let identity = broker.handler_with(handler.clone()).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.order = order;
    let sidecar = Process::start(&config).await;
    eventually("it is ready", async || get(config.admin_port, "/readyz").await == Some(200)).await;
    let (stop, stopped) = watch::channel(false);
    let (started, load) = (Instant::now(), tokio::spawn(publish(broker.operator(), stopped)));
    let guest = TestBroker::guest_of(&handler);
    let mut key = UserKey::first(None, None, OffsetDateTime::now_utc()).unwrap();
    for rotation in 0..ROTATIONS {
        eventually("events are delivered", async || container.count() > 500).await;
        let (before, now) = (connection(&broker).await.unwrap(), OffsetDateTime::now_utc());
        key = key.for_request(Some(&rotation.to_string()), "", Duration::ZERO, now).unwrap();
        broker.hand_out(&guest, &key);
        let handed_out = Instant::now();
        eventually("it connects with the new one", async || {
            connection(&broker).await.is_some_and(|found| found != before)
        })
        .await;
        eprintln!("{order:?}: another connection {:?} after the new key", handed_out.elapsed());
        let after = connection(&broker).await;
        broker.refuse_before(&guest, key.record.issued.unwrap()).await;
        sleep(Duration::from_secs(2)).await;
        assert_eq!(connection(&broker).await, after, "it is not cut off");
    }
    stop.send(true).unwrap();
    let stored = load.await.unwrap();
    let rate = stored.len() as f64 / started.elapsed().as_secs_f64();
    let seen = || container.ids().into_iter().collect::<BTreeSet<_>>();
    let ended = Instant::now();
    while !stored.is_subset(&seen()) && ended.elapsed() < 2 * ACK_WAIT {
        sleep(Duration::from_millis(50)).await;
    }
    let late = container.of_each(|received| (received.at > ended + Duration::from_secs(5)).then_some(())).len();
    let (lost, twice) = (stored.difference(&seen()).count(), container.count() - seen().len());
    let failed = dead_letters(&broker).await.len();
    eprintln!(
        "{order:?}: {} events at {rate:.0}/s, {ROTATIONS} rotations: {lost} lost, {failed} failed, {twice} delivered again, {late} late, the last {:?} after the end",
        stored.len(),
        ended.elapsed()
    );
    assert_eq!((lost, failed), (0, 0));
    assert!(ended.elapsed() < ACK_WAIT / 2, "none waits until its time for an acknowledgement is over");
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_delivery_fails_while_a_key_is_replaced() {
    rotates(Order::None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_by_key() {
    rotates(Order::Key { lanes: 4 }).await;
}
