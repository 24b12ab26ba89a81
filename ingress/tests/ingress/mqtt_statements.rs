//! The normative statements of MQTT 3.1.1 and 5.0 that apply to a server of publishers, as far as they can be broken by
//! a client. The others are in `mqtt.rs`, `mqtt_refusals.rs` and `busy.rs`.

use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{Packet, ResponseTopic, v3_1_1, v5_0};
use tidegate_test_broker::TestBroker;

use crate::device::{Device, binary, event_v3};
use crate::support::{Running, event, messages, start};

/// A PUBLISH whose topic name is this.
fn named(publish: &[u8], name: &[u8]) -> Vec<u8> {
    // Fixed header, remaining length (one or two bytes), length of the name ("any").
    let length = if publish[1] & 0x80 == 0 { 1 } else { 2 };
    let rest = &publish[1 + length + 2 + "any".len()..];
    let body = [&u16::try_from(name.len()).unwrap().to_be_bytes()[..], name, rest].concat();
    let size = u16::try_from(body.len()).unwrap();
    let size = [u8::try_from(size & 0x7F).unwrap() | 0x80, u8::try_from(size >> 7).unwrap()];
    [&publish[..1], &size, &body].concat()
}

/// What a connection of MQTT 5 is answered when it sends this; `None` if it is closed without a word.
async fn answer(ingress: &Running, bytes: &[u8]) -> Option<u8> {
    let (mut device, _) = Device::v5(ingress, 60).await;
    device.write(bytes).await;
    let packet = device.receive().await?;
    let Packet::V5_0Disconnect(disconnect) = packet else { panic!("{packet:?}") };
    assert!(device.receive().await.is_none(), "the connection is still open");
    disconnect.reason_code().map(|code| code as u8)
}

/// Whether a connection of MQTT 3.1.1 is closed when it sends this.
async fn closed(ingress: &Running, bytes: &[u8]) -> bool {
    let mut device = Device::v3(ingress).await;
    device.write(bytes).await;
    device.receive().await.is_none()
}

