//! How old the oldest event is that a handler has not acknowledged.

use async_nats::jetstream;
use async_nats::jetstream::stream::RawMessageErrorKind;
use futures::future::try_join_all;
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::consumers::{Backlog, ConsumersFailure};

/// Subjects that are asked for one by one. A consumer with more is taken to read all events, so that the answer may be
/// too old, but is one of few requests.
const MAX_SUBJECTS: usize = 8;

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
