//! One stream: found, made, changed, removed.

use crate::api::{ApiError, Broker, Missing, StreamConfig, StreamInfo};
use crate::consumers::{ConsumersFailure, UID};
use crate::shares::Budget;
use tidegate_broker_client::later::MAX_DELAY;

/// Why a stream is not there, or not known. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The broker did not say what there is of it, or did not make, change or remove it.
    #[error("stream {name}: {source}")]
    Stream {
        /// The stream.
        name: String,
        /// Why.
        source: ApiError,
    },
    /// The broker did not list them.
    #[error("streams: {0}")]
    List(#[source] ApiError),
    /// The consumer of a stream is not as it should be.
    #[error("stream later: {0}")]
    Consumer(#[from] ConsumersFailure),
}

impl StreamError {
    pub(crate) fn of(name: &str) -> impl Fn(ApiError) -> Self {
        move |source| Self::Stream { name: name.to_owned(), source }
    }
}

/// Makes one stream be as configured; where it is there, with the copies that it has if it `keeps_copies`. A change that
/// the broker refuses is noted in `refused`, and the stream stays.
///
/// # Errors
/// As [`StreamError`] says.
pub(crate) async fn ensure_one(
    broker: &Broker,
    wanted: &StreamConfig,
    keeps_copies: bool,
    refused: &mut Option<String>,
) -> Result<StreamInfo, StreamError> {
    let failed = StreamError::of(&wanted.name);
    let Some(info) = find(broker, &wanted.name).await? else {
        return broker.create_stream(wanted).await.map_err(failed);
    };
    let wanted = if keeps_copies { keeping_copies(wanted, &info.config) } else { wanted.clone() };
    if same(&wanted, &info.config) {
        return Ok(info);
    }
    match broker.update_stream(&wanted).await {
        Ok(changed) => Ok(changed),
        Err(ApiError::Refused(why)) => {
            *refused = Some(format!("stream {} stays as it is: {why}", wanted.name));
            Ok(info)
        }
        Err(error) => Err(failed(error)),
    }
}

/// What is wanted of a stream, but with the copies that it has.
pub(crate) fn keeping_copies(wanted: &StreamConfig, found: &StreamConfig) -> StreamConfig {
    StreamConfig { num_replicas: found.num_replicas, ..wanted.clone() }
}

/// The stream of this name; `None`: there is none.
///
/// # Errors
/// The broker did not say.
pub(crate) async fn find(broker: &Broker, name: &str) -> Result<Option<StreamInfo>, StreamError> {
    broker.find_stream(name).await.map_err(StreamError::of(name))
}

/// Only what we set is compared: the server adds defaults and metadata of its own.
pub(crate) fn same(wanted: &StreamConfig, found: &StreamConfig) -> bool {
    wanted.subjects == found.subjects
        && wanted.description == found.description
        && wanted.max_bytes == found.max_bytes
        && wanted.max_age == found.max_age
        && unlimited(wanted.max_messages_per_subject) == unlimited(found.max_messages_per_subject)
        && wanted.allow_direct == found.allow_direct
        && wanted.allow_atomic_publish == found.allow_atomic_publish
        && wanted.discard == found.discard
        && wanted.num_replicas == found.num_replicas
        && wanted.duplicate_window == found.duplicate_window
        && (wanted.max_message_size == 0 || wanted.max_message_size == found.max_message_size)
        && wanted.allow_message_schedules == found.allow_message_schedules
        && [UID, MAX_DELAY].iter().all(|name| wanted.metadata.get(*name) == found.metadata.get(*name))
        && Budget::same(wanted, found)
}

/// The server gives back -1 where no bound was set.
fn unlimited(bound: i64) -> Option<i64> {
    Some(bound).filter(|bound| *bound > 0)
}

/// Removes a stream and all that it keeps. Gone already: fine.
///
/// # Errors
/// The broker did not remove it.
pub(crate) async fn delete(broker: &Broker, name: &str) -> Result<(), StreamError> {
    match broker.delete_stream(name).await {
        Ok(()) | Err(ApiError::NotFound(Missing::Stream)) => Ok(()),
        Err(error) => Err(StreamError::of(name)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_fills_in_is_no_difference_and_what_we_set_is() {
        let wanted = StreamConfig::default();
        assert!(same(&wanted, &StreamConfig { max_messages_per_subject: -1, ..StreamConfig::default() }));
        assert!(!same(&wanted, &StreamConfig { max_messages_per_subject: 1, ..StreamConfig::default() }));
        assert!(!same(&wanted, &StreamConfig { allow_atomic_publish: true, ..StreamConfig::default() }));
    }
}
