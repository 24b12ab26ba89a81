//! A broker that restarts in order, while its events are delivered: they come again as soon as it is back, not when the
//! time is over for which it waits for acknowledgements.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::container::Received;
use crate::support::{Container, HANDLER, Running, config, consumer_named, consumers_of, eventually, store_by};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep, timeout};

/// What the operator sets.
const ACK_WAIT: Duration = Duration::from_secs(30);
const LANES: u16 = 4;
/// Much more than a reconnect takes, much less than [`ACK_WAIT`].
const LIMIT: Duration = Duration::from_secs(10);

fn event(id: &str) -> Event {
    Event::builder(id, "/sensors/1", "temperature").attribute("partitionkey", id).data("x").build().unwrap()
}

/// Publishes until it is told to stop; returns what is stored for certain.
async fn publish(client: async_nats::Client, stop: tokio::sync::watch::Receiver<bool>) -> BTreeSet<String> {
    let mut stored = BTreeSet::new();
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        let id = format!("load-{number}");
        let sent = timeout(Duration::from_millis(500), store_by(&client, &event(&id), &[])).await;
        if let Ok(Some(_)) = sent {
            stored.insert(id);
        }
        sleep(Duration::from_millis(3)).await;
    }
    stored
}

async fn resumes(order: Order, restarts: usize) {
    let mut broker = TestBroker::start().await;
    let container = Container::answering(|_| (204, Duration::from_millis(20))).await;
    let identity = broker.handler_with(consumers_of(order, ACK_WAIT)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.order = order;
    let sidecar = Running::ready(config).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(publish(broker.operator(), stopped));
    for _ in 0..restarts {
        let before = container.count();
        eventually("events are delivered", async || container.count() > before + 100).await;
        broker.restart_in_order(0).await;
        let back = Instant::now();
        eventually("it delivers", async || container.received().iter().any(|received| received.at > back)).await;
        eprintln!("{order:?}: first after {:?}", back.elapsed());
    }
    stop.send(true).unwrap();
    let stored = load.await.unwrap();
    let begun = Instant::now();
    let seen = || container.ids().into_iter().collect::<BTreeSet<_>>();
    while !stored.is_subset(&seen()) && begun.elapsed() < 3 * ACK_WAIT {
        sleep(Duration::from_millis(20)).await;
    }
    eprintln!("{order:?}: all {} after {:?}", stored.len(), begun.elapsed());
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    sidecar.terminate().await;
}

/// The longest that no event came of a lane.
fn longest_gap(container: &Container, lane: u32) -> Duration {
    let of_lane = |received: &&Received| layout::partition(&received.id()) % u32::from(LANES) == lane;
    let times: Vec<Instant> = container.received().iter().filter(of_lane).map(|received| received.at).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The others elect another leader, which takes several seconds; what was on its way then is not waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_go_on_when_one_server_of_three_is_killed() {
    let order = Order::Key { lanes: LANES };
    let mut broker = TestBroker::start_cluster().await;
    let container = Container::answering(|_| (204, Duration::from_millis(5))).await;
    let handler = consumers_of(order, ACK_WAIT);
    let identity = broker.handler_with(handler).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.order = order;
    let sidecar = Running::ready(config).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    // By the others, which are not killed.
    let lane = consumer_named(&broker, &layout::lane_consumer(HANDLER, 0)).await;
    let leader = lane.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()).unwrap();
    let leader: usize = leader.strip_prefix("test-").unwrap().parse().unwrap();
    let load = tokio::spawn(publish(broker.operator_at((leader + 1) % 3).await, stopped));
    eventually("events are delivered", async || container.count() > 300).await;
    broker.stop_at(leader);
    let killed = Instant::now();
    let came = |lane| {
        let mut late =
            container.received().into_iter().filter(|received| received.at > killed + Duration::from_secs(5));
        late.any(|received| layout::partition(&received.id()) % u32::from(LANES) == lane)
    };
    while !(0..u32::from(LANES)).all(came) && killed.elapsed() < 2 * ACK_WAIT {
        sleep(Duration::from_millis(20)).await;
    }
    stop.send(true).unwrap();
    load.await.unwrap();
    let gaps: Vec<Duration> = (0..u32::from(LANES)).map(|lane| longest_gap(&container, lane)).collect();
    eprintln!("one of three killed, the longest time without an event in each lane: {gaps:.1?}");
    assert!(gaps.iter().all(|gap| *gap < ACK_WAIT * 2 / 3), "{gaps:?}");
    sidecar.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_by_key_go_on_at_once() {
    resumes(Order::Key { lanes: LANES }, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_any_order_go_on_at_once() {
    resumes(Order::None, 3).await;
}
