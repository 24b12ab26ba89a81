//! How old the oldest event is that a handler has not acknowledged.

use futures::future::try_join_all;
use tidegate_broker_client::layout;
use time::OffsetDateTime;

use crate::api::Broker;
use crate::consumers::{Backlog, ConsumersFailure};

/// Subjects that are asked for one by one. A consumer with more is taken to read all events, so that the answer may be
/// too old, but is one of few requests.
const MAX_SUBJECTS: usize = 8;

/// When the oldest of a consumer's unacknowledged events was stored; `None`: it is gone, or has been acknowledged by
/// now.
///
/// # Errors
/// The broker is away.
pub async fn oldest(broker: &Broker, backlog: &Backlog) -> Result<Option<OffsetDateTime>, ConsumersFailure> {
    let all = [layout::EVENT_SUBJECTS.to_owned()];
    let subjects = if backlog.subjects.len() > MAX_SUBJECTS { &all[..] } else { &backlog.subjects };
    let next = backlog.acknowledged.saturating_add(1);
    let first = subjects.iter().map(|subject| broker.next_message(layout::EVENT_STREAM, subject, next));
    let first = try_join_all(first).await.map_err(ConsumersFailure::Event)?;
    Ok(first.into_iter().flatten().map(|message| message.time).min())
}
