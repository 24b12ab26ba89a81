//! What a handler keeps on its retry shelf, when its place in the topic is another.

use tidegate_broker_client::held_key::Mark;
use tidegate_broker_client::layout::{self, KeySubject};
use tidegate_wire::nats::{HeaderBlock, InvalidHeader};
use tokio::time::Instant;

use crate::api::{ApiError, Broker, StoredMessage, StreamInfo};

/// A header that says under which conditions a message is stored, or of which batch it is: true of its first storing.
const CONDITIONS: &str = "nats-";

/// Why the shelf is not as it is to be. Both are worth another try.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// The broker is away, or has no room.
    #[error("retry shelf: {0}")]
    Broker(#[from] ApiError),
    /// What is stored has headers that cannot be written.
    #[error("retry shelf: message {sequence} cannot be stored again: {why}")]
    Unwritable {
        /// Which.
        sequence: u64,
        /// Why.
        why: InvalidHeader,
    },
}

/// A walk through the shelf, which may have several parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The place up to which all messages were looked at.
    pub examined: u64,
    /// The place of the last message when it began.
    pub end: u64,
    /// Whether all were looked at.
    pub is_over: bool,
}

impl Scan {
    /// Begins one.
    ///
    /// # Errors
    /// As [`ShelfError`] says.
    pub async fn begin(broker: &Broker, handler: &str) -> Result<Self, ShelfError> {
        let end = broker.stream(&layout::retry_stream(handler)).await?.state.last_sequence;
        Ok(Self { examined: 0, end, is_over: end == 0 })
    }

    /// The next message; `None`: there is none left.
    async fn next(&mut self, broker: &Broker, handler: &str) -> Result<Option<StoredMessage>, ShelfError> {
        let found = broker.next_message(&layout::retry_stream(handler), ">", self.examined + 1).await?;
        let found = found.filter(|message| message.sequence <= self.end);
        self.is_over = found.is_none();
        Ok(found)
    }
}

/// Whether the shelf has room for a copy of anything that it has, so that its messages can be moved one by one.
pub fn has_room(shelf: &StreamInfo) -> bool {
    let max = u64::try_from(shelf.config.max_bytes).unwrap_or(u64::MAX);
    let largest = u64::try_from(shelf.config.max_message_size).unwrap_or(0);
    shelf.state.messages == 0 || shelf.state.bytes.saturating_add(largest) <= max
}

/// Removes the copies of events from this sequence on, and the marks of keys that they hold: the topic delivers those
/// events again. Goes on until `until`.
///
/// # Errors
/// As [`ShelfError`] says; `scan` tells how far it is.
pub async fn remove_from(
    broker: &Broker,
    handler: &str,
    sequence: u64,
    scan: &mut Scan,
    until: Instant,
) -> Result<(), ShelfError> {
    while let Some(message) = scan.next(broker, handler).await? {
        if of_event(handler, &message).is_some_and(|event| event >= sequence) {
            broker.delete_message(&layout::retry_stream(handler), message.sequence).await?;
        }
        scan.examined = message.sequence;
        if Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

/// The sequence in the topic of the event that a message of the shelf is about; `None`: no sidecar wrote it. A mark that
/// does not say which event holds its key is about the last one.
fn of_event(handler: &str, message: &StoredMessage) -> Option<u64> {
    if KeySubject::read(handler, &message.subject).is_some_and(|key| key.is_held) {
        return Some(Mark::read(&message.payload).sequence.unwrap_or(u64::MAX));
    }
    message.headers().ok()?.get(layout::COPY_SEQUENCE_HEADER)?.parse().ok()
}

/// Puts what is parked, and the marks of held keys, where the owners of so many lanes look for them. The messages of a
/// key stay in their order: all of them are moved, one after the other. Goes on until `until`.
///
/// # Errors
/// As [`ShelfError`] says; `scan` tells how far it is.
pub async fn sort_into_lanes(
    broker: &Broker,
    handler: &str,
    lanes: u16,
    scan: &mut Scan,
    until: Instant,
) -> Result<(), ShelfError> {
    while let Some(message) = scan.next(broker, handler).await? {
        if let Some(subject) = moved(handler, &message.subject, lanes) {
            let headers = headers_of(handler, &message)?;
            // A copy that a former operator stored without removing the message is recognised by its id.
            broker.publish(&subject, Some(&headers), &message.payload).await?;
            broker.delete_message(&layout::retry_stream(handler), message.sequence).await?;
        }
        scan.examined = message.sequence;
        if Instant::now() >= until {
            break;
        }
    }
    Ok(())
}

/// Where a message of the shelf belongs, with so many lanes; `None`: where it is.
fn moved(handler: &str, subject: &str, lanes: u16) -> Option<String> {
    let found = KeySubject::read(handler, subject)?;
    let lane = layout::lane_of(layout::partition_of_digest(found.key), lanes);
    (lane != found.lane).then(|| KeySubject { lane, ..found }.subject(handler))
}

/// Those of the message, but for what was said to the broker.
fn headers_of(handler: &str, message: &StoredMessage) -> Result<HeaderBlock, ShelfError> {
    let sequence = message.sequence;
    let write = || {
        let mut headers = HeaderBlock::new();
        let found = message.headers().ok();
        for (name, value) in found.iter().flat_map(|headers| headers.iter()) {
            if !name.to_ascii_lowercase().starts_with(CONDITIONS) {
                headers.append(name, value)?;
            }
        }
        headers.append("Nats-Msg-Id", &format!("moved:{sequence}"))?;
        headers.append("Nats-Expected-Stream", &layout::retry_stream(handler))?;
        Ok::<_, InvalidHeader>(headers)
    };
    write().map_err(|why| ShelfError::Unwritable { sequence, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_moves_to_the_lane_of_its_partition() {
        for key in ["a", "sensor-1", "größe"] {
            let (digest, partition) = (layout::key_digest(key), layout::partition(key));
            for (before, after) in [(4, 8), (8, 3), (1, 32), (32, 1), (5, 5)] {
                let place = |lanes, is_held| {
                    KeySubject { lane: layout::lane_of(partition, lanes), key: digest, is_held }.subject("billing")
                };
                for is_held in [false, true] {
                    let subject = moved("billing", &place(before, is_held), after).unwrap_or(place(before, is_held));
                    assert_eq!(subject, place(after, is_held), "{key} {before} {after}");
                    assert_eq!(moved("billing", &subject, after), None, "done again");
                }
            }
        }
        for other in ["retries.billing.waiting", "retries.other.parked.3.0.0.00000000000000ab"] {
            assert_eq!(moved("billing", other, 2), None, "{other}");
        }
    }
}
