//! Where there is no room for a connection, its client gets that answer; and no client can take all of it.

use std::time::Duration;

use http::StatusCode;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{Packet, Property, v3_1_1, v5_0};
use tidegate_broker_client::contract::{self, Capacity};
use tidegate_ingress::Limits;
use tidegate_test_broker::{TestBroker, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::device::{Device, binary};
use crate::support::{Running, answer, config, event, exchange, exchange_http2, http2, limits, post, run, start_with};

const BINARY: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

/// An ingress for so many connections.
async fn start_small(broker: &TestBroker, connections: u16, limits: Limits) -> Running {
    let capacity = Capacity { connections: Some(connections), request_memory_kib: None };
    let running = run(&contract::Ingress { capacity, ..config(broker) }, limits).await;
    running.until_ready().await;
    running
}

/// Issue 8, G4: connection 1,025 waited in the kernel's backlog without a word, for as long as the others pleased.
#[tokio::test]
async fn a_connection_beyond_the_limit_is_answered_503_and_others_have_their_half() {
    let broker = TestBroker::start().await;
    let ingress = start_small(&broker, 8, limits()).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(ingress.connect(b"http/1.1").await);
    }
    let answer = ingress.post(&BINARY, "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!([&answer.headers["connection"], &answer.headers["retry-after"]], ["close", "1"]);
    assert!(answer.detail().contains("maxConnections"), "{}", answer.detail());

    let mut request = post(&BINARY, "");
    request.headers_mut().remove("host");
    *request.uri_mut() = "https://localhost/".parse().unwrap();
    let answer = exchange_http2(ingress.connect(b"h2").await, request).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "over HTTP/2");

    let other = exchange(ingress.connect_from(2, ingress.https, b"http/1.1").await, post(&BINARY, "")).await;
    assert_eq!(other.status, StatusCode::ACCEPTED, "from another address");
    // Those that are held are as good as before, and their end makes room.
    let mut first = held.remove(0);
    first
        .write_all(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    first.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 415"), "{text}");
    drop(first);
    let is_taken = async || ingress.post(&BINARY, "").await.status == StatusCode::ACCEPTED;
    eventually("the end of a connection makes room", is_taken).await;
}

/// A request every 30 s that was refused kept a connection for ever: two addresses held all of them.
#[tokio::test]
async fn a_connection_that_brings_no_event_makes_room_for_one_that_comes() {
    let broker = TestBroker::start().await;
    let ingress = start_small(&broker, 4, Limits { unused: Duration::ZERO, ..limits() }).await;
    let mut useful = http2(ingress.connect(b"h2").await).await;
    let mut refused = http2(ingress.connect(b"h2").await).await;
    let request = |headers: &[(&str, &str)]| {
        let mut request = post(headers, "");
        request.headers_mut().remove("host");
        *request.uri_mut() = "https://localhost/".parse().unwrap();
        request
    };
    let taken = answer(useful.send_request(request(&BINARY)).await.unwrap()).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED);
    let last = answer(refused.send_request(request(&[])).await.unwrap()).await;
    assert_eq!(last.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(ingress.post(&BINARY, "").await.status, StatusCode::ACCEPTED, "a third from this address");
    eventually("the one that brought nothing is ended", async || refused.ready().await.is_err()).await;
    let taken = answer(useful.send_request(request(&BINARY)).await.unwrap()).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "and the other one is not");
}

/// MQTT 5, 3.2.2.2: 0x89 Server busy. MQTT 3.1.1, 3.2.2.3: 0x03 Server unavailable.
#[tokio::test]
async fn a_device_beyond_the_limit_is_told_that_the_server_is_busy() {
    let broker = TestBroker::start().await;
    let ingress = start_small(&broker, 4, limits()).await;
    let (_first, _) = Device::v5(&ingress, 60).await;
    let (_second, _) = Device::v5(&ingress, 60).await;
    let (mut device, connack) = Device::v5(&ingress, 60).await;
    assert_eq!(connack.reason_code() as u8, 0x89);
    assert!(device.receive().await.is_none());
    let connect = v3_1_1::Connect::builder().client_id("x").unwrap().build().unwrap();
    let (mut device, connack) = Device::greet_v3(&ingress, connect).await;
    assert_eq!(connack.return_code() as u8, 3);
    assert!(device.receive().await.is_none());
    let stream = ingress.connect_from(2, ingress.mqtt, b"mqtt").await;
    let (_other, connack) = Device::greet_v5(stream, v5_0::Connect::builder().build().unwrap()).await;
    assert_eq!(connack.reason_code() as u8, 0, "from another address");
}

