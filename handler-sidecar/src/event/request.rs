//! An event as a request to the handler: what is added to it, and the shape it gets.

use bytes::Bytes;
use tidegate_broker_client::contract::Format;
use tidegate_cloudevents::{Attributes, Event, http as binding, media_type};
use tidegate_telemetry::Span;
use tidegate_wire::http::{HeaderLines, InvalidHeader, Outgoing};
use tidegate_wire::nats::Message;

use crate::ops::trace::{self, PublishContext};

/// Where a request is in the life of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptInfo {
    /// The number of the attempt; the first is 1.
    pub attempt: u32,
    /// The event's sequence in the stream; `None`: it is not stored.
    pub sequence: Option<u64>,
}

impl AttemptInfo {
    /// The extensions by which an event says so, with their values.
    pub(super) fn added(self, topic: &str) -> [Option<(&'static str, Added<'_>)>; 3] {
        [
            Some(("tidegatetopic", Added::Text(topic))),
            Some(("tidegateattempt", Added::Number(self.attempt.into()))),
            self.sequence.map(|sequence| ("tidegatesequence", Added::Number(sequence))),
        ]
    }
}

/// The value of an extension that is added.
#[derive(Clone, Copy, Debug)]
pub(super) enum Added<'a> {
    Text(&'a str),
    Number(u64),
}

impl Added<'_> {
    /// The value; a number is written into these digits.
    pub fn write<'a>(&'a self, digits: &'a mut itoa::Buffer) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => digits.format(*number),
        }
    }
}

/// The header lines of most requests have room in so many bytes.
pub(super) const USUAL_LINES: usize = 512;

/// A request as it is sent, but for what all requests have alike.
pub type EncodedRequest<'a> = Outgoing<Body<'a>>;

/// The body of a request.
#[derive(Debug)]
pub enum Body<'a> {
    /// The payload of a stored event, where it is.
    Stored(&'a Message),
    /// Its own.
    Own(Bytes),
}

impl AsRef<[u8]> for Body<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Stored(message) => message.payload(),
            Self::Own(bytes) => bytes,
        }
    }
}

impl From<Body<'_>> for Bytes {
    fn from(body: Body<'_>) -> Self {
        match body {
            Body::Stored(message) => message.payload_bytes(),
            Body::Own(bytes) => bytes,
        }
    }
}

/// The event as the handler gets it: with the trace context of its publish, topic, attempt and sequence.
///
/// # Errors
/// What is wrong with the event, for people.
pub fn extended(event: Event, published: PublishContext<'_>, topic: &str, place: AttemptInfo) -> Result<Event, String> {
    let added = place.added(topic);
    trace::with_publish_context(event, published)
        .and_then(|event| {
            added.into_iter().flatten().try_fold(event, |event, (name, value)| {
                event.with_extension(name, value.write(&mut itoa::Buffer::new()))
            })
        })
        .map_err(|invalid| invalid.to_string())
}

/// A request for one event (in batch mode: a batch of one), with the trace context of the current span.
///
/// # Errors
/// None that is known: valid events have all three shapes.
pub fn single(format: Format, event: &Event) -> Result<EncodedRequest<'static>, String> {
    let mut request = match format {
        Format::Binary => binary(event).map_err(|error| error.to_string())?,
        Format::Structured => json(media_type::STRUCTURED, binding::encode_structured(event))?,
        Format::Batch { .. } => batch(std::slice::from_ref(event))?,
    };
    add_context(&mut request.lines, &Span::current(), event);
    Ok(request)
}

/// Adds the trace context.
pub(super) fn add_context(lines: &mut HeaderLines, span: &Span, event: &impl Attributes) {
    trace::headers(span, event, |name, value| {
        // What is not ASCII is no value of theirs, and left out as what is no header at all.
        if value.is_ascii() {
            let _ = lines.push(name, value.as_bytes());
        }
    });
}

fn binary(event: &Event) -> Result<EncodedRequest<'static>, InvalidHeader> {
    let mut lines = HeaderLines::with_capacity(USUAL_LINES);
    for header in binding::binary_headers(event) {
        lines.push_prefixed(header.prefix, header.name, header.value.as_bytes())?;
    }
    Ok(EncodedRequest { lines, body: Body::Own(event.data().cloned().unwrap_or_default()) })
}

/// A request for several events.
///
/// # Errors
/// As [`single`].
pub fn batch(events: &[Event]) -> Result<EncodedRequest<'static>, String> {
    json(media_type::BATCH, binding::encode_batch(events))
}

fn json(content_type: &str, body: serde_json::Result<Bytes>) -> Result<EncodedRequest<'static>, String> {
    let body = body.map_err(|error| error.to_string())?;
    let mut lines = HeaderLines::default();
    lines.push("content-type", content_type.as_bytes()).map_err(|error| error.to_string())?;
    Ok(EncodedRequest { lines, body: Body::Own(body) })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use tidegate_wire::nats::Headers;

    use super::*;

    fn event() -> Event {
        let event = Event::builder("1", "/s", "t").attribute("datacontenttype", "application/json").data(r#"{"a":1}"#);
        let stored = b"NATS/1.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
        let published = PublishContext::read(Headers::parse(stored).ok());
        extended(event.build().unwrap(), published, "orders", AttemptInfo { attempt: 2, sequence: Some(7) }).unwrap()
    }

    #[test]
    fn what_is_added() {
        let event = event();
        for (name, value) in [("tidegatetopic", "orders"), ("tidegateattempt", "2"), ("tidegatesequence", "7")] {
            assert_eq!(event.attribute(name), Some(value), "{name}");
        }
        let bare = Event::builder("1", "/s", "t").build().unwrap();
        let direct =
            extended(bare, PublishContext::default(), "orders", AttemptInfo { attempt: 1, sequence: None }).unwrap();
        assert_eq!(direct.attribute("tidegatesequence"), None, "what is not stored has no sequence");
    }

    #[test]
    fn every_shape_is_read_back() {
        let event = event();
        let batch_of_one = Format::Batch { max_events: 10, max_wait: std::time::Duration::ZERO };
        for (format, mode) in [
            (Format::Binary, binding::Mode::Binary),
            (Format::Structured, binding::Mode::Structured),
            (batch_of_one, binding::Mode::Batched),
        ] {
            let request = single(format, &event).unwrap();
            let headers: HeaderMap = request
                .lines
                .iter()
                .map(|(name, value)| (name.try_into().unwrap(), value.try_into().unwrap()))
                .collect::<Vec<(HeaderName, HeaderValue)>>()
                .into_iter()
                .collect();
            assert!(headers.contains_key("traceparent"), "{format:?}");
            assert_eq!(headers.len(), request.lines.iter().count(), "none is there twice");
            let (found, events) = binding::decode(&headers, request.body.into()).unwrap();
            assert_eq!((found, events), (mode, vec![event.clone()]), "{format:?}");
        }
    }
}
