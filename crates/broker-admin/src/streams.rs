//! A topic's streams: that of its events, and those of its handlers ([`crate::handler_streams`]).

use std::time::Duration;

use tidegate_broker_client::contract::MIN_BATCH_WINDOW;
use tidegate_broker_client::layout;

use crate::api::{Broker, Discard, Retention, Storage, StreamConfig, StreamInfo};
use crate::handler_streams;
use crate::later::{self, Later};
use crate::shares::{Budget, Kind};
use crate::stream::{StreamError, delete, ensure_one, find};

/// Bytes of the largest message that any topic takes: the largest event there can be, and its headers.
pub const MAX_MESSAGE_SIZE: i32 = 9 << 20;

/// What the streams of a topic depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Copies of each event.
    pub replicas: usize,
    /// Streams that are there keep the number of copies that they have: their broker is changing it
    /// ([`crate::membership`]).
    pub keeps_copies: bool,
    /// Bytes of events.
    pub max_bytes: i64,
    /// Bytes of dead letters, of all handlers together.
    pub dead_letter_bytes: i64,
    /// Bytes of events that wait for a retry, of all handlers together.
    pub retry_bytes: i64,
    /// Bytes of records of attempts, of all handlers together.
    pub attempt_bytes: i64,
    /// How it takes events that wait for their time; `None`: not at all.
    pub later: Option<Later>,
    /// Events older than this go; `None`: never.
    pub max_age: Option<Duration>,
    /// When full: the oldest goes (`true`), or the publisher is told (`false`).
    pub drop_oldest: bool,
    /// How long a repeated message id is recognised.
    pub deduplication_window: Duration,
    /// Bytes of one message that is published, headers included. The streams may take larger ones ([`ensure`]).
    pub max_message_size: i32,
}

impl Topic {
    /// The stream of events. It carries what its handlers' streams may have, and takes the atomic batches of the
    /// ingress where it recognises their events for long enough.
    pub fn events(&self) -> StreamConfig {
        StreamConfig {
            name: layout::EVENT_STREAM.to_owned(),
            description: Some("events of a Tidegate topic".to_owned()),
            subjects: vec![layout::EVENT_SUBJECTS.to_owned(), layout::REDRIVE_SUBJECTS.to_owned()],
            retention: Retention::Limits,
            storage: Storage::File,
            num_replicas: self.replicas,
            duplicate_window: self.deduplication_window,
            max_bytes: self.max_bytes,
            max_age: self.max_age.unwrap_or_default(),
            discard: if self.drop_oldest { Discard::Old } else { Discard::New },
            max_message_size: self.max_message_size,
            allow_atomic_publish: self.deduplication_window >= MIN_BATCH_WINDOW,
            metadata: Budget::metadata(
                [
                    (Kind::DeadLetters, self.dead_letter_bytes),
                    (Kind::Retries, self.retry_bytes),
                    (Kind::Attempts, self.attempt_bytes),
                ],
                self.max_message_size,
            ),
            ..StreamConfig::default()
        }
    }
}

/// The streams as they are after [`ensure`].
#[derive(Debug)]
pub struct Streams {
    /// The stream of events.
    pub events: StreamInfo,
    /// Dead letters in the handlers' streams, all together.
    pub dead_letters: u64,
    /// Whether there is a stream of events that wait for their time.
    pub has_later: bool,
    /// What the broker refused to change, and why: the streams are there and work as they were.
    pub refused: Option<String>,
}

/// Removes all streams of a topic, with everything that they keep.
///
/// # Errors
/// The broker did not list or remove them.
pub async fn delete_all(broker: &Broker) -> Result<(), StreamError> {
    for stream in handler_streams::list(broker).await? {
        delete(broker, &stream.config.name).await?;
    }
    Ok(())
}

/// Makes the streams be as configured; writes only what differs. What shrinks is changed first, so that all together
/// never ask for more than before or after: the broker refuses what is larger than its volume.
///
/// A bound of messages only rises: what the topic took once is copied to the shelf and redriven, after its topic has got
/// a smaller `max_message_size`, too. How large a share must be goes by the smaller one.
///
/// # Errors
/// As [`StreamError`] says. A change that the broker refuses is none, as long as the stream is there.
pub async fn ensure(broker: &Broker, topic: &Topic) -> Result<Streams, StreamError> {
    let mut refused = None;
    let found = find(broker, layout::EVENT_STREAM).await?;
    let wanted = keeping_largest(topic.events(), found.as_ref());
    let grows = found.as_ref().is_some_and(|info| info.config.max_bytes < wanted.max_bytes);
    if !grows {
        ensure_one(broker, &wanted, topic.keeps_copies, &mut refused).await?;
    }
    later::ensure(broker, topic, true, &mut refused).await?;
    let dead_letters = match Budget::of(&wanted) {
        Some(budget) => handler_streams::share_out(broker, &budget, topic.keeps_copies, &mut refused).await?,
        None => 0,
    };
    let events = ensure_one(broker, &wanted, topic.keeps_copies, &mut refused).await?;
    let has_later = later::ensure(broker, topic, false, &mut refused).await?;
    Ok(Streams { events, dead_letters, has_later, refused })
}

fn keeping_largest(wanted: StreamConfig, found: Option<&StreamInfo>) -> StreamConfig {
    let largest = found.map_or(0, |found| found.config.max_message_size.min(MAX_MESSAGE_SIZE));
    StreamConfig { max_message_size: wanted.max_message_size.max(largest), ..wanted }
}
