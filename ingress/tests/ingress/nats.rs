//! Events over NATS: a request to one subject, answered like a publish to a stream.

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::jetstream::message::PublishMessage;
use async_nats::{Client, HeaderMap, RequestErrorKind};
use http::StatusCode;
use serde_json::Value;
use tidegate_broker_client::{TopicId, contract, identity, layout, peer};
use tidegate_cloudevents::{Event, json};
use tidegate_ingress::Limits;
use tidegate_test_broker::{Door, LIMIT, TestBroker, TopicHandle, eventually, topic, topic_id};

use crate::raw_nats;
use crate::support::{MAX_EVENT, Running, config, event, events, limits, messages, run, start, start_with};

async fn client(broker: &TestBroker, identity: &Path) -> Client {
    peer::connect("publisher", &broker.servers(), identity::folder(identity)).await.unwrap()
}

async fn publisher(broker: &TestBroker) -> Client {
    client(broker, &broker.publisher("sensors").await).await
}

/// The answer to an event, by a plain request. An ingress that is ready listens.
async fn request(client: &Client, headers: HeaderMap, payload: impl Into<bytes::Bytes>) -> Value {
    let asked = client.request_with_headers(layout::PUBLISH_SUBJECT, headers, payload.into()).await;
    serde_json::from_slice(&asked.unwrap().payload).unwrap()
}

async fn publish(client: &Client, event: &Event) -> Value {
    let (headers, payload) = peer::encode(event);
    request(client, headers, payload).await
}

#[tokio::test]
async fn both_modes_are_stored_and_acknowledged() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let client = publisher(&broker).await;
    assert_eq!(publish(&client, &event("binary")).await, serde_json::json!({"stream": "events", "seq": 1}));
    assert_eq!(events(&broker).await, [event("binary")], "acknowledged is stored");
    let structured = request(&client, HeaderMap::new(), json::encode(&event("structured")).unwrap()).await;
    assert_eq!(structured["seq"], 2);
    assert_eq!(publish(&client, &event("binary")).await["duplicate"], true);
    assert_eq!(ingress.publish(&event("structured")).await.status, StatusCode::ACCEPTED);
    let over_both = [event("binary"), event("structured"), event("structured")];
    assert_eq!(events(&broker).await, over_both, "whoever publishes over HTTPS has no say in this publisher's ids");
}

#[tokio::test]
async fn a_publisher_has_its_own_ids_and_cannot_take_anothers() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let victim = client(&broker, &broker.publisher("victim").await).await;
    let rogue = client(&broker, &broker.publisher("rogue").await).await;
    let forged = Event::builder("1", "/sensors/1", "temperature").data("0").build().unwrap();
    // Over HTTPS, over NATS, and with the account of the other in the header that the server writes.
    assert_eq!(ingress.publish(&forged).await.status, StatusCode::ACCEPTED);
    let account =
        broker.authority().publisher_account(&topic_id(), "victim", None, time::OffsetDateTime::now_utc()).unwrap().id;
    let info = serde_json::json!({"acc": account, "svc": account}).to_string();
    for names in [&[][..], &["Nats-Request-Info"], &["nats-request-info"], &["Nats-Request-Info", "Nats-Request-Info"]]
    {
        let (mut headers, payload) = peer::encode(&forged);
        for name in names {
            headers.append(*name, info.as_str());
        }
        assert!(request(&rogue, headers, payload).await["seq"].is_u64());
    }
    let before = messages(&broker).await.len();
    let answer = publish(&victim, &event("1")).await;
    assert_eq!(answer["duplicate"], Value::Null, "{answer}");
    assert_eq!(messages(&broker).await.len(), before + 1);
    let corrected = Event::builder("1", "/sensors/1", "temperature").data("24").build().unwrap();
    assert_eq!(publish(&victim, &corrected).await["duplicate"], true, "its own source and id again");
    assert_eq!(publish(&rogue, &forged).await["duplicate"], true);
}

#[tokio::test]
async fn it_looks_like_a_stream_to_a_client_library() {
    let broker = TestBroker::start().await;
    let _ingress = start(&broker).await;
    let client = publisher(&broker).await;
    let stream = tidegate_test_broker::jetstream(client);
    let mut acknowledgements = Vec::new();
    for id in 0..200 {
        let (headers, payload) = peer::encode(&event(&id.to_string()));
        let publish = PublishMessage::build().headers(headers).payload(payload);
        acknowledgements.push(stream.send_publish(layout::PUBLISH_SUBJECT, publish).await.unwrap());
    }
    for (number, acknowledgement) in (1..).zip(acknowledgements) {
        assert_eq!(acknowledgement.await.unwrap().sequence, number, "in the order in which they were sent");
    }
    let error = stream.publish(layout::PUBLISH_SUBJECT, "no event".into()).await.unwrap().await.unwrap_err();
    assert!(error.to_string().contains("not a CloudEvent in JSON"), "{error}");
    assert_eq!(events(&broker).await.len(), 200);
}

