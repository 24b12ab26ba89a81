//! Events over MQTT: what is acknowledged is stored.

use std::time::Duration;

use http::StatusCode;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{Packet, Property, Qos, v3_1_1, v5_0};
use tidegate_cloudevents::{Event, json};
use tidegate_ingress::Limits;
use tidegate_test_broker::TestBroker;

use crate::device::{Device, binary, event_v3, structured};
use crate::support::{MAX_EVENT, event, events, limits, start, start_with};

#[tokio::test]
async fn all_modes_are_stored_and_acknowledged() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;

    let (mut device, _) = Device::v5(&ingress, 60).await;
    device.send(binary(1, &event("binary"))).await;
    assert_eq!(device.puback().await, (1, 0, String::new()));
    assert_eq!(events(&broker).await, [event("binary")], "acknowledged is stored");
    device.send(structured(2, &event("structured"))).await;
    assert_eq!(device.puback().await, (2, 0, String::new()));

    let mut device = Device::v3(&ingress).await;
    device.send(event_v3(7, &event("3.1.1"))).await;
    let Some(Packet::V3_1_1Puback(puback)) = device.receive().await else { panic!("no PUBACK") };
    assert_eq!(puback.packet_id(), 7);
    assert_eq!(events(&broker).await, [event("binary"), event("structured"), event("3.1.1")]);
}

#[tokio::test]
async fn quality_0_is_stored_even_if_the_device_goes_at_once() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (mut device, _) = Device::v5(&ingress, 60).await;
    for id in 0..20 {
        let payload = json::encode(&event(&id.to_string())).unwrap().to_vec();
        let properties = structured(1, &event("x")).props().clone();
        let publish = v5_0::Publish::builder().topic_name("any").unwrap().qos(Qos::AtMostOnce);
        device.send(publish.props(properties).payload(payload).build().unwrap()).await;
    }
    device.send(v5_0::Disconnect::builder().build().unwrap()).await;
    assert!(device.receive().await.is_none());
    assert_eq!(events(&broker).await.len(), 20);
}

#[tokio::test]
async fn repetitions_are_recognised_across_protocols() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let of = |source: &str| Event::builder("1", source, "t").build().unwrap();
    let (mut device, _) = Device::v5(&ingress, 60).await;
    for (id, source) in [(1, "/a"), (2, "/b"), (3, "/a")] {
        device.send(binary(id, &of(source))).await;
        assert_eq!(device.puback().await.1, 0);
    }
    assert_eq!(ingress.publish(&of("/a")).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, [of("/a"), of("/b")]);
}

#[tokio::test]
async fn many_at_once_are_stored_and_acknowledged_in_order() {
    const COUNT: u16 = 300;
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { publishes_per_connection: 8, ..limits() }).await;
    ingress.until_ready().await;
    // Far more than the receive maximum: no one is told off, it only takes its time.
    let mut device = Device::v3(&ingress).await;
    for id in 1..=COUNT {
        device.send(event_v3(id, &event(&id.to_string()))).await;
    }
    for id in 1..=COUNT {
        let Some(Packet::V3_1_1Puback(puback)) = device.receive().await else { panic!("no PUBACK {id}") };
        assert_eq!(puback.packet_id(), id);
    }
    let ids: Vec<u16> = events(&broker).await.iter().map(|event| event.id().parse().unwrap()).collect();
    assert_eq!(ids, Vec::from_iter(1..=COUNT));
}

#[tokio::test]
async fn devices_that_share_the_bounds_do_not_wait_for_each_other() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { requests: 4, ..limits() }).await;
    ingress.until_ready().await;
    let mut devices = Vec::new();
    for device in 0..4 {
        let (mut connected, _) = Device::v5(&ingress, 60).await;
        for id in 1..=50 {
            connected.send(binary(id, &event(&format!("{device}-{id}")))).await;
        }
        devices.push(connected);
    }
    for device in &mut devices {
        for id in 1..=50 {
            assert_eq!(device.puback().await, (id, 0, String::new()));
        }
    }
    assert_eq!(events(&broker).await.len(), 200);
}

