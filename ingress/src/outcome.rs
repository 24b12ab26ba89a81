//! What the broker's answer to a publish means. Pure.

use std::time::Duration;

use tidegate_broker_client::publish_ack::{self, AckError, PublishAck, Reason};
use tidegate_wire::nats::PublishError;

/// Why an event is not known to be stored, from the least to the worst: of a batch, the worst is reported.
///
/// What a repetition cannot change comes first, so that a publisher repeats as long as that can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Failure {
    /// Larger than the stream takes.
    #[error("the broker takes no event of this size")]
    TooLarge,
    /// The stream is full, and keeps what it has. The ingress does not know why, so the text names every way in which
    /// there can be room again, with its condition.
    #[error(
        "the topic is full; repeat later: there is room again when its handlers have handled more of its events (with \
         retention.whenFull: ReleaseHandled), when events are older than retention.maxAge, or when retention.maxSize is raised"
    )]
    Full,
    /// The store that the topics of a broker share is full, and this topic need not be.
    #[error(
        "the store of the topic's broker is full; repeat later: there is room again when topics of the broker release \
         events, or when storage.size of the EventBroker is raised"
    )]
    BrokerFull,
    /// The broker refused it for a reason that is not the event's.
    #[error("the broker refused it")]
    Refused,
    /// The broker is still busy with the same event, which was sent before.
    #[error("the broker is still storing the same event, sent before")]
    Pending,
    /// No acknowledgement in time; it may have been stored.
    #[error("the broker did not acknowledge it in time")]
    Timeout,
    /// No connection, or no server that keeps the stream.
    #[error("the broker is not available")]
    Unavailable,
}

impl Failure {
    /// The value of `error.type` in metrics and spans.
    pub fn error_type(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::BrokerFull => "broker_full",
            Self::Refused => "refused",
            Self::Pending => "pending",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
        }
    }

    /// When to repeat; `None` if that does not help.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::TooLarge => None,
            Self::Full | Self::BrokerFull => Some(Duration::from_secs(5)),
            Self::Refused | Self::Pending | Self::Timeout | Self::Unavailable => Some(Duration::from_secs(1)),
        }
    }
}

/// How an event is stored. On a Direct topic nothing is; the sequence is 0 then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// It was there already.
    pub duplicate: bool,
}

/// How the events of a request are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// How many there were.
    pub events: usize,
    /// How many of them were there already.
    pub duplicates: usize,
    /// The highest sequence; 0 where nothing is stored.
    pub sequence: u64,
}

impl Receipt {
    /// One more event.
    pub fn add(&mut self, stored: Stored) {
        self.events += 1;
        self.duplicates += usize::from(stored.duplicate);
        self.sequence = self.sequence.max(stored.sequence);
    }

    /// Whether there is an event, and none that was not there already.
    pub fn repeats_all(&self) -> bool {
        self.events > 0 && self.duplicates == self.events
    }
}

impl From<Stored> for Receipt {
    fn from(stored: Stored) -> Self {
        let mut receipt = Self::default();
        receipt.add(stored);
        receipt
    }
}

/// The broker has a message, or all of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// Of a batch, its last message.
    pub stored: Stored,
    /// Messages of the batch; `None`: a message on its own.
    pub batch_size: Option<u64>,
}

impl Acknowledged {
    /// The sequence of a batch's first message. The acknowledgement has that of the last, and all are consecutive: the
    /// server stores a batch under a lock that all writers take (`isolateMu`), a cluster proposes it in one go
    /// (nats-server, stream.go, processJetStreamAtomicBatchMsg). `None`: this acknowledges something else.
    pub fn first_sequence(self, members: usize) -> Option<u64> {
        let Self { stored: Stored { sequence, duplicate: false }, batch_size: Some(size) } = self else {
            return None;
        };
        if u64::try_from(members) != Ok(size) {
            return None;
        }
        sequence.checked_sub(size)?.checked_add(1)
    }
}

/// The broker does not take a message or a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it means for the message, or for one of the batch.
    pub failure: Failure,
    /// Why it is a refusal of the batch and of no event of it.
    pub of_batch: Option<BatchRefusal>,
    /// The broker's words.
    pub text: String,
}

/// Why a stream does not take a batch whose events it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchRefusal {
    /// It takes no batches at all.
    Disabled,
    /// It has an event of the batch already.
    Repetition,
}

impl BatchRefusal {
    fn from_reason(reason: Reason) -> Option<Self> {
        match reason {
            Reason::BatchesDisabled => Some(Self::Disabled),
            Reason::BatchRepeats => Some(Self::Repetition),
            _ => None,
        }
    }
}

impl Refusal {
    /// Of the client, which has no words of the broker.
    pub fn of_client(failure: Failure) -> Self {
        Self { failure, of_batch: None, text: failure.to_string() }
    }
}

