//! What a broker may answer and what is made of it. Against a real one: `tests/api.rs`.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::broker::read;
use super::*;

fn answer<T: DeserializeOwned>(answer: &Value) -> Result<T, ApiError> {
    read(answer.to_string().as_bytes())
}

fn stream() -> Value {
    json!({
        "type": "io.nats.jetstream.api.v1.stream_info_response", "total": 0, "offset": 0, "limit": 0,
        "config": {
            "name": "events", "subjects": ["events.>"], "retention": "limits", "max_consumers": -1, "max_msgs": -1,
            "max_bytes": 1000, "max_age": 60_000_000_000_u64, "max_msgs_per_subject": -1, "discard": "new",
            "storage": "file", "num_replicas": 1, "duplicate_window": 120_000_000_000_u64, "compression": "none",
            "a_field_of_a_later_server": {"a": [1]},
        },
        "created": "2026-11-26T04:00:00.123456789Z",
        "state": {
            "messages": 3, "bytes": 300, "first_seq": 5, "first_ts": "2026-11-26T04:00:00Z", "last_seq": 9,
            "last_ts": "2026-11-26T04:00:00Z", "num_deleted": 2, "consumer_count": 0,
        },
    })
}

fn consumer() -> Value {
    json!({
        "stream_name": "events", "name": "billing", "created": "2026-11-26T04:00:00Z",
        "config": {
            "durable_name": "billing", "deliver_policy": "by_start_sequence", "opt_start_seq": 7,
            "ack_policy": "explicit", "ack_wait": 30_000_000_000_u64, "replay_policy": "instant", "num_replicas": 1,
        },
        "delivered": {"consumer_seq": 4, "stream_seq": 9}, "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
        "num_ack_pending": 4, "num_redelivered": 0, "num_waiting": 0, "num_pending": 2,
    })
}

/// The same with another value somewhere.
fn with(whole: &Value, pointer: &str, value: Value) -> Value {
    let mut changed = whole.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    changed.pointer_mut(parent).unwrap()[key] = value;
    changed
}

#[test]
fn what_the_server_writes_is_read_and_the_rest_ignored() {
    let found: StreamInfo = answer(&stream()).unwrap();
    assert_eq!((found.config.max_age.as_secs(), found.config.duplicate_window.as_secs()), (60, 120));
    assert_eq!((&found.config.discard, &found.config.retention), (&Discard::New, &Retention::Limits));
    assert_eq!((found.state.messages, found.state.first_sequence, found.state.last_sequence), (3, 5, 9));
    assert_eq!(found.created.nanosecond(), 123_456_789);
    let found: ConsumerInfo = answer(&consumer()).unwrap();
    assert_eq!(found.config.deliver_policy, DeliverPolicy::ByStartSequence { start_sequence: 7 });
    assert_eq!((found.config.ack_wait.as_secs(), found.num_pending, found.num_ack_pending), (30, 2, 4));
}

#[test]
fn what_a_later_server_or_somebody_else_uses_is_read_and_given_back() {
    let changed = with(&stream(), "/config/retention", json!("workqueue"));
    let changed = with(&changed, "/config/storage", json!("memory"));
    let found: StreamInfo = answer(&with(&changed, "/config/discard", json!("middle"))).unwrap();
    let written = serde_json::to_value(&found.config).unwrap();
    assert_eq!((&written["retention"], &written["storage"]), (&json!("workqueue"), &json!("memory")));
    assert_eq!(written["discard"], "middle");
    let changed = with(&consumer(), "/config/deliver_policy", json!("backwards"));
    let found: ConsumerInfo = answer(&with(&changed, "/config/ack_policy", json!("none"))).unwrap();
    assert_eq!(found.config.deliver_policy, DeliverPolicy::Other);
    assert_eq!(serde_json::to_value(&found.config).unwrap()["ack_policy"], "none");
}

#[test]
fn what_is_written_is_what_the_server_reads() {
    let start_time = time::OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
    let config = ConsumerConfig {
        durable_name: Some("a".into()),
        deliver_policy: DeliverPolicy::ByStartTime { start_time },
        ack_wait: std::time::Duration::from_millis(1500),
        num_replicas: 3,
        ..ConsumerConfig::default()
    };
    let written = serde_json::to_value(&config).unwrap();
    let expected = json!({
        "durable_name": "a", "deliver_policy": "by_start_time", "opt_start_time": "2023-11-14T22:13:20.123456789Z",
        "ack_policy": "explicit", "ack_wait": 1_500_000_000, "max_deliver": 0, "max_waiting": 0, "max_ack_pending": 0,
        "max_expires": 0, "num_replicas": 3,
    });
    assert_eq!(written, expected);
    let endless = StreamConfig { max_age: std::time::Duration::MAX, ..StreamConfig::default() };
    assert!(serde_json::to_value(endless).is_err(), "Go counts nanoseconds in 63 bits");
}

