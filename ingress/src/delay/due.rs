//! What is stored in the stream of events for an event whose time has come. Pure.

use tidegate_broker_client::{later, stored};
use tidegate_cloudevents::Invalid;
use tidegate_wire::nats;

use crate::message::{Message, Origin};
use crate::trace;

/// Why it cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum NotAnEvent {
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It was not written by an ingress.
    #[error("it has no header {}", later::MESSAGE_ID)]
    NoMessageId,
}

/// The message of an event that is due: it has the message id and the trace of its publish.
///
/// # Errors
/// It was not written by an ingress.
pub fn read(message: &nats::Message) -> Result<Message, NotAnEvent> {
    let event = stored::decode(message, message.payload_bytes())?;
    let headers = message.headers();
    let message_id = headers.and_then(|headers| headers.get(later::MESSAGE_ID)).ok_or(NotAnEvent::NoMessageId)?;
    let mut due = Message { message_id: message_id.to_owned(), ..Message::of(&event, Origin::Anonymous) };
    trace::of_message(message).inject(&mut due.headers);
    Ok(due)
}

#[cfg(test)]
mod tests {
    use tidegate_cloudevents::Event;
    use tidegate_wire::nats::HeaderBlock;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn message(headers: &HeaderBlock) -> nats::Message {
        nats::Message::compose("due.delayed.k", None, Some(headers), b"x").unwrap()
    }

    #[test]
    fn an_event_is_what_it_was_but_for_the_headers_of_its_schedule() {
        let event = Event::builder("1", "/s", "a.b").attribute("subject", "k").data("x").build().unwrap();
        let (mut headers, _) = stored::encode(&event);
        for (name, value) in [
            ("traceparent", PARENT),
            ("Nats-Scheduler", "later.delayed.k"),
            ("Nats-Schedule-Next", "purge"),
            (later::MESSAGE_ID, "m"),
        ] {
            headers.append(name, value).unwrap();
        }
        let due = read(&message(&headers)).unwrap();
        assert_eq!(due.subject, Message::of(&event, Origin::Anonymous).subject);
        assert_eq!(due.message_id, "m");
        let sent = nats::Message::compose(&due.subject, None, Some(&due.headers), &due.payload).unwrap();
        let names: Vec<&str> = sent.headers().unwrap().iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["ce-specversion", "ce-id", "ce-source", "ce-type", "ce-subject", "traceparent"]);
        assert_eq!(stored::decode(&sent, sent.payload_bytes()).unwrap(), event);
    }

    #[test]
    fn what_no_ingress_wrote_is_none() {
        let (headers, _) = stored::encode(&Event::builder("1", "/s", "t").build().unwrap());
        assert!(matches!(read(&message(&headers)), Err(NotAnEvent::NoMessageId)));
        assert!(matches!(read(&message(&HeaderBlock::new())), Err(NotAnEvent::Invalid(_))));
    }
}
