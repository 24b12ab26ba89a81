//! What is asked of a consumer and what it answers, as plain messages.
//!
//! The handler's account has no JetStream of its own; it imports the pull subject of its consumers (of lanes, also
//! their state and the end of a pin) and nothing that could describe them. So there is no consumer handle here, only
//! `$JS.API.CONSUMER.MSG.NEXT.…`.

pub mod status;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidegate_broker_client::layout;
use tidegate_delivery_core::{Kind, Moment, Pull, State};

/// The header in which the broker names the pin under which it delivers; it is the last one.
const PIN: &[u8] = b"Nats-Pin-Id:";
/// A request brings no more bytes than this, unless that is less than one event can have.
const REQUEST_BYTES: usize = 8 << 20;
/// What the broker counts beside the payload and the headers of an event: subjects.
const ENVELOPE: usize = 4096;
const NANOS: u64 = 1_000_000;

/// What the broker is told about an event.
pub const ACKNOWLEDGE: Bytes = Bytes::from_static(b"+ACK");
/// That it is worked on: `ack_wait` starts again.
pub const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const GIVE_BACK: Bytes = Bytes::from_static(b"-NAK");

/// That it goes back, for after so many milliseconds.
pub fn give_back(wait: Moment) -> Bytes {
    if wait == 0 { GIVE_BACK } else { Bytes::from(format!("-NAK {{\"delay\":{}}}", wait.saturating_mul(NANOS))) }
}

/// The body of a pull request; durations in nanoseconds.
#[derive(Serialize)]
struct Request<'a> {
    batch: usize,
    expires: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_heartbeat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

/// The body of a pull, where an event has so many bytes at most. One that is pinned has no `max_bytes`: with it a
/// pinned consumer of three servers (2.15.2) delivers nothing at all; `tests/order` shows it.
///
/// # Errors
/// None that is known.
pub fn request(pull: &Pull, largest: usize) -> Result<Bytes, serde_json::Error> {
    let (batch, expires) = (pull.batch, pull.expires.saturating_mul(NANOS));
    let request = match &pull.kind {
        Kind::Plain { heartbeat } => Request {
            batch,
            expires,
            idle_heartbeat: Some(heartbeat.saturating_mul(NANOS)),
            // Less than one event of the greatest size would stop the pull there.
            max_bytes: Some(REQUEST_BYTES.max(largest + ENVELOPE)),
            group: None,
            id: None,
        },
        Kind::Pinned(pin) => {
            let (group, id) = (Some(layout::LANE_GROUP), pin.as_deref());
            Request { batch, expires, idle_heartbeat: None, max_bytes: None, group, id }
        }
    };
    serde_json::to_vec(&request).map(Bytes::from)
}

/// The end of our pin.
pub fn unpin() -> Bytes {
    Bytes::from(format!("{{\"group\":\"{}\"}}", layout::LANE_GROUP))
}

/// The pin in an event's header block; empty where the consumer knows no pins. What its publisher wrote before it may
/// be no headers at all.
pub fn pin(block: &[u8]) -> &str {
    let Some(at) = block.windows(PIN.len()).rposition(|window| window == PIN) else { return "" };
    let value = &block[at + PIN.len()..];
    let value = value.split(|byte| *byte == b'\r').next().unwrap_or_default();
    std::str::from_utf8(value).map_or("", str::trim)
}

/// What is read of CONSUMER.INFO.
#[derive(Deserialize)]
struct Info {
    delivered: Progress,
    ack_floor: Progress,
    num_ack_pending: u64,
    num_pending: u64,
    #[serde(default)]
    priority_groups: Vec<Group>,
    #[serde(default)]
    config: Config,
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    pause_until: Option<String>,
}

#[derive(Deserialize)]
struct Group {
    group: String,
    #[serde(default)]
    pinned_client_id: String,
}

#[derive(Deserialize)]
struct Progress {
    consumer_seq: u64,
    stream_seq: u64,
}

/// The consumer's state; `None`: it is an error of the API, or none of its answers at all.
pub fn state(payload: &[u8]) -> Option<State> {
    let info: Info = serde_json::from_slice(payload).ok()?;
    let group = info.priority_groups.into_iter().find(|group| group.group == layout::LANE_GROUP);
    let pin = group.map(|group| group.pinned_client_id).filter(|pin| !pin.is_empty());
    let (delivered, pending) = (info.delivered.consumer_seq, info.num_ack_pending);
    let (floor, highest) = (info.ack_floor.stream_seq, info.delivered.stream_seq);
    Some(State { delivered, pending, floor, highest, pin: pin.map(Into::into) })
}

