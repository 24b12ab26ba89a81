//! What a packet means and what is answered. Pure: bytes and outcomes in, steps out.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event as Signal, TimerKind};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait as _, Packet, Property, Qos, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode;
use mqtt_protocol_core::mqtt::{ArcPayload, Connection, Version, role};
use tidegate_cloudevents::{Event, Invalid, json, mqtt};

use self::connect::Connecting;
use super::answer::{self, Built};
use crate::outcome::Stored;
use crate::problem::Problem;

mod connect;

/// Bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of a packet of whoever is connected, whatever its topic is.
    pub packet: usize,
    /// Bytes of a packet before that.
    pub greeting: usize,
    /// Events that may wait for their acknowledgement.
    pub receive_maximum: u16,
    /// The longest silence.
    pub silence: Duration,
}

/// The state of one connection.
pub struct Session {
    connection: Connection<role::Server>,
    silence: Duration,
    /// Why it is refused, which is the answer to its CONNECT.
    refusal: Option<Refusal>,
    /// Bytes of a packet that has not arrived completely.
    partial: usize,
    /// Of which there may be so many, and never more than these.
    limit: usize,
    most: usize,
    /// The CONNECT whose credentials are being looked at.
    connecting: Option<Connecting>,
    connected: bool,
    closed: bool,
    /// Whether the client wants to read reasons.
    explain: bool,
}

/// Why there is no connection for a device, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no room for it.
    Busy,
    /// It does not prove who it is, or names no topic: that is not said to whoever may publish nothing.
    NotAuthenticated,
    /// It may not publish to its topic.
    NotAllowed,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Write(Vec<u8>),
    /// A device connects with these. Say by [`Session::authenticated`] whether it may, before anything else of it is read.
    Authenticate(Credentials),
    /// There is a connection.
    Connected(Connected),
    /// Publish this, and say how that went by [`Session::settled`], in the order of arrival.
    Arrived(Arrival),
    /// End the connection.
    Close,
}

/// What a device says of itself.
#[derive(Debug, Default)]
pub struct Credentials {
    /// Its user name, which may be that of a topic.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Vec<u8>>,
}

/// A device that is connected.
#[derive(Debug)]
pub struct Connected {
    /// From now on silence longer than this ends the connection.
    pub silence: Duration,
    /// Its name, if it has one of its own.
    pub client: Option<String>,
}

/// A PUBLISH.
#[derive(Debug)]
pub struct Arrival {
    /// What to acknowledge; `None` with QoS 0.
    pub packet_id: Option<u16>,
    /// What came.
    pub event: Result<Event, Invalid>,
    /// Bytes of the payload.
    pub size: usize,
}

impl Session {
    /// Nothing has arrived.
    pub fn new(bounds: Bounds) -> Self {
        let options = ConnectionOptions::new()
            .maximum_packet_size_recv(u32::try_from(bounds.packet).unwrap_or(u32::MAX))
            .receive_maximum(bounds.receive_maximum);
        let mut connection = Connection::with_options(Version::Undetermined, options);
        connection.set_auto_ping_response(true);
        let silence = bounds.silence;
        Self {
            connection,
            silence,
            refusal: None,
            partial: 0,
            limit: bounds.greeting,
            most: bounds.packet,
            connecting: None,
            connected: false,
            closed: false,
            explain: true,
        }
    }

