//! `order: Key` on one sidecar: what of a lane is its own, beside order ([`order`](../order/main.rs)).

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use tidegate_broker_client::contract::{Order, Rate, Sidecar};
use tidegate_broker_client::{identity, layout, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{
    Container, HANDLER, Running, all_settled_by, config, dead_letters, eventually, free_port, header, publish,
    publish_all, store,
};

const ACK_WAIT: Duration = Duration::from_secs(3);

/// A handler with one lane.
async fn ordered(broker: &TestBroker, port: u16) -> Sidecar {
    ordered_within(broker, port, ACK_WAIT, 1).await
}

async fn ordered_within(broker: &TestBroker, port: u16, ack_wait: Duration, lanes: u16) -> Sidecar {
    let order = Order::Key { lanes };
    let handler = crate::support::consumers_of(order, ack_wait);
    let identity = broker.handler_with(handler).await;
    let mut config = config(broker, identity, port, ack_wait);
    config.delivery.order = order;
    config
}

#[tokio::test]
async fn an_event_whose_dead_letter_is_stored_late_is_not_tried_again() {
    let broker = TestBroker::start().await;
    let context = broker.jetstream();
    let container = Container::answering(|_| (422, Duration::ZERO)).await;
    let config = ordered(&broker, container.port).await;
    let stream = context.get_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let settings = stream.cached_info().config.clone();
    context.delete_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    eventually("it is refused", async || container.count() == 1).await;
    // Longer than all tries to store the dead letter: now the event waits to be taken up again.
    sleep(Duration::from_secs(6)).await;
    context.create_stream(settings).await.unwrap();
    for _ in 0..120 {
        if !dead_letters(&broker).await.is_empty() {
            break;
        }
        sleep(Duration::from_millis(500)).await;
    }
    let letters = dead_letters(&broker).await;
    assert_eq!((letters.len(), container.count()), (1, 1), "the handler refused it once");
    assert_eq!(header(&letters[0], "Tidegate-Attempts"), "1");
    sidecar.terminate().await;
}

/// More bytes than are to be in flight, though fewer events than a pull asks for.
#[tokio::test]
async fn large_events_come_in_order() {
    const EVENTS: usize = 24;
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = ordered(&broker, container.port).await;
    let ids: Vec<_> = (0..EVENTS).map(|id| id.to_string()).collect();
    for id in &ids {
        let event = Event::builder(id, "/sensors/1", "temperature").attribute("partitionkey", "a");
        store(&broker, &event.data("x".repeat(900_000)).build().unwrap(), &[]).await;
    }
    let sidecar = Running::ready(config).await;
    eventually("all came", async || container.count() == EVENTS).await;
    assert_eq!(container.ids(), ids);
    sidecar.terminate().await;
}

/// A broker that is killed under load forgets what it handed out just before, and hands it out again under the same
/// numbers, while the first is in flight.
#[tokio::test]
async fn a_broker_that_is_killed_again_and_again_stops_no_lane() {
    const KILLS: usize = 3;
    // Together more bytes than may be held when more is asked for.
    const BURST: usize = 32;
    let mut broker = TestBroker::start().await;
    let container = Container::answering(|_| (204, Duration::from_secs(1))).await;
    let sidecar = Running::ready(ordered(&broker, container.port).await).await;
    let large = "x".repeat(800_000);
    let mut ids = BTreeSet::new();
    for kill in 0..KILLS {
        let before = broker.consumers_on_disk();
        let burst: Vec<_> = (0..BURST).map(|number| format!("{kill}-{number}")).collect();
        ids.extend(burst.iter().cloned());
        join_all(burst.iter().map(async |id| {
            let event = Event::builder(id, "/sensors/1", "temperature").attribute("partitionkey", id);
            store(&broker, &event.data(large.clone()).build().unwrap(), &[]).await
        }))
        .await;
        eventually("some are in flight", async || distinct(&container).len() > kill * BURST).await;
        broker.restart_forgetting_since(&before).await;
        broker.until_back().await;
        eventually("all of it comes", async || ids.is_subset(&distinct(&container))).await;
        assert_eq!(sidecar.get("/livez").await, Some(200));
        all_settled_by(&broker, &layout::lane_consumer(HANDLER, 0)).await;
    }
    sidecar.terminate().await;
}

/// Why nothing is started is not known, and a restart is all that is left. Here the broker holds the events back.
#[tokio::test]
async fn events_that_wait_for_no_reason_end_the_sidecars_life() {
    const WAIT: Duration = Duration::from_secs(1);
    let (broker, container) = (TestBroker::start().await, Container::start().await);
    let config = ordered_within(&broker, container.port, WAIT, 1).await;
    let sidecar = Running::ready(config).await;
    let lane = layout::lane_consumer(HANDLER, 0);
    publish(&broker, "1").await;
    all_settled_by(&broker, &lane).await;
    pause(&broker, &lane, r#"{"pause_until":"2099-01-01T00:00:00Z"}"#).await;
    sleep(4 * WAIT).await;
    assert_eq!(sidecar.get("/livez").await, Some(200), "none waits");
    let begun = Instant::now();
    publish(&broker, "2").await;
    eventually("a restart is asked for", async || sidecar.get("/livez").await == Some(503)).await;
    assert!(begun.elapsed() >= 2 * WAIT, "{:?}", begun.elapsed());
    assert_eq!(container.ids(), ["1"]);
    pause(&broker, &lane, "{}").await;
    eventually("it lives", async || sidecar.get("/livez").await == Some(200)).await;
    all_settled_by(&broker, &lane).await;
    assert_eq!(container.ids(), ["1", "2"]);
    sidecar.terminate().await;
}

async fn pause(broker: &TestBroker, consumer: &str, body: &'static str) {
    let subject = format!("$JS.API.CONSUMER.PAUSE.{}.{consumer}", layout::EVENT_STREAM);
    let answer = broker.operator().request(subject, body.into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
}

/// The lanes of a pod whose container is gone go to a pod that can deliver, with what is in flight.
#[tokio::test]
async fn what_waits_for_a_container_that_is_gone_goes_to_one_that_is_there() {
    const WAIT: Duration = Duration::from_secs(120);
    const LANES: u16 = 2;
    let broker = TestBroker::start().await;
    let dying = Container::start().await;
    let mut config = ordered_within(&broker, dying.port, WAIT, LANES).await;
    let first = Running::ready(config.clone()).await;
    publish(&broker, "0").await;
    eventually("it works", async || dying.count() == 1).await;
    drop(dying);
    publish_all(&broker, (1..21).map(|id| id.to_string())).await;
    eventually("some wait here", async || in_flight_of_lanes(&broker, LANES).await > 0).await;
    let begun = Instant::now();
    let container = Container::start().await;
    (config.delivery.port, config.admin_port) = (container.port, free_port());
    let second = Running::ready(config).await;
    eventually("all came", async || distinct(&container).len() == 20).await;
    assert!(begun.elapsed() < WAIT / 2, "{:?}", begun.elapsed());
    assert_eq!(container.count(), 20, "each once");
    first.terminate().await;
    second.terminate().await;
}

async fn in_flight_of_lanes(broker: &TestBroker, lanes: u16) -> usize {
    let lanes = join_all((0..lanes).map(|lane| async move {
        crate::support::consumer_named(broker, &layout::lane_consumer(HANDLER, lane))
            .await
            .cached_info()
            .num_ack_pending
    }));
    lanes.await.into_iter().sum()
}

fn distinct(container: &Container) -> BTreeSet<String> {
    container.ids().into_iter().collect()
}

/// Each hears of all others once a second, which is worth it only where it changes something.
#[tokio::test]
async fn only_who_shares_something_speaks_of_itself() {
    let limited = Some(Rate { events: 100, per: Duration::from_secs(1) });
    for (ordering, rate, speaks) in [(false, None, false), (false, limited, true), (true, None, true)] {
        let (broker, container) = (TestBroker::start().await, Container::start().await);
        let mut config = match ordering {
            true => ordered(&broker, container.port).await,
            false => config(&broker, broker.handler(HANDLER, ACK_WAIT).await, container.port, ACK_WAIT),
        };
        config.delivery.rate = rate;
        let source = identity::folder(config.identity.clone());
        let listener = peer::connect("test", &broker.servers(), source).await.unwrap();
        let mut words = listener.subscribe(layout::MEMBER_SUBJECT).await.unwrap();
        listener.flush().await.unwrap();
        let sidecar = Running::ready(config).await;
        let limit = if speaks { LIMIT } else { Duration::from_secs(3) };
        assert_eq!(timeout(limit, words.next()).await.is_ok(), speaks, "ordered: {ordering}, rate: {rate:?}");
        sidecar.terminate().await;
    }
}

/// `Retry-After` is the event's, not the pod's: the next owner of the lane waits for it, too.
#[tokio::test]
async fn an_event_that_is_handed_over_keeps_its_wait() {
    let broker = TestBroker::start().await;
    let container = Container::responding(|_| {
        let answer = axum::response::Response::builder().status(429).header("retry-after", "4");
        (answer.body("later".into()).unwrap(), Duration::ZERO)
    })
    .await;
    let config = ordered(&broker, container.port).await;
    let first = Running::ready(config.clone()).await;
    publish(&broker, "1").await;
    eventually("the first attempt", async || container.count() == 1).await;
    first.terminate().await;
    let _second = Running::ready(config).await;
    eventually("the second attempt", async || container.count() == 2).await;
    let received = container.received();
    assert!(received[1].at - received[0].at >= Duration::from_secs(3), "{:?}", received[1].at - received[0].at);
    assert_eq!(received[1].header("ce-tidegateattempt"), "2", "the hand-over was no attempt");
}
