//! What a packet means and what is answered. Pure: bytes and outcomes in, steps out.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event as Signal, TimerKind};
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait as _, Packet, Property, Qos, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode};
use mqtt_protocol_core::mqtt::{ArcPayload, Connection, Version, role};
use tidegate_cloudevents::{Event, Invalid, json, mqtt};

use super::answer::{self, Built};
use crate::problem::Problem;

/// The state of one connection.
pub struct Session {
    connection: Connection<role::Server>,
    /// Bytes of a packet that has not arrived completely.
    partial: usize,
    connected: bool,
    closed: bool,
    /// Whether the client wants to read reasons.
    explain: bool,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Write(Vec<u8>),
    /// From now on silence longer than this ends the connection (`None`: the client promises nothing).
    Connected(Option<Duration>),
    /// Publish this, and say how that went by [`Session::settled`], in the order of arrival.
    Arrived(Arrival),
    /// End the connection.
    Close,
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
    /// Nothing has arrived. Packets may have this many bytes, and so many may wait for their acknowledgement.
    pub fn new(max_packet: usize, receive_maximum: u16) -> Self {
        let options = ConnectionOptions::new()
            .maximum_packet_size_recv(u32::try_from(max_packet).unwrap_or(u32::MAX))
            .receive_maximum(receive_maximum);
        let mut connection = Connection::with_options(Version::Undetermined, options);
        connection.set_auto_ping_response(true);
        Self { connection, partial: 0, connected: false, closed: false, explain: true }
    }

    /// Bytes of a packet that has begun to arrive and must be kept.
    pub fn partial(&self) -> usize {
        self.partial
    }

    /// Reads what has arrived, at most one packet of it.
    pub fn received(&mut self, input: &mut BytesMut) -> Vec<Step> {
        let mut cursor = Cursor::new(&input[..]);
        let signals = self.connection.recv(&mut cursor);
        let read = usize::try_from(cursor.position()).unwrap_or(input.len());
        input.advance(read);
        self.partial = if signals.is_empty() { self.partial + read } else { 0 };
        self.steps(signals)
    }

    /// Acknowledges an event, or says why it was not taken. With MQTT 3.1.1 there is no way to say so.
    pub fn settled(&mut self, packet_id: Option<u16>, outcome: Result<(), &Problem>) -> Vec<Step> {
        let Some(packet_id) = packet_id else { return Vec::new() };
        match (self.connection.get_protocol_version(), outcome) {
            (Version::V5_0, outcome) => self.send(answer::puback_v5(packet_id, outcome, self.explain)),
            (_, Ok(())) => self.send(answer::puback_v3(packet_id)),
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
                tracing::warn!(?error, "a packet cannot be built");
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
                    tracing::debug!(?error, "MQTT");
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
            _ if !self.connected => self.close(),
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

    fn connect_v3(&mut self, connect: &v3_1_1::Connect) -> Vec<Step> {
        if connect.will_flag() {
            return self.send(answer::connack_v3(ConnectReturnCode::NotAuthorized));
        }
        if connect.client_id().is_empty() && !connect.clean_session() {
            return self.send(answer::connack_v3(ConnectReturnCode::IdentifierRejected));
        }
        let steps = self.send(answer::connack_v3(ConnectReturnCode::Accepted));
        self.connected(connect.keep_alive(), steps)
    }

    fn connect_v5(&mut self, connect: &v5_0::Connect) -> Vec<Step> {
        if connect.will_flag() {
            let reason = "a will is not supported: publish an event of your own instead";
            return self.send(answer::refusal_v5(ConnectReasonCode::ImplementationSpecificError, reason));
        }
        if connect.props().iter().any(|property| matches!(property, Property::AuthenticationMethod(_))) {
            let reason = "enhanced authentication is not supported";
            return self.send(answer::refusal_v5(ConnectReasonCode::BadAuthenticationMethod, reason));
        }
        let silent = |property: &Property| matches!(property, Property::RequestProblemInformation(p) if p.val() == 0);
        self.explain = !connect.props().iter().any(silent);
        let assigned = connect.client_id().is_empty().then(|| format!("tidegate-{:016x}", fastrand::u64(..)));
        let steps = self.send(answer::connack_v5(assigned.as_deref()));
        self.connected(connect.keep_alive(), steps)
    }

    fn connected(&mut self, keep_alive: u16, mut steps: Vec<Step>) -> Vec<Step> {
        self.connected = true;
        // One and a half times, as both versions say.
        let silence = (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500));
        steps.push(Step::Connected(silence));
        steps
    }

    fn publish_v3(&mut self, publish: &v3_1_1::Publish) -> Vec<Step> {
        if publish.qos() == Qos::ExactlyOnce {
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
