//! An event as it is sent to the broker: subject, ids, headers. Pure.

use bytes::Bytes;
use tidegate_broker_client::message_id::{self, Token};
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;
use tidegate_publisher_auth::Publisher;
use tidegate_wire::nats::{HeaderBlock, InvalidHeader, Publish};

/// The header by which the broker recognises a repetition.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The header that keeps a message from other streams.
pub const EXPECTED_STREAM: &str = "Nats-Expected-Stream";

/// Whose event it is, as far as its message id depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// Of a publisher that showed nothing of itself: only the same event again is a repetition.
    Anonymous,
    /// Of a publisher that is known: its `source` and `id` again are a repetition.
    Publisher(&'a Publisher),
    /// A handler's, which names its repetitions itself.
    Handler(&'a Token),
}

/// What is sent for an event.
pub struct Message {
    /// Where to; inside the topic's account until it is sent.
    pub subject: String,
    /// The partition, a part of the subject.
    pub partition: u32,
    /// By which the broker recognises a repetition.
    pub message_id: String,
    /// The attributes, as they are sent. Nothing a publisher sends becomes a header but as an attribute.
    pub headers: HeaderBlock,
    /// The data.
    pub payload: Bytes,
}

impl<'a> Origin<'a> {
    /// That of an event from this publisher.
    pub fn of(publisher: &'a Publisher) -> Self {
        if publisher.is_anonymous() { Self::Anonymous } else { Self::Publisher(publisher) }
    }
}

impl Message {
    /// The message of an event of this origin.
    pub fn of(event: &Event, origin: Origin<'_>) -> Self {
        let partition = layout::partition(stored::partition_key(event));
        let message_id = match origin {
            Origin::Anonymous => message_id::of_content(event),
            Origin::Publisher(publisher) => message_id::of_publisher(publisher.as_str(), event.source(), event.id()),
            Origin::Handler(token) => token.message_id(),
        };
        let (headers, payload) = stored::encode(event);
        let subject = layout::event_subject(partition, event.event_type());
        Self { subject, partition, message_id, headers, payload }
    }

    /// Addresses it to the stream of events.
    ///
    /// # Errors
    /// The message id cannot be a header.
    pub fn expect_stream(&mut self) -> Result<(), InvalidHeader> {
        self.headers.append(MESSAGE_ID, &self.message_id)?;
        self.headers.append(EXPECTED_STREAM, layout::EVENT_STREAM)
    }

    /// What is sent, without a reply subject.
    pub fn publish(&self) -> Publish<'_> {
        Publish { subject: &self.subject, headers: Some(&self.headers), payload: &self.payload, ..Publish::default() }
    }

    /// Bytes in memory, about; no less than are sent.
    pub fn size(&self) -> usize {
        self.subject.len() + self.message_id.len() + self.headers.encoded_len() + self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_id_is_that_of_the_origin() {
        let event = Event::builder("1", "/s", "t").build().unwrap();
        let topic = message_id::TopicKey::new(&[1; 32]);
        let key = message_id::HandlerKey::from_text(&topic.handler_key_text("u")).unwrap();
        let token = topic.verify(&key.token("u", "x")).unwrap();
        let till = Publisher::nats("till");
        for (origin, expected) in [
            (Origin::Anonymous, message_id::of_content(&event)),
            (Origin::Publisher(&till), message_id::of_publisher("nats:till", "/s", "1")),
            (Origin::Handler(&token), token.message_id()),
        ] {
            assert_eq!(Message::of(&event, origin).message_id, expected);
        }
    }

    #[test]
    fn whatever_a_key_holds_it_is_no_part_of_the_subject() {
        for key in [".", "*", ">", "a b", "%2E", "\u{1F600}"] {
            let event = Event::builder("1", "/s", "t").attribute("partitionkey", key).build().unwrap();
            let message = Message::of(&event, Origin::Anonymous);
            assert_eq!(message.subject, format!("events.{}.t", layout::partition(key)));
        }
    }
}
