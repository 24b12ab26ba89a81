//! The events, numbered; no number comes twice in a run.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use tidegate_broker_client::{layout, message_id, peer};
use tidegate_cloudevents::{Event, http as binding};

/// Every event's type.
pub const TYPE: &str = "temperature";
/// Every event's source.
pub const SOURCE: &str = "/sensors/1";
/// Bytes of an event's data, where nothing else is said.
pub const SIZE: usize = 256;

/// What is not the same in all events.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of data.
    pub size: usize,
    /// Events have a trace context, and one in this many is sampled; `None`: they have none.
    pub sampled: Option<u64>,
}

impl Default for Shape {
    fn default() -> Self {
        Self { size: SIZE, sampled: None }
    }
}

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Numbers that nothing else has. The first one is a multiple of their count, so that it can be told from the others.
pub fn numbers(count: u64) -> Range<u64> {
    let begin = |next: u64| next.next_multiple_of(count);
    let before = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| Some(begin(next) + count));
    let first = begin(before.unwrap_or_else(|next| next));
    first..first + count
}

/// The number in an event's `ce-id`.
pub fn number(id: Option<&str>) -> Option<u64> {
    id?.parse().ok()
}

/// The numbers of a body that is an event, or several, as JSON.
pub fn numbers_in(body: &[u8]) -> Vec<u64> {
    #[derive(Deserialize)]
    struct Document<'a> {
        id: &'a str,
    }
    let one = serde_json::from_slice::<Document<'_>>(body).map(|one| vec![one]);
    let all = one.or_else(|_| serde_json::from_slice::<Vec<Document<'_>>>(body));
    all.ok().and_then(|all| all.iter().map(|one| number(Some(one.id))).collect()).unwrap_or_default()
}

/// An event as the stream stores it.
pub struct Message {
    /// Its subject.
    pub subject: String,
    /// Its attributes, and the id by which the broker recognises a repeated one.
    pub headers: HeaderMap,
    /// Its data.
    pub payload: Bytes,
}

/// The event of this number, as the ingress stores it.
///
/// # Errors
/// None: the event is valid.
pub fn message(number: u64, shape: Shape) -> anyhow::Result<Message> {
    let event = event(number, shape.size)?;
    let (mut headers, payload) = peer::encode(&event);
    headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id::of_content(&event));
    if let Some(every) = shape.sampled {
        let sampled = u8::from(number.is_multiple_of(every));
        headers.insert("traceparent", format!("00-{:032x}-{:016x}-0{sampled}", number + 1, number + 1));
    }
    let subject = layout::event_subject(layout::partition(event.id()), event.event_type());
    Ok(Message { subject, headers, payload })
}

/// The event of this number in binary mode: headers and body.
///
/// # Errors
/// None: the event is valid.
pub fn binary(number: u64) -> anyhow::Result<(http::HeaderMap, Bytes)> {
    Ok(binding::encode_binary(&event(number, SIZE)?)?)
}

/// The event of this number as a JSON document.
///
/// # Errors
/// None: the event is valid.
pub fn document(number: u64) -> anyhow::Result<Bytes> {
    Ok(binding::encode_structured(&event(number, SIZE)?)?)
}

/// Events as one JSON array.
///
/// # Errors
/// None: they are valid.
pub fn batch(numbers: Range<u64>) -> anyhow::Result<Bytes> {
    let events: Vec<Event> = numbers.map(|number| event(number, SIZE)).collect::<anyhow::Result<_>>()?;
    Ok(binding::encode_batch(&events)?)
}

fn event(number: u64, size: usize) -> anyhow::Result<Event> {
    let event = Event::builder(&number.to_string(), SOURCE, TYPE)
        .attribute("datacontenttype", "application/octet-stream")
        .data(vec![b'x'; size])
        .build()?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_documents_batches_and_nothing_else() {
        assert_eq!(numbers_in(&document(7).unwrap()), [7]);
        assert_eq!(numbers_in(&batch(3..6).unwrap()), [3, 4, 5]);
        for rubbish in ["", "{}", "[]", r#"{"id":7}"#, r#"[{"id":"7"},{"id":"x"}]"#] {
            assert!(numbers_in(rubbish.as_bytes()).is_empty(), "{rubbish}");
        }
    }

    #[test]
    fn no_number_comes_twice_and_each_first_one_is_a_multiple() {
        let all: Vec<Range<u64>> = [7, 10, 3, 10].map(numbers).into();
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start), "{all:?}");
        assert!(all.iter().all(|range| range.start.is_multiple_of(range.end - range.start)), "{all:?}");
    }

    #[test]
    fn one_in_a_hundred_is_sampled() {
        let shape = Shape { sampled: Some(100), ..Shape::default() };
        let flags =
            |number| message(number, shape).unwrap().headers.get("traceparent").unwrap().as_str()[53..].to_owned();
        assert_eq!((0..1000).filter(|number| flags(*number) == "01").count(), 10);
        assert!(message(1, Shape::default()).unwrap().headers.get("traceparent").is_none());
    }
}
