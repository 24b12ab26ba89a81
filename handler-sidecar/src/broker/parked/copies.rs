//! The parked events of a key: the first one is read and removed, and the last one tells up to where the key is copied.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tidegate_broker_client::publish_ack::StreamError;
use tidegate_wire::nats::{HeaderBlock, Headers, Message};

use super::NOTHING;
use crate::settle::shelf;

/// The code for "sequence not found", and that of a deletion that failed, for which the reason is only said.
const NO_SEQUENCE: u64 = 10_043;
const DELETE_FAILED: u64 = 10_057;
const IS_GONE: [&str; 3] = ["no message found", "deleted message", "stream store EOF"];

#[derive(Deserialize)]
struct ReadAnswer {
    error: Option<StreamError>,
    message: Option<Stored>,
}

#[derive(Deserialize)]
struct RemovalAnswer {
    error: Option<StreamError>,
    #[serde(default)]
    success: bool,
}

/// A stored message; headers and data are base64, and absent where they are empty.
#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// A copy of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its sequence in the stream of retries.
    pub place: u64,
    /// The copy.
    pub message: Message,
}

/// What is first of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum First {
    /// This copy.
    Copy(Copy),
    /// Nothing is parked.
    Nothing,
    /// It is not known.
    Unknown,
}

/// The request for the first message of this subject, which has nothing that JSON would escape.
pub fn read(subject: &str) -> Bytes {
    Bytes::from(format!("{{\"seq\":1,\"next_by_subj\":\"{subject}\"}}"))
}

/// What its answer says.
pub fn first(payload: &[u8]) -> First {
    match serde_json::from_slice(payload) {
        Ok(ReadAnswer { error: Some(error), .. }) if NOTHING.contains(&error.code) => First::Nothing,
        Ok(ReadAnswer { error: None, message: Some(stored) }) => copy(&stored).map_or(First::Unknown, First::Copy),
        _ => First::Unknown,
    }
}

/// The request for the last message of this subject.
pub fn read_last(subject: &str) -> Bytes {
    Bytes::from(format!("{{\"last_by_subj\":\"{subject}\"}}"))
}

/// What its answer says: the sequence, in the stream of the topic, of the event that is parked last; 0: nothing is.
/// `None`: it does not say.
pub fn last(payload: &[u8]) -> Option<u64> {
    match first(payload) {
        First::Copy(Copy { message, .. }) => shelf::sequence(message.headers()?),
        First::Nothing => Some(0),
        First::Unknown => None,
    }
}

/// Whether there is a last message, as its answer says; `None`: it does not say.
pub fn is_there(payload: &[u8]) -> Option<bool> {
    match serde_json::from_slice(payload) {
        Ok(ReadAnswer { error: Some(error), .. }) if NOTHING.contains(&error.code) => Some(false),
        Ok(ReadAnswer { error: None, message: Some(_) }) => Some(true),
        _ => None,
    }
}

/// The message as it was stored; without headers that cannot be read, so that it is no valid event.
fn copy(stored: &Stored) -> Option<Copy> {
    let block = STANDARD.decode(&stored.hdrs).ok()?;
    let mut headers = HeaderBlock::new();
    for (name, value) in Headers::parse(&block).iter().flat_map(Headers::iter) {
        headers.append(name, value).ok()?;
    }
    let data = STANDARD.decode(&stored.data).ok()?;
    let message = Message::compose(&stored.subject, None, Some(&headers), &data).ok()?;
    Some(Copy { place: stored.seq, message })
}

/// The request to remove what is at this place of the stream. Its bytes are not overwritten, which would cost the
/// broker more than to write it did.
pub fn remove(place: u64) -> Bytes {
    Bytes::from(format!("{{\"seq\":{place},\"no_erase\":true}}"))
}

