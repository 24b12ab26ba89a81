//! What all handlers of a topic may store together, and how the streams are in which they do (pure).

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::layout;

use crate::api::{Discard, Retention, Storage, StreamConfig};
use crate::consumers::UID;

/// Far longer than the longest wait between two attempts (an hour).
const ATTEMPT_AGE: Duration = Duration::from_secs(24 * 3600);
/// Records of attempts carry no message id; the broker wants a window that is no longer than they live.
const ATTEMPT_WINDOW: Duration = Duration::from_secs(120);
/// How long the copy of an event is recognised that is sent again because it was not confirmed in time. Each message id
/// of this time is in the broker's memory.
const RETRY_WINDOW: Duration = Duration::from_secs(120);
/// Far larger than the largest record.
const MAX_ATTEMPT_SIZE: i32 = 64 << 10;
/// What the broker's files need for a message besides its bytes, with room to spare.
const MESSAGE_OVERHEAD: u64 = 1 << 10;
/// Where the stream of events carries the bytes of the largest message that is published.
const LARGEST: &str = "tidegate.io/largest-message";
/// The bound of a stream that keeps what it has and takes no more: 0 would be none.
pub const CLOSED: i64 = 1;

/// What all handlers of a topic may store together, and what their streams have in common. It is on record in the
/// stream of events, so that a handler's streams can be made from what the broker knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of dead letters.
    pub dead_letters: u64,
    /// Bytes of events that wait for a retry.
    pub retries: u64,
    /// Bytes of records of attempts.
    pub attempts: u64,
    replicas: usize,
    deduplication_window: Duration,
    /// Bytes of the largest message that the streams take.
    max_message_size: i32,
    /// Bytes of the largest event with its headers that is published.
    largest: i32,
}

impl Budget {
    /// What the stream of events says; `None`: it was not made by this version yet.
    pub fn of(events: &StreamConfig) -> Option<Self> {
        let bytes = |kind: Kind| events.metadata.get(kind.record())?.parse().ok();
        Some(Self {
            dead_letters: bytes(Kind::DeadLetters)?,
            retries: bytes(Kind::Retries)?,
            attempts: bytes(Kind::Attempts)?,
            replicas: events.num_replicas,
            deduplication_window: events.duplicate_window,
            max_message_size: Some(events.max_message_size).filter(|size| *size > 0)?,
            largest: largest(events),
        })
    }

    /// The metadata of the stream of events: bytes of each kind, and those of the largest message that is published.
    pub fn metadata(bytes: [(Kind, i64); 3], largest: i32) -> HashMap<String, String> {
        let bytes = bytes.into_iter().map(|(kind, bytes)| (kind.record().to_owned(), bytes.to_string()));
        bytes.chain([(LARGEST.to_owned(), largest.to_string())]).collect()
    }

    /// Do two streams of events carry the same budget?
    pub fn same(one: &StreamConfig, other: &StreamConfig) -> bool {
        let mut records = Kind::ALL.iter().map(|kind| kind.record()).chain([LARGEST]);
        records.all(|record| one.metadata.get(record) == other.metadata.get(record))
    }

    pub(crate) fn least(&self, kind: Kind) -> u64 {
        let largest = match kind {
            Kind::DeadLetters | Kind::Retries => self.largest,
            Kind::Attempts => MAX_ATTEMPT_SIZE,
        };
        u64::from(largest.unsigned_abs()) + MESSAGE_OVERHEAD
    }

    pub(crate) fn total(&self, kind: Kind) -> u64 {
        match kind {
            Kind::DeadLetters => self.dead_letters,
            Kind::Retries => self.retries,
            Kind::Attempts => self.attempts,
        }
    }

