//! Coming, going and surviving: drain, crash, restart of the broker, and the limits of the identity.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::{
    Container, HANDLER, Hold, Running, all_settled, config, dead_letters, eventually, publish, publish_all,
};
use async_nats::jetstream::consumer::PullConsumer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::{identity, layout, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{TestBroker, cluster};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const ACK_WAIT: Duration = Duration::from_secs(3);

#[tokio::test]
async fn probes_and_the_drain_tell_the_truth() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    container.hold(Hold::Everything);
    let sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    assert_eq!(sidecar.get("/startupz").await, Some(200));
    assert_eq!(sidecar.get("/livez").await, Some(200));
    publish(&broker, "1").await;
    eventually("it is in flight", async || container.count() == 1).await;
    let mut drained = Box::pin(async { tokio::join!(sidecar.drain(), sidecar.drain()) });
    assert!(timeout(Duration::from_millis(500), &mut drained).await.is_err(), "the delivery in flight is waited for");
    container.hold(Hold::Nothing);
    assert_eq!(drained.as_mut().await, (Some(200), Some(200)));
    drop(drained);
    assert_eq!(sidecar.get("/readyz").await, Some(503));
    assert_eq!(sidecar.get("/livez").await, Some(200));
    publish(&broker, "2").await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(container.ids(), ["1"], "nothing is pulled after a drain");
    sidecar.terminate().await;
}

/// A drain that is not the beginning of a pod's end is an error, or an attack: events must not wait for nothing.
#[tokio::test]
async fn a_drained_sidecar_that_nothing_ends_goes_on() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.resume_after = Duration::from_secs(2);
    let sidecar = Running::ready(config).await;
    for round in 1..=2 {
        let begun = tokio::time::Instant::now();
        assert_eq!(sidecar.drain().await, Some(200));
        publish(&broker, &round.to_string()).await;
        eventually("deliveries continue", async || container.count() == round).await;
        assert!(begun.elapsed() >= Duration::from_millis(1900), "{:?}", begun.elapsed());
        eventually("it is ready again", async || sidecar.get("/readyz").await == Some(200)).await;
    }
    sidecar.terminate().await;
}

#[tokio::test]
async fn what_waits_in_hand_is_given_back_at_once() {
    let ack_wait = Duration::from_secs(120);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ack_wait).await;
    let dying = Container::start().await;
    let first = Running::ready(config(&broker, identity.clone(), dying.port, ack_wait)).await;
    publish(&broker, "0").await;
    all_settled(&broker).await;
    drop(dying);
    publish_all(&broker, (1..6).map(|i| i.to_string())).await;
    eventually("some wait here", async || crate::support::in_flight(&broker).await > 0).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(first.drain().await, Some(200));
    let container = Container::start().await;
    let second = Running::ready(config(&broker, identity, container.port, ack_wait)).await;
    all_settled(&broker).await;
    assert!(begun.elapsed() < ack_wait / 2, "{:?}", begun.elapsed());
    assert_eq!(container.count(), 5);
    second.terminate().await;
}

/// One container is gone for long, another one is idle.
#[tokio::test]
async fn what_waits_for_a_container_that_is_gone_goes_to_one_that_is_there() {
    let ack_wait = Duration::from_secs(120);
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ack_wait).await;
    let dying = Container::start().await;
    let first = Running::ready(config(&broker, identity.clone(), dying.port, ack_wait)).await;
    publish(&broker, "0").await;
    all_settled(&broker).await;
    drop(dying);
    publish_all(&broker, (1..6).map(|i| i.to_string())).await;
    eventually("some wait here", async || crate::support::in_flight(&broker).await > 0).await;
    let begun = tokio::time::Instant::now();
    let container = Container::start().await;
    let second = Running::ready(config(&broker, identity, container.port, ack_wait)).await;
    all_settled(&broker).await;
    assert!(begun.elapsed() < ack_wait / 2, "{:?}", begun.elapsed());
    assert_eq!(container.count(), 5);
    first.terminate().await;
    second.terminate().await;
}

/// Whether the sidecar gives this as the reason why it is not ready.
async fn says(sidecar: &Running, reason: &str) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", sidecar.config.admin_port)).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.contains(reason)
}

