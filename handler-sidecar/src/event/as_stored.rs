//! The short way of an event in binary mode: its request has the headers that it is stored with.

use tidegate_broker_client::stored;
use tidegate_cloudevents::{Attributes, EventInPlace, header_value};
use tidegate_telemetry::Span;
use tidegate_wire::http::{HeaderLines, InvalidHeader};
use tidegate_wire::nats::Message;

use crate::event::request::{AttemptInfo, Body, EncodedRequest, USUAL_LINES, add_context};
use crate::ops::trace::PublishContext;

const PREFIX: &str = "ce-";

/// A stored event that is sent without being taken apart.
pub struct AsStored<'a> {
    event: EventInPlace<'a>,
    published: PublishContext<'a>,
    message: &'a Message,
}

impl<'a> AsStored<'a> {
    /// Reads it; `None`: it has to be taken apart.
    pub fn read(message: &'a Message) -> Option<Self> {
        let mut published = PublishContext::default();
        let event = stored::read_in_place(&message, |name, value| published.note(name, value))?;
        Some(Self { event, published, message })
    }

    /// As it was published.
    pub fn event(&self) -> &EventInPlace<'a> {
        &self.event
    }

    /// The context in which it was published.
    pub fn published(&self) -> PublishContext<'a> {
        self.published
    }

    /// The request, with the headers that [`super::request::extended`] and [`super::request::single`] give it.
    ///
    /// # Errors
    /// None that is known: the headers were checked.
    pub fn request(&self, topic: &str, place: AttemptInfo, span: &Span) -> Result<EncodedRequest<'a>, InvalidHeader> {
        let mut lines = HeaderLines::with_capacity(USUAL_LINES);
        let added = place.added(topic);
        let is_added = |name: &str| added.iter().flatten().any(|(ours, _)| *ours == name);
        for (name, value) in self.event.attributes().filter(|(name, _)| !is_added(name)) {
            lines.push_prefixed(PREFIX, name, value.as_bytes())?;
        }
        for (name, value) in self.published.added_to(&self.event) {
            lines.push_prefixed(PREFIX, name, header_value::encode(value).as_bytes())?;
        }
        for (name, value) in added.iter().flatten() {
            let mut digits = itoa::Buffer::new();
            lines.push_prefixed(PREFIX, name, header_value::encode(value.write(&mut digits)).as_bytes())?;
        }
        if let Some(content_type) = self.event.data_content_type() {
            lines.push(stored::CONTENT_TYPE, content_type.as_bytes())?;
        }
        add_context(&mut lines, span, self);
        Ok(EncodedRequest { lines, body: Body::Stored(self.message) })
    }
}

/// With the context of its publish, as the handler gets it.
impl Attributes for AsStored<'_> {
    fn attribute(&self, name: &str) -> Option<&str> {
        let added = || self.published.added_to(&self.event).find(|(added, _)| *added == name);
        self.event.attribute(name).or_else(|| added().map(|(_, value)| value))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_broker_client::contract::Format;
    use tidegate_wire::nats::HeaderBlock;

    use super::*;
    use crate::event::request;

    const REQUIRED: [(&str, &str); 4] =
        [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t.u")];

    fn message(more: &[(String, String)], payload: &[u8]) -> Message {
        let mut block = HeaderBlock::new();
        REQUIRED.iter().try_for_each(|(name, value)| block.append(name, value)).unwrap();
        more.iter().try_for_each(|(name, value)| block.append(name, value)).unwrap();
        Message::compose("events.1.t.u", None, Some(&block), payload).unwrap()
    }

    fn sorted<'a>(request: &'a EncodedRequest<'_>) -> Vec<(&'a [u8], &'a [u8])> {
        let mut lines = request.lines.iter().collect::<Vec<_>>();
        lines.sort();
        lines
    }

    proptest! {
        /// However an event is stored: where there is a short way, it leads to the same request.
        #[test]
        fn the_short_way_leads_to_the_same_request(
            more in proptest::collection::vec((
                "ce-[a-c]|ce-traceparent|ce-tracestate|ce-baggage|ce-tidegate(topic|attempt|sequence)|content-type|\
                 traceparent|tracestate|baggage|Nats-Msg-Id|ce-time",
                "[a-z0-9=-]{0,9}|[!-~]([ -~]{0,5}[!-~])?|text/plain|2026-01-31T17:31:00Z",
            ), 0..6),
            payload in "[a-z]{0,9}", (attempt, sequence) in (1..9u32, proptest::option::of(any::<u64>())),
        ) {
            let (message, place) = (message(&more, payload.as_bytes()), AttemptInfo { attempt, sequence });
            let short = AsStored::read(&message);
            let long = stored::decode(&message, message.payload_bytes()).ok();
            if let Some(short) = short {
                let event = long.expect("it is an event");
                let published = PublishContext::read(message.headers());
                let event = request::extended(event, published, "orders", place).unwrap();
                let expected = request::single(Format::Binary, &event).unwrap();
                let request = short.request("orders", place, &Span::current()).unwrap();
                prop_assert_eq!(sorted(&request), sorted(&expected));
                prop_assert_eq!(request.body.as_ref(), expected.body.as_ref());
            }
        }
    }

    #[test]
    fn an_ordinary_event_has_a_short_way() {
        let more = [("content-type", "application/json"), ("traceparent", "00-1-2-01"), ("baggage", "a=b, c=d")];
        let message = message(&more.map(|(name, value)| (name.to_owned(), value.to_owned())), b"{}");
        let request = AsStored::read(&message).unwrap();
        let request =
            request.request("orders", AttemptInfo { attempt: 1, sequence: Some(7) }, &Span::current()).unwrap();
        let lines = request.lines.iter().map(|(name, value)| [name, b": ", value].concat()).collect::<Vec<_>>();
        let lines = lines.iter().map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>();
        assert_eq!(lines[4..7], ["ce-traceparent: 00-1-2-01", "ce-baggage: a=b,%20c=d", "ce-tidegatetopic: orders"]);
        assert_eq!(lines[7..9], ["ce-tidegateattempt: 1", "ce-tidegatesequence: 7"]);
        assert_eq!(lines[9..], ["content-type: application/json", "traceparent: 00-1-2-01", "baggage: a=b, c=d"]);
    }
}
