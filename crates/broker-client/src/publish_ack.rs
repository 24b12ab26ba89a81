//! A stream's answer to a publish, and why a stream refuses. Pure.

use std::borrow::Cow;

use serde::Deserialize;

/// JetStream's error codes (nats-server, errors.json).
mod code {
    pub const ACCOUNT_RESOURCES_EXCEEDED: u64 = 10_002;
    pub const CLUSTER_NOT_LEADER: u64 = 10_009;
    pub const INSUFFICIENT_RESOURCES: u64 = 10_023;
    pub const STORAGE_RESOURCES_EXCEEDED: u64 = 10_047;
    pub const MESSAGE_EXCEEDS_MAXIMUM: u64 = 10_054;
    pub const WRONG_LAST_SEQUENCE: u64 = 10_071;
    pub const STORE_FAILED: u64 = 10_077;
    pub const HEADER_EXCEEDS_MAXIMUM: u64 = 10_097;
    pub const DUPLICATE_MESSAGE_CONFLICT: u64 = 10_158;
    pub const WRONG_LAST_SEQUENCE_OF_ANY: u64 = 10_164;
    pub const TOO_MANY_REQUESTS: u64 = 10_167;
    pub const ATOMIC_PUBLISH_DISABLED: u64 = 10_174;
    pub const ATOMIC_PUBLISH_CONTAINS_DUPLICATE: u64 = 10_201;
}

/// A stream has a message, or all of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishAck<'a> {
    /// The stream's name.
    pub stream: Cow<'a, str>,
    /// The sequence of the message, from 1 on; of a batch, that of its last one.
    pub sequence: u64,
    /// The stream had a message with this id already.
    pub is_duplicate: bool,
    /// Messages of the batch; `None`: a message on its own.
    pub batch_size: Option<u64>,
}

/// JetStream does not do what it is asked for, as to store a message or a batch (nats-server, ApiError).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, thiserror::Error)]
#[error("{description} (error code {code})")]
pub struct StreamError {
    /// JetStream's error code.
    #[serde(rename = "err_code", default)]
    pub code: u64,
    /// What it says.
    #[serde(default)]
    pub description: String,
}

/// An answer by which nothing is known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum AckError {
    /// The stream refused it.
    #[error("the stream refused it: {0}")]
    Refused(StreamError),
    /// It cannot be read.
    #[error("not an acknowledgement: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It has no sequence.
    #[error("not an acknowledgement: it has no sequence")]
    NoSequence,
}

/// Why a stream refuses, as far as it matters to who published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The message is larger than the stream or the server takes.
    TooLarge,
    /// The stream has reached its bound, or its account has.
    Full,
    /// The server's store has no room.
    ServerFull,
    /// The server is not the one to ask, or has too much to do.
    Unavailable,
    /// The stream is still storing a message with the same id.
    Pending,
    /// The last message is not the expected one.
    WrongLastSequence,
    /// The stream takes no batches.
    BatchesDisabled,
    /// The stream has a message of the batch already, or the batch has one twice.
    BatchRepeats,
    /// Anything else.
    Other,
}

impl StreamError {
    /// What its code means. What a store refuses has one code and differs in its text.
    pub fn reason(&self) -> Reason {
        match self.code {
            code::MESSAGE_EXCEEDS_MAXIMUM | code::HEADER_EXCEEDS_MAXIMUM => Reason::TooLarge,
            code::STORE_FAILED if self.description.starts_with("message too large") => Reason::TooLarge,
            code::STORE_FAILED if self.description.starts_with("maximum ") => Reason::Full,
            code::ACCOUNT_RESOURCES_EXCEEDED | code::STORAGE_RESOURCES_EXCEEDED => Reason::Full,
            code::INSUFFICIENT_RESOURCES => Reason::ServerFull,
            code::CLUSTER_NOT_LEADER | code::TOO_MANY_REQUESTS => Reason::Unavailable,
            code::DUPLICATE_MESSAGE_CONFLICT => Reason::Pending,
            code::WRONG_LAST_SEQUENCE | code::WRONG_LAST_SEQUENCE_OF_ANY => Reason::WrongLastSequence,
            code::ATOMIC_PUBLISH_DISABLED => Reason::BatchesDisabled,
            code::ATOMIC_PUBLISH_CONTAINS_DUPLICATE => Reason::BatchRepeats,
            _ => Reason::Other,
        }
    }
}