#[tokio::test]
async fn what_cannot_be_taken_is_answered_with_the_reason() {
    let mut small = topic();
    small.max_bytes = 150_000;
    let broker = TestBroker::start_with(small).await;
    let ingress = start(&broker).await;
    let client = publisher(&broker).await;
    let sized = |id: usize, size| Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; size]).build().unwrap();
    let check = |answer: Value, code: u16, reason: &str| {
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(answer["error"]["description"].as_str().unwrap().contains(reason), "{answer}");
    };
    check(request(&client, HeaderMap::new(), "{").await, 400, "not a CloudEvent in JSON");
    let mut headers = peer::encode(&event("1")).0;
    headers.insert("ce-time", "yesterday");
    check(request(&client, headers, "").await, 400, "RFC 3339");
    check(publish(&client, &sized(0, MAX_EVENT)).await, 413, "maxEventSize");
    let mut answers = Vec::new();
    for id in 1..10 {
        answers.push(publish(&client, &sized(id, MAX_EVENT - 100)).await);
    }
    check(answers.pop().unwrap(), 429, "the topic is full");
    drop(ingress);

    let busy = start_with(&broker, Limits { requests: 0, ..limits() }).await;
    busy.until_ready().await;
    let mut busy_answer = Value::Null;
    eventually("the ingress before it listens no longer", async || {
        busy_answer = request(&client, HeaderMap::new(), "{").await;
        busy_answer["error"]["code"] == 503
    })
    .await;
    check(busy_answer, 503, "too many requests");
}

