//! The records of attempts in their stream: one message for each event, the last of its subject.
//!
//! A write says which record it was made from. If another pod wrote in between (one that was paused and came
//! back), the broker refuses it, and the change is made to the newer record: no attempt is forgotten.

use std::time::Duration;

use tidegate_broker_client::layout;
use tidegate_wire::nats::{Client, HeaderBlock, Message, Publish, RequestError};
use tokio::time::sleep;

use super::{Change, Record};
use crate::broker::publish_ack::{self, NotStored};

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Tries of a read or a write. A follower that has not heard of a record yet hears of it between two of them.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(75);
/// The status of a read that found no record.
const NOT_FOUND: u16 = 404;
/// Only if the subject's last message is this one.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Where the broker says which message it gives.
const SEQUENCE: &str = "Nats-Sequence";

/// A record, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptHistory {
    /// What is on record.
    pub record: Record,
    /// The stream's sequence of it; 0: there is none.
    revision: u64,
}

impl AttemptHistory {
    /// The same with what a copy on the shelf says, where that is newer: a record in the stream lives for a day.
    pub fn or_newer(mut self, copy: &Record) -> Self {
        if copy.deliveries() > self.record.deliveries() {
            self.record = copy.clone();
        }
        self
    }
}

/// Which event a record is of. A stream that lost its end gives a sequence to another event, which was stored later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventName {
    /// Its sequence in the stream of the topic.
    pub sequence: u64,
    /// When the topic stored it, by the broker's clock: nanoseconds since 1970.
    pub published_at: u64,
}

/// The records of one handler's events.
#[derive(Clone, Debug)]
pub struct Attempts {
    client: Client,
    handler: String,
    uid: String,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the broker answers {0}")]
    Status(u16),
}

impl Attempts {
    /// Of the handler with this name and UID.
    pub fn new(client: Client, handler: String, uid: String) -> Self {
        Self { client, handler, uid }
    }

    /// What is on record before this delivery. Read again a few times while it says nothing of the delivery before;
    /// then it is taken as it is, because that one may have left no trace.
    pub async fn read(&self, event: EventName, delivery: u32) -> AttemptHistory {
        let (mut best, mut problem) = (AttemptHistory::default(), None);
        for again in 0..TRIES {
            if again > 0 {
                sleep(PAUSE).await;
            }
            match self.get(event).await {
                Ok(known) if known.record.is_newest_before(delivery) => return known,
                Ok(known) => {
                    problem = None;
                    if known.revision > best.revision {
                        best = known;
                    }
                }
                Err(error) => problem = Some(error),
            }
        }
        if let Some(error) = problem {
            let sequence = event.sequence;
            tracing::warn!(sequence, %error, "the attempts of an event cannot be read: some are counted from one");
        }
        best
    }

    /// Puts a change on record, in a few tries, and makes `known` what is on record then.
    ///
    /// # Errors
    /// The last try's error.
    pub async fn write(
        &self,
        event: EventName,
        delivery: u32,
        known: &mut AttemptHistory,
        change: &Change,
    ) -> Result<(), NotStored> {
        let mut failures = 0;
        loop {
            let record = known.record.with(change, &self.uid, delivery).of_event(event.published_at);
            let problem = match self.put(event.sequence, &record, known.revision).await {
                Ok(revision) => {
                    *known = AttemptHistory { record, revision };
                    return Ok(());
                }
                Err(problem) => problem,
            };
            failures += 1;
            if failures == TRIES {
                // Not on record, but known to us: the dead letter tells of it.
                known.record = record;
                return Err(problem);
            }
            sleep(PAUSE).await;
            if problem.is_outrun()
                && let Ok(newer) = self.get(event).await
            {
                *known = newer;
                if known.record.has(change) {
                    return Ok(());
                }
            }
        }
    }

    async fn put(&self, sequence: u64, record: &Record, revision: u64) -> Result<u64, NotStored> {
        let unwritable = |error: &dyn std::error::Error| NotStored::Unwritable(error.to_string());
        let mut headers = HeaderBlock::new();
        headers.append(EXPECTED, &revision.to_string()).map_err(|error| unwritable(&error))?;
        let body = serde_json::to_vec(record).map_err(|error| unwritable(&error))?;
        let subject = layout::attempt_subject(&self.handler, &sequence.to_string());
        let message = Publish { subject: &subject, headers: Some(&headers), payload: &body, ..Publish::default() };
        publish_ack::sequence(&self.client.request(&message, TRY_LIMIT).await?)
    }

    async fn get(&self, event: EventName) -> Result<AttemptHistory, ReadError> {
        let subject = layout::attempt_read_subject(&self.handler, &event.sequence.to_string());
        let message = self.client.request(&Publish { subject: &subject, ..Publish::default() }, TRY_LIMIT).await?;
        match message.status() {
            None => Ok(self.parse_record(&message, event)),
            Some(NOT_FOUND) => Ok(AttemptHistory::default()),
            Some(other) => Err(ReadError::Status(other)),
        }
    }

    /// What is not a record of this handler, or is one of another event, counts as none, and is replaced by the next
    /// write.
    fn parse_record(&self, message: &Message, event: EventName) -> AttemptHistory {
        let header = |name| message.headers()?.get(name)?.parse().ok();
        let revision = header(SEQUENCE).unwrap_or(0);
        let is_of = |record: &Record| record.handler == self.uid && record.is_of(event.published_at);
        let record = serde_json::from_slice(message.payload()).ok().filter(is_of);
        AttemptHistory { record: record.unwrap_or_default(), revision }
    }
}