/// The answer of a stream (nats-server, JSPubAckResponse).
#[derive(Deserialize)]
struct Answer<'a> {
    error: Option<StreamError>,
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    count: Option<u64>,
}

/// Reads the payload of an answer.
///
/// # Errors
/// It does not say that a message is stored.
pub fn read(payload: &[u8]) -> Result<PublishAck<'_>, AckError> {
    let Answer { error, stream, seq: sequence, duplicate: is_duplicate, count: batch_size } =
        serde_json::from_slice(payload)?;
    if let Some(error) = error {
        return Err(AckError::Refused(error));
    }
    if sequence == 0 {
        return Err(AckError::NoSequence);
    }
    Ok(PublishAck { stream, sequence, is_duplicate, batch_size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sequence_without_an_error_acknowledges() {
        let ack = |sequence, is_duplicate, batch_size| PublishAck {
            stream: "events".into(),
            sequence,
            is_duplicate,
            batch_size,
        };
        for (answer, expected) in [
            (r#"{"stream":"events","seq":7}"#, ack(7, false, None)),
            (r#"{"stream":"events","seq":7,"duplicate": true}"#, ack(7, true, None)),
            (r#"{"stream":"events","seq":9,"batch":"b","count":3}"#, ack(9, false, Some(3))),
            (r#"{"stream":"\u0065vents","domain":"d","seq":7}"#, ack(7, false, None)),
        ] {
            assert_eq!(read(answer.as_bytes()).unwrap(), expected, "{answer}");
        }
        for other in [
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"d","seq":0}"#,
            r#"{"error":{},"stream":"events","seq":7}"#,
            r#"{"stream":"events"}"#,
            r#"{"stream":"events","seq":0}"#,
            r#"{"stream":"events","seq":-1}"#,
            r#"{"stream":"events","seq":18446744073709551616}"#,
            "{}",
            "",
            "7",
            "+OK",
            "\u{0}",
        ] {
            assert!(read(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn reasons() {
        let table = [
            (10_077, "maximum bytes exceeded", Reason::Full),
            (10_077, "maximum messages exceeded", Reason::Full),
            (10_077, "maximum messages per subject exceeded", Reason::Full),
            (10_077, "message too large", Reason::TooLarge),
            (10_077, "no space left on device", Reason::Other),
            (10_054, "message size exceeds maximum allowed", Reason::TooLarge),
            (10_097, "header size exceeds maximum allowed of 64k", Reason::TooLarge),
            (10_002, "resource limits exceeded for account", Reason::Full),
            (10_047, "insufficient storage resources available", Reason::Full),
            (10_023, "insufficient resources", Reason::ServerFull),
            (10_009, "JetStream cluster can not handle request", Reason::Unavailable),
            (10_167, "too many requests", Reason::Unavailable),
            (10_158, "duplicate message id is in process", Reason::Pending),
            (10_071, "wrong last sequence: 5", Reason::WrongLastSequence),
            (10_164, "wrong last sequence", Reason::WrongLastSequence),
            (10_174, "atomic publish is disabled", Reason::BatchesDisabled),
            (10_201, "atomic publish batch contains duplicate message id", Reason::BatchRepeats),
            (10_060, "expected stream does not match", Reason::Other),
            (99_999, "unknown", Reason::Other),
        ];
        for (code, description, reason) in table {
            let error = StreamError { code, description: description.to_owned() };
            assert_eq!(error.reason(), reason, "{error}");
        }
    }
}
