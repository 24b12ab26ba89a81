//! An event as a request to the handler: what is added to it, and the shape it gets.

use async_nats::HeaderMap as StoredHeaders;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use tidegate_broker_client::contract::Format;
use tidegate_cloudevents::{Event, http as binding, media_type};
use tidegate_telemetry::Span;

use crate::ops::trace;

/// Where a request is in the life of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the attempt; the first is 1.
    pub attempt: u32,
    /// The event's sequence in the stream; `None`: it is not stored.
    pub sequence: Option<u64>,
}

/// Headers and body of a request.
pub type Parts = (HeaderMap, Bytes);

/// The event as the handler gets it: with the trace context of its publish, topic, attempt and sequence.
///
/// # Errors
/// What is wrong with the event, for people.
pub fn extended(event: Event, stored: Option<&StoredHeaders>, topic: &str, place: Place) -> Result<Event, String> {
    trace::with_publish_context(event, stored)
        .and_then(|event| event.with_extension("tidegatetopic", topic))
        .and_then(|event| event.with_extension("tidegateattempt", place.attempt.to_string()))
        .and_then(|event| match place.sequence {
            Some(sequence) => event.with_extension("tidegatesequence", sequence.to_string()),
            None => Ok(event),
        })
        .map_err(|invalid| invalid.to_string())
}

/// A request for one event (in batch mode: a batch of one), with the trace context of the current span.
///
/// # Errors
/// None that is known: valid events have all three shapes.
pub fn single(format: Format, event: &Event) -> Result<Parts, String> {
    let (mut headers, body) = match format {
        Format::Binary => binding::encode_binary(event).map_err(|error| error.to_string())?,
        Format::Structured => {
            json(media_type::STRUCTURED, binding::encode_structured(event).map_err(|error| error.to_string())?)
        }
        Format::Batch { .. } => batch(std::slice::from_ref(event))?,
    };
    trace::headers(&Span::current(), event, &mut headers);
    Ok((headers, body))
}

/// A request for several events.
///
/// # Errors
/// As [`single`].
pub fn batch(events: &[Event]) -> Result<Parts, String> {
    Ok(json(media_type::BATCH, binding::encode_batch(events).map_err(|error| error.to_string())?))
}

fn json(content_type: &'static str, body: Bytes) -> Parts {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    (headers, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let event = Event::builder("1", "/s", "t").attribute("datacontenttype", "application/json").data(r#"{"a":1}"#);
        let mut stored = StoredHeaders::new();
        stored.insert("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        extended(event.build().unwrap(), Some(&stored), "orders", Place { attempt: 2, sequence: Some(7) }).unwrap()
    }

    #[test]
    fn what_is_added() {
        let event = event();
        for (name, value) in [("tidegatetopic", "orders"), ("tidegateattempt", "2"), ("tidegatesequence", "7")] {
            assert_eq!(event.attribute(name), Some(value), "{name}");
        }
        let bare = Event::builder("1", "/s", "t").build().unwrap();
        let direct = extended(bare, None, "orders", Place { attempt: 1, sequence: None }).unwrap();
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
            let (headers, body) = single(format, &event).unwrap();
            assert!(headers.contains_key("traceparent"), "{format:?}");
            let (found, events) = binding::decode(&headers, body).unwrap();
            assert_eq!((found, events), (mode, vec![event.clone()]), "{format:?}");
        }
    }
}
