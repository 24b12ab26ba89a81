//! How old the oldest event is that a handler has not acknowledged.

use async_nats::jetstream::stream::RawMessageErrorKind;
use async_nats::jetstream::{self};
use futures::future::try_join_all;
use time::OffsetDateTime;

use crate::consumers::ConsumersFailure;
use tidegate_broker_client::layout;

/// Subjects that are asked for one by one. A consumer with more is taken to read all events, so that the answer may be
/// too old, but is one of few requests.
const MAX_SUBJECTS: usize = 8;

/// A consumer that has not acknowledged all its events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The sequence up to which all of them are acknowledged.
    pub acknowledged: u64,
    /// The subjects that it reads.
    pub subjects: Vec<String>,
}

/// When the oldest of a consumer's unacknowledged events was stored; `None`: it is gone, or has been acknowledged by now.
///
/// # Errors
/// The broker is away.
pub async fn oldest(js: &jetstream::Context, backlog: &Backlog) -> Result<Option<OffsetDateTime>, ConsumersFailure> {
    let stream = &js.get_stream_no_info(layout::EVENT_STREAM).await?;
    let all = [layout::EVENT_SUBJECTS.to_owned()];
    let subjects = if backlog.subjects.len() > MAX_SUBJECTS { &all[..] } else { &backlog.subjects };
    let next = backlog.acknowledged.saturating_add(1);
    let times =
        subjects.iter().map(async |subject| match stream.get_first_raw_message_by_subject(subject, next).await {
            Ok(message) => Ok(Some(message.time)),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error),
        });
    Ok(try_join_all(times).await?.into_iter().flatten().min())
}