    /// How the stream of a kind is for a handler. `uid`: the handler that it is made for, if that is known.
    pub(crate) fn config(&self, kind: Kind, handler: &str, uid: Option<&str>, max_bytes: i64) -> StreamConfig {
        let common = StreamConfig {
            name: kind.stream_of(handler),
            retention: Retention::Limits,
            storage: Storage::File,
            num_replicas: self.replicas,
            max_bytes,
            ..StreamConfig::default()
        };
        match kind {
            // A dead letter is the last copy there is of an event to be kept: never dropped to make room.
            Kind::DeadLetters => StreamConfig {
                description: Some("what a Tidegate handler could not handle".to_owned()),
                subjects: vec![layout::dead_letter_subject(handler)],
                discard: Discard::New,
                duplicate_window: self.deduplication_window,
                ..common
            },
            // So is a copy that waits, until it is acknowledged or removed. Of the kinds of places on it a consumer
            // reads one; what has no consumer stays in a work queue until it is removed by its sequence.
            Kind::Retries => StreamConfig {
                description: Some("events of a Tidegate handler that wait for a retry".to_owned()),
                subjects: vec![
                    layout::waiting_subject(handler),
                    layout::parked_subjects(handler, None),
                    layout::held_subjects(handler, None),
                ],
                retention: Retention::WorkQueue,
                discard: Discard::New,
                max_message_size: self.max_message_size,
                duplicate_window: RETRY_WINDOW,
                // What is parked is copied in batches.
                allow_atomic_publish: true,
                metadata: uid.map(|uid| (UID.to_owned(), uid.to_owned())).into_iter().collect(),
                ..common
            },
            // Of use until the event's next attempt. Without it attempts are counted again: too many, never too few.
            Kind::Attempts => StreamConfig {
                description: Some(
                    "failed attempts of a Tidegate handler's events that are still to be retried".to_owned(),
                ),
                subjects: vec![layout::attempt_subject(handler, "*")],
                max_age: ATTEMPT_AGE,
                max_messages_per_subject: 1,
                max_message_size: MAX_ATTEMPT_SIZE,
                duplicate_window: ATTEMPT_WINDOW,
                discard: Discard::Old,
                allow_direct: true,
                ..common
            },
        }
    }
}

/// Bytes of the largest message that is published to a stream of events. It may have larger ones; without a record of it
/// there are none.
pub(crate) fn largest(events: &StreamConfig) -> i32 {
    let recorded = events.metadata.get(LARGEST).and_then(|bytes| bytes.parse().ok());
    recorded.unwrap_or(events.max_message_size)
}

/// What a handler's stream keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What could not be delivered.
    DeadLetters,
    /// Events that wait for a retry.
    Retries,
    /// Records of failed attempts.
    Attempts,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::DeadLetters, Self::Retries, Self::Attempts];

    /// The handler of a stream of this kind; `None`: it is another stream.
    pub fn handler_of(self, stream: &str) -> Option<&str> {
        match self {
            Self::DeadLetters => layout::handler_of_dead_letters(stream),
            Self::Retries => layout::handler_of_retries(stream),
            Self::Attempts => layout::handler_of_attempts(stream),
        }
    }

    /// The stream of this kind of a handler.
    pub fn stream_of(self, handler: &str) -> String {
        match self {
            Self::DeadLetters => layout::dead_letter_stream(handler),
            Self::Retries => layout::retry_stream(handler),
            Self::Attempts => layout::attempt_stream(handler),
        }
    }

    /// Where the stream of events carries the bytes of this kind.
    fn record(self) -> &'static str {
        match self {
            Self::DeadLetters => "tidegate.io/dead-letter-bytes",
            Self::Retries => "tidegate.io/retry-bytes",
            Self::Attempts => "tidegate.io/attempt-bytes",
        }
    }

    /// What is kept, in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::DeadLetters => "dead letters",
            Self::Retries => "retries",
            Self::Attempts => "records of attempts",
        }
    }

    /// Does a stream of this kind that is above its bound stay so, because nothing is dropped?
    pub(crate) fn keeps_all(self) -> bool {
        self != Self::Attempts
    }
}
