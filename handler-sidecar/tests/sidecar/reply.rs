//! What goes to other topics: replies and dead letters.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt as _;
use tidegate_broker_client::contract::{Sidecar, TopicAddress};
use tidegate_broker_client::{identity, layout, message_id, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

use crate::support::container::Received;
use crate::support::ingress::Ingress;
use crate::support::{
    Container, Process, Running, all_settled, config, dead_letters, eventually, header, in_flight, publish,
    publish_all, store,
};

const ACK_WAIT: Duration = Duration::from_secs(3);

async fn with(
    broker: &TestBroker,
    container: &Container,
    reply: Option<TopicAddress>,
    dead_letter: Option<TopicAddress>,
) -> Sidecar {
    let identity = broker.handler(crate::support::HANDLER, ACK_WAIT).await;
    Sidecar { reply, dead_letter, ..config(broker, identity, container.port, ACK_WAIT) }
}

async fn replying(broker: &TestBroker, container: &Container, ingress: &Ingress) -> Running {
    Running::ready(with(broker, container, Some(ingress.topic_address()), None).await).await
}

/// A reply in binary mode to what was received.
fn binary(received: &Received) -> Response {
    Response::builder()
        .header("ce-specversion", "1.0")
        .header("ce-id", format!("reply-{}", received.id()))
        .header("ce-source", "/billing")
        .header("ce-type", "invoice.made")
        .header("content-type", "application/json")
        .body(r#"{"total":1}"#.into())
        .unwrap()
}

fn structured(received: &Received) -> Response {
    let id = received.id();
    let body =
        format!(r#"{{"specversion":"1.0","id":"reply-{id}","source":"/billing","type":"invoice.made","data":1}}"#);
    Response::builder().header("content-type", "application/cloudevents+json").body(body.into()).unwrap()
}

async fn answering(answer: impl Fn(&Received) -> Response + Send + Sync + 'static) -> Container {
    Container::responding(move |received| (answer(received), Duration::ZERO)).await
}

#[tokio::test]
async fn both_forms_are_published_and_what_is_no_event_is_ignored() {
    let (broker, ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = answering(|received| match received.id().as_str() {
        "binary" => binary(received),
        "structured" => structured(received),
        _ => Response::new("thank you".into()),
    })
    .await;
    let sidecar = replying(&broker, &container, &ingress).await;
    publish_all(&broker, ["binary", "structured", "neither"].map(str::to_owned)).await;
    all_settled(&broker).await;
    let mut stored = ingress.stored();
    stored.sort_by_key(|published| published.event.id().to_owned());
    let ids: Vec<_> = stored.iter().map(|published| published.event.id()).collect();
    assert_eq!(ids, ["reply-binary", "reply-structured"]);
    assert_eq!(stored[0].event.event_type(), "invoice.made");
    assert_eq!(stored[0].event.data().unwrap(), r#"{"total":1}"#);
    assert_ne!(stored[0].message_id, stored[1].message_id);
    sidecar.terminate().await;
}

/// The handler replies to the topic of its own events: each reply is an event that is replied to.
#[tokio::test]
async fn a_circle_of_replies_ends() {
    let (broker, ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = answering(binary).await;
    let sidecar = replying(&broker, &container, &ingress).await;
    publish(&broker, "1").await;
    let mut passed_on = 0;
    eventually("the circle ends in a dead letter", async || {
        for reply in ingress.stored().into_iter().skip(passed_on) {
            store(&broker, &reply.event, &[("Nats-Msg-Id", reply.message_id.as_str())]).await;
            passed_on += 1;
        }
        !dead_letters(&broker).await.is_empty()
    })
    .await;
    all_settled(&broker).await;
    assert_eq!((ingress.stored().len(), container.count()), (32, 33));
    let hops: Vec<_> =
        ingress.stored().iter().map(|stored| stored.event.attribute("tidegatehops").unwrap().to_owned()).collect();
    assert_eq!(hops, (1..=32).map(|hop: u32| hop.to_string()).collect::<Vec<_>>());
    let letters = dead_letters(&broker).await;
    assert_eq!((letters.len(), header(&letters[0], "Tidegate-Reason")), (1, "too-many-hops"));
    sidecar.terminate().await;
}

/// Two topics that are each other's topic for dead letters.
#[tokio::test]
async fn a_circle_of_dead_letters_ends() {
    let (broker, ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = answering(|_| Response::builder().status(404).body(Body::empty()).unwrap()).await;
    let sidecar = Running::ready(with(&broker, &container, None, Some(ingress.topic_address())).await).await;
    let event = |id: &str, hops: &str| {
        Event::builder(id, "/s", "t").build().unwrap().with_extension("tidegatehops", hops).unwrap()
    };
    store(&broker, &event("passed on", "31"), &[]).await;
    store(&broker, &event("kept", "32"), &[]).await;
    all_settled(&broker).await;
    let sent: Vec<_> = ingress.stored().into_iter().map(|stored| stored.event).collect();
    assert_eq!((sent.len(), sent[0].id(), sent[0].attribute("tidegatehops")), (1, "passed on", Some("32")));
    let letters = dead_letters(&broker).await;
    assert_eq!((letters.len(), header(&letters[0], "ce-id")), (1, "kept"), "beside its own topic");
    assert_eq!(header(&letters[0], "Tidegate-Reason"), "refused-by-handler");
    sidecar.terminate().await;
}

#[tokio::test]
async fn an_event_is_acknowledged_after_its_reply_is_stored() {
    let broker = TestBroker::start().await;
    let ingress = Ingress::answering(|_, _| (202, Duration::from_secs(3))).await;
    let container = answering(binary).await;
    let sidecar = replying(&broker, &container, &ingress).await;
    publish(&broker, "1").await;
    eventually("the reply is on its way", async || ingress.came().len() == 1).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!((in_flight(&broker).await, ingress.stored().len()), (1, 0));
    all_settled(&broker).await;
    assert_eq!(ingress.stored().len(), 1);
    sidecar.terminate().await;
}

/// With as many connections as replies under way, most replies would begin with a TLS handshake.
#[tokio::test]
async fn all_replies_share_one_connection() {
    let broker = TestBroker::start().await;
    let ingress = Ingress::answering(|_, _| (202, Duration::from_millis(20))).await;
    let container = answering(binary).await;
    let sidecar = replying(&broker, &container, &ingress).await;
    publish(&broker, "first").await;
    eventually("the first reply is stored", async || ingress.stored().len() == 1).await;
    publish_all(&broker, (0..100).map(|number| number.to_string())).await;
    eventually("all replies are stored", async || ingress.stored().len() == 101).await;
    assert_eq!(ingress.connections(), 1);
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_sidecar_that_is_killed_during_a_reply_leaves_one_reply() {
    let broker = TestBroker::start().await;
    // The first try is stored, but its 202 comes when no one is there any more.
    let ingress = Ingress::answering(|_, seen| (202, Duration::from_secs(if seen == 0 { 3 } else { 0 }))).await;
    let container = answering(binary).await;
    let config = with(&broker, &container, Some(ingress.topic_address()), None).await;
    let sidecar = Process::start(&config).await;
    publish(&broker, "1").await;
    eventually("the reply is on its way", async || ingress.came().len() == 1).await;
    // SIGKILL, and waits for its end.
    drop(sidecar);
    assert_eq!(ingress.answered(), 0, "it did not live to see the answer");
    let sidecar = Running::ready(Sidecar { admin_port: crate::support::free_port(), ..config }).await;
    all_settled(&broker).await;
    eventually("both are answered", async || ingress.answered() == 2).await;
    let came = ingress.came();
    assert_eq!(came[0].message_id, came[1].message_id);
    assert_eq!((container.count(), ingress.stored().len()), (2, 1));
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_topic_that_is_not_available_costs_no_attempt() {
    let broker = TestBroker::start().await;
    let ingress = Ingress::answering(|_, seen| (if seen < 5 { 503 } else { 202 }, Duration::ZERO)).await;
    let container = answering(binary).await;
    let mut config = with(&broker, &container, Some(ingress.topic_address()), None).await;
    config.delivery.retry.max_attempts = 1;
    let sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    assert_eq!((ingress.came().len(), ingress.stored().len()), (6, 1));
    assert_eq!(container.count(), 1, "the handler has done its work");
    assert_eq!(dead_letters(&broker).await.len(), 0);
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_topic_that_is_not_available() {
    let broker = TestBroker::start().await;
    let ingress = Ingress::answering(|_, _| (503, Duration::ZERO)).await;
    let container = answering(binary).await;
    // So long that nothing but the drain can have given the event back.
    let ack_wait = Duration::from_secs(600);
    let identity = broker.handler(crate::support::HANDLER, ack_wait).await;
    let config =
        Sidecar { reply: Some(ingress.topic_address()), ..config(&broker, identity, container.port, ack_wait) };
    let sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    eventually("the reply was tried", async || ingress.came().len() > 1).await;
    sidecar.terminate().await;
    let consumer = crate::support::consumer(&broker).await;
    let mut messages = consumer.batch().max_messages(1).expires(Duration::from_secs(50)).messages().await.unwrap();
    assert!(messages.next().await.is_some(), "it went back");
    assert_eq!(dead_letters(&broker).await.len(), 0);
}

#[tokio::test]
async fn what_cannot_be_a_reply_is_a_dead_letter_of_its_event() {
    let broker = TestBroker::start().await;
    let ingress = Ingress::answering(|_, _| (413, Duration::ZERO)).await;
    let container = answering(|received| match received.id().as_str() {
        "refused" => binary(received),
        "too-long" => {
            let mut response = binary(received);
            *response.body_mut() = Body::from(vec![b'x'; (1 << 20) + 1]);
            response
        }
        "batch" => {
            Response::builder().header("content-type", "application/cloudevents-batch+json").body("[]".into()).unwrap()
        }
        _ => Response::builder().header("ce-specversion", "1.0").body(Body::empty()).unwrap(),
    })
    .await;
    let sidecar = replying(&broker, &container, &ingress).await;
    let expected = [
        ("refused", "topic invoices refuses it: 413 Payload Too Large: because the test says so"),
        ("too-long", "longer than 1048576 bytes"),
        ("batch", "a batch of events"),
        ("incomplete", "attribute \"id\" is missing"),
    ];
    publish_all(&broker, expected.map(|(id, _)| id.to_owned())).await;
    all_settled(&broker).await;
    assert_eq!(container.count(), expected.len(), "nobody is called again");
    let letters = dead_letters(&broker).await;
    for (id, error) in expected {
        let letter = letters.iter().find(|letter| letter.headers.get("ce-id").unwrap().as_str() == id).unwrap();
        let header = |name: &str| letter.headers.get(name).unwrap().as_str();
        assert_eq!(header("Tidegate-Reason"), "reply-refused");
        assert_eq!(header("Tidegate-Last-Status"), "200");
        assert!(header("Tidegate-Last-Error").contains(error), "{}", header("Tidegate-Last-Error"));
    }
    assert_eq!(letters.len(), expected.len());
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_huge_answer_that_is_no_event_is_not_read() {
    let (broker, ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = answering(|_| {
        let chunks = futures::stream::iter((0..16_384).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 65_536])));
        Response::new(Body::from_stream(chunks))
    })
    .await;
    let sidecar = replying(&broker, &container, &ingress).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    assert_eq!((ingress.came().len(), dead_letters(&broker).await.len()), (0, 0));
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_rotated_authority_is_trusted_without_a_restart() {
    let (broker, mut ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = answering(binary).await;
    let sidecar = replying(&broker, &container, &ingress).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    ingress.rotate().await;
    publish(&broker, "2").await;
    all_settled(&broker).await;
    assert_eq!(ingress.stored().len(), 2);
    std::fs::write(ingress.ca(), "").unwrap();
    sidecar.terminate().await;
}

#[tokio::test]
async fn nobody_else_is_trusted() {
    let (broker, ingress, stranger) = (TestBroker::start().await, Ingress::start().await, Ingress::start().await);
    let container = answering(binary).await;
    let topic_address = TopicAddress { ca: stranger.ca(), ..ingress.topic_address() };
    let sidecar = Running::ready(with(&broker, &container, Some(topic_address), None).await).await;
    publish(&broker, "1").await;
    eventually("the handler has answered", async || container.count() == 1).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!((ingress.came().len(), in_flight(&broker).await), (0, 1));
    drop(sidecar);
}

#[tokio::test]
async fn dead_letters_go_to_a_topic() {
    let (broker, ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = Container::answering(|_| (422, Duration::ZERO)).await;
    let config = with(&broker, &container, None, Some(ingress.topic_address())).await;
    let sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    let stored = ingress.stored();
    assert_eq!(stored.len(), 1);
    let event = &stored[0].event;
    assert_eq!((event.id(), event.source(), event.event_type()), ("1", "/sensors/1", "temperature"));
    assert_eq!(event.data().unwrap(), r#"{"id":"1"}"#);
    for (name, value) in [
        ("tidegatehandler", "billing"),
        ("tidegatereason", "refused-by-handler"),
        ("tidegateattempts", "1"),
        ("tidegateerror", "422 Unprocessable Entity: no  thanks"),
    ] {
        assert_eq!(event.attribute(name), Some(value), "{name}");
    }
    assert_eq!(event.attribute("tidegateattempt"), None, "it is the event, not its delivery");
    assert_eq!(dead_letters(&broker).await.len(), 0);
    sidecar.terminate().await;
}

#[tokio::test]
async fn another_handler_cannot_spend_the_ids_of_dead_letters() {
    let broker = TestBroker::start().await;
    let container = Container::answering(|_| (422, Duration::ZERO)).await;
    // It knows the handler's UID, as the role view does, and writes letters of its own with every id it can think of.
    let rogue = broker.handler("rogue", ACK_WAIT).await;
    let seed = std::fs::read_to_string(rogue.join("user.seed")).unwrap();
    let rogue = peer::connect("rogue", &broker.servers(), identity::folder(rogue)).await.unwrap();
    for sequence in 1..=5 {
        let uid = format!("uid-{}", crate::support::HANDLER);
        let ids = [format!("{uid}:{sequence}"), message_id::of_dead_letter(&seed, &uid, sequence, 0)];
        for id in ids {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", id);
            let subject = layout::dead_letter_subject("rogue");
            rogue.request_with_headers(subject, headers, "spent".into()).await.unwrap();
        }
    }
    let sidecar = Running::ready(with(&broker, &container, None, None).await).await;
    publish_all(&broker, (1..=5).map(|id| id.to_string())).await;
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    let of_handler =
        letters.iter().filter(|letter| letter.subject.as_str() == layout::dead_letter_subject(crate::support::HANDLER));
    assert_eq!(of_handler.count(), 5, "acknowledged is stored");
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_key_that_is_not_there_yet_is_waited_for() {
    let (broker, ingress) = (TestBroker::start().await, Ingress::start().await);
    let container = answering(binary).await;
    let later = ingress.ca().with_file_name("later.key");
    let topic_address = TopicAddress { message_id_key: later.clone(), ..ingress.topic_address() };
    let sidecar = Running::ready(with(&broker, &container, Some(topic_address), None).await).await;
    publish(&broker, "1").await;
    eventually("the handler has answered", async || container.count() == 1).await;
    assert_eq!(ingress.came().len(), 0);
    std::fs::copy(ingress.topic_address().message_id_key, later).unwrap();
    all_settled(&broker).await;
    assert_eq!((ingress.stored().len(), container.count()), (1, 1));
    sidecar.terminate().await;
}

#[tokio::test]
async fn a_dead_letter_that_its_topic_refuses_is_kept_beside_its_own() {
    let broker = TestBroker::start().await;
    let ingress = Ingress::answering(|_, _| (400, Duration::ZERO)).await;
    let container = Container::answering(|_| (422, Duration::ZERO)).await;
    let config = with(&broker, &container, None, Some(ingress.topic_address())).await;
    let sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    let stream = broker.jetstream();
    let sent = stream.publish("events.0.rubbish", "no event".into()).await.unwrap();
    sent.await.unwrap();
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    let mut reasons: Vec<_> =
        letters.iter().map(|letter| letter.headers.get("Tidegate-Reason").unwrap().as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["invalid-event", "refused-by-handler"]);
    assert_eq!(ingress.came().len(), 1, "what is no event is not sent there");
    sidecar.terminate().await;
}
