//! From CONNECT to CONNACK.

use std::time::Duration;

use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::packet::{Property, v3_1_1, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode};

use super::{Connected, Credentials, Refusal, Session, Step, answer};
use crate::problem::Problem;

/// Longest client identifier: it is kept.
const MAX_CLIENT_ID: usize = 256;

/// A CONNECT that was taken.
pub(super) enum Connecting {
    V3 { client: String, keep_alive: u16 },
    V5 { client: String, keep_alive: u16 },
}

impl Session {
    /// Answers a CONNECT: the device may publish, with so many bytes in a packet, or why not.
    pub fn authenticated(&mut self, outcome: Result<usize, (Refusal, &Problem)>) -> Vec<Step> {
        let is_v5 = self.connection.get_protocol_version() == Version::V5_0;
        let outcome = outcome.map(|packet| self.limit = packet.min(self.most));
        match (self.connecting.take().filter(|_| !self.closed), outcome) {
            (None, _) => self.close(),
            (Some(_), Err((refusal, problem))) if is_v5 => self.refuse_v5(refusal, problem),
            (Some(_), Err((refusal, _))) => self.send(answer::connack_v3(refusal.code_v3())),
            (Some(Connecting::V3 { client, keep_alive }), Ok(())) => self.accept_v3(&client, keep_alive),
            (Some(Connecting::V5 { client, keep_alive }), Ok(())) => self.accept_v5(&client, keep_alive),
        }
    }

    pub(super) fn connect_v3(&mut self, connect: &v3_1_1::Connect) -> Vec<Step> {
        if has_reserved_flag(&connect.to_continuous_buffer()) {
            return self.close();
        }
        let client = connect.client_id();
        let refusal = if let Some(refusal) = self.refusal {
            refusal.code_v3()
        } else if connect.will_flag() {
            ConnectReturnCode::NotAuthorized
        } else if (client.is_empty() && !connect.clean_session()) || client.len() > MAX_CLIENT_ID {
            ConnectReturnCode::IdentifierRejected
        } else {
            let connecting = Connecting::V3 { client: client.to_owned(), keep_alive: connect.keep_alive() };
            return self.authenticate(connecting, connect.user_name(), connect.password());
        };
        self.send(answer::connack_v3(refusal))
    }

    /// Nothing else happens until it is known who this is.
    fn authenticate(&mut self, connecting: Connecting, user: Option<&str>, password: Option<&[u8]>) -> Vec<Step> {
        if self.connected || self.connecting.is_some() {
            return self.end(DisconnectReasonCode::ProtocolError);
        }
        self.connecting = Some(connecting);
        let (user, password) = (user.map(str::to_owned), password.map(<[u8]>::to_vec));
        vec![Step::Authenticate(Credentials { user, password })]
    }

    fn accept_v3(&mut self, client: &str, keep_alive: u16) -> Vec<Step> {
        let steps = self.send(answer::connack_v3(ConnectReturnCode::Accepted));
        // There is no way to tell that the keep-alive is shorter here.
        let silence = silence_of(keep_alive).map_or(self.silence, |silence| silence.min(self.silence));
        self.connected(client, silence, steps)
    }

    fn refuse_v5(&mut self, refusal: Refusal, problem: &Problem) -> Vec<Step> {
        let detail = &problem.detail;
        let reason = match refusal {
            Refusal::Busy | Refusal::NotAllowed => detail.to_string(),
            // Only the beginning of a reason is sent.
            Refusal::NotAuthenticated => {
                format!(
                    "the host of the TLS handshake (SNI) or the user name (<namespace>/<topic>) names the topic, and the \
                     password is its token: {detail}"
                )
            }
        };
        self.send(answer::refusal_v5(refusal.code_v5(), &reason))
    }

    pub(super) fn connect_v5(&mut self, connect: &v5_0::Connect) -> Vec<Step> {
        if has_reserved_flag(&connect.to_continuous_buffer()) {
            return self.close();
        }
        let client = connect.client_id();
        let enhanced = |property: &Property| matches!(property, Property::AuthenticationMethod(_));
        let (code, reason) = if let Some(refusal) = self.refusal {
            (refusal.code_v5(), "too many connections are open, in all or from this address")
        } else if connect.will_flag() {
            let reason = "a will is not supported: publish an event of your own instead";
            (ConnectReasonCode::ImplementationSpecificError, reason)
        } else if connect.props().iter().any(enhanced) {
            (ConnectReasonCode::BadAuthenticationMethod, "enhanced authentication is not supported")
        } else if client.len() > MAX_CLIENT_ID {
            (ConnectReasonCode::ClientIdentifierNotValid, "a client identifier may have 256 bytes")
        } else {
            let silent =
                |property: &Property| matches!(property, Property::RequestProblemInformation(p) if p.val() == 0);
            self.explain = !connect.props().iter().any(silent);
            let connecting = Connecting::V5 { client: client.to_owned(), keep_alive: connect.keep_alive() };
            return self.authenticate(connecting, connect.user_name(), connect.password());
        };
        self.send(answer::refusal_v5(code, reason))
    }

    fn accept_v5(&mut self, client: &str, keep_alive: u16) -> Vec<Step> {
        let assigned = client.is_empty().then(|| format!("tidegate-{:016x}", fastrand::u64(..)));
        let asked = silence_of(keep_alive).filter(|silence| *silence <= self.silence);
        let keep_alive = asked.is_none().then(|| keep_alive_of(self.silence));
        let steps = self.send(answer::connack_v5(assigned.as_deref(), keep_alive, self.limit));
        self.connected(client, asked.unwrap_or(self.silence), steps)
    }

    fn connected(&mut self, client: &str, silence: Duration, mut steps: Vec<Step>) -> Vec<Step> {
        self.connected = true;
        let client = (!client.is_empty()).then(|| client.to_owned());
        steps.push(Step::Connected(Connected { silence, client }));
        steps
    }
}

impl Refusal {
    fn code_v3(self) -> ConnectReturnCode {
        match self {
            Self::Busy => ConnectReturnCode::ServerUnavailable,
            Self::NotAuthenticated => ConnectReturnCode::BadUserNameOrPassword,
            Self::NotAllowed => ConnectReturnCode::NotAuthorized,
        }
    }

    fn code_v5(self) -> ConnectReasonCode {
        match self {
            Self::Busy => ConnectReasonCode::ServerBusy,
            Self::NotAuthenticated => ConnectReasonCode::BadUserNameOrPassword,
            Self::NotAllowed => ConnectReasonCode::NotAuthorized,
        }
    }
}

/// One and a half times the keep-alive, as both versions say; `None`: the client promises nothing.
fn silence_of(keep_alive: u16) -> Option<Duration> {
    (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1500))
}

/// The keep-alive, in seconds, for a silence of this length.
fn keep_alive_of(silence: Duration) -> u16 {
    u16::try_from(silence.as_secs() * 2 / 3).unwrap_or(u16::MAX).max(1)
}

/// Whether the lowest of CONNECT's own flags is set (MQTT-3.1.2-3): it is after the remaining length, the protocol's
/// name and its level.
fn has_reserved_flag(connect: &[u8]) -> bool {
    let length = connect.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1;
    connect.get(1 + length + 2 + "MQTT".len() + 1).is_none_or(|flags| flags & 1 != 0)
}