/// How many events wait for somebody: published and not delivered, or delivered and not acknowledged.
pub fn waiting(payload: &[u8]) -> Option<u64> {
    let info: Info = serde_json::from_slice(payload).ok()?;
    Some(info.num_pending.saturating_add(info.num_ack_pending))
}

/// Whether the operator has paused the consumer because its handler is suspended; `None`: as [`state`].
pub fn is_suspended(payload: &[u8]) -> Option<bool> {
    let info: Info = serde_json::from_slice(payload).ok()?;
    Some(info.config.pause_until.as_deref() == Some(layout::SUSPENDED_UNTIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_the_broker_wants_them() {
        let pull = |kind| Pull { lane: 0, inbox: 1, batch: 32, expires: 3000, kind };
        let body = |kind| request(&pull(kind), 10 << 20).unwrap();
        assert_eq!(
            body(Kind::Pinned(Some("pin".into()))),
            r#"{"batch":32,"expires":3000000000,"group":"owner","id":"pin"}"#
        );
        assert_eq!(body(Kind::Pinned(None)), r#"{"batch":32,"expires":3000000000,"group":"owner"}"#);
        assert_eq!(
            body(Kind::Plain { heartbeat: 250 }),
            r#"{"batch":32,"expires":3000000000,"idle_heartbeat":250000000,"max_bytes":10489856}"#
        );
        assert_eq!(unpin(), r#"{"group":"owner"}"#);
        assert_eq!((give_back(0), give_back(1500)), ("-NAK".into(), "-NAK {\"delay\":1500000000}".into()));
    }

    #[test]
    fn a_pin_is_found_behind_whatever_its_publisher_wrote() {
        for (block, expected) in [
            (&b"NATS/1.0\r\nce-id: 1\r\nNats-Pin-Id: abc\r\n\r\n"[..], "abc"),
            (b"NATS/1.0\r\nNats-Pin-Id: mine\r\nNats-Pin-Id: abc\r\n\r\n", "abc"),
            (b"NATS/1.0\r\nno colon\r\n\xff\r\nNats-Pin-Id: abc\r\n\r\n", "abc"),
            (b"NATS/1.0\r\nbrokenNats-Pin-Id: abc\r\n\r\n", "abc"),
            (b"NATS/1.0\r\nNats-Pin-Id: \xff\r\n\r\n", ""),
            (b"NATS/1.0\r\nNats-Pin-Id:", ""),
            (b"", ""),
        ] {
            assert_eq!(pin(block), expected, "{}", block.escape_ascii());
        }
    }

    #[test]
    fn states_and_what_is_none() {
        let info = br#"{"type":"x","delivered":{"consumer_seq":7,"stream_seq":9},"ack_floor":{"consumer_seq":4,"stream_seq":5},
            "num_ack_pending":3,"num_pending":2,
            "priority_groups":[{"group":"other","pinned_client_id":"b"},{"group":"owner","pinned_client_id":"a"}]}"#;
        let expected = State { delivered: 7, pending: 3, floor: 5, highest: 9, pin: Some("a".into()) };
        assert_eq!(state(info), Some(expected.clone()));
        assert_eq!(waiting(info), Some(5));
        let unpinned =
            br#"{"delivered":{"consumer_seq":7,"stream_seq":9},"ack_floor":{"consumer_seq":4,"stream_seq":5},
            "num_ack_pending":3,"num_pending":0,"priority_groups":[{"group":"owner"}]}"#;
        assert_eq!(state(unpinned), Some(State { pin: None, ..expected }));
        for other in [&b""[..], b"{}", br#"{"error":{"code":404}}"#] {
            assert_eq!((state(other), waiting(other), is_suspended(other)), (None, None, None));
        }
    }

    #[test]
    fn only_the_operators_pause_is_a_suspension() {
        for (config, suspended) in [
            ("{}", false),
            (r#"{"pause_until":null}"#, false),
            (r#"{"pause_until":"2099-01-01T00:00:00Z"}"#, false),
            (r#"{"pause_until":"9999-01-01T00:00:00Z"}"#, true),
        ] {
            let info = format!(
                r#"{{"delivered":{{"consumer_seq":7,"stream_seq":9}},"ack_floor":{{"consumer_seq":4,"stream_seq":5}},
                "num_ack_pending":0,"num_pending":0,"config":{config}}}"#
            );
            assert_eq!(is_suspended(info.as_bytes()), Some(suspended), "{config}");
        }
    }
}
