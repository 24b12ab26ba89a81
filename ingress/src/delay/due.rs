//! What is stored in the stream of events for an event whose time has come. Pure.

use tidegate_broker_client::{delivery_info, later, stored};
use tidegate_cloudevents::{Event, Invalid};
use tidegate_wire::nats;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::message::{Message, Origin};
use crate::trace;

const NANOS: u64 = 1_000_000_000;

/// Why it cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum NotAnEvent {
    /// It is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It was not written by an ingress.
    #[error("it has no header {}", later::MESSAGE_ID)]
    NoMessageId,
    /// The broker does not say which run of a schedule it is.
    #[error("it has no number and time")]
    NoRun,
}

/// The message of an event that is due. One of a publisher has the message id and the trace of its publish; one of a
/// schedule an `id` and a `time` of its run.
///
/// # Errors
/// It was not written by an ingress or the operator.
pub fn read(message: &nats::Message) -> Result<Message, NotAnEvent> {
    let event = stored::decode(message, message.payload_bytes())?;
    if let Some(name) = later::due_schedule_name(message.subject()) {
        return Ok(Message::of(&run(event, name, message.reply())?, Origin::Anonymous));
    }
    let headers = message.headers();
    let message_id = headers.and_then(|headers| headers.get(later::MESSAGE_ID)).ok_or(NotAnEvent::NoMessageId)?;
    let mut due = Message { message_id: message_id.to_owned(), ..Message::of(&event, Origin::Anonymous) };
    trace::of_message(message).inject(&mut due.headers);
    Ok(due)
}

/// The event of one run of a schedule. When the broker stored it, and as its how many-th message, makes the `id` unique
/// whatever its clock does, and the same when it comes again.
fn run(event: Event, name: &str, reply: Option<&str>) -> Result<Event, NotAnEvent> {
    let info = reply.and_then(delivery_info::parse).ok_or(NotAnEvent::NoRun)?;
    let seconds = i64::try_from(info.stored / NANOS).map_err(|_| NotAnEvent::NoRun)?;
    let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| NotAnEvent::NoRun)?;
    let time = time.format(&Rfc3339).map_err(|_| NotAnEvent::NoRun)?;
    let event = event.with_id(format!("{name}-{time}-{}", info.sequence))?;
    Ok(event.with_extension("time", time)?)
}

#[cfg(test)]
mod tests {
    use tidegate_wire::nats::HeaderBlock;

    use super::*;

    #[test]
    fn each_run_of_a_schedule_is_an_event_of_its_own() {
        let event = Event::builder("nightly", "/s", "report.due").data("{}").build().unwrap();
        let (headers, payload) = stored::encode(&event);
        let run = |reply: &str| {
            let message =
                nats::Message::compose("due.schedules.nightly", Some(reply), Some(&headers), &payload).unwrap();
            let due = read(&message).ok()?;
            let sent = nats::Message::compose(&due.subject, None, Some(&due.headers), &due.payload).unwrap();
            Some((due.message_id, stored::decode(&sent, sent.payload_bytes()).unwrap()))
        };
        let (message_id, first) = run("$JS.ACK.later.ingress.1.41.7.1700000000123456789.3").unwrap();
        assert_eq!(first.id(), "nightly-2023-11-14T22:13:20Z-41");
        assert_eq!((first.attribute("time"), first.event_type()), (Some("2023-11-14T22:13:20Z"), "report.due"));
        assert_eq!(first.data(), event.data());
        let again = run("$JS.ACK.later.ingress.2.41.8.1700000000123456789.0").unwrap();
        assert_eq!(again, (message_id, first), "delivered again");
        // A clock that jumps back, and a stream that is made again.
        let others = ["1.42.7.1700000000123456789.3", "1.41.7.1699996400123456789.3"];
        for other in others.map(|other| run(&format!("$JS.ACK.later.ingress.{other}")).unwrap()) {
            assert!(other.0 != again.0 && other.1.id() != again.1.id(), "{}", other.1.id());
        }
        assert_eq!(run("_INBOX.x"), None);
    }

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