/// Its kernel still takes connections and data.
#[tokio::test]
async fn a_broker_that_is_frozen_is_noticed_soon() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    let pid = Pid::from_raw(i32::try_from(broker.pid().unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    eventually("its connection is given up", async || says(&sidecar, "not connected to the broker").await).await;
    assert_eq!(sidecar.get("/livez").await, Some(200));
    kill(pid, Signal::SIGCONT).unwrap();
    eventually("it is ready again", async || sidecar.get("/readyz").await == Some(200)).await;
    publish(&broker, "2").await;
    all_settled(&broker).await;
    assert_eq!(container.ids(), ["1", "2"]);
    sidecar.terminate().await;
}

/// How long events may rest when one of three servers freezes, for as long as the test lasts: its silence is noticed
/// after 6 to 12 s, a first try may meet it again (5 s), meanwhile the others find leaders in its place, and what was
/// handed to it comes again after the acknowledgement wait (3 s). The rest is for a busy machine.
const REST: Duration = Duration::from_secs(60);

/// The server that is frozen is the one to which the sidecar is connected.
async fn events_go_on_by_another_server(order: Order) {
    let broker = TestBroker::start_cluster().await;
    let handler = crate::support::consumers_of(order, ACK_WAIT);
    let container = Container::start().await;
    let mut config = config(&broker, broker.handler_with(handler).await, container.port, ACK_WAIT);
    config.delivery.order = order;
    let sidecar = Running::ready(config).await;
    let mut ids = publish_all(&broker, (0..20).map(|id| id.to_string())).await;
    eventually("events flow", async || container.count() == ids.len()).await;
    let frozen = server_of(&broker, "tidegate-sidecar shop/billing").await;
    let operator = broker.operator_at((frozen + 1) % cluster::SERVERS).await;
    let pid = Pid::from_raw(i32::try_from(broker.pid_of(frozen).unwrap()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    for id in 20..40 {
        let event = Event::builder(&id.to_string(), "/sensors/1", "temperature").build().unwrap();
        // Until the stream has a leader again, and confirms it.
        while crate::support::store_by(&operator, &event, &[]).await.is_none() {
            assert!(begun.elapsed() < REST, "the stream has no leader");
        }
        ids.push(id.to_string());
    }
    let all_came = async || container.ids().into_iter().collect::<BTreeSet<_>>().len() == ids.len();
    while !all_came().await {
        assert!(begun.elapsed() < REST, "events rest");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sidecar.get("/livez").await, Some(200));
    kill(pid, Signal::SIGCONT).unwrap();
    sidecar.terminate().await;
}

/// The server that a client with this name is connected to.
async fn server_of(broker: &TestBroker, client: &str) -> usize {
    for server in 0..cluster::SERVERS {
        let connections = broker.monitoring_at(server, "connz").await;
        if connections["connections"].as_array().unwrap().iter().any(|connection| connection["name"] == client) {
            return server;
        }
    }
    panic!("{client} is connected to no server");
}

#[tokio::test]
async fn a_frozen_server_of_three_is_left_for_another() {
    events_go_on_by_another_server(Order::None).await;
}

#[tokio::test]
async fn so_it_is_by_lanes() {
    events_go_on_by_another_server(Order::Key { lanes: 2 }).await;
}

/// Replicas come and go under load; each is drained: nothing is lost and nothing is delivered twice.
#[tokio::test]
async fn drains_under_load_cause_no_duplicates() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, Duration::from_secs(10)).await;
    let container = Container::answering(|_| (204, Duration::from_millis(5))).await;
    let config = |port| config(&broker, identity.clone(), port, Duration::from_secs(10));
    let stays = Running::ready(config(container.port)).await;
    let publisher = async {
        let mut ids = Vec::new();
        for round in 0..60 {
            ids.extend(publish_all(&broker, (0..50).map(|i| format!("{round}-{i}"))).await);
            sleep(Duration::from_millis(20)).await;
        }
        ids
    };
    let rollouts = async {
        for round in 0..6 {
            let replica = Running::ready(config(container.port)).await;
            sleep(Duration::from_millis(150)).await;
            if round % 2 == 0 {
                assert_eq!(replica.drain().await, Some(200));
            }
            replica.terminate().await;
        }
    };
    let (ids, ()) = tokio::join!(publisher, rollouts);
    all_settled(&broker).await;
    let mut times = BTreeMap::new();
    for id in container.ids() {
        *times.entry(id).or_insert(0) += 1;
    }
    assert_eq!(times.len(), ids.len(), "lost");
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "delivered twice: {twice:?}");
    assert!(dead_letters(&broker).await.is_empty());
    stays.terminate().await;
}

