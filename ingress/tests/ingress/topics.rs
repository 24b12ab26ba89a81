//! Many topics of one broker, served by one ingress.

use async_nats::jetstream;
use http::{Request, StatusCode};
use http_body_util::Full;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{Packet, v3_1_1, v5_0};
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::{TopicId, identity, layout, peer, stored};
use tidegate_cloudevents::{Event, http as binding};
use tidegate_ingress::Limits;
use tidegate_test_broker::{TestBroker, TopicHandle, eventually, topic, topic_id};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::device::{Device, binary, event_v3};
use crate::support::{Answer, MAX_EVENT, Running, config, event, exchange, limits, run, start};

fn id(name: &str) -> TopicId {
    TopicId::new("shop", name).unwrap()
}

/// A broker with the topics `test/topic`, `shop/orders` and `shop/bills`, and its ingress.
async fn three_topics() -> (TestBroker, TopicHandle, TopicHandle, Running) {
    let broker = TestBroker::start().await;
    let orders = broker.add_topic(&id("orders"), topic()).await;
    let bills = broker.add_topic(&id("bills"), topic()).await;
    let ingress = start(&broker).await;
    (broker, orders, bills, ingress)
}

/// A publish in structured mode to this path of this host.
fn publish(host: &str, path: &str, event: &Event) -> Request<Full<bytes::Bytes>> {
    let request = Request::post(path).header("host", host).header("content-type", "application/cloudevents+json");
    request.body(Full::new(binding::encode_structured(event).unwrap())).unwrap()
}

impl Running {
    /// Publishes to a topic by its path.
    async fn publish_to(&self, topic: &TopicId, event: &Event) -> Answer {
        self.send(publish("10.0.0.1", &format!("/{topic}"), event)).await
    }
}

/// The ids of the events of a topic, in order.
async fn stored_ids(topic: &TopicHandle) -> Vec<String> {
    let stream = jetstream::new(topic.operator.clone()).get_stream(layout::EVENT_STREAM).await.unwrap();
    let mut ids = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        ids.push(stored::decode(Some(&message.headers), message.payload).unwrap().id().to_owned());
    }
    ids
}

