//! A topic's streams: that of its events, and those of its handlers ([`crate::handler_streams`]).

use std::time::Duration;

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, DeleteStreamError, GetStreamError, GetStreamErrorKind,
    StreamsError as ListError,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use tidegate_broker_client::layout;

use crate::handler_streams;
use crate::shares::Budget;

/// What the broker calls it when it can do nothing just now.
const UNAVAILABLE: usize = 503;

/// What the streams of a topic depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// Copies of each event.
    pub replicas: usize,
    /// Bytes of events.
    pub max_bytes: i64,
    /// Bytes of dead letters, of all handlers together.
    pub dead_letter_bytes: i64,
    /// Bytes of records of attempts, of all handlers together.
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
    /// The stream of events. It carries what its handlers' streams may have.
    pub fn events(&self) -> Config {
        Config {
            name: layout::EVENT_STREAM.to_owned(),
            description: Some("events of a Tidegate topic".to_owned()),
            subjects: vec![layout::EVENT_SUBJECTS.to_owned(), layout::REDRIVE_SUBJECTS.to_owned()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: self.deduplication_window,
            max_bytes: self.max_bytes,
            max_age: self.max_age.unwrap_or_default(),
            discard: if self.drop_oldest { DiscardPolicy::Old } else { DiscardPolicy::New },
            max_message_size: self.max_message_size,
            metadata: Budget::metadata(self.dead_letter_bytes, self.attempt_bytes),
            ..Config::default()
        }
    }
}

/// The streams as they are after [`ensure`].
#[derive(Debug)]
pub struct Streams {
    /// The stream of events.
    pub events: Info,
    /// Dead letters in the handlers' streams, all together.
    pub dead_letters: u64,
    /// What the broker refused to change, and why: the streams are there and work as they were.
    pub refused: Option<String>,
}

/// Why the streams are not there, or not known. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// The broker did not say what there is.
    #[error("stream {name}: {source}")]
    Unknown {
        /// The stream.
        name: String,
        /// The client's error.
        source: GetStreamError,
    },
    /// The broker did not make or change it.
    #[error("stream {name}: {source}")]
    Unchanged {
        /// The stream.
        name: String,
        /// The client's error.
        source: CreateStreamError,
    },
    /// The broker did not list them.
    #[error("streams: {0}")]
    List(#[from] ListError),
    /// The broker did not remove it.
    #[error("stream {name}: {source}")]
    Removal {
        /// The stream.
        name: String,
        /// The client's error.
        source: DeleteStreamError,
    },
}

/// Makes the streams be as configured; writes only what differs. What shrinks is changed first, so that all together
/// never ask for more than before or after: the broker refuses what is larger than its volume.
///
/// # Errors
/// As [`StreamsError`] says. A change that the broker refuses is none, as long as the stream is there.
pub async fn ensure(js: &jetstream::Context, topic: &Topic) -> Result<Streams, StreamsError> {
    let wanted = topic.events();
    let mut refused = None;
    let found = find(js, &wanted.name).await?;
    let grows = found.as_ref().is_some_and(|info| info.config.max_bytes < wanted.max_bytes);
    if !grows {
        ensure_one(js, &wanted, &mut refused).await?;
    }
    let dead_letters = match Budget::of(&wanted) {
        Some(budget) => handler_streams::share_out(js, &budget, &mut refused).await?,
        None => 0,
    };
    Ok(Streams { events: ensure_one(js, &wanted, &mut refused).await?, dead_letters, refused })
}

pub(crate) async fn ensure_one(
    js: &jetstream::Context,
    wanted: &Config,
    refused: &mut Option<String>,
) -> Result<Info, StreamsError> {
    let Some(info) = find(js, &wanted.name).await? else { return create(js, wanted).await };
    if same(wanted, &info.config) {
        return Ok(info);
    }
    match update(js, wanted).await {
        Ok(changed) => Ok(changed),
        Err(error) => {
            let why = refusal(error)?;
            *refused = Some(format!("stream {} stays as it is: {why}", wanted.name));
            Ok(info)
        }
    }
}

pub(crate) async fn find(js: &jetstream::Context, name: &str) -> Result<Option<Info>, StreamsError> {
    match js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(source) => match source.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(StreamsError::Unknown { name: name.to_owned(), source }),
        },
    }
}

async fn create(js: &jetstream::Context, wanted: &Config) -> Result<Info, StreamsError> {
    let made = js.create_stream(wanted.clone()).await;
    let stream = made.map_err(|source| StreamsError::Unchanged { name: wanted.name.clone(), source })?;
    Ok(stream.cached_info().clone())
}

async fn update(js: &jetstream::Context, wanted: &Config) -> Result<Info, StreamsError> {
    let changed = js.update_stream(wanted).await;
    changed.map_err(|source| StreamsError::Unchanged { name: wanted.name.clone(), source })
}

/// The broker's own words, where they say that it will never do this; an error that passes otherwise.
fn refusal(error: StreamsError) -> Result<String, StreamsError> {
    match &error {
        StreamsError::Unchanged { source, .. } => match source.kind() {
            CreateStreamErrorKind::JetStream(refusal) if refusal.code() != UNAVAILABLE => Ok(refusal.to_string()),
            _ => Err(error),
        },
        _ => Err(error),
    }
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
        && Budget::same(wanted, found)
}