/// 3.1.1: MQTT-3.3.2-2, MQTT-4.7.1-1, MQTT-4.7.3-1, MQTT-4.7.3-2, MQTT-1.5.3-1. 5.0: MQTT-3.3.2-2, MQTT-4.7.0-1,
/// MQTT-4.7.3-1, MQTT-1.5.4-1, MQTT-1.5.4-2; 3.3.2.1 on empty names. Issue 8, G10: any name was taken.
#[tokio::test]
async fn names_that_cannot_be_published_to_end_the_connection() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let v5 = binary(1, &event("1")).to_continuous_buffer();
    let v3 = event_v3(1, &event("1")).to_continuous_buffer();
    for name in [&b"+"[..], b"a/+", b"#", b"a/#", b"a#b", b"", b"a\0b", b"\xFF", b"\xED\xA0\x80"] {
        let code = answer(&ingress, &named(&v5, name)).await;
        // An empty name means an alias, which is not offered.
        assert!(matches!(code, None | Some(0x81 | 0x82 | 0x94)), "{name:?}: {code:?}");
        assert!(closed(&ingress, &named(&v3, name)).await, "{name:?}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
    let (mut device, _) = Device::v5(&ingress, 60).await;
    for name in ["a", "/", "a//b", "$SYS/x", "größe", " "] {
        device.write(&named(&v5, name.as_bytes())).await;
        assert_eq!(device.puback().await.1, 0, "{name}");
    }
}

/// 5.0: MQTT-3.3.2-8 and MQTT-3.3.2-9 (the Topic Alias Maximum is 0 here), MQTT-3.3.2-14.
#[tokio::test]
async fn aliases_are_not_offered_and_response_topics_have_no_wildcards() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let with_alias = |name: &[u8], alias: u16| {
        // QoS 0; properties: a topic alias.
        let mut body = [&u16::try_from(name.len()).unwrap().to_be_bytes()[..], name, &[3, 0x23]].concat();
        body.extend(alias.to_be_bytes());
        [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat()
    };
    for (name, alias) in [(&b"a"[..], 0), (b"a", 1), (b"", 1)] {
        let code = answer(&ingress, &with_alias(name, alias)).await;
        assert!(matches!(code, None | Some(0x81 | 0x82 | 0x94)), "{name:?} {alias}: {code:?}");
    }
    let topic = ResponseTopic::new("a/x").unwrap();
    let publish = v5_0::Publish::builder().topic_name("any").unwrap().props(vec![topic.into()]).build().unwrap();
    let mut bytes = publish.to_continuous_buffer();
    let at = bytes.windows(3).position(|window| window == b"a/x").unwrap();
    bytes[at + 2] = b'#';
    let code = answer(&ingress, &bytes).await;
    assert!(matches!(code, None | Some(0x81 | 0x82)), "{code:?}");
    assert_eq!(messages(&broker).await.len(), 0);
}

/// 3.1.1: MQTT-2.2.2-2, MQTT-2.3.1-1, MQTT-3.1.0-2, MQTT-3.3.1-4, MQTT-3.8.1-1. 5.0: MQTT-2.1.3-1, MQTT-2.2.1-3,
/// MQTT-3.1.0-2, MQTT-3.3.1-4, MQTT-3.8.1-1.
#[tokio::test]
async fn packets_that_break_a_rule_end_the_connection() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let v5 = binary(1, &event("1")).to_continuous_buffer();
    let v3 = event_v3(1, &event("1")).to_continuous_buffer();
    let changed = |publish: &[u8], at: usize, value: u8| {
        let mut bytes = publish.to_vec();
        bytes[at] = value;
        bytes
    };
    let zero_id = |publish: &[u8]| {
        let length = if publish[1] & 0x80 == 0 { 1 } else { 2 };
        changed(publish, 1 + length + 2 + "any".len() + 1, 0)
    };
    let connect_v5 = v5_0::Connect::builder().build().unwrap().to_continuous_buffer();
    let connect_v3 = v3_1_1::Connect::builder().client_id("x").unwrap().build().unwrap().to_continuous_buffer();
    for (rule, v5, v3) in [
        ("quality 3", changed(&v5, 0, 0x36), changed(&v3, 0, 0x36)),
        ("packet id 0", zero_id(&v5), zero_id(&v3)),
        ("a second CONNECT", connect_v5, connect_v3),
        ("flags of SUBSCRIBE", vec![0x80, 7, 0, 1, 0, 0, 1, b'a', 0], vec![0x80, 6, 0, 1, 0, 1, b'a', 0]),
        ("flags of PINGREQ", vec![0xC1, 0], vec![0xC1, 0]),
        ("type 0", vec![0x00, 0], vec![0x00, 0]),
        ("a length of five bytes", vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1], vec![0x30, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
    ] {
        let code = answer(&ingress, &v5).await;
        assert!(matches!(code, None | Some(0x81 | 0x82)), "{rule}: {code:?}");
        assert!(closed(&ingress, &v3).await, "{rule}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
}

/// 3.1.1: MQTT-3.1.2-2, MQTT-3.1.2-3, MQTT-3.1.3-8, MQTT-3.2.2-2. 5.0: MQTT-3.1.2-2, MQTT-3.1.2-3, MQTT-3.1.3-7.
#[tokio::test]
async fn greetings_that_break_a_rule_are_refused() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let greet = async |version: Version, bytes: &[u8]| {
        let mut device = Device::silent(&ingress, version).await;
        device.write(bytes).await;
        let code = match device.receive().await? {
            Packet::V5_0Connack(connack) => connack.reason_code() as u8,
            Packet::V3_1_1Connack(connack) => connack.return_code() as u8,
            other => panic!("{other:?}"),
        };
        assert!(device.receive().await.is_none(), "the connection is still open");
        Some(code)
    };
    let v3 = |version: u8, flags: u8| [&[0x10, 12, 0, 4][..], b"MQTT", &[version, flags, 0, 60, 0, 0]].concat();
    assert_ne!(greet(Version::V3_1_1, &v3(4, 3)).await, Some(0), "a reserved flag");
    assert_eq!(greet(Version::V3_1_1, &v3(4, 0)).await, Some(2), "no identifier, and a session to keep");
    assert!(matches!(greet(Version::V3_1_1, &v3(6, 2)).await, None | Some(1)), "an unknown version");
    let v5 = |flags: u8| [&[0x10, 13, 0, 4][..], b"MQTT", &[5, flags, 0, 60, 0, 0, 0]].concat();
    assert_ne!(greet(Version::V5_0, &v5(3)).await, Some(0), "a reserved flag");
    let mut device = Device::silent(&ingress, Version::V5_0).await;
    device.write(&v5(0)).await;
    let Some(Packet::V5_0Connack(connack)) = device.receive().await else { panic!("no CONNACK") };
    assert_eq!((connack.reason_code() as u8, connack.session_present()), (0, false), "no session is kept");
}

/// 3.1.1: MQTT-3.14.4-1, MQTT-3.14.4-2. 5.0: MQTT-3.14.4-1, MQTT-3.14.4-2; 4.13: what comes after the end is nothing.
#[tokio::test]
async fn nothing_is_taken_after_disconnect() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let v5 = [&[0xE0, 0][..], &binary(1, &event("1")).to_continuous_buffer()].concat();
    assert_eq!(answer(&ingress, &v5).await, None);
    let v3 = [&[0xE0, 0][..], &event_v3(1, &event("1")).to_continuous_buffer()].concat();
    assert!(closed(&ingress, &v3).await);
    assert_eq!(messages(&broker).await.len(), 0);
}