/// What an answer of the broker means. Only the stream that is to store a message acknowledges it.
///
/// # Errors
/// It did not take what was sent.
pub fn of_reply(stream: &str, payload: &[u8]) -> Result<Acknowledged, Refusal> {
    let refused = |text: String| Refusal { failure: Failure::Refused, of_batch: None, text };
    let ack = publish_ack::read(payload).map_err(|error| match error {
        AckError::Refused(error) => {
            let reason = error.reason();
            Refusal { failure: reason.into(), of_batch: BatchRefusal::from_reason(reason), text: error.to_string() }
        }
        other => refused(other.to_string()),
    })?;
    let PublishAck { stream: by, sequence, is_duplicate: duplicate, batch_size } = ack;
    if by != stream {
        return Err(refused(format!("stream {by:?} acknowledged an event as its number {sequence}")));
    }
    Ok(Acknowledged { stored: Stored { sequence, duplicate }, batch_size })
}

/// What it means that the client does not take a message.
pub fn of_client_error(error: &PublishError) -> Failure {
    match error {
        PublishError::TooLarge { .. } => Failure::TooLarge,
        PublishError::Disconnected | PublishError::Full => Failure::Unavailable,
        PublishError::Subject(_) => Failure::Refused,
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::TooLarge => Self::TooLarge,
            Reason::Full => Self::Full,
            Reason::ServerFull => Self::BrokerFull,
            Reason::Unavailable => Self::Unavailable,
            Reason::Pending => Self::Pending,
            Reason::WrongLastSequence | Reason::BatchesDisabled | Reason::BatchRepeats | Reason::Other => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_broker_client::layout::EVENT_STREAM;

    use super::*;

    #[test]
    fn only_an_acknowledgement_of_the_event_stream_is_a_success() {
        let of = |reply: &str| of_reply(EVENT_STREAM, reply.as_bytes()).map_err(|refusal| refusal.failure);
        let acknowledged =
            |sequence, duplicate, batch_size| Ok(Acknowledged { stored: Stored { sequence, duplicate }, batch_size });
        assert_eq!(of(r#"{"stream":"events","seq":7}"#), acknowledged(7, false, None));
        assert_eq!(of(r#"{"stream":"events","seq":7,"duplicate": true}"#), acknowledged(7, true, None));
        assert_eq!(of(r#"{"stream":"events","seq":9,"batch":"b","count":3}"#), acknowledged(9, false, Some(3)));
        for other in [
            r#"{"stream":"dead-letters","seq":7}"#,
            r#"{"stream":"events"}"#,
            r#"{"stream":"events","seq":-1}"#,
            r#"{"stream":"events","seq":18446744073709551616}"#,
            r#"{"seq":7}"#,
            "{}",
            "",
            "7",
            "\u{0}",
        ] {
            assert_eq!(of(other), Err(Failure::Refused), "{other}");
        }
    }

    #[test]
    fn a_stream_says_why_it_takes_no_batch() {
        let of = |code: u64| {
            let reply = format!(r#"{{"stream":"events","seq":0,"error":{{"code":400,"err_code":{code}}}}}"#);
            of_reply(EVENT_STREAM, reply.as_bytes()).unwrap_err().of_batch
        };
        assert_eq!(of(10174), Some(BatchRefusal::Disabled));
        assert_eq!(of(10201), Some(BatchRefusal::Repetition));
        assert_eq!(of(10176), None);
    }

    #[test]
    fn refusals() {
        let table = [
            (10077, "maximum bytes exceeded", Failure::Full),
            (10077, "message too large", Failure::TooLarge),
            (10077, "no space left on device", Failure::Refused),
            (10002, "resource limits exceeded for account", Failure::Full),
            (10023, "insufficient resources", Failure::BrokerFull),
            (10167, "too many requests", Failure::Unavailable),
            (10158, "duplicate message id is in process", Failure::Pending),
            (10201, "atomic publish batch contains duplicate message id", Failure::Refused),
            (10071, "wrong last sequence: 5", Failure::Refused),
            (10060, "expected stream does not match", Failure::Refused),
        ];
        for (code, description, failure) in table {
            let reply = format!(r#"{{"seq":0,"error":{{"err_code":{code},"description":"{description}"}}}}"#);
            let refusal = of_reply(EVENT_STREAM, reply.as_bytes()).unwrap_err();
            assert_eq!(refusal.failure, failure, "{code} {description}");
            assert_eq!(refusal.text, format!("{description} (error code {code})"));
        }
    }

    #[test]
    fn what_can_be_repeated_is_worse_than_what_cannot() {
        assert!(Failure::Unavailable > Failure::BrokerFull && Failure::Full > Failure::TooLarge);
        assert_eq!(Failure::TooLarge.retry_after(), None);
    }
}
