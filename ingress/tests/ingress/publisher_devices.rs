//! Devices prove who they are by the password of their CONNECT.

use mqtt_protocol_core::mqtt::packet::{Packet, v3_1_1, v5_0};
use tidegate_broker_client::contract::{self, PublisherRule};
use tidegate_broker_client::message_id;
use tidegate_cloudevents::Event;
use tidegate_publisher_auth::LEEWAY_SECONDS;
use tidegate_test_broker::{eventually, topic_id};

use crate::device::{Device, binary, event_v3};
use crate::publishers::{Cluster, account, now, write};
use crate::support::{event, messages};

fn connect_v5(password: &str) -> v5_0::Connect {
    let connect = v5_0::Connect::builder().user_name("ignored").unwrap();
    connect.password(password.as_bytes().to_vec()).unwrap().keep_alive(60).build().unwrap()
}

fn connect_v3(password: &str) -> v3_1_1::Connect {
    let connect = v3_1_1::Connect::builder().client_id("sensor-1").unwrap().user_name("ignored").unwrap();
    connect.password(password.as_bytes().to_vec()).unwrap().keep_alive(60).build().unwrap()
}

/// A device with this password, and the code that it was answered.
async fn greet(cluster: &Cluster, password: &str) -> (Device, u8) {
    let stream = cluster.ingress.connect_to(cluster.ingress.mqtt, b"mqtt").await;
    let (device, connack) = Device::greet_v5(stream, connect_v5(password)).await;
    (device, connack.reason_code() as u8)
}

#[tokio::test]
async fn a_device_publishes_with_a_token_as_its_password() {
    let cluster = Cluster::start(&[account("web", Some("checkout"))]).await;
    let (mut device, code) = greet(&cluster, &cluster.token()).await;
    assert_eq!(code, 0);
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.puback().await.1, 0);
    let (mut older, connack) = Device::greet_v3(&cluster.ingress, connect_v3(&cluster.token())).await;
    assert_eq!(connack.return_code() as u8, 0);
    older.send(event_v3(1, &event("2"))).await;
    assert!(matches!(older.receive().await, Some(Packet::V3_1_1Puback(_))));
    let ids: Vec<_> =
        messages(&cluster.broker).await.iter().map(|m| m.headers.get("Nats-Msg-Id").unwrap().to_string()).collect();
    let checkout = "system:serviceaccount:web:checkout";
    assert_eq!(ids, ["1", "2"].map(|id| message_id::of_publisher(checkout, "/sensors/1", id)));
}

#[tokio::test]
async fn a_device_that_may_not_publish_is_refused_as_it_connects() {
    let cluster = Cluster::start(&[account("web", Some("checkout"))]).await;
    let of = |name: &str, audience: &str| cluster.issuer.token("web", name, audience, now());
    let audience = contract::audience(&topic_id());
    for (password, v5, v3) in [
        (String::new(), 0x86, 4),
        ("secret".to_owned(), 0x86, 4),
        (of("checkout", "tidegate.io/eventtopic/shop/other"), 0x86, 4),
        (of("other", &audience), 0x87, 5),
    ] {
        let (mut device, code) = greet(&cluster, &password).await;
        assert_eq!(code, v5, "{password}");
        assert!(device.receive().await.is_none(), "the connection is closed");
        let (mut older, connack) = Device::greet_v3(&cluster.ingress, connect_v3(&password)).await;
        assert_eq!(connack.return_code() as u8, v3, "{password}");
        assert!(older.receive().await.is_none());
    }
    let (_, connack) = Device::v5(&cluster.ingress, 60).await;
    assert_eq!(connack.reason_code() as u8, 0x86, "without a password");
    assert!(format!("{connack:?}").contains("password"), "{connack:?}");
    assert_eq!(messages(&cluster.broker).await.len(), 0);
}

