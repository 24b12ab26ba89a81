//! `routing: Direct`: at most once, to one of the sidecars.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;
use tidegate_broker_client::contract::{Filter, Rate, Routing, Sidecar};
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::{layout, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{TestBroker, topic_id};
use tokio::time::sleep;

use crate::support::{Container, Hold, Running, config, eventually, free_port};

const ACK_WAIT: Duration = Duration::from_secs(3);

async fn direct(broker: &TestBroker, handler: &str, port: u16) -> Sidecar {
    let identity = broker.direct_handler(handler).await;
    let config = config(broker, identity, port, ACK_WAIT);
    Sidecar { handler: handler.into(), handler_uid: format!("uid-{handler}"), routing: Routing::Direct, ..config }
}

/// As the ingress publishes on such a topic.
async fn publish(broker: &TestBroker, id: &str, event_type: &str) {
    let event = Event::builder(id, "/sensors/1", event_type).data("x").build().unwrap();
    let (headers, payload) = peer::encode(&event);
    let subject = layout::event_subject(layout::partition(id), event_type);
    let subject = TopicSubjects::new(&topic_id(), Routing::Direct).event(&subject);
    broker.ingress().await.publish_with_headers(subject, headers, payload).await.unwrap();
}

async fn publish_all(broker: &TestBroker, count: usize) {
    for id in 0..count {
        publish(broker, &id.to_string(), "t").await;
    }
    broker.ingress().await.flush().await.unwrap();
}

/// How many sidecars are in the group of a handler, as the broker has it.
async fn members(broker: &TestBroker, handler: &str) -> usize {
    let connections = broker.monitoring("connz?subs=detail").await["connections"].take();
    let is_member = |connection: &&Value| {
        let subscriptions = connection["subscriptions_list_detail"].as_array();
        subscriptions.is_some_and(|all| all.iter().any(|subscription| subscription["qgroup"] == handler))
    };
    connections.as_array().unwrap().iter().filter(is_member).count()
}

#[tokio::test]
async fn each_handler_gets_each_event_once() {
    let (broker, first, second, other) = (
        TestBroker::start_direct().await,
        Container::start().await,
        Container::start().await,
        Container::start().await,
    );
    let config = direct(&broker, "billing", first.port).await;
    let mut twin = Sidecar { admin_port: free_port(), ..config.clone() };
    twin.delivery.port = second.port;
    let stranger = direct(&broker, "audit", other.port).await;
    let sidecars = [Running::ready(config).await, Running::ready(twin).await, Running::ready(stranger).await];
    publish_all(&broker, 200).await;
    eventually("all came", async || first.count() + second.count() == 200 && other.count() == 200).await;
    let ids: HashSet<_> = first.ids().into_iter().chain(second.ids()).collect();
    assert_eq!(ids.len(), 200, "none twice");
    assert!(first.count() > 20 && second.count() > 20, "both work: {} {}", first.count(), second.count());
    let received = &first.received()[0];
    assert_eq!(received.header("ce-tidegatetopic"), "orders");
    assert_eq!(received.header("ce-tidegateattempt"), "1");
    assert!(!received.headers.contains_key("ce-tidegatesequence"), "it is not stored");
    for sidecar in sidecars {
        sidecar.terminate().await;
    }
}

#[tokio::test]
async fn types_and_expressions_filter() {
    let (broker, container) = (TestBroker::start_direct().await, Container::start().await);
    let mut config = direct(&broker, "billing", container.port).await;
    config.filter = Filter {
        types: vec!["order.*".into(), "payment".into()],
        expression: Some("event.id != 'no'".into()),
        ..Filter::default()
    };
    let sidecar = Running::ready(config).await;
    for (id, event_type) in
        [("1", "order.created"), ("2", "other"), ("no", "payment"), ("3", "payment"), ("4", "order")]
    {
        publish(&broker, id, event_type).await;
    }
    eventually("two came", async || container.count() == 2).await;
    sleep(Duration::from_millis(200)).await;
    let mut ids = container.ids();
    ids.sort();
    assert_eq!(ids, ["1", "3"]);
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_failure_is_final() {
    let broker = TestBroker::start_direct().await;
    // Not 503: several of these say that the handler as a whole is down, and then nothing is taken.
    let container = Container::answering(|_| (500, Duration::ZERO)).await;
    let sidecar = Running::ready(direct(&broker, "billing", container.port).await).await;
    publish_all(&broker, 20).await;
    eventually("all came", async || container.count() == 20).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(container.count(), 20, "no second attempt");
    sidecar.terminate().await;
}

#[tokio::test]
async fn what_is_too_much_is_dropped() {
    let broker = TestBroker::start_direct().await;
    let container = Container::start().await;
    container.hold(Hold::Everything);
    let mut config = direct(&broker, "billing", container.port).await;
    config.delivery.concurrency = 10;
    let sidecar = Running::ready(config).await;
    publish_all(&broker, 1000).await;
    eventually("as many as there may be are in flight", async || container.count() == 10).await;
    container.hold(Hold::Nothing);
    // 10 in flight and 256 waiting; a few more may have come late.
    eventually("what was kept is delivered", async || container.count() >= 266).await;
    publish(&broker, "later", "t").await;
    eventually("it continues", async || container.ids().contains(&"later".to_owned())).await;
    let delivered = container.count();
    assert!(delivered < 600, "{delivered} of 1000 before the later one");
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_handler_that_is_down_leaves_its_events_to_the_others() {
    let broker = TestBroker::start_direct().await;
    let (down, up) = (Container::start().await, Container::start().await);
    let config = direct(&broker, "billing", down.port).await;
    let mut twin = Sidecar { admin_port: free_port(), ..config.clone() };
    twin.delivery.port = up.port;
    let sidecars = [Running::ready(config).await, Running::ready(twin).await];
    assert_eq!(members(&broker, "billing").await, 2);
    drop(down);
    // The first one that finds no one there is lost, and what comes before the broker hears of it; then none is any more.
    let mut probe = 0;
    eventually("the group is left", async || {
        probe += 1;
        publish(&broker, &format!("probe-{probe}"), "t").await;
        members(&broker, "billing").await == 1
    })
    .await;
    assert_eq!(sidecars[1].get("/readyz").await, Some(200), "it was the other one");
    publish_all(&broker, 100).await;
    let events = || up.ids().iter().filter(|id| !id.starts_with("probe")).count();
    eventually("all came to the other one", async || events() == 100).await;
    for sidecar in sidecars {
        sidecar.terminate().await;
    }
}

#[tokio::test]
async fn a_drain_finishes_what_has_come() {
    let broker = TestBroker::start_direct().await;
    let container = Container::start().await;
    container.hold(Hold::Everything);
    let mut config = direct(&broker, "billing", container.port).await;
    config.delivery.concurrency = 5;
    let sidecar = Running::ready(config).await;
    publish_all(&broker, 20).await;
    eventually("some are in flight", async || container.count() >= 5).await;
    let released = async {
        sleep(Duration::from_millis(300)).await;
        container.hold(Hold::Nothing);
    };
    tokio::join!(sidecar.terminate(), released);
    assert_eq!(container.count(), 20, "what waited is delivered, too");
    publish(&broker, "later", "t").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(container.count(), 20);
}

#[tokio::test]
async fn a_drain_finishes_what_waits_for_its_turn() {
    let (broker, container) = (TestBroker::start_direct().await, Container::start().await);
    let mut config = direct(&broker, "billing", container.port).await;
    config.delivery.rate = Some(Rate { events: 5, per: Duration::from_secs(1) });
    let sidecar = Running::ready(config).await;
    publish_all(&broker, 10).await;
    eventually("the first came", async || container.count() >= 1).await;
    sidecar.terminate().await;
    assert_eq!(container.count(), 10, "none can go back, so none is given up");
}