#[tokio::test]
async fn a_device_is_told_what_there_is() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (_device, connack) = Device::v5(&ingress, 60).await;
    assert!(!connack.session_present());
    let has = |wanted: fn(&Property) -> bool| assert!(connack.props().iter().any(wanted), "{:?}", connack.props());
    has(|property| matches!(property, Property::MaximumQos(quality) if quality.val() == 1));
    has(|property| matches!(property, Property::RetainAvailable(retain) if retain.val() == 0));
    has(|property| matches!(property, Property::ReceiveMaximum(most) if most.val() == 64));
    has(|property| matches!(property, Property::MaximumPacketSize(size) if size.val() as usize == 4 * MAX_EVENT));
    has(|property| matches!(property, Property::AssignedClientIdentifier(name) if !name.val().is_empty()));
}

#[tokio::test]
async fn who_is_silent_is_let_go() {
    let broker = TestBroker::start().await;
    let ingress = start_with(&broker, Limits { handshake: Duration::from_secs(4), ..limits() }).await;
    ingress.until_ready().await;
    let mut silent = Device::silent(&ingress, Version::V5_0).await;
    let (mut device, _) = Device::v5(&ingress, 3).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        device.send(v5_0::Pingreq::builder().build().unwrap()).await;
        assert!(matches!(device.receive().await, Some(Packet::V5_0Pingresp(_))), "a ping keeps it alive");
    }
    assert!(silent.receive().await.is_none(), "nobody waits for a CONNECT for ever");
    assert_eq!(device.disconnected().await, 0x8D, "one and a half times the keep-alive");
}

#[tokio::test]
async fn the_end_of_the_ingress_is_announced_after_what_is_in_progress() {
    let broker = TestBroker::start().await;
    let mut ingress = start_with(&broker, Limits { propagation: Duration::from_secs(3), ..limits() }).await;
    ingress.until_ready().await;
    let (mut device, _) = Device::v5(&ingress, 60).await;
    let mut old = Device::v3(&ingress).await;
    ingress.leave();
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.puback().await.1, 0, "still served while the cluster learns that it leaves");
    assert_eq!(device.disconnected().await, 0x8B);
    assert!(old.receive().await.is_none());
    ingress.ended().await;
}

#[tokio::test]
async fn a_device_of_3_1_1_sends_again_after_an_outage() {
    let mut broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let mut device = Device::v3(&ingress).await;
    broker.stop();
    ingress.until(StatusCode::SERVICE_UNAVAILABLE).await;
    device.send(event_v3(1, &event("1"))).await;
    assert!(device.receive().await.is_none(), "closed without a PUBACK");

    broker.restart().await;
    ingress.until_ready().await;
    let mut device = Device::v3(&ingress).await;
    for _ in 0..2 {
        device.send(event_v3(1, &event("1"))).await;
        assert!(matches!(device.receive().await, Some(Packet::V3_1_1Puback(_))));
    }
    assert_eq!(events(&broker).await, [event("1")]);
}

#[tokio::test]
async fn packets_in_pieces_are_packets() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let mut device = Device::silent(&ingress, Version::V3_1_1).await;
    let connect = v3_1_1::Connect::builder().client_id("x").unwrap().build().unwrap();
    device.send(connect).await;
    assert!(device.receive().await.is_some());
    let large = Event::builder("1", "/s", "t").data(vec![b'x'; MAX_EVENT - 100]).build().unwrap();
    for piece in event_v3(1, &large).to_continuous_buffer().chunks(1009) {
        device.write(piece).await;
    }
    assert!(matches!(device.receive().await, Some(Packet::V3_1_1Puback(_))));
    assert_eq!(events(&broker).await, [large]);
}
