//! A device that speaks MQTT, packet by packet: it may break every rule.

use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{
    ContentType, GenericPacketTrait as _, Packet, Property, Qos, UserProperty, v3_1_1, v5_0,
};
use tidegate_cloudevents::{Event, json};
use tidegate_test_broker::LIMIT;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::Running;

pub struct Device {
    stream: TlsStream<TcpStream>,
    version: Version,
}

impl Device {
    /// Connected, but for MQTT's own greeting.
    pub async fn silent(ingress: &Running, version: Version) -> Self {
        Self::over(ingress.connect_to(ingress.mqtt, b"mqtt").await, version)
    }

    /// The same, over this connection.
    pub fn over(stream: TlsStream<TcpStream>, version: Version) -> Self {
        Self { stream, version }
    }

    /// Connected with MQTT 5, and what the server says of itself.
    pub async fn v5(ingress: &Running, keep_alive: u16) -> (Self, v5_0::Connack) {
        let stream = ingress.connect_to(ingress.mqtt, b"mqtt").await;
        Self::greet_v5(stream, v5_0::Connect::builder().keep_alive(keep_alive).build().unwrap()).await
    }

    /// A connection that greets with MQTT 5, and what the server says to that.
    pub async fn greet_v5(stream: TlsStream<TcpStream>, connect: v5_0::Connect) -> (Self, v5_0::Connack) {
        let mut device = Self { stream, version: Version::V5_0 };
        device.send(connect).await;
        let Some(Packet::V5_0Connack(connack)) = device.receive().await else { panic!("no CONNACK") };
        (device, connack)
    }

    /// Connected with MQTT 3.1.1.
    pub async fn v3(ingress: &Running) -> Self {
        let connect = v3_1_1::Connect::builder().client_id("sensor-1").unwrap().keep_alive(60).build().unwrap();
        let (device, connack) = Self::greet_v3(ingress, connect).await;
        assert_eq!(connack.return_code() as u8, 0);
        device
    }

    /// A connection that greets with MQTT 3.1.1, and what the server says to that.
    pub async fn greet_v3(ingress: &Running, connect: v3_1_1::Connect) -> (Self, v3_1_1::Connack) {
        let mut device = Self::silent(ingress, Version::V3_1_1).await;
        device.send(connect).await;
        let Some(Packet::V3_1_1Connack(connack)) = device.receive().await else { panic!("no CONNACK") };
        (device, connack)
    }

    pub async fn send(&mut self, packet: impl Into<Packet>) {
        self.write(&packet.into().to_continuous_buffer()).await;
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    pub async fn receive(&mut self) -> Option<Packet> {
        tokio::time::timeout(LIMIT, self.next()).await.unwrap()
    }

    async fn next(&mut self) -> Option<Packet> {
        let kind = self.stream.read_u8().await.ok()? >> 4;
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            length |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(parse(self.version, kind, &body))
    }

    /// The code and the reason of the next packet, a PUBACK of MQTT 5.
    pub async fn puback(&mut self) -> (u16, u8, String) {
        let packet = self.receive().await;
        let Some(Packet::V5_0Puback(puback)) = packet else { panic!("{packet:?}") };
        let reason = puback.props().iter().flatten().find_map(|property| match property {
            Property::ReasonString(reason) => Some(reason.val().to_owned()),
            _ => None,
        });
        (puback.packet_id(), puback.reason_code().map_or(0, |code| code as u8), reason.unwrap_or_default())
    }

    /// The user properties of the next packet, a PUBACK of MQTT 5 that says yes.
    pub async fn receipt(&mut self) -> Vec<(String, String)> {
        let packet = self.receive().await;
        let Some(Packet::V5_0Puback(puback)) = packet else { panic!("{packet:?}") };
        assert_eq!(puback.reason_code().map_or(0, |code| code as u8), 0);
        let pair = |property: &Property| match property {
            Property::UserProperty(pair) => Some((pair.key().to_owned(), pair.val().to_owned())),
            _ => None,
        };
        puback.props().iter().flatten().filter_map(pair).collect()
    }

    /// The code of the next packet, a DISCONNECT of MQTT 5, after which nothing comes.
    pub async fn disconnected(&mut self) -> u8 {
        let packet = self.receive().await;
        let Some(Packet::V5_0Disconnect(disconnect)) = packet else { panic!("{packet:?}") };
        assert!(self.receive().await.is_none(), "the connection is still open");
        disconnect.reason_code().unwrap() as u8
    }
}

fn parse(version: Version, kind: u8, body: &[u8]) -> Packet {
    match (version, kind) {
        (Version::V5_0, 2) => v5_0::Connack::parse(body).unwrap().0.into(),
        (Version::V5_0, 4) => v5_0::Puback::parse(body).unwrap().0.into(),
        (Version::V5_0, 9) => v5_0::Suback::parse(body).unwrap().0.into(),
        (Version::V5_0, 11) => v5_0::Unsuback::parse(body).unwrap().0.into(),
        (Version::V5_0, 13) => v5_0::Pingresp::parse(body).unwrap().0.into(),
        (Version::V5_0, 14) => v5_0::Disconnect::parse(body).unwrap().0.into(),
        (_, 2) => v3_1_1::Connack::parse(body).unwrap().0.into(),
        (_, 4) => v3_1_1::Puback::parse(body).unwrap().0.into(),
        (_, 9) => v3_1_1::Suback::parse(body).unwrap().0.into(),
        (_, other) => panic!("a packet of type {other}"),
    }
}

/// An event in binary mode.
pub fn binary(packet_id: u16, event: &Event) -> v5_0::Publish {
    let pair = |(name, value): (&str, &str)| UserProperty::new(name, value).unwrap().into();
    let mut properties: Vec<Property> = event.attributes().map(pair).collect();
    properties.extend(event.data_content_type().map(|value| ContentType::new(value).unwrap().into()));
    v5(packet_id, properties, event.data().cloned().unwrap_or_default().to_vec())
}

/// An event in structured mode.
pub fn structured(packet_id: u16, event: &Event) -> v5_0::Publish {
    let properties = vec![ContentType::new("application/cloudevents+json").unwrap().into()];
    v5(packet_id, properties, json::encode(event).unwrap().to_vec())
}

/// A PUBLISH of MQTT 5.
pub fn v5(packet_id: u16, properties: Vec<Property>, payload: Vec<u8>) -> v5_0::Publish {
    let publish = v5_0::Publish::builder().topic_name("any").unwrap().qos(Qos::AtLeastOnce).packet_id(packet_id);
    publish.props(properties).payload(payload).build().unwrap()
}

/// A PUBLISH of MQTT 3.1.1.
pub fn v3(packet_id: u16, payload: Vec<u8>) -> v3_1_1::Publish {
    let publish = v3_1_1::Publish::builder().topic_name("any").unwrap().qos(Qos::AtLeastOnce).packet_id(packet_id);
    publish.payload(payload).build().unwrap()
}

/// An event over MQTT 3.1.1.
pub fn event_v3(packet_id: u16, event: &Event) -> v3_1_1::Publish {
    v3(packet_id, json::encode(event).unwrap().to_vec())
}