    /// A connection that is refused as soon as the device has said which version it speaks.
    pub fn refusing(bounds: Bounds, refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::new(bounds) }
    }

    /// Bytes of a packet that has begun to arrive and must be kept.
    pub fn partial(&self) -> usize {
        self.partial
    }

    /// Reads what has arrived, at most one packet of it.
    pub fn received(&mut self, input: &mut BytesMut) -> Vec<Step> {
        if self.partial == 0 && input.first().is_some_and(|first| !has_valid_flags(*first)) {
            input.clear();
            return self.end(DisconnectReasonCode::MalformedPacket);
        }
        let mut cursor = Cursor::new(&input[..]);
        let signals = self.connection.recv(&mut cursor);
        let read = usize::try_from(cursor.position()).unwrap_or(input.len());
        input.advance(read);
        self.partial = if signals.is_empty() { self.partial + read } else { 0 };
        if self.partial > self.limit {
            return self.end(DisconnectReasonCode::PacketTooLarge);
        }
        self.steps(signals)
    }

    /// Acknowledges an event, or says why it was not taken. With MQTT 3.1.1 there is no way to say so.
    pub fn settled(&mut self, packet_id: Option<u16>, outcome: Result<Stored, &Problem>) -> Vec<Step> {
        let Some(packet_id) = packet_id else { return Vec::new() };
        match (self.connection.get_protocol_version(), outcome) {
            (Version::V5_0, outcome) => self.send(answer::puback_v5(packet_id, outcome, self.explain)),
            (_, Ok(_)) => self.send(answer::puback_v3(packet_id)),
            (_, Err(_)) => self.close(),
        }
    }

    /// The client was silent for too long.
    pub fn silent(&mut self) -> Vec<Step> {
        if !self.connected {
            return self.close();
        }
        let signals = self.connection.notify_timer_fired(TimerKind::PingreqRecv);
        self.steps(signals)
    }

    /// Ends the connection for a reason of ours.
    pub fn end(&mut self, code: DisconnectReasonCode) -> Vec<Step> {
        if self.connected && !self.closed && self.connection.get_protocol_version() == Version::V5_0 {
            let mut steps = self.send(answer::disconnect_v5(code));
            steps.extend(self.close());
            return steps;
        }
        self.close()
    }

    fn close(&mut self) -> Vec<Step> {
        self.closed = true;
        vec![Step::Close]
    }

    fn send(&mut self, packet: Built) -> Vec<Step> {
        match packet {
            Ok(packet) => {
                let signals = self.connection.send(packet);
                self.steps(signals)
            }
            Err(error) => {
                tracing::warn!(?error, "cannot build an MQTT packet");
                self.close()
            }
        }
    }

    fn steps(&mut self, signals: Vec<Signal>) -> Vec<Step> {
        let mut steps = Vec::new();
        for signal in signals {
            // After the end nothing else may happen, whatever else the packet held.
            if self.closed {
                break;
            }
            match signal {
                Signal::NotifyPacketReceived(packet) => steps.extend(self.packet(packet)),
                Signal::RequestSendPacket { packet, .. } => steps.push(Step::Write(packet.to_continuous_buffer())),
                Signal::RequestClose => steps.extend(self.close()),
                Signal::NotifyError(error) => {
                    tracing::debug!(?error, "closing a connection: MQTT protocol error");
                    steps.extend(self.close());
                }
                // The keep-alive is ours to watch, and we send nothing that needs an id.
                Signal::RequestTimerReset { .. }
                | Signal::RequestTimerCancel(_)
                | Signal::NotifyPacketIdReleased(_) => {}
            }
        }
        steps
    }

    fn packet(&mut self, packet: Packet) -> Vec<Step> {
        match packet {
            Packet::V3_1_1Connect(connect) => self.connect_v3(&connect),
            Packet::V5_0Connect(connect) => self.connect_v5(&connect),
            // The library reads packets of either version before CONNECT, too.
            _ if !self.connected || self.connecting.is_some() => self.close(),
            Packet::V3_1_1Publish(publish) => self.publish_v3(&publish),
            Packet::V5_0Publish(publish) => self.publish_v5(&publish),
            Packet::V3_1_1Subscribe(packet) => self.send(answer::suback_v3(packet.packet_id(), packet.entries().len())),
            Packet::V5_0Subscribe(packet) => self.send(answer::suback_v5(packet.packet_id(), packet.entries().len())),
            Packet::V3_1_1Unsubscribe(packet) => self.send(answer::unsuback_v3(packet.packet_id())),
            Packet::V5_0Unsubscribe(packet) => {
                self.send(answer::unsuback_v5(packet.packet_id(), packet.entries().len()))
            }
            Packet::V3_1_1Pingreq(_) | Packet::V5_0Pingreq(_) => Vec::new(),
            Packet::V3_1_1Disconnect(_) | Packet::V5_0Disconnect(_) => self.close(),
            _ => self.end(DisconnectReasonCode::ProtocolError),
        }
    }

    fn publish_v3(&mut self, publish: &v3_1_1::Publish) -> Vec<Step> {
        let refused = refused_name(publish.topic_name()).is_some() || publish.packet_id() == Some(0);
        if publish.qos() == Qos::ExactlyOnce || refused {
            return self.close();
        }
        let payload = bytes_of(publish.payload());
        let size = payload.len();
        vec![Step::Arrived(Arrival { packet_id: publish.packet_id(), event: json::decode(&payload), size })]
    }

    fn publish_v5(&mut self, publish: &v5_0::Publish) -> Vec<Step> {
        if publish.qos() == Qos::ExactlyOnce {
            return self.end(DisconnectReasonCode::QosNotSupported);
        }
        if publish.retain() {
            return self.end(DisconnectReasonCode::RetainNotSupported);
        }
        // MQTT-2.2.1-3.
        if publish.packet_id() == Some(0) {
            return self.end(DisconnectReasonCode::MalformedPacket);
        }
        if let Some(code) = refused_name(publish.topic_name()) {
            return self.end(code);
        }
        let refused = publish.props().iter().find_map(|property| match property {
            // None are offered (MQTT-3.3.2-9).
            Property::TopicAlias(_) => Some(DisconnectReasonCode::TopicAliasInvalid),
            // MQTT-3.3.2-14.
            Property::ResponseTopic(topic) => refused_name(topic.val()),
            _ => None,
        });
        if let Some(code) = refused {
            return self.end(code);
        }
        let content_type = publish.props().iter().find_map(|property| match property {
            Property::ContentType(content_type) => Some(content_type.val()),
            _ => None,
        });
        let properties = publish.props().iter().filter_map(|property| match property {
            Property::UserProperty(pair) => Some((pair.key(), pair.val())),
            _ => None,
        });
        let payload = bytes_of(publish.payload());
        let size = payload.len();
        let event = mqtt::decode(content_type, properties, payload);
        vec![Step::Arrived(Arrival { packet_id: publish.packet_id(), event, size })]
    }
}

/// Whether the flags of a packet's first byte are those of its type (3.1.1: MQTT-2.2.2-2; 5: MQTT-2.1.3-1).
fn has_valid_flags(first: u8) -> bool {
    match (first >> 4, first & 0x0F) {
        // PUBLISH has flags of its own.
        (3, _) => true,
        // PUBREL, SUBSCRIBE, UNSUBSCRIBE.
        (6 | 8 | 10, flags) => flags == 2,
        (_, flags) => flags == 0,
    }
}

/// Why a name cannot be published to: it is empty (MQTT-4.7.3-1; the alias that MQTT 5 allows instead is not offered),
/// or has a wildcard (MQTT-3.3.2-2) or U+0000 (MQTT-1.5.4-2).
fn refused_name(name: &str) -> Option<DisconnectReasonCode> {
    if name.is_empty() {
        return Some(DisconnectReasonCode::ProtocolError);
    }
    name.contains(['+', '#', '\0']).then_some(DisconnectReasonCode::MalformedPacket)
}

/// The payload, where it is.
fn bytes_of(payload: &ArcPayload) -> Bytes {
    struct Owner(ArcPayload);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice()
        }
    }
    Bytes::from_owner(Owner(payload.clone()))
}

#[cfg(test)]
mod tests;
