//! A topic's streams: events, dead letters, and the failed attempts of what is still to be retried.

use std::time::Duration;

use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self};
use tidegate_broker_client::layout;

/// Far longer than the longest wait between two attempts (an hour).
const ATTEMPT_AGE: Duration = Duration::from_secs(24 * 3600);

/// What the streams of a topic depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Copies of each event.
    pub replicas: usize,
    /// Bytes of events.
    pub max_bytes: i64,
    /// Bytes of dead letters.
    pub dead_letter_bytes: i64,
    /// Bytes of records of attempts.
    pub attempt_bytes: i64,
    /// Events older than this go; `None`: never.
    pub max_age: Option<Duration>,
    /// When full: the oldest goes (`true`), or the publisher is told (`false`).
    pub drop_oldest: bool,
    /// How long a repeated message id is recognised.
    pub deduplication_window: Duration,
    /// Bytes of one message, headers included.
    pub max_message_size: i32,
}

impl Topic {
    /// The stream of events, of dead letters, of attempts.
    pub fn configs(&self) -> [Config; 3] {
        let common = Config {
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: self.deduplication_window,
            ..Config::default()
        };
        let events = Config {
            name: layout::EVENT_STREAM.to_owned(),
            description: Some("events of a Tidegate topic".to_owned()),
            subjects: vec![layout::EVENT_SUBJECTS.to_owned(), layout::REDRIVE_SUBJECTS.to_owned()],
            max_bytes: self.max_bytes,
            max_age: self.max_age.unwrap_or_default(),
            discard: if self.drop_oldest { DiscardPolicy::Old } else { DiscardPolicy::New },
            max_message_size: self.max_message_size,
            ..common.clone()
        };
        // A dead letter is the last copy that somebody asked to keep: never dropped to make room.
        let dead_letters = Config {
            name: layout::DEAD_LETTER_STREAM.to_owned(),
            description: Some("what the handlers of a Tidegate topic could not handle".to_owned()),
            subjects: vec![layout::DEAD_LETTER_SUBJECTS.to_owned()],
            max_bytes: self.dead_letter_bytes,
            discard: DiscardPolicy::New,
            ..common.clone()
        };
        // Of use until the event's next attempt. Without it attempts are counted anew: too many, never too few.
        let attempts = Config {
            name: layout::ATTEMPT_STREAM.to_owned(),
            description: Some("failed attempts of events that are still to be retried".to_owned()),
            subjects: vec![layout::ATTEMPT_SUBJECTS.to_owned()],
            max_bytes: self.attempt_bytes,
            max_age: ATTEMPT_AGE,
            max_messages_per_subject: 1,
            discard: DiscardPolicy::Old,
            allow_direct: true,
            ..common
        };
        [events, dead_letters, attempts]
    }
}

/// Makes the streams be as configured. Returns what the broker says of the streams of events and of dead letters;
/// writes only what differs.
///
/// # Errors
/// The broker is away or refuses.
pub async fn ensure(js: &jetstream::Context, topic: &Topic) -> Result<[Info; 2], CreateStreamError> {
    let [events, dead_letters, attempts] = topic.configs();
    ensure_one(js, attempts).await?;
    Ok([ensure_one(js, events).await?, ensure_one(js, dead_letters).await?])
}

async fn ensure_one(js: &jetstream::Context, wanted: Config) -> Result<Info, CreateStreamError> {
    if let Ok(stream) = js.get_stream(&wanted.name).await {
        let info = stream.cached_info();
        if same(&wanted, &info.config) {
            return Ok(info.clone());
        }
    }
    js.create_or_update_stream(wanted).await
}

/// Only what we set is compared: the server adds defaults and metadata of its own.
fn same(wanted: &Config, found: &Config) -> bool {
    wanted.subjects == found.subjects
        && wanted.description == found.description
        && wanted.max_bytes == found.max_bytes
        && wanted.max_age == found.max_age
        && wanted.max_messages_per_subject.max(-1) == found.max_messages_per_subject
        && wanted.allow_direct == found.allow_direct
        && wanted.discard == found.discard
        && wanted.num_replicas == found.num_replicas
        && wanted.duplicate_window == found.duplicate_window
        && (wanted.max_message_size == 0 || wanted.max_message_size == found.max_message_size)
}