/// Whether its answer says that it is not there (any more).
pub fn is_removed(payload: &[u8]) -> bool {
    match serde_json::from_slice(payload) {
        Ok(RemovalAnswer { error: None, success }) => success,
        Ok(RemovalAnswer { error: Some(StreamError { code, description }), .. }) => {
            code == NO_SEQUENCE || (code == DELETE_FAILED && IS_GONE.contains(&description.as_str()))
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_as_it_was_stored() {
        let hdrs = STANDARD.encode("NATS/1.0\r\nce-id: 7\r\nTidegate-Sequence: 41\r\n\r\n");
        let data = STANDARD.encode([0, 255, 7]);
        let answer = |hdrs: &str, data: &str| {
            let (subject, time) = ("retries.billing.parked.0.0.0.00000000000000ab", "2026-01-01T00:00:00Z");
            first(
                serde_json::json!({"type": "io.nats.jetstream.api.v1.stream_msg_get_response",
                "message": {"subject": subject, "seq": 9, "hdrs": hdrs, "data": data, "time": time}})
                .to_string()
                .as_bytes(),
            )
        };
        let First::Copy(Copy { place: 9, message }) = answer(&hdrs, &data) else { panic!("no copy") };
        assert_eq!(message.headers().and_then(|headers| headers.get("ce-id")), Some("7"));
        assert_eq!((message.payload(), message.reply()), (&[0, 255, 7][..], None));
        let First::Copy(Copy { message, .. }) = answer("", "") else { panic!("no copy") };
        assert_eq!((message.payload(), message.headers().and_then(|headers| headers.get("ce-id"))), (&b""[..], None));
        assert_eq!(answer("?", &data), First::Unknown);
    }

    #[test]
    fn the_last_copy_says_which_event_it_is_of() {
        let answer = |headers: &str| {
            let hdrs = STANDARD.encode(headers);
            let message = serde_json::json!({"subject": "s", "seq": 9, "hdrs": hdrs, "data": ""});
            last(serde_json::json!({"message": message}).to_string().as_bytes())
        };
        assert_eq!(answer("NATS/1.0\r\nTidegate-Sequence: 41\r\n\r\n"), Some(41));
        assert_eq!(answer("NATS/1.0\r\nTidegate-Sequence: none\r\n\r\n"), None);
        assert_eq!(answer("NATS/1.0\r\nce-id: 7\r\n\r\n"), None, "no sidecar wrote it");
        assert_eq!(last(br#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#), Some(0));
        assert_eq!(last(br#"{"error":{"code":503,"err_code":10008,"description":"not available"}}"#), None);
        assert_eq!(last(b""), None);
    }

    #[test]
    fn only_the_leaders_word_is_nothing() {
        for (payload, expected) in [
            (r#"{"error":{"code":404,"err_code":10037,"description":"no message found"}}"#, First::Nothing),
            (r#"{"error":{"code":404,"err_code":10059,"description":"stream not found"}}"#, First::Nothing),
            (r#"{"error":{"code":503,"err_code":10008,"description":"not available"}}"#, First::Unknown),
            ("{}", First::Unknown),
            ("", First::Unknown),
            ("+OK", First::Unknown),
        ] {
            assert_eq!(first(payload.as_bytes()), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_gone_is_removed() {
        for (payload, expected) in [
            (r#"{"success":true}"#, true),
            (r#"{"error":{"code":400,"err_code":10043,"description":"sequence 7 not found"}}"#, true),
            (r#"{"error":{"code":500,"err_code":10057,"description":"no message found"}}"#, true),
            (r#"{"error":{"code":500,"err_code":10057,"description":"stream store EOF"}}"#, true),
            (r#"{"error":{"code":500,"err_code":10057,"description":"message delete not permitted"}}"#, false),
            (r#"{"error":{"code":503,"err_code":10008,"description":"not available"}}"#, false),
            (r#"{"success":false}"#, false),
            ("", false),
        ] {
            assert_eq!(is_removed(payload.as_bytes()), expected, "{payload}");
        }
    }

    #[test]
    fn requests_are_json() {
        let request: serde_json::Value = serde_json::from_slice(&read("retries.b.parked.0.0")).unwrap();
        assert_eq!(request, serde_json::json!({"seq": 1, "next_by_subj": "retries.b.parked.0.0"}));
        let request: serde_json::Value = serde_json::from_slice(&read_last("retries.b.parked.0.0")).unwrap();
        assert_eq!(request, serde_json::json!({"last_by_subj": "retries.b.parked.0.0"}));
        let request: serde_json::Value = serde_json::from_slice(&remove(7)).unwrap();
        assert_eq!(request, serde_json::json!({"seq": 7, "no_erase": true}));
    }
}
