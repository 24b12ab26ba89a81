//! What cannot be taken over MQTT is refused with the reason, and nothing of it is stored.

use std::time::Duration;

use http::StatusCode;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{Packet, Property, Qos, SubEntry, SubOpts, UserProperty, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{SubackReasonCode, SubackReturnCode};
use tidegate_cloudevents::Event;
use tidegate_ingress::Limits;
use tidegate_test_broker::{TestBroker, topic};

use crate::device::{Device, binary, event_v3, structured, v3, v5};
use crate::support::{MAX_EVENT, event, events, limits, messages, start, start_with};

fn pair(name: &str, value: &str) -> Property {
    UserProperty::new(name, value).unwrap().into()
}

#[tokio::test]
async fn what_is_no_event_gets_the_reason() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (mut device, _) = Device::v5(&ingress, 60).await;
    let properties = |more: Vec<Property>| [binary(1, &event("1")).props().clone(), more].concat();
    let bad = [
        (v5(1, Vec::new(), b"23.5".to_vec()), "\"specversion\" is missing"),
        (v5(2, properties(vec![pair("id", "2")]), Vec::new()), "more than once"),
        (v5(3, properties(vec![pair("Nats-Msg-Id", "x")]), Vec::new()), "a-z and 0-9"),
        (v5(4, properties(vec![pair("subject", "a\r\nNats-Rollup: all")]), Vec::new()), "control character"),
        (v5(5, structured(1, &event("1")).props().clone(), b"{".to_vec()), "not a CloudEvent in JSON"),
    ];
    for (publish, reason) in bad {
        device.send(publish).await;
        let (_, code, given) = device.puback().await;
        assert_eq!(code, 0x99, "{reason}");
        assert!(given.contains(reason), "{given} does not say {reason}");
    }
    device.send(binary(6, &event("good"))).await;
    assert_eq!(device.puback().await, (6, 0, String::new()), "the connection is as good as before");
    assert_eq!(events(&broker).await, [event("good")]);
}

#[tokio::test]
async fn with_3_1_1_the_connection_is_closed_without_an_acknowledgement() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let mut device = Device::v3(&ingress).await;
    device.send(event_v3(1, &event("1"))).await;
    device.send(v3(2, b"23.5".to_vec())).await;
    assert!(matches!(device.receive().await, Some(Packet::V3_1_1Puback(puback)) if puback.packet_id() == 1));
    assert!(device.receive().await.is_none());
    assert_eq!(events(&broker).await, [event("1")]);
}

#[tokio::test]
async fn sizes_have_limits() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (mut device, _) = Device::v5(&ingress, 60).await;
    let sized = |size: usize| {
        let empty = Event::builder("1", "/s", "t").data("x").build().unwrap().size() - 1;
        Event::builder("1", "/s", "t").data(vec![b'x'; size - empty]).build().unwrap()
    };
    device.send(binary(1, &sized(MAX_EVENT + 1))).await;
    let (_, code, reason) = device.puback().await;
    assert_eq!(code, 0x97);
    assert!(reason.contains("maxEventSize"), "{reason}");
    device.send(binary(2, &sized(MAX_EVENT))).await;
    assert_eq!(device.puback().await.1, 0);

    // Only the first bytes of it: they say how long it will be.
    device.write(&binary(3, &sized(5 * MAX_EVENT)).to_continuous_buffer()[..8]).await;
    assert_eq!(device.disconnected().await, 0x95, "packet too large");
    assert_eq!(messages(&broker).await.len(), 1);
}

#[tokio::test]
async fn a_full_topic_and_a_lost_broker_have_codes_of_their_own() {
    let mut small = topic();
    small.max_bytes = 60_000;
    let mut broker = TestBroker::start_with(small).await;
    let ingress = start(&broker).await;
    let (mut device, _) = Device::v5(&ingress, 60).await;
    let mut codes = Vec::new();
    for id in 1..=10 {
        let large = Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 10_000]).build().unwrap();
        device.send(binary(id, &large)).await;
        codes.push(device.puback().await.1);
    }
    assert_eq!((codes[0], codes[9]), (0, 0x97), "{codes:?}");
    assert_eq!(events(&broker).await.len(), codes.iter().filter(|code| **code == 0).count());

    broker.stop();
    ingress.until(StatusCode::SERVICE_UNAVAILABLE).await;
    device.send(binary(11, &event("11"))).await;
    let (_, code, reason) = device.puback().await;
    assert_eq!(code, 0x83);
    assert!(reason.contains("not available"), "{reason}");
}

