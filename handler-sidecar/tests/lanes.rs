//! `order: Key` on one sidecar: what of a lane is its own, beside order ([`order`](../order/main.rs)).

#![allow(clippy::unwrap_used)] // test code

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt as _;
use tidegate_broker_client::contract::{Order, Rate, Sidecar};
use tidegate_broker_client::{connect, identity, layout};
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep, timeout};

use support::{Container, HANDLER, Running, config, dead_letters, eventually, header, publish, store};

const ACK_WAIT: Duration = Duration::from_secs(3);

/// A handler with one lane.
async fn ordered(broker: &TestBroker, port: u16) -> Sidecar {
    let order = Order::Key { lanes: 1 };
    let handler = support::consumers_of(order, ACK_WAIT);
    let identity = broker.handler_with(handler).await;
    let mut config = config(broker, identity, port, ACK_WAIT);
    config.delivery.order = order;
    config
}

#[tokio::test]
async fn an_event_whose_dead_letter_is_stored_late_is_not_tried_again() {
    let broker = TestBroker::start().await;
    let context = jetstream::new(broker.operator());
    let container = Container::answering(|_| (422, Duration::ZERO)).await;
    let config = ordered(&broker, container.port).await;
    let stream = context.get_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let settings = stream.cached_info().config.clone();
    context.delete_stream(layout::dead_letter_stream(HANDLER)).await.unwrap();
    let sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    eventually("it is refused", async || container.count() == 1).await;
    // Longer than all tries to store the letter: now the event waits to be taken up again.
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

/// More bytes than are to be in hand, though fewer events than a pull asks for.
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

/// A broker that is killed forgets what it has just handed out, and hands it out again under the same numbers, while
/// the first is in hand.
#[tokio::test]
async fn a_broker_that_is_killed_again_and_again_stops_no_lane() {
    const KILLS: usize = 4;
    const BURST: usize = 16;
    let mut broker = TestBroker::start().await;
    let container = Container::answering(|_| (204, Duration::from_millis(300))).await;
    let sidecar = Running::ready(ordered(&broker, container.port).await).await;
    let large = "x".repeat(800_000);
    let mut ids = Vec::new();
    for kill in 0..KILLS {
        let before = container.count();
        for number in 0..BURST {
            let id = format!("{kill}-{number}");
            let event =
                Event::builder(&id, "/sensors/1", "temperature").attribute("partitionkey", format!("k{number}"));
            store(&broker, &event.data(large.clone()).build().unwrap(), &[]).await;
            ids.push(id);
        }
        eventually("some are in hand", async || container.count() > before).await;
        broker.restart_forgetful().await;
        let operator = broker.operator();
        eventually("the broker is back", async || {
            timeout(Duration::from_secs(1), operator.flush()).await.is_ok_and(|flushed| flushed.is_ok())
        })
        .await;
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) && !all_came(&container, &ids) {
        assert_eq!(sidecar.get("/livez").await, Some(200));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(all_came(&container, &ids), "{} of {} came", distinct(&container).len(), ids.len());
    sidecar.terminate().await;
}

fn distinct(container: &Container) -> BTreeSet<String> {
    container.ids().into_iter().collect()
}

fn all_came(container: &Container, ids: &[String]) -> bool {
    let came = distinct(container);
    ids.iter().all(|id| came.contains(id))
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
        let listener = connect::connect("test", &broker.servers(), source).await.unwrap();
        let mut words = listener.subscribe(layout::MEMBER_SUBJECT).await.unwrap();
        listener.flush().await.unwrap();
        let sidecar = Running::ready(config).await;
        let limit = Duration::from_secs(if speaks { 10 } else { 3 });
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