#[tokio::test]
async fn a_publisher_cannot_set_headers_of_the_broker() {
    let broker = TestBroker::start().await;
    let _ingress = start(&broker).await;
    let client = publisher(&broker).await;
    let smuggled = [
        ("Nats-Msg-Id", "same"),
        ("Nats-Rollup", "all"),
        ("Nats-Expected-Stream", "other"),
        ("Nats-Expected-Last-Sequence", "999"),
        ("Nats-Expected-Last-Msg-Id", "other"),
        ("Nats-TTL", "1s"),
        ("Status", "503"),
        ("Description", "x"),
        ("Other", "x"),
    ];
    for id in ["1", "2"] {
        let (mut headers, payload) = peer::encode(&event(id));
        for (name, value) in smuggled {
            headers.insert(name, value);
        }
        let answer = request(&client, headers, payload).await;
        assert_eq!(answer["seq"].to_string(), id, "{answer}");
    }
    let messages = messages(&broker).await;
    assert_eq!(messages.len(), 2);
    for message in messages {
        assert_ne!(message.headers.get("Nats-Msg-Id").unwrap().as_str(), "same");
        assert_eq!(message.headers.get("Nats-Expected-Stream").unwrap().as_str(), "events");
        for (name, _) in smuggled.iter().filter(|(name, _)| !["Nats-Msg-Id", "Nats-Expected-Stream"].contains(name)) {
            assert!(message.headers.get(*name).is_none(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_malformed_header_costs_its_sender_only() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let identity = broker.publisher("rogue").await;
    let good = publisher(&broker).await;
    let malformed = ["ce-id: \u{FF}", "NATS/1.0 no status", "NATS/1.0 99999", "NATS/2.0", "no colon", ": no name"];
    let attack = async {
        for number in 0..60 {
            let line = malformed[number % malformed.len()];
            let latin: Vec<u8> = line.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            raw_nats::publish(&broker, &identity, &latin).await;
        }
    };
    // Not one request of the other publisher is lost, and none has to be repeated.
    let publishing = async {
        for number in 1..=200 {
            let answer = publish(&good, &event(&number.to_string())).await;
            assert_eq!(answer["seq"], number, "{answer}");
        }
    };
    tokio::join!(attack, publishing);
    assert_eq!(ingress.publish(&event("over HTTPS")).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await.len(), 201);
}

#[tokio::test]
async fn an_outage_of_the_broker_is_over_when_it_is_over() {
    let mut broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let identity = broker.publisher("sensors").await;
    broker.restart().await;
    ingress.until_ready().await;
    // A restarted broker knows the account again as soon as it has read it.
    let client = client(&broker, &identity).await;
    eventually("publishers over NATS are served", async || {
        let Ok(answer) = client.request(layout::PUBLISH_SUBJECT, json::encode(&event("1")).unwrap()).await else {
            return false;
        };
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["seq"], 1, "{answer}");
        true
    })
    .await;
}

/// A number that the broker gives of the client of this name.
async fn of_client(broker: &TestBroker, name: &str, field: &str) -> u64 {
    let connections = broker.monitoring("connz").await["connections"].take();
    let of_name = connections.as_array().unwrap().iter().find(|connection| connection["name"] == name);
    of_name.map_or(0, |connection| connection[field].as_u64().unwrap())
}

/// Ready means every way in: the broker has the subscription for publishers over NATS too.
#[tokio::test]
async fn it_is_ready_only_while_publishers_over_nats_are_served() {
    let broker = TestBroker::start().await;
    let door = Door::of(&broker).await;
    let config = contract::Ingress { servers: vec![door.address.clone()], ..config(&broker) };
    let ingress = run(&config, limits()).await;
    ingress.until_ready().await;
    let client = publisher(&broker).await;
    assert_eq!(publish(&client, &event("1")).await["seq"], 1);

    let port = of_client(&broker, "tidegate-ingress shop/default publishers", "port").await;
    door.keep_out(port.try_into().unwrap());
    ingress.until(StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(
        ingress.publish(&event("over HTTPS")).await.status,
        StatusCode::ACCEPTED,
        "the other connection is there"
    );
    let error = client.request(layout::PUBLISH_SUBJECT, "{".into()).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::NoResponders);

    door.set_open(true);
    ingress.until_ready().await;
    assert_eq!(publish(&client, &event("2")).await["seq"], 3);
}

/// What an ingress still holds when it ends is refused, not dropped: a publisher would wait for its answer in vain.
#[tokio::test]
async fn an_ingress_that_leaves_answers_all_that_it_holds() {
    // There is no stream, and somebody who listens: publishes are answered by nothing.
    let broker = TestBroker::start_empty(1 << 30).await;
    let _silent = broker.operator().subscribe(layout::EVENT_SUBJECTS).await.unwrap();
    broker.operator().flush().await.unwrap();
    let limits =
        Limits { publishes: 1, publish: Duration::from_secs(1), propagation: Duration::ZERO, drain: LIMIT, ..limits() };
    let mut ingress = start_with(&broker, limits).await;
    ingress.until_ready().await;
    let client = publisher(&broker).await;
    let events: Vec<Event> = (0..40).map(|id| event(&id.to_string())).collect();
    let answers = futures::future::join_all(events.iter().map(|event| publish(&client, event)));
    let leaving = async {
        eventually("all are passed on", async || of_client(&broker, "publisher", "in_msgs").await >= 40).await;
        ingress.leave();
    };
    let (answers, ()) = tokio::join!(answers, leaving);
    assert!(answers.iter().all(|answer| answer["error"]["code"] == 503), "{answers:?}");
}

/// The first topic, whose events nobody stores, and `shop/orders`, which may have two publishes under way as that one may.
async fn beside_a_silent_topic(publish: Duration) -> (TestBroker, TopicHandle, Running, async_nats::Subscriber) {
    let broker = TestBroker::start_empty(1 << 30).await;
    let silent = broker.operator().subscribe(layout::EVENT_SUBJECTS).await.unwrap();
    broker.operator().flush().await.unwrap();
    let orders = broker.add_topic(&TopicId::new("shop", "orders").unwrap(), topic()).await;
    let ingress = start_with(&broker, Limits { publishes: 4, publish, ..limits() }).await;
    ingress.until_ready().await;
    (broker, orders, ingress, silent)
}

#[tokio::test]
async fn a_topic_whose_events_wait_holds_up_no_publisher_of_another() {
    let (broker, orders, _ingress, _silent) = beside_a_silent_topic(LIMIT).await;
    let flood = publisher(&broker).await;
    for id in 0..40 {
        let (headers, payload) = peer::encode(&event(&id.to_string()));
        flood.publish_with_headers(layout::PUBLISH_SUBJECT, headers, payload).await.unwrap();
    }
    flood.flush().await.unwrap();
    // Far more at once than may be under way.
    let till = client(&broker, &broker.publisher_of(&orders.id, "till").await).await;
    let stream = tidegate_test_broker::jetstream(till);
    let mut acknowledgements = Vec::new();
    for id in 0..200 {
        let (headers, payload) = peer::encode(&event(&id.to_string()));
        let publish = PublishMessage::build().headers(headers).payload(payload);
        acknowledgements.push(stream.send_publish(layout::PUBLISH_SUBJECT, publish).await.unwrap());
    }
    for (number, acknowledgement) in (1..).zip(acknowledgements) {
        assert_eq!(acknowledgement.await.unwrap().sequence, number, "in the order in which they were sent");
    }
}

/// Those that wait do so at the same time, not each after the other.
#[tokio::test]
async fn what_waits_in_vain_is_refused_in_the_time_of_one_publish() {
    let (broker, _orders, _ingress, _silent) = beside_a_silent_topic(Duration::from_secs(1)).await;
    let client = publisher(&broker).await;
    let (events, started) = ((0..100).map(|id| event(&id.to_string())).collect::<Vec<_>>(), Instant::now());
    let answers = futures::future::join_all(events.iter().map(|event| publish(&client, event))).await;
    assert!(answers.iter().all(|answer| answer["error"]["code"] == 503), "{answers:?}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
}
