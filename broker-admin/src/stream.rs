//! One stream: found, made, changed, removed.

use async_nats::jetstream::context::{
    CreateStreamError, CreateStreamErrorKind, DeleteStreamError, GetStreamError, GetStreamErrorKind,
    StreamsError as ListError,
};
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{self, ErrorCode};

use crate::shares::Budget;

/// What the broker calls it when it can do nothing just now.
const UNAVAILABLE: usize = 503;

/// Why a stream is not there, or not known. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
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

/// Makes one stream be as configured. A change that the broker refuses is noted in `refused`, and the stream stays.
///
/// # Errors
/// As [`StreamError`] says.
pub(crate) async fn ensure_one(
    js: &jetstream::Context,
    wanted: &Config,
    refused: &mut Option<String>,
) -> Result<Info, StreamError> {
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

/// The stream of this name; `None`: there is none.
///
/// # Errors
/// The broker did not say.
pub(crate) async fn find(js: &jetstream::Context, name: &str) -> Result<Option<Info>, StreamError> {
    match js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(source) => match source.kind() {
            GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
            _ => Err(StreamError::Unknown { name: name.to_owned(), source }),
        },
    }
}

async fn create(js: &jetstream::Context, wanted: &Config) -> Result<Info, StreamError> {
    let made = js.create_stream(wanted.clone()).await;
    let stream = made.map_err(|source| StreamError::Unchanged { name: wanted.name.clone(), source })?;
    Ok(stream.cached_info().clone())
}

async fn update(js: &jetstream::Context, wanted: &Config) -> Result<Info, StreamError> {
    let changed = js.update_stream(wanted).await;
    changed.map_err(|source| StreamError::Unchanged { name: wanted.name.clone(), source })
}

/// The broker's own words, where they say that it will never do this; an error that passes otherwise.
fn refusal(error: StreamError) -> Result<String, StreamError> {
    match &error {
        StreamError::Unchanged { source, .. } => match source.kind() {
            CreateStreamErrorKind::JetStream(refusal) if refusal.code() != UNAVAILABLE => Ok(refusal.to_string()),
            _ => Err(error),
        },
        _ => Err(error),
    }
}

/// Only what we set is compared: the server adds defaults and metadata of its own.
pub(crate) fn same(wanted: &Config, found: &Config) -> bool {
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

/// Removes a stream and all that it keeps. Gone already: fine.
///
/// # Errors
/// The broker did not remove it.
pub(crate) async fn delete(js: &jetstream::Context, name: &str) -> Result<(), StreamError> {
    match js.delete_stream(name).await {
        Ok(_) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(source) => Err(StreamError::Removal { name: name.to_owned(), source }),
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}