#[tokio::test]
async fn it_waits_for_a_broker_and_survives_its_restart() {
    let mut broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    broker.stop();
    let sidecar = Running::start(config(&broker, identity, container.port, ACK_WAIT));
    eventually("it has started", async || sidecar.get("/startupz").await == Some(200)).await;
    assert_eq!(sidecar.get("/readyz").await, Some(503));
    broker.restart().await;
    eventually("it is ready", async || sidecar.get("/readyz").await == Some(200)).await;
    let mut ids = publish_all(&broker, (0..50).map(|i| i.to_string())).await;
    all_settled(&broker).await;
    broker.restart().await;
    broker.until_back().await;
    ids.extend(publish_all(&broker, (50..100).map(|i| i.to_string())).await);
    all_settled(&broker).await;
    let received: BTreeSet<_> = container.ids().into_iter().collect();
    assert_eq!(received, ids.into_iter().collect());
    eventually("it is ready again", async || sidecar.get("/readyz").await == Some(200)).await;
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_deleted_consumer_is_waited_for() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    let sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let stream = broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
    stream.delete_consumer(HANDLER).await.unwrap();
    eventually("it is not ready", async || sidecar.get("/readyz").await == Some(503)).await;
    broker.handler(HANDLER, ACK_WAIT).await;
    publish(&broker, "1").await;
    eventually("deliveries continue", async || container.count() == 1).await;
    all_settled(&broker).await;
    eventually("it is ready", async || sidecar.get("/readyz").await == Some(200)).await;
}

/// The handler's identity may pull and acknowledge its own consumer and send its dead letters, nothing else.
#[tokio::test]
async fn the_identity_can_do_nothing_else() {
    let broker = TestBroker::start().await;
    let mine = broker.handler(HANDLER, ACK_WAIT).await;
    broker.handler("shipping", ACK_WAIT).await;
    publish(&broker, "1").await;
    let client = peer::connect("test", &broker.servers(), identity::folder(mine)).await.unwrap();
    let request = |subject: String| {
        let client = client.clone();
        async move {
            // An inbox of its own: events come with their own subject, which the shared inbox does not know.
            let request = async_nats::Request::new()
                .timeout(Some(Duration::from_millis(700)))
                .payload(r#"{"batch":1,"expires":500000000}"#.into())
                .inbox(client.new_inbox());
            client.send_request(subject, request).await.is_ok_and(|answer| answer.status.is_none())
        }
    };
    assert!(request(layout::pull_subject(HANDLER)).await, "its own consumer answers");
    for subject in [
        layout::pull_subject("shipping"),
        "$JS.API.CONSUMER.INFO.events.billing".to_owned(),
        "$JS.API.STREAM.INFO.events".to_owned(),
        "$JS.API.STREAM.PURGE.events".to_owned(),
        layout::dead_letter_subject("shipping"),
        "events.0.forged".to_owned(),
    ] {
        assert!(!request(subject.clone()).await, "{subject} must not answer");
    }
    // The broker answers a pull where its reply says, with its own rights: not in the topic's account.
    for reply in ["$JS.API.STREAM.PURGE.events", "$JS.API.STREAM.DELETE.events", "events.0.forged"] {
        let body = r#"{"batch":1,"expires":500000000,"idle_heartbeat":100000000}"#;
        client.publish_with_reply(layout::pull_subject(HANDLER), reply, body.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    sleep(Duration::from_millis(1200)).await;
    let context = broker.jetstream();
    let state = context.get_stream(layout::EVENT_STREAM).await.unwrap().get_info().await.unwrap().state;
    assert_eq!((state.messages, state.last_sequence), (1, 1), "purged or written to");
    let shipping: PullConsumer = context.get_consumer_from_stream("shipping", layout::EVENT_STREAM).await.unwrap();
    assert_eq!(shipping.get_info().await.unwrap().num_pending, 1, "somebody pulled for another handler");
}
