//! The stream of events that wait for their time, which a topic has if it takes such events.
//!
//! The broker takes message schedules (ADR-51) only in a stream that drops its oldest messages when it is full (10052).
//! That would be a confirmed event, so the ingresses leave a part of it free, and it is never made smaller than what it
//! has asks for.

use std::collections::HashMap;
use std::time::Duration;

use tidegate_broker_client::later::{
    self, CONSUMER, DELAYED_SUBJECTS, DUE_SUBJECTS, MAX_DELAY, SCHEDULE_SUBJECTS, STREAM,
};

use crate::api::{
    AckPolicy, Broker, ConsumerConfig, DeliverPolicy, Discard, Retention, Storage, StreamConfig, StreamInfo,
};
use crate::consumers::MAX_EXPIRES;
use crate::stream::{StreamError, delete, ensure_one, find};
use crate::streams::Topic;
use crate::work_queue;

/// How long an ingress may take to store an event that is due, many times what it takes.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Events that are due and under way to the stream of events, for all ingresses.
const MAX_ACK_PENDING: i64 = 1024;
/// Open pulls: two of each ingress, and those of ingresses that are gone.
const MAX_WAITING: i64 = 64;
/// No message id is used in this stream: the same event has the same subject. The broker wants a window all the same.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(1);
/// Beside what it has, room for what the broker writes when a time has come.
const SPARE_BYTES: i64 = 64 << 10;

/// How a topic takes events that wait for their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Later {
    /// Bytes of the stream.
    pub max_bytes: i64,
    /// How far ahead the time of a publisher's event may be; `None`: publishers may not say one.
    pub max_delay: Option<Duration>,
    /// Whether the topic has schedules of its own.
    pub has_schedules: bool,
}

/// Makes the stream and its consumer be as configured, or removes them when nothing waits any more: what was taken is
/// published at its time, whatever the topic takes now. With `only_shrink` it does nothing but make the stream smaller.
/// Answers whether the stream is there.
///
/// # Errors
/// As [`StreamError`] says. A change that the broker refuses is none.
pub(crate) async fn ensure(
    broker: &Broker,
    topic: &Topic,
    only_shrink: bool,
    refused: &mut Option<String>,
) -> Result<bool, StreamError> {
    let found = find(broker, STREAM).await?;
    if let Some(found) = &found
        && is_over(found, topic)
    {
        return delete(broker, STREAM).await.map(|()| false);
    }
    if found.is_none() && topic.later.is_none() {
        return Ok(false);
    }
    let wanted = config(topic, found.as_ref());
    let shrinks = found.as_ref().is_some_and(|found| wanted.max_bytes < found.config.max_bytes);
    if only_shrink && !shrinks {
        return Ok(true);
    }
    ensure_one(broker, &wanted, topic.keeps_copies, refused).await?;
    work_queue::ensure_consumer(broker, STREAM, consumer()).await?;
    Ok(true)
}

/// Whether the stream takes nothing any more, and has nothing.
fn is_over(found: &StreamInfo, topic: &Topic) -> bool {
    topic.later.is_none() && found.config.subjects == [DUE_SUBJECTS] && found.state.messages == 0
}

fn config(topic: &Topic, found: Option<&StreamInfo>) -> StreamConfig {
    let (mut subjects, mut metadata, mut max_bytes) = (vec![DUE_SUBJECTS.to_owned()], HashMap::new(), SPARE_BYTES);
    if let Some(later) = &topic.later {
        if let Some(max_delay) = later.max_delay {
            subjects.push(DELAYED_SUBJECTS.to_owned());
            metadata.insert(MAX_DELAY.to_owned(), max_delay.as_secs().to_string());
        }
        subjects.extend(later.has_schedules.then(|| SCHEDULE_SUBJECTS.to_owned()));
        max_bytes = later.max_bytes;
    }
    if let Some(found) = found {
        let needed = i64::try_from(found.state.bytes).unwrap_or(i64::MAX).saturating_mul(2).saturating_add(SPARE_BYTES);
        max_bytes = max_bytes.max(needed.min(found.config.max_bytes));
    }
    StreamConfig {
        name: STREAM.to_owned(),
        description: Some("events of a Tidegate topic that wait for their time".to_owned()),
        subjects,
        retention: Retention::WorkQueue,
        storage: Storage::File,
        num_replicas: topic.replicas,
        duplicate_window: DUPLICATE_WINDOW,
        max_bytes,
        // What comes for the second time replaces the first.
        max_messages_per_subject: 1,
        discard: Discard::Old,
        allow_message_schedules: true,
        metadata,
        ..StreamConfig::default()
    }
}

fn consumer() -> ConsumerConfig {
    ConsumerConfig {
        durable_name: Some(CONSUMER.to_owned()),
        description: Some("events of a Tidegate topic whose time has come".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        max_deliver: -1,
        filter_subjects: vec![later::DUE_SUBJECTS.to_owned()],
        max_waiting: MAX_WAITING,
        max_ack_pending: MAX_ACK_PENDING,
        max_expires: MAX_EXPIRES,
        num_replicas: 0,
        ..ConsumerConfig::default()
    }
}
