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
pub enum Given {
    /// The topic has it, and the letter is gone. Whether the topic had it before.
    Redriven { was_known: bool },
    /// The broker will never take it, for this reason: the letter stays.
    Refused(String),
}

impl<'a> Copy<'a> {
    /// The copy of this letter. Its message id is of the letter and the handler's UID, so that the broker
    /// recognises it when it is published again.
    pub fn of(handler: &Handler<'_>, letter: &'a StoredMessage) -> Result<Self, Unfit> {
        let headers = letter.headers().map_err(|_| Unfit::NoEvent)?;
        let event = stored::decode(headers, letter.payload.clone()).map_err(|_| Unfit::NoEvent)?;
        if !layout::has_type(handler.types, event.event_type()) {
            return Err(Unfit::OtherType);
        }
        let partition = layout::partition(stored::partition_key(&event));
        let subject = layout::redrive_subject(handler.name, partition, event.event_type());
        let headers = own_headers(headers, &message_id(handler.uid, letter)).map_err(|_| Unfit::NoEvent)?;
        Ok(Self { letter, event, subject, headers })
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Publishes it, and removes the dead letter once the broker has confirmed that.
    ///
    /// # Errors
    /// The broker is away: the letter is still there, and can be given again.
    pub async fn give(&self, broker: &Broker, stream: &str) -> Result<Given, Error> {
        let sequence = self.letter.sequence;
        let was_known = match broker.publish(&self.subject, Some(&self.headers), &self.letter.payload).await {
            Ok(stored) => stored.duplicate,
            Err(error) if refusal::is_final(&error) => return Ok(Given::Refused(error.to_string())),
            Err(error) => return Err(away(error)),
        };
        if let Err(error) = broker.delete_message(stream, sequence).await {
            // Somebody else has removed it meanwhile, which has no number of its own.
            match broker.message(stream, sequence).await {
                Err(ApiError::NotFound(Missing::Message)) => {}
                _ => return Err(away(error)),
            }
        }
        Ok(Given::Redriven { was_known })
    }
}

/// The same for every copy of a letter, and for no other letter: after the loss of its end a stream gives the same sequences
/// again, and the broker would take the copy of the new letter for that of the old one.
fn message_id(uid: &str, letter: &StoredMessage) -> String {
    format!("redrive:{uid}:{}:{}", letter.sequence, letter.time.unix_timestamp_nanos())
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