/// Issue 8, D5: 1,024 devices that only pinged held all connections.
#[tokio::test]
async fn a_device_that_only_exists_makes_room_for_one_that_comes() {
    let broker = TestBroker::start().await;
    let ingress = start_small(&broker, 4, Limits { unused: Duration::ZERO, ..limits() }).await;
    let (mut idle, _) = Device::v5(&ingress, 60).await;
    let (mut useful, _) = Device::v5(&ingress, 60).await;
    useful.send(binary(1, &event("1"))).await;
    assert_eq!(useful.puback().await.1, 0);
    let (mut third, connack) = Device::v5(&ingress, 60).await;
    assert_eq!(connack.reason_code() as u8, 0);
    assert_eq!(idle.disconnected().await, 0x89, "server busy");
    for (id, device) in [(2, &mut useful), (3, &mut third)] {
        device.send(binary(id, &event(&id.to_string()))).await;
        assert_eq!(device.puback().await.1, 0);
    }
}

/// MQTT 5, 3.1.2.10 and 3.2.2.3.14: the server says which keep-alive it uses. Silence was allowed for an hour without
/// one, and for 27 hours with the longest.
#[tokio::test]
async fn silence_is_bounded_whatever_keep_alive_a_device_asks_for() {
    let broker = TestBroker::start().await;
    let told = |connack: &v5_0::Connack| {
        connack.props().iter().find_map(|property| match property {
            Property::ServerKeepAlive(seconds) => Some(seconds.val()),
            _ => None,
        })
    };
    let ingress = start_with(&broker, Limits { silence: Duration::from_secs(2), ..limits() }).await;
    ingress.until_ready().await;
    let (mut endless, connack) = Device::v5(&ingress, 0).await;
    assert_eq!(told(&connack), Some(1));
    let (mut long, connack) = Device::v5(&ingress, u16::MAX).await;
    assert_eq!(told(&connack), Some(1));
    let (_short, connack) = Device::v5(&ingress, 1).await;
    assert_eq!(told(&connack), None, "what it asks for is good");
    let connect = v3_1_1::Connect::builder().client_id("x").unwrap().keep_alive(u16::MAX).build().unwrap();
    let (mut old, _) = Device::greet_v3(&ingress, connect).await;
    assert_eq!(endless.disconnected().await, 0x8D);
    assert_eq!(long.disconnected().await, 0x8D);
    assert!(old.receive().await.is_none());

    let ingress = start_with(&broker, limits()).await;
    ingress.until_ready().await;
    for keep_alive in [0, 401, u16::MAX] {
        assert_eq!(told(&Device::v5(&ingress, keep_alive).await.1), Some(400), "ten minutes of silence");
    }
    assert_eq!(told(&Device::v5(&ingress, 400).await.1), None);
}

/// MQTT 5, 3.1.4, step 3 (MQTT-3.1.4-3); MQTT 3.1.1, MQTT-3.1.4-2.
#[tokio::test]
async fn a_device_that_comes_again_ends_its_older_connection() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, limits()).await;
    ingress.until_ready().await;
    let connect = || v5_0::Connect::builder().client_id("sensor-7").unwrap().keep_alive(60).build().unwrap();
    let (mut older, _) = Device::greet_v5(ingress.connect_to(ingress.mqtt, b"mqtt").await, connect()).await;
    older.send(binary(1, &event("1"))).await;
    assert_eq!(older.puback().await.1, 0);
    let (mut newer, connack) = Device::greet_v5(ingress.connect_to(ingress.mqtt, b"mqtt").await, connect()).await;
    assert_eq!(connack.reason_code() as u8, 0);
    assert_eq!(older.disconnected().await, 0x8E, "session taken over");

    let connect = || v3_1_1::Connect::builder().client_id("sensor-8").unwrap().keep_alive(60).build().unwrap();
    let (mut old, _) = Device::greet_v3(&ingress, connect()).await;
    let (_new, _) = Device::greet_v3(&ingress, connect()).await;
    assert!(old.receive().await.is_none());
    newer.send(binary(2, &event("2"))).await;
    assert_eq!(newer.puback().await.1, 0, "another device is nothing to it");

    // A device without a name of its own is none that was there before.
    let (mut first, _) = Device::v5(&ingress, 60).await;
    let (_second, _) = Device::v5(&ingress, 60).await;
    first.send(binary(3, &event("3"))).await;
    assert_eq!(first.puback().await.1, 0);
}

/// An identifier is kept as long as its device is there.
#[tokio::test]
async fn a_client_identifier_has_a_bound() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, limits()).await;
    ingress.until_ready().await;
    for (length, code) in [(256, 0), (257, 0x85)] {
        let name = "x".repeat(length);
        let connect = v5_0::Connect::builder().client_id(&*name).unwrap().build().unwrap();
        let stream = ingress.connect_to(ingress.mqtt, b"mqtt").await;
        assert_eq!(Device::greet_v5(stream, connect).await.1.reason_code() as u8, code, "{length}");
    }
    let mut device = Device::silent(&ingress, Version::V3_1_1).await;
    device.send(v3_1_1::Connect::builder().client_id("x".repeat(257)).unwrap().build().unwrap()).await;
    let Some(Packet::V3_1_1Connack(connack)) = device.receive().await else { panic!("no CONNACK") };
    assert_eq!(connack.return_code() as u8, 2);
}