#[tokio::test]
async fn a_request_names_its_topic_by_host_or_by_path() {
    let (broker, orders, bills, ingress) = three_topics().await;
    let first = broker.open_topic(&topic_id()).await;
    for (host, path, event_id) in [
        ("orders.shop.test", "/", "by host"),
        ("Orders.Shop.TEST:8443", "/", "in another case"),
        ("orders.shop.test.", "/", "fully qualified"),
        ("10.0.0.1", "/shop/orders", "by path"),
        ("bills.shop.test", "/shop/orders", "the path counts"),
    ] {
        let answer = ingress.send(publish(host, path, &event(event_id))).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{event_id}: {answer:?}");
    }
    let answer = ingress.send(publish("bills.shop.test", "/", &event("a bill"))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(ingress.publish(&event("the first topic")).await.status, StatusCode::ACCEPTED);
    let expected = ["by host", "in another case", "fully qualified", "by path", "the path counts"];
    assert_eq!(stored_ids(&orders).await, expected);
    assert_eq!(stored_ids(&bills).await, ["a bill"]);
    assert_eq!(stored_ids(&first).await, ["the first topic"]);

    for (host, path) in [
        ("10.0.0.1", "/"),
        ("other.shop.test", "/"),
        ("orders.shop.test.evil", "/"),
        ("orders", "/"),
        ("", "/"),
        ("orders.shop.test", "/other/orders"),
        ("orders.shop.test", "/shop/none"),
        ("10.0.0.1", "/shop/*"),
        ("10.0.0.1", "/SHOP/ORDERS"),
    ] {
        let answer = ingress.send(publish(host, path, &event("lost"))).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{host} {path}: as if it were there");
    }
    for path in ["/shop", "/shop/orders/", "/shop%2Forders"] {
        let answer = ingress.send(publish("orders.shop.test", path, &event("lost"))).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        let detail = answer.detail();
        assert!(detail.contains("/<namespace>/<topic>"), "it says how to name one: {detail}");
    }
    let options = Request::options("/shop/orders").header("host", "10.0.0.1").body(Full::default()).unwrap();
    assert_eq!(ingress.send(options).await.headers["allow"], "POST, OPTIONS");
}

#[tokio::test]
async fn a_delayed_event_is_where_its_topic_was_named() {
    let broker = TestBroker::start().await;
    let delaying =
        Later { max_bytes: 1 << 20, max_delay: Some(std::time::Duration::from_secs(3600)), has_schedules: false };
    broker.add_topic(&id("orders"), Topic { later: Some(delaying), ..topic() }).await;
    let ingress = start(&broker).await;
    let at = (time::OffsetDateTime::now_utc() + std::time::Duration::from_secs(1800))
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    for (host, path, prefix) in
        [("orders.shop.test", "/", "/delayed/"), ("10.0.0.1", "/shop/orders", "/shop/orders/delayed/")]
    {
        let delayed = event("1").with_extension("tidegatedeliverat", at.as_str()).unwrap();
        let answer = ingress.send(publish(host, path, &delayed)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        let location = answer.headers["location"].to_str().unwrap().to_owned();
        assert!(location.starts_with(prefix), "{location}");
        let cancel = Request::delete(&location).header("host", host).body(Full::default()).unwrap();
        assert_eq!(ingress.send(cancel).await.status, StatusCode::NO_CONTENT, "{location}");
    }
}

#[tokio::test]
async fn a_device_names_its_topic_by_the_host_of_its_handshake() {
    let (_broker, orders, bills, ingress) = three_topics().await;
    for (host, topic) in [("orders.shop.test", "orders"), ("BILLS.shop.test", "bills")] {
        let stream = ingress.connect_as(host, ingress.mqtt, b"mqtt").await;
        let connect = v5_0::Connect::builder().client_id("device").unwrap().build().unwrap();
        let (mut device, _) = Device::greet_v5(stream, connect).await;
        device.send(binary(1, &event(&format!("{topic} 5")))).await;
        assert_eq!(device.puback().await.1, 0);
        let stream = ingress.connect_as(host, ingress.mqtt, b"mqtt").await;
        let mut older = Device::over(stream, Version::V3_1_1);
        older.send(v3_1_1::Connect::builder().client_id("older").unwrap().build().unwrap()).await;
        assert!(matches!(older.receive().await, Some(Packet::V3_1_1Connack(_))));
        older.send(event_v3(1, &event(&format!("{topic} 3")))).await;
        assert!(matches!(older.receive().await, Some(Packet::V3_1_1Puback(_))));
    }
    assert_eq!(stored_ids(&orders).await, ["orders 5", "orders 3"]);
    assert_eq!(stored_ids(&bills).await, ["bills 5", "bills 3"]);

    // By another host, and without one: by an address there is none in the handshake.
    for host in ["other.shop.test", "127.0.0.1"] {
        let stream = ingress.connect_as(host, ingress.mqtt, b"mqtt").await;
        let (_, connack) = Device::greet_v5(stream, v5_0::Connect::builder().build().unwrap()).await;
        assert_eq!(connack.reason_code() as u8, 0x86, "{connack:?}");
        assert!(format!("{connack:?}").contains("SNI"), "{connack:?}");
        let mut older = Device::over(ingress.connect_as(host, ingress.mqtt, b"mqtt").await, Version::V3_1_1);
        older.send(v3_1_1::Connect::builder().client_id("x").unwrap().build().unwrap()).await;
        let packet = older.receive().await;
        let Some(Packet::V3_1_1Connack(connack)) = packet else { panic!("{packet:?}") };
        assert_eq!(connack.return_code() as u8, 4);
    }
}

/// A device with this user name, over a connection to this host, and what the server says of itself.
async fn greet(ingress: &Running, host: &str, user: &str) -> (Device, v5_0::Connack) {
    let stream = ingress.connect_as(host, ingress.mqtt, b"mqtt").await;
    Device::greet_v5(stream, v5_0::Connect::builder().user_name(user).unwrap().build().unwrap()).await
}

#[tokio::test]
async fn a_device_that_cannot_choose_its_host_names_its_topic_by_its_user_name() {
    let (_broker, orders, bills, ingress) = three_topics().await;
    let accepted = [
        ("events.example.com", "shop/orders"),
        ("127.0.0.1", "shop/orders"),
        ("orders.shop.test", "shop/orders"),
        ("orders.shop.test", "anything else"),
    ];
    for (number, (host, user)) in accepted.iter().enumerate() {
        let (mut device, connack) = greet(&ingress, host, user).await;
        assert_eq!(connack.reason_code() as u8, 0, "{host} {user}: {connack:?}");
        device.send(binary(1, &event(&number.to_string()))).await;
        assert_eq!(device.puback().await.1, 0);
    }
    let stream = ingress.connect_as("events.example.com", ingress.mqtt, b"mqtt").await;
    let mut older = Device::over(stream, Version::V3_1_1);
    let connect = v3_1_1::Connect::builder().client_id("older").unwrap().user_name("shop/bills").unwrap();
    older.send(connect.build().unwrap()).await;
    assert!(matches!(older.receive().await, Some(Packet::V3_1_1Connack(connack)) if connack.return_code() as u8 == 0));
    older.send(event_v3(1, &event("a bill"))).await;
    assert!(matches!(older.receive().await, Some(Packet::V3_1_1Puback(_))));
    assert_eq!(stored_ids(&orders).await, ["0", "1", "2", "3"]);
    assert_eq!(stored_ids(&bills).await, ["a bill"]);

    // Whoever names two would not know where its events went; what is not there is not told from what is not allowed.
    for (host, user, code, reason) in [
        ("orders.shop.test", "shop/bills", 0x87, "the user name is that of topic shop/bills"),
        ("orders.shop.test", "shop/none", 0x87, "the user name is that of topic shop/none"),
        ("events.example.com", "shop/none", 0x86, "<namespace>/<topic>"),
        ("events.example.com", "orders", 0x86, "<namespace>/<topic>"),
    ] {
        let (mut device, connack) = greet(&ingress, host, user).await;
        assert_eq!(connack.reason_code() as u8, code, "{host} {user}: {connack:?}");
        assert!(format!("{connack:?}").contains(reason), "{host} {user}: {connack:?}");
        assert!(device.receive().await.is_none(), "the connection is closed");
    }
    assert_eq!(stored_ids(&bills).await.len(), 1);
}

/// What is not known to be a publisher's is not kept; afterwards the topic's own bound counts.
#[tokio::test]
async fn the_bound_of_a_packet_is_that_of_the_topic_that_the_user_name_names() {
    let (_broker, orders, _bills, ingress) = three_topics().await;
    let stream = ingress.connect_as("events.example.com", ingress.mqtt, b"mqtt").await;
    let mut silent = Device::over(stream, Version::V5_0);
    // A CONNECT that says that it is long, and goes on for longer than any is.
    silent.write(&[0x10, 0x80, 0x80, 0x02]).await;
    silent.write(&vec![b'x'; 20 * 1024]).await;
    assert!(silent.receive().await.is_none(), "the connection is closed");
    let (mut device, connack) = greet(&ingress, "events.example.com", "shop/orders").await;
    assert!(format!("{connack:?}").contains("MaximumPacketSize"), "{connack:?}");
    let large = Event::builder("large", "/s", "t").data(vec![b'x'; MAX_EVENT / 2]).build().unwrap();
    device.send(binary(1, &large)).await;
    assert_eq!(device.puback().await.1, 0);
    assert_eq!(stored_ids(&orders).await, ["large"]);
}

/// The same client identifier at two topics is two devices.
#[tokio::test]
async fn a_device_of_one_topic_does_not_end_one_of_another() {
    let (_broker, _orders, _bills, ingress) = three_topics().await;
    let mut devices = Vec::new();
    for host in ["orders.shop.test", "bills.shop.test"] {
        let stream = ingress.connect_as(host, ingress.mqtt, b"mqtt").await;
        let connect = v5_0::Connect::builder().client_id("sensor-1").unwrap().build().unwrap();
        devices.push(Device::greet_v5(stream, connect).await.0);
    }
    for device in &mut devices {
        device.send(binary(1, &event("1"))).await;
        assert_eq!(device.puback().await.1, 0);
    }
}

#[tokio::test]
async fn a_publisher_over_nats_is_of_one_topic() {
    let (broker, orders, bills, _ingress) = three_topics().await;
    for topic in [&orders, &bills] {
        let folder = broker.publisher_of(&topic.id, "till").await;
        let client = peer::connect("publisher", &broker.servers(), identity::folder(folder)).await.unwrap();
        let (headers, payload) = peer::encode(&event(&format!("of {}", topic.id)));
        let answer = client.request_with_headers(layout::PUBLISH_SUBJECT, headers, payload).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["seq"], 1, "{answer}");
    }
    assert_eq!(stored_ids(&orders).await, ["of shop/orders"]);
    assert_eq!(stored_ids(&bills).await, ["of shop/bills"]);
    broker.write_topics_file(br#"{"topics":[]}"#);
    let folder = broker.publisher_of(&orders.id, "till").await;
    let client = peer::connect("publisher", &broker.servers(), identity::folder(folder)).await.unwrap();
    eventually("the topic is gone", async || {
        let (headers, payload) = peer::encode(&event("late"));
        let answer = client.request_with_headers(layout::PUBLISH_SUBJECT, headers, payload).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        answer["error"]["code"] == 404
    })
    .await;
}

/// A request of which the head and a part of the body have come.
async fn half_sent(
    ingress: &Running,
    from: u8,
    path: &str,
    body: &str,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let mut stream = ingress.connect_from(from, ingress.https, b"http/1.1").await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: 10.0.0.1\r\nce-specversion: 1.0\r\nce-id: slow\r\nce-source: /s\r\nce-type: t\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len() + 1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

#[tokio::test]
async fn topics_come_change_and_go_while_requests_are_in_progress() {
    let (broker, orders, _bills, ingress) = three_topics().await;
    let status = async |topic: &TopicId, event: &Event| ingress.publish_to(topic, event).await.status;
    let large = Event::builder("large", "/s", "t").data(vec![b'x'; 2 * MAX_EVENT]).build().unwrap();
    assert_eq!(status(&orders.id, &large).await, StatusCode::PAYLOAD_TOO_LARGE);
    let mut in_progress = half_sent(&ingress, 1, "/shop/orders", "23").await;
    // It comes to no more than 30 events while the limits change, and loses none.
    broker.write_topics(|topic| topic.max_event_size = 4 * MAX_EVENT);
    eventually("larger events are taken", async || status(&orders.id, &large).await == StatusCode::ACCEPTED).await;

    let late = broker.add_topic(&id("late"), topic()).await;
    assert_eq!(status(&late.id, &event("1")).await, StatusCode::UNAUTHORIZED, "the file does not say so yet");
    broker.topics_dir();
    eventually("the new topic is there", async || status(&late.id, &event("1")).await == StatusCode::ACCEPTED).await;

    broker.remove_from_file(&orders.id);
    eventually("the topic is gone", async || status(&orders.id, &event("1")).await == StatusCode::UNAUTHORIZED).await;
    assert_eq!(ingress.publish(&event("the first topic")).await.status, StatusCode::ACCEPTED);
    in_progress.write_all(b"5").await.unwrap();
    let mut answer = String::new();
    in_progress.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202"), "what was in progress ends normally: {answer}");
    assert_eq!(stored_ids(&orders).await, ["large", "1", "slow"]);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_changes_nothing() {
    let broker = TestBroker::start().await;
    let orders = broker.add_topic(&id("orders"), topic()).await;
    let config = config(&broker);
    std::fs::remove_file(config.topics.join("topics.json")).unwrap();
    let ingress = run(&config, limits()).await;
    ingress.until_ready().await;
    let status = async || ingress.publish_to(&orders.id, &event("1")).await.status;
    assert_eq!(status().await, StatusCode::UNAUTHORIZED, "there is no file");
    broker.topics_dir();
    eventually("the file is there", async || status().await == StatusCode::ACCEPTED).await;
    let ask = broker.ingresses(1).await;
    for bad in [&b""[..], b"{", b"null", br#"{"topics":[{"namespace":"shop","name":"orders"}]}"#, &[b' '; 2 << 20]] {
        broker.write_topics_file(bad);
        // It is read again after a while: that it changes nothing cannot be waited for, but what comes after it can.
        for _ in 0..5 {
            assert_eq!(status().await, StatusCode::ACCEPTED);
            tokio::time::sleep(limits().topics_check / 2).await;
        }
        assert_eq!(ask.serving(&orders.id, "1").await.unwrap(), 1);
    }
    broker.write_topics(|topic| topic.revision = "2".to_owned());
    eventually("a good file counts again", async || ask.serving(&orders.id, "2").await.unwrap() == 1).await;
}

#[tokio::test]
async fn the_operator_hears_which_ingresses_serve_a_topic() {
    let broker = TestBroker::start().await;
    broker.add_topic(&id("orders"), topic()).await;
    let (first, _second) = tokio::join!(start(&broker), start(&broker));
    let ask = broker.ingresses(2).await;
    eventually("both serve it", async || ask.serving(&id("orders"), "1").await.unwrap() == 2).await;
    assert_eq!(ask.serving(&id("orders"), "2").await.unwrap(), 0, "not this state of it");
    let answers = ask.ask(&id("none")).await.unwrap();
    assert_eq!(answers.iter().map(|answer| answer.revision.clone()).collect::<Vec<_>>(), [None, None]);
    broker.write_topics(|topic| topic.revision = "2".to_owned());
    eventually("both have seen the change", async || ask.serving(&id("orders"), "2").await.unwrap() == 2).await;
    drop(first);
    eventually("one is left", async || ask.ask(&id("orders")).await.unwrap().len() == 1).await;
}

/// How many of a hundred events of `size` bytes one topic takes while another one is flooded with so many requests, whose
/// bodies have come but for their last byte.
async fn beside_a_flood(limits: Limits, size: usize, count: u8) -> usize {
    let (_broker, orders, bills, ingress) = three_topics_within(limits).await;
    let body = "x".repeat(size / 2);
    let sized = |id: &str| Event::builder(id, "/s", "t").data(vec![b'x'; size]).build().unwrap();
    let mut flood = Vec::new();
    for from in 2..2 + count {
        flood.push(half_sent(&ingress, from, &format!("/{}", orders.id), &body).await);
    }
    // All of it has come, or was refused.
    eventually("the flooded topic takes no more", async || {
        ingress.publish_to(&orders.id, &sized("refused")).await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let mut taken = 0;
    for number in 0..100 {
        let answer = ingress.publish_to(&bills.id, &sized(&number.to_string())).await;
        taken += usize::from(answer.status == StatusCode::ACCEPTED);
    }
    taken
}

async fn three_topics_within(limits: Limits) -> (TestBroker, TopicHandle, TopicHandle, Running) {
    let broker = TestBroker::start().await;
    let orders = broker.add_topic(&id("orders"), topic()).await;
    let bills = broker.add_topic(&id("bills"), topic()).await;
    let ingress = run(&config(&broker), limits).await;
    ingress.until_ready().await;
    (broker, orders, bills, ingress)
}

#[tokio::test]
async fn a_flood_of_requests_to_one_topic_leaves_room_for_another() {
    let few = Limits { requests: 8, body: std::time::Duration::from_secs(60), ..limits() };
    let taken = beside_a_flood(few, 2, 12).await;
    assert!(taken >= 99, "{taken} of 100");
}

#[tokio::test]
async fn a_flood_of_bytes_to_one_topic_leaves_room_for_another() {
    let little = Limits { body_memory_kib: 1024, body: std::time::Duration::from_secs(60), body_rate: 1, ..limits() };
    let taken = beside_a_flood(little, 60 << 10, 60).await;
    assert!(taken >= 99, "{taken} of 100");
}

/// A topic on its own has all there is.
#[tokio::test]
async fn a_topic_that_is_alone_may_take_everything() {
    let broker = TestBroker::start().await;
    let few = Limits { requests: 4, body: std::time::Duration::from_secs(60), ..limits() };
    let ingress = run(&config(&broker), few).await;
    ingress.until_ready().await;
    let mut held = Vec::new();
    for from in 2..5 {
        held.push(half_sent(&ingress, from, "/test/topic", "23").await);
    }
    let stream = ingress.connect_from(5, ingress.https, b"http/1.1").await;
    let answer = exchange(stream, publish("10.0.0.1", "/test/topic", &event("1"))).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "the fourth of four");
}

/// Generations are those of the certificate that publishers are shown, and what connects to the broker is as new.
#[tokio::test]
async fn the_generation_of_the_certificates_in_use_is_told() {
    let broker = TestBroker::start().await;
    let config = config(&broker);
    let ask = broker.ingresses(1).await;
    let generation = async || ask.generations().await.unwrap().into_values().next().flatten();
    let running = run(&config, limits()).await;
    running.until_ready().await;
    eventually("it answers", async || ask.generations().await.unwrap().len() == 1).await;
    assert_eq!(generation().await, None, "an operator of before says none");
    let write =
        |generation: &str| std::fs::write(config.identity.join(identity::file::GENERATION), generation).unwrap();
    write("1");
    eventually("with the same certificate", async || generation().await == Some(1)).await;
    let certificate = config.identity.join(identity::file::CERTIFICATE);
    let good = std::fs::read(&certificate).unwrap();
    std::fs::write(&certificate, "half").unwrap();
    write("2");
    tokio::time::sleep(5 * limits().certificate_check).await;
    assert_eq!(generation().await, Some(1), "it still shows the one of before");
    std::fs::write(&certificate, good).unwrap();
    eventually("it is whole", async || generation().await == Some(2)).await;
}
