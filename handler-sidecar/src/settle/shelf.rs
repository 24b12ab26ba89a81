//! The retry shelf: copies of events whose next attempt is not soon. What waits there takes no place among the events
//! of the topic that are delivered and not acknowledged, of which a consumer has a bound.
//!
//! A copy is stored by the broker's own acknowledgement before its event is acknowledged. Its message id is made of the
//! event's sequence, so one that was not confirmed in time is not stored twice. It carries the event's sequence and its
//! record: a record in the stream of attempts lives for a day, and makes room for others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_broker_client::layout::{self, COPY_SEQUENCE_HEADER};
use tidegate_broker_client::message_id;
use tidegate_wire::nats::{Client, HeaderBlock, Headers, InvalidHeader, Publish};
use tokio::time::sleep;

use crate::broker::message::Message;
use crate::broker::publish_ack::{self, NotStored};
use crate::settle::attempts::Record;
use crate::settle::dead_letter::is_ours_or_the_brokers;

/// An event whose next attempt is later than this goes to the shelf. To store a copy costs the broker about as much as
/// to store the event did, and what waits for a few seconds only leaves room soon: at 400 events a second of which one
/// in fifty fails it is 40 events.
pub const SHELVED_AFTER: Duration = Duration::from_secs(5);
/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(2);
/// Tries to store a copy. The event has a place where it is, so they are few.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// The longest record on a copy, in bytes: the broker keeps at most 64 KiB of headers, of which an event may have 48.
const RECORD_LIMIT: usize = 8 * 1024;
/// When the topic stored it, by the broker's clock: nanoseconds since 1970.
const PUBLISHED_AT: &str = "Tidegate-Published-At";
/// Its [`Record`], as JSON.
const RECORD: &str = "Tidegate-Record";

/// What a copy says of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shelved {
    /// The event's sequence in the stream of the topic.
    pub sequence: u64,
    /// When the topic stored it, by the broker's clock: nanoseconds since 1970.
    pub published_at: u64,
    /// Its record when it was put on the shelf; of a long one the attempts between the first and the last may be
    /// missing.
    pub record: Record,
}

impl Shelved {
    /// Reads a copy's headers; `None`: no sidecar wrote them.
    pub fn read(headers: Headers<'_>) -> Option<Self> {
        let sequence = sequence(headers)?;
        let published_at = headers.get(PUBLISHED_AT)?.parse().ok()?;
        let record = serde_json::from_str(headers.get(RECORD)?).ok()?;
        Some(Self { sequence, published_at, record })
    }
}

/// The sequence of its event that a copy's headers tell; `None`: no sidecar wrote them.
pub fn sequence(headers: Headers<'_>) -> Option<u64> {
    headers.get(COPY_SEQUENCE_HEADER)?.parse().ok()
}

/// How an event was put on the shelf, or was not. The value of `outcome` in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Stored,
    /// There is no room.
    Full,
    /// It is not known to be there.
    Failed,
}

impl Put {
    /// Its stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }
}

/// The shelf of a handler.
#[derive(Debug)]
pub struct Shelf {
    client: Client,
    subject: String,
    uid: String,
    /// Whether the last copy found no room, so that a person reads of it once.
    is_full: AtomicBool,
}

impl Shelf {
    /// Of the handler with this name and UID.
    pub fn new(client: Client, handler: &str, uid: String) -> Self {
        Self { client, subject: layout::waiting_subject(handler), uid, is_full: AtomicBool::new(false) }
    }

    /// Puts a copy of an event of the topic there, in a few tries.
    pub async fn put(&self, event: &Message, record: &Record) -> Put {
        let put = match self.store(event, record).await {
            Ok(_) => Put::Stored,
            Err(error) => {
                let put = if error.is_full() { Put::Full } else { Put::Failed };
                if put == Put::Failed || !self.is_full.load(Ordering::Relaxed) {
                    let sequence = event.sequence();
                    tracing::warn!(sequence, %error, "an event that fails stays among those of the topic");
                }
                put
            }
        };
        if put != Put::Failed && self.is_full.swap(put == Put::Full, Ordering::Relaxed) && put == Put::Stored {
            tracing::info!("the retry shelf has room again");
        }
        put
    }

    async fn store(&self, event: &Message, record: &Record) -> Result<u64, NotStored> {
        let headers = compose(event, &self.uid, record)?;
        let payload = event.stored().payload();
        let message = Publish { subject: &self.subject, headers: Some(&headers), payload, ..Publish::default() };
        for _ in 1..TRIES {
            let sent = self.client.request(&message, TRY_LIMIT).await;
            match sent.map_err(NotStored::from).and_then(|answer| publish_ack::sequence(&answer)) {
                Err(error) if !error.is_full() => sleep(PAUSE).await,
                end => return end,
            }
        }
        publish_ack::sequence(&self.client.request(&message, TRY_LIMIT).await?)
    }
}

/// The headers of a copy: those that the event is stored with, without what the broker wrote, and what
/// [`Shelved::read`] reads.
///
/// # Errors
/// None that is known: what is stored can be stored again.
pub fn compose(event: &Message, handler_uid: &str, record: &Record) -> Result<HeaderBlock, NotStored> {
    let line = record.in_one_line(RECORD_LIMIT).map_err(|error| NotStored::Unwritable(error.to_string()))?;
    let composed = || {
        let mut headers = HeaderBlock::new();
        for (name, value) in event.headers().into_iter().flat_map(|headers| headers.iter()) {
            if !is_ours_or_the_brokers(name) {
                headers.append(name, value)?;
            }
        }
        headers.append("Nats-Msg-Id", &message_id::of_retry(handler_uid, event.sequence(), event.published_at()))?;
        headers.append(COPY_SEQUENCE_HEADER, &event.sequence().to_string())?;
        headers.append(PUBLISHED_AT, &event.published_at().to_string())?;
        headers.append(RECORD, &line)?;
        Ok::<_, InvalidHeader>(headers)
    };
    composed().map_err(|invalid| NotStored::Unwritable(invalid.to_string()))
}
