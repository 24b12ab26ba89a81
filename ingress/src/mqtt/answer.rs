//! The packets we send. Pure.

use http::StatusCode;
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, MaximumPacketSize, MaximumQos, Packet, Property, ReasonString, RetainAvailable,
    ServerKeepAlive, UserProperty, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, PubackReasonCode, SubackReasonCode,
    SubackReturnCode, UnsubackReasonCode,
};

use crate::outcome::Stored;
use crate::problem::Problem;

/// Longest reason we give.
const MAX_REASON: usize = 1024;

/// A packet, or why it cannot be built (it always can).
pub type Built = Result<Packet, MqttError>;

/// CONNACK of MQTT 3.1.1.
pub fn connack_v3(code: ConnectReturnCode) -> Built {
    v3_1_1::Connack::builder().session_present(false).return_code(code).build().map(Into::into)
}

/// Tells a client its name if it has none of its own, and after how many seconds of silence its connection ends if that
/// is not what it asked for. `packet`: how many bytes one may have. (The library adds the receive maximum.)
pub fn connack_v5(assigned: Option<&str>, keep_alive: Option<u16>, packet: usize) -> Built {
    let packet = MaximumPacketSize::new(u32::try_from(packet).unwrap_or(u32::MAX).max(1))?;
    let mut properties: Vec<Property> =
        vec![MaximumQos::new(1)?.into(), RetainAvailable::new(0)?.into(), packet.into()];
    if let Some(seconds) = keep_alive {
        properties.push(ServerKeepAlive::new(seconds)?.into());
    }
    if let Some(name) = assigned {
        properties.push(AssignedClientIdentifier::new(name)?.into());
    }
    let connack = v5_0::Connack::builder().session_present(false).reason_code(ConnectReasonCode::Success);
    connack.props(properties).build().map(Into::into)
}

/// Why there is no connection.
pub fn refusal_v5(code: ConnectReasonCode, reason: &str) -> Built {
    let connack = v5_0::Connack::builder().session_present(false).reason_code(code);
    connack.props(explained(reason)?).build().map(Into::into)
}

/// An event over MQTT 3.1.1 is stored.
pub fn puback_v3(packet_id: u16) -> Built {
    v3_1_1::Puback::builder().packet_id(packet_id).build().map(Into::into)
}

/// How it went with an event over MQTT 5; `explain` if the client wants to read more than that.
pub fn puback_v5(packet_id: u16, outcome: Result<Stored, &Problem>, explain: bool) -> Built {
    let puback = v5_0::Puback::builder().packet_id(packet_id);
    let puback = match outcome {
        Ok(stored) if explain && stored.sequence > 0 => {
            puback.reason_code(PubackReasonCode::Success).props(receipt(stored)?)
        }
        Ok(_) => puback,
        Err(problem) if explain => puback.reason_code(puback_code(problem)).props(explained(&problem.detail)?),
        Err(problem) => puback.reason_code(puback_code(problem)),
    };
    puback.build().map(Into::into)
}

/// The names are those of the headers over HTTP.
fn receipt(stored: Stored) -> Result<Vec<Property>, MqttError> {
    let mut properties = vec![UserProperty::new("tidegate-sequence", stored.sequence.to_string())?.into()];
    if stored.duplicate {
        properties.push(UserProperty::new("tidegate-duplicate", "true")?.into());
    }
    Ok(properties)
}

/// A PUBACK has no code of its own for what is too large: a limit of ours was exceeded, as by a full topic.
fn puback_code(problem: &Problem) -> PubackReasonCode {
    match problem.status {
        StatusCode::NOT_FOUND => PubackReasonCode::TopicNameInvalid,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PubackReasonCode::NotAuthorized,
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => PubackReasonCode::PayloadFormatInvalid,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => PubackReasonCode::QuotaExceeded,
        _ => PubackReasonCode::ImplementationSpecificError,
    }
}

/// Each of so many subscriptions is refused.
pub fn suback_v3(packet_id: u16, count: usize) -> Built {
    let suback = v3_1_1::Suback::builder().packet_id(packet_id);
    suback.return_codes(vec![SubackReturnCode::Failure; count]).build().map(Into::into)
}

/// Each of so many subscriptions is refused.
pub fn suback_v5(packet_id: u16, count: usize) -> Built {
    let suback = v5_0::Suback::builder().packet_id(packet_id);
    suback.reason_codes(vec![SubackReasonCode::NotAuthorized; count]).build().map(Into::into)
}

/// There was no subscription.
pub fn unsuback_v3(packet_id: u16) -> Built {
    v3_1_1::Unsuback::builder().packet_id(packet_id).build().map(Into::into)
}

/// There were no such subscriptions.
pub fn unsuback_v5(packet_id: u16, count: usize) -> Built {
    let unsuback = v5_0::Unsuback::builder().packet_id(packet_id);
    unsuback.reason_codes(vec![UnsubackReasonCode::NoSubscriptionExisted; count]).build().map(Into::into)
}

/// Why we end a connection of MQTT 5.
pub fn disconnect_v5(code: DisconnectReasonCode) -> Built {
    v5_0::Disconnect::builder().reason_code(code).build().map(Into::into)
}

fn explained(reason: &str) -> Result<Vec<Property>, MqttError> {
    let reason: String = reason.chars().take(MAX_REASON / 4).collect();
    Ok(vec![ReasonString::new(reason)?.into()])
}
