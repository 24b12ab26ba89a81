//! An event as it is sent to the broker: subject, ids, headers. Pure.

use async_nats::HeaderMap;
use bytes::Bytes;
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;

/// What is sent for an event.
pub struct Message {
    /// Where to.
    pub subject: String,
    /// The partition, a part of the subject.
    pub partition: u32,
    /// By which the broker recognises a repetition.
    pub message_id: String,
    /// The attributes. Nothing a publisher sends becomes a header but as an attribute.
    pub headers: HeaderMap,
    /// The data.
    pub payload: Bytes,
}

impl Message {
    /// The message of an event; `name` replaces source and id where repetitions are recognised.
    pub fn of(event: &Event, name: Option<&str>) -> Self {
        let partition = layout::partition(stored::partition_key(event));
        let message_id = match name {
            Some(name) => layout::named_message_id(name),
            None => layout::message_id(event.source(), event.id()),
        };
        let (headers, payload) = stored::encode(event);
        let subject = layout::event_subject(partition, event.event_type());
        Self { subject, partition, message_id, headers, payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_the_place_of_source_and_id() {
        let event = Event::builder("1", "/s", "t").build().unwrap();
        assert_eq!(Message::of(&event, None).message_id, layout::message_id("/s", "1"));
        assert_eq!(Message::of(&event, Some("x")).message_id, layout::named_message_id("x"));
    }

    #[test]
    fn whatever_a_key_holds_it_is_no_part_of_the_subject() {
        for key in [".", "*", ">", "a b", "%2E", "\u{1F600}"] {
            let event = Event::builder("1", "/s", "t").attribute("partitionkey", key).build().unwrap();
            let message = Message::of(&event, None);
            assert_eq!(message.subject, format!("events.{}.t", layout::partition(key)));
        }
    }
}