#[tokio::test]
async fn only_publishers_are_served() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let entries = || vec![SubEntry::new("#", SubOpts::new()).unwrap(), SubEntry::new("a", SubOpts::new()).unwrap()];

    let (mut device, _) = Device::v5(&ingress, 60).await;
    device.send(v5_0::Subscribe::builder().packet_id(1).entries(entries()).build().unwrap()).await;
    let Some(Packet::V5_0Suback(suback)) = device.receive().await else { panic!("no SUBACK") };
    assert_eq!(suback.reason_codes(), [SubackReasonCode::NotAuthorized; 2]);
    let unsubscribe = v5_0::Unsubscribe::builder().packet_id(2).entries(["#"]).unwrap().build().unwrap();
    device.send(unsubscribe).await;
    assert!(matches!(device.receive().await, Some(Packet::V5_0Unsuback(_))));

    let mut device = Device::v3(&ingress).await;
    device.send(v3_1_1::Subscribe::builder().packet_id(1).entries(entries()).build().unwrap()).await;
    let Some(Packet::V3_1_1Suback(suback)) = device.receive().await else { panic!("no SUBACK") };
    assert_eq!(suback.return_codes(), [SubackReturnCode::Failure; 2]);
}

#[tokio::test]
async fn what_is_not_offered_ends_the_connection() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let exactly_once = |publish: Packet| {
        let mut bytes = mqtt_protocol_core::mqtt::packet::GenericPacketTrait::to_continuous_buffer(&publish);
        bytes[0] = (bytes[0] & 0xF9) | ((Qos::ExactlyOnce as u8) << 1);
        bytes
    };
    let (mut device, _) = Device::v5(&ingress, 60).await;
    device.write(&exactly_once(binary(1, &event("1")).into())).await;
    assert_eq!(device.disconnected().await, 0x9B, "QoS not supported");

    let mut device = Device::v3(&ingress).await;
    device.write(&exactly_once(event_v3(1, &event("1")).into())).await;
    assert!(device.receive().await.is_none());

    let (mut device, _) = Device::v5(&ingress, 60).await;
    let mut retained = binary(1, &event("1")).to_continuous_buffer();
    retained[0] |= 1;
    device.write(&retained).await;
    assert_eq!(device.disconnected().await, 0x9A, "retain not supported");
    assert_eq!(messages(&broker).await.len(), 0);
}

#[tokio::test]
async fn a_will_is_refused() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let mut device = Device::silent(&ingress, Version::V5_0).await;
    let connect = v5_0::Connect::builder().will_message("any", b"x".to_vec(), Qos::AtMostOnce, false).unwrap();
    device.send(connect.build().unwrap()).await;
    let Some(Packet::V5_0Connack(connack)) = device.receive().await else { panic!("no CONNACK") };
    assert_eq!(connack.reason_code() as u8, 0x83);
    assert!(device.receive().await.is_none());

    let mut device = Device::silent(&ingress, Version::V3_1_1).await;
    let connect = v3_1_1::Connect::builder().client_id("x").unwrap();
    let connect = connect.will_message("any", b"x".to_vec(), Qos::AtMostOnce, false).unwrap();
    device.send(connect.build().unwrap()).await;
    let Some(Packet::V3_1_1Connack(connack)) = device.receive().await else { panic!("no CONNACK") };
    assert_eq!(connack.return_code() as u8, 5);
}

#[tokio::test]
async fn what_is_not_mqtt_is_closed() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 64], &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[0x30, 0]] {
        let mut device = Device::silent(&ingress, Version::V5_0).await;
        device.write(garbage).await;
        assert!(device.receive().await.is_none());
    }
    let mut early = Device::silent(&ingress, Version::V5_0).await;
    early.send(binary(1, &event("1"))).await;
    assert!(early.receive().await.is_none(), "an event before CONNECT");
    assert_eq!(messages(&broker).await.len(), 0);
}

#[tokio::test]
async fn large_packets_that_never_end_do_not_fill_the_memory() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { body_memory_kib: 0, ..limits() }).await;
    ingress.until_ready().await;
    // There is memory for one packet of the largest size.
    let large = Event::builder("1", "/s", "t").data(vec![b'x'; 3 * MAX_EVENT]).build().unwrap();
    let bytes = binary(1, &large).to_continuous_buffer();
    let (mut first, _) = Device::v5(&ingress, 60).await;
    first.write(&bytes[..bytes.len() - 1]).await;
    let (mut second, _) = Device::v5(&ingress, 60).await;
    second.write(&bytes[..bytes.len() - 1]).await;
    assert_eq!(second.disconnected().await, 0x89, "server busy");
    let small = ingress.publish(&event("1")).await;
    assert_eq!(small.status, StatusCode::ACCEPTED, "what is left serves others");
    first.write(&bytes[bytes.len() - 1..]).await;
    assert_eq!(first.puback().await.1, 0x97, "it is too large, but it was read");
}

/// With an hour of silence allowed, half a packet would hold memory for as long.
#[tokio::test]
async fn a_packet_that_has_begun_must_end_soon() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { body: Duration::from_secs(2), ..limits() }).await;
    ingress.until_ready().await;
    let (mut device, _) = Device::v5(&ingress, 3600).await;
    let bytes = binary(1, &event("1")).to_continuous_buffer();
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    device.write(half).await;
    device.write(rest).await;
    assert_eq!(device.puback().await.0, 1, "a packet in two pieces is one");
    device.write(half).await;
    device.disconnected().await;
}