/// The user name says which topic, and nothing of who the device is: that is the token's.
#[tokio::test]
async fn a_user_name_that_names_a_topic_proves_nothing() {
    let cluster = Cluster::start(&[account("web", Some("checkout"))]).await;
    let greet = async |user: &str, password: &str| {
        let stream = cluster.ingress.connect_as("events.example.com", cluster.ingress.mqtt, b"mqtt").await;
        let connect = v5_0::Connect::builder().user_name(user).unwrap().password(password.as_bytes().to_vec()).unwrap();
        let (device, connack) = Device::greet_v5(stream, connect.build().unwrap()).await;
        (device, connack.reason_code() as u8)
    };
    let topic = topic_id().to_string();
    let of = |name: &str, topic: &str| {
        cluster.issuer.token("web", name, &format!("{}{topic}", contract::AUDIENCE_PREFIX), now())
    };
    let (mut device, code) = greet(&topic, &of("checkout", &topic)).await;
    assert_eq!(code, 0);
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.puback().await.1, 0);
    for (user, password, code) in [
        (topic.as_str(), String::new(), 0x86),
        (&topic, of("checkout", "shop/other"), 0x86),
        (&topic, of("other", &topic), 0x87),
        // A topic that is not there, with a token for it and with one for another: as one that may not be used.
        ("shop/none", of("checkout", "shop/none"), 0x87),
        ("shop/none", of("checkout", &topic), 0x86),
        ("ignored", of("checkout", &topic), 0x86),
    ] {
        assert_eq!(greet(user, &password).await.1, code, "{user}");
    }
    assert_eq!(messages(&cluster.broker).await.len(), 1);
}

/// A client identifier is no secret: that of another publisher ends none of its connections.
#[tokio::test]
async fn a_device_ends_no_connection_of_another_publisher() {
    let cluster = Cluster::start(&[account("web", None)]).await;
    let token = |name: &str| cluster.issuer.token("web", name, &contract::audience(&topic_id()), now());
    let device = async |token: &str| {
        let stream = cluster.ingress.connect_to(cluster.ingress.mqtt, b"mqtt").await;
        let connect = v5_0::Connect::builder().client_id("sensor-7").unwrap().user_name("ignored").unwrap();
        let connect = connect.password(token.as_bytes().to_vec()).unwrap().keep_alive(60).build().unwrap();
        let (device, connack) = Device::greet_v5(stream, connect).await;
        assert_eq!(connack.reason_code() as u8, 0);
        device
    };
    let mut victim = device(&token("press")).await;
    let _rogue = device(&token("rogue")).await;
    victim.send(binary(1, &event("1"))).await;
    assert_eq!(victim.puback().await.1, 0);
    let _newer = device(&token("press")).await;
    assert_eq!(victim.disconnected().await, 0x8E, "its own does");
}

#[tokio::test]
async fn rights_are_looked_at_for_each_event() {
    let rule = PublisherRule { types: vec!["temperature".to_owned().try_into().unwrap()], ..account("web", None) };
    let cluster = Cluster::start(&[rule]).await;
    let (mut device, code) = greet(&cluster, &cluster.token()).await;
    assert_eq!(code, 0);
    let humidity = Event::builder("1", "/sensors/1", "humidity").build().unwrap();
    device.send(binary(1, &humidity)).await;
    let (_, code, reason) = device.puback().await;
    assert_eq!(code, 0x87);
    assert!(reason.contains("type"), "{reason}");
    device.send(binary(2, &event("2"))).await;
    assert_eq!(device.puback().await.1, 0, "the connection is as good as before");
    write(&cluster.broker, Some(cluster.issuer.trust()), &[account("shop", None)]);
    for packet_id in 3..200 {
        device.send(binary(packet_id, &event("2"))).await;
        if device.puback().await.1 == 0x87 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the rule that is gone still counts");
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let cluster = Cluster::start(&[account("web", None)]).await;
    let mut claims = cluster.issuer.claims("web", "checkout", &contract::audience(&topic_id()), now() - 3600);
    // What clocks may differ by is added to it.
    claims["exp"] = (now() + 3 - LEEWAY_SECONDS).into();
    let token = cluster.issuer.sign(&cluster.issuer.header(), &claims);
    let (mut device, code) = greet(&cluster, &token).await;
    assert_eq!(code, 0);
    device.send(binary(1, &event("1"))).await;
    assert_eq!(device.puback().await.1, 0);
    let started = std::time::Instant::now();
    assert_eq!(device.disconnected().await, 0x87);
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    eventually("it does not come again", async || greet(&cluster, &token).await.1 == 0x86).await;
}
