//! The events: 256 bytes of data, numbered; no number comes twice in a run.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::HeaderMap;
use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tidegate_broker_client::{layout, message_id, stored};
use tidegate_cloudevents::{Event, http as binding};

/// Bytes of an event's data.
const SIZE: usize = 256;
/// Every event's type.
pub const TYPE: &str = "temperature";
/// Every event's source.
pub const SOURCE: &str = "/sensors/1";

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Numbers that nobody else has.
pub fn numbers(count: u64) -> Range<u64> {
    let first = NEXT.fetch_add(count, Ordering::Relaxed);
    first..first + count
}

/// The number in an event's `ce-id`.
pub fn number(id: Option<&str>) -> Option<u64> {
    id?.parse().ok()
}

/// The number of an event that is a JSON document.
pub fn number_in(document: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Document<'a> {
        id: &'a str,
    }
    number(serde_json::from_slice::<Document<'_>>(document).ok().map(|document| document.id))
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
pub fn message(number: u64) -> anyhow::Result<Message> {
    let event = event(number)?;
    let (mut headers, payload) = stored::encode(&event);
    headers.insert(async_nats::header::NATS_MESSAGE_ID, message_id::of_content(&event));
    let subject = layout::event_subject(layout::partition(event.id()), event.event_type());
    Ok(Message { subject, headers, payload })
}

/// The event of this number as a request in binary mode.
///
/// # Errors
/// None: the event is valid.
pub fn request(number: u64, uri: &Uri) -> anyhow::Result<Request<Full<Bytes>>> {
    let (headers, body) = binding::encode_binary(&event(number)?)?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    Ok(request)
}

/// The event of this number as a JSON document.
///
/// # Errors
/// None: the event is valid.
pub fn document(number: u64) -> anyhow::Result<Bytes> {
    Ok(binding::encode_structured(&event(number)?)?)
}

fn event(number: u64) -> anyhow::Result<Event> {
    let event = Event::builder(&number.to_string(), SOURCE, TYPE)
        .attribute("datacontenttype", "application/octet-stream")
        .data(vec![b'x'; SIZE])
        .build()?;
    Ok(event)
}
