//! The copy of a dead letter that its handler gets.

use tidegate_broker_admin::api::{ApiError, Broker, Missing, StoredMessage};
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;
use tidegate_wire::nats::{HeaderBlock, Headers, InvalidHeader};

use super::{Handler, refusal};
use crate::reconcile::error::Error;

/// A dead letter that its handler can have again.
pub struct Copy<'a> {
    letter: &'a StoredMessage,
    event: Event,
    subject: String,
    headers: HeaderBlock,
}

/// Why a dead letter stays one.
#[derive(Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It cannot be handled this time either; it stays for people to look at.
    NoEvent,
    /// No consumer of the handler would read it.
    OtherType,
}

/// What became of a copy.
#[derive(Debug, PartialEq, Eq)]
pub enum Published {
    /// The topic has it.
    Confirmed(Confirmed),
    /// The broker will never take it, for this reason: the letter stays.
    Refused(String),
}

/// A dead letter whose copy the topic has, so that it may be removed.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the letter is still there"]
pub struct Confirmed {
    sequence: u64,
    /// Whether the topic had the copy before.
    pub was_known: bool,
}

impl<'a> Copy<'a> {
    /// The copy of this letter. The broker recognises it by its message id when it is published again for the same
    /// specification of the handler.
    pub fn of(handler: &Handler<'_>, letter: &'a StoredMessage) -> Result<Self, Unfit> {
        let headers = letter.headers().map_err(|_| Unfit::NoEvent)?;
        let event = stored::decode(headers, letter.payload.clone()).map_err(|_| Unfit::NoEvent)?;
        if !layout::has_type(handler.types, event.event_type()) {
            return Err(Unfit::OtherType);
        }
        let partition = layout::partition(stored::partition_key(&event));
        let subject = layout::redrive_subject(handler.name, partition, event.event_type());
        let headers = own_headers(headers, &message_id(handler, letter)).map_err(|_| Unfit::NoEvent)?;
        Ok(Self { letter, event, subject, headers })
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Publishes it.
    ///
    /// # Errors
    /// The broker is away: it may have the copy, and recognises it when it is published again.
    pub async fn publish(&self, broker: &Broker) -> Result<Published, Error> {
        match broker.publish(&self.subject, Some(&self.headers), &self.letter.payload).await {
            Ok(stored) => {
                Ok(Published::Confirmed(Confirmed { sequence: self.letter.sequence, was_known: stored.duplicate }))
            }
            Err(error) if refusal::is_final(&error) => Ok(Published::Refused(error.to_string())),
            Err(error) => Err(away(error)),
        }
    }
}

impl Confirmed {
    /// The letter's.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Removes the dead letter from this stream. Its consumers must be those that the copy was published for: what they do
    /// not read is lost by this.
    ///
    /// # Errors
    /// The broker is away: the letter may still be there, and can be given again.
    pub async fn remove(self, broker: &Broker, stream: &str) -> Result<(), Error> {
        let Err(error) = broker.delete_message(stream, self.sequence).await else { return Ok(()) };
        match broker.message(stream, self.sequence).await {
            // Somebody else has removed it meanwhile, which has no number of its own.
            Err(ApiError::NotFound(Missing::Message)) => Ok(()),
            _ => Err(away(error)),
        }
    }
}

/// The same for every copy of a letter that is given to a handler as it is specified now, and for no other.
///
/// The time: after the loss of its end a stream gives the same sequences again, and the broker would take the copy of the new
/// letter for that of the old one. The generation: a copy that was published for other filters, or before a replay, may be one
/// that the consumers of now have passed over, and the letter would be removed for it.
fn message_id(handler: &Handler<'_>, letter: &StoredMessage) -> String {
    let (uid, generation) = (handler.uid, handler.generation);
    format!("redrive:{uid}:{generation}:{}:{}", letter.sequence, letter.time.unix_timestamp_nanos())
}

/// The event's own headers: what the sidecar and the broker wrote into the dead letter is left out.
fn own_headers(letter: Headers<'_>, message_id: &str) -> Result<HeaderBlock, InvalidHeader> {
    let mut headers = HeaderBlock::new();
    for (name, value) in letter.iter() {
        let lower = name.to_ascii_lowercase();
        if !lower.starts_with("nats-") && !lower.starts_with("tidegate-") {
            headers.append(name, value)?;
        }
    }
    headers.append("Nats-Msg-Id", message_id)?;
    headers.append("Nats-Expected-Stream", layout::EVENT_STREAM)?;
    Ok(headers)
}

pub(super) fn away(error: impl std::fmt::Display) -> Error {
    Error::Broker(format!("redrive: {error}"))
}