#[test]
fn what_makes_no_sense_is_an_error_and_no_default() {
    let long = "x".repeat(256);
    for (pointer, value) in [
        ("/config/name", json!("")),
        ("/config/name", json!("events\r\nPUB a 0")),
        ("/config/name", json!("events.>")),
        ("/config/name", json!(long)),
        ("/config/name", json!(null)),
        ("/config/max_bytes", json!("many")),
        ("/config/max_bytes", json!(null)),
        ("/config/max_age", json!(-1)),
        ("/config/num_replicas", json!(-1)),
        ("/config/max_msg_size", json!(1_u64 << 40)),
        ("/created", json!("yesterday")),
        ("/created", json!(null)),
        ("/state/messages", json!(-1)),
        ("/state/messages", json!(6)),
        ("/state/messages", json!(1.5)),
        ("/state/messages", json!(u64::MAX)),
        ("/state/bytes", json!(u64::MAX)),
        ("/state/first_seq", json!(11)),
        ("/state/last_seq", json!(u64::MAX)),
        ("/state/last_seq", json!(null)),
        ("/state", json!(null)),
    ] {
        let found = answer::<StreamInfo>(&with(&stream(), pointer, value.clone()));
        assert!(matches!(found, Err(ApiError::Unreadable(_))), "{pointer} {value}: {found:?}");
    }
    for (pointer, value) in [
        ("/name", json!("a b")),
        ("/config", json!(null)),
        ("/config/opt_start_seq", json!("7")),
        ("/config/ack_wait", json!(-1)),
        ("/num_pending", json!(u64::MAX)),
        ("/num_ack_pending", json!(-1)),
        ("/delivered/stream_seq", json!(null)),
        ("/ack_floor/stream_seq", json!(-1)),
    ] {
        let found = answer::<ConsumerInfo>(&with(&consumer(), pointer, value.clone()));
        assert!(matches!(found, Err(ApiError::Unreadable(_))), "{pointer} {value}: {found:?}");
    }
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xFF", &b"[".repeat(1 << 20)] {
        assert!(matches!(read::<StreamInfo>(bytes), Err(ApiError::Unreadable(_))), "{bytes:?}");
    }
    let shout = answer::<StreamInfo>(&with(&stream(), "/created", json!("\u{7}ö".repeat(100_000))));
    let Err(ApiError::Unreadable(why)) = shout else { panic!("{shout:?}") };
    assert!(why.len() <= json::MAX_TEXT && !why.contains(char::is_control), "{why}");
}

#[test]
fn a_refusal_says_what_the_caller_can_do() {
    let refused = |code: u16, error_code: u16| {
        let error = json!({"error": {"code": code, "err_code": error_code, "description": "why\n".repeat(1000)}});
        answer::<StreamInfo>(&error).unwrap_err()
    };
    assert_eq!(refused(404, 10059), ApiError::NotFound(Missing::Stream));
    assert_eq!(refused(404, 10014), ApiError::NotFound(Missing::Consumer));
    assert_eq!(refused(404, 10037), ApiError::NotFound(Missing::Message));
    assert!(matches!(refused(503, 10023), ApiError::Unavailable(Unavailable::Server(_))));
    assert!(matches!(refused(500, 10047), ApiError::Refused(_)));
    let refusal = refused(500, 10047).refusal().unwrap().clone();
    assert!(refusal.description.len() <= json::MAX_TEXT && !refusal.description.contains('\n'));
    assert!(refusal.to_string().ends_with("(code 500, error code 10047)"), "{refusal}");
    let torn = json!({"error": {"code": "500"}});
    assert!(matches!(answer::<StreamInfo>(&torn), Err(ApiError::Unreadable(_))));
}

#[test]
fn headers_of_a_stored_message_are_read_or_malformed() {
    let message = |block: &[u8]| -> StoredMessage {
        use base64::Engine as _;
        let headers = base64::engine::general_purpose::STANDARD.encode(block);
        let message =
            json!({"subject": "a", "seq": 1, "time": "2026-11-26T04:00:00Z", "hdrs": headers, "data": "eA=="});
        serde_json::from_value(message).unwrap()
    };
    let read = message(b"NATS/1.0\r\na: b\r\nA:c:d\r\na: e\r\n\r\n");
    assert_eq!(&read.payload[..], b"x");
    let headers = read.headers().unwrap();
    assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "b"), ("A", "c:d"), ("a", "e")]);
    assert_eq!(message(b"").headers().unwrap().iter().count(), 0);
    for block in
        [&b"NATS/1.0\r\nno colon\r\n\r\n"[..], b"NATS/1.0\r\na: b\r\n", b"HTTP/1.1\r\n\r\n", b"\xFF", b"NATS/1.0"]
    {
        assert!(message(block).headers().is_err(), "{block:?}");
    }
    let torn = json!({"subject": "a", "seq": 1, "time": "2026-11-26T04:00:00Z", "data": "?"});
    assert!(serde_json::from_value::<StoredMessage>(torn).is_err());
}
