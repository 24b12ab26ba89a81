//! The form of an event inside the stream.
//!
//! Written in the binary mode of the CloudEvents NATS binding 1.0.3-wip: attributes as `ce-<name>` headers with
//! percent-encoded values, `datacontenttype` as `content-type`, the data as payload. Read in that form and in the
//! structured mode of binding 1.0.2, so that other publishers can use either. (An event with more attributes than the
//! broker takes headers is written in the structured mode.)
//!
//! Every header that is read or written here is named `ce-…` or `content-type`: no attribute can be mistaken for
//! one of the broker's own headers (`Nats-…`), and none of those for an attribute.

use bytes::Bytes;
use tidegate_cloudevents::{Builder, Event, EventHeader, EventInPlace, Invalid, header_value, json, media_type};
use tidegate_wire::nats;

/// The header that holds `datacontenttype`.
pub const CONTENT_TYPE: &str = "content-type";
/// Before each attribute's name in a header's.
const PREFIX: &str = "ce-";

/// Bytes of attributes that are written as headers. The broker takes 64 KiB with a message; the rest is room for the
/// trace, and for what a dead letter adds.
const MAX_HEADERS: usize = 40 * 1024;

/// The headers and the payload of an event.
pub fn encode(event: &Event) -> (nats::HeaderBlock, Bytes) {
    let mut headers = nats::HeaderBlock::new();
    let payload = write(event, |name, value| {
        // No attribute has a control character.
        let _ = headers.append(name, value);
    });
    (headers, payload)
}

/// Names each header of an event and returns its payload.
pub(crate) fn write(event: &Event, mut add: impl FnMut(&str, &str)) -> Bytes {
    let line = |(name, value): (&str, &str)| "ce-: \r\n".len() + name.len() + header_value::encoded_len(value);
    // Writing strings into memory does not fail; if it did, the broker would say what it does not take.
    if event.attributes().map(line).sum::<usize>() > MAX_HEADERS
        && let Ok(payload) = json::encode(event)
    {
        add(CONTENT_TYPE, media_type::STRUCTURED);
        return payload;
    }
    let mut header = String::from(PREFIX);
    for (name, value) in event.attributes() {
        header.truncate(PREFIX.len());
        header.push_str(name);
        add(&header, &header_value::encode(value));
    }
    if let Some(content_type) = event.data_content_type() {
        add(CONTENT_TYPE, content_type);
    }
    event.data().cloned().unwrap_or_default()
}

/// The headers of a stored message, whichever client read it.
pub trait StoredHeaders<'a> {
    /// Why they cannot be read.
    fn problem(&self) -> Option<String>;

    /// Each with its name and value.
    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)>;
}

impl<'a> StoredHeaders<'a> for &'a nats::Message {
    fn problem(&self) -> Option<String> {
        self.malformed().map(|problem| problem.to_string())
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.headers().into_iter().flat_map(|headers| headers.iter())
    }
}

impl<'a> StoredHeaders<'a> for nats::Headers<'a> {
    fn problem(&self) -> Option<String> {
        None
    }

    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter()
    }
}

/// What the name of a header says.
enum Name<'a> {
    ContentType,
    /// An attribute, in whichever case a client library gives to headers.
    Attribute(&'a str),
    Other,
}

impl<'a> Name<'a> {
    fn parse(name: &'a str) -> Self {
        if name.eq_ignore_ascii_case(CONTENT_TYPE) {
            return Self::ContentType;
        }
        match name.split_at_checked(PREFIX.len()) {
            Some((prefix, attribute)) if prefix.eq_ignore_ascii_case(PREFIX) => Self::Attribute(attribute),
            _ => Self::Other,
        }
    }
}

/// The event of a stored message.
///
/// # Errors
/// The message is no valid event: somebody else than Tidegate wrote it.
pub fn decode<'a>(headers: impl StoredHeaders<'a>, payload: Bytes) -> Result<Event, Invalid> {
    let mut builder = Builder::default();
    let (mut content_type, mut repeated_type) = (None, None);
    let mut binary = false;
    if let Some(problem) = headers.problem() {
        return Err(Invalid::malformed(format!("the headers are malformed: {problem}")));
    }
    for (name, value) in headers.pairs() {
        match Name::parse(name) {
            Name::ContentType => only(name, content_type.replace(value))?,
            Name::Attribute(attribute) => {
                binary = true;
                let attribute = &*attribute.to_ascii_lowercase();
                let value = header_value::decode(value.as_bytes())
                    .ok_or_else(|| Invalid::attribute(attribute, "is not UTF-8: percent-encode its UTF-8 bytes"))?;
                if attribute == "datacontenttype" {
                    only(name, repeated_type.replace(value))?;
                } else {
                    builder = builder.attribute(attribute, value);
                }
            }
            Name::Other => {}
        }
    }
    let structured = |value: &str| media_type::essence(value).eq_ignore_ascii_case(media_type::STRUCTURED);
    if content_type.map_or(!binary, structured) {
        return json::decode(&payload);
    }
    // It may be there under both names, as long as they say the same.
    for content_type in repeated_type.into_iter().filter(|repeated| Some(&**repeated) != content_type) {
        builder = builder.attribute("datacontenttype", content_type);
    }
    if let Some(content_type) = content_type {
        builder = builder.attribute("datacontenttype", content_type);
    }
    builder.data(payload).build()
}

/// The event of a stored message, if its headers can be passed on as they are. Of an event that is read in place,
/// [`decode`] makes one with the same attributes; what is not may still be an event. The headers are read once, and
/// those that are no part of the event are given to `other`.
pub fn read_in_place<'a>(
    headers: &impl StoredHeaders<'a>,
    mut other: impl FnMut(&'a str, &'a str),
) -> Option<EventInPlace<'a>> {
    if headers.problem().is_some() {
        return None;
    }
    EventInPlace::new(headers.pairs().filter_map(|(name, value)| match Name::parse(name) {
        Name::ContentType => Some(EventHeader::ContentType(value)),
        Name::Attribute(attribute) => Some(EventHeader::Attribute(attribute, value)),
        Name::Other => {
            other(name, value);
            None
        }
    }))
}

/// What decides an event's partition, and the order of its delivery where that is asked for: the `partitionkey`
/// extension (CloudEvents partitioning extension), else `subject`, else `id`.
pub fn partition_key(event: &Event) -> &str {
    key_of(|name| event.attribute(name)).unwrap_or_else(|| event.id())
}

/// The same of an event that is read in place.
pub fn partition_key_in_place<'a>(event: &EventInPlace<'a>) -> &'a str {
    key_of(|name| event.attribute(name)).or_else(|| event.attribute("id")).unwrap_or_default()
}

fn key_of<'a>(attribute: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
    ["partitionkey", "subject"].into_iter().find_map(|name| attribute(name).filter(|value| !value.is_empty()))
}

/// Whether a header came for the first time.
fn only<T>(name: &str, before: Option<T>) -> Result<(), Invalid> {
    match before {
        None => Ok(()),
        Some(_) => Err(Invalid::malformed(format!("header {name:?} must be there once, with one value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::encode;
    use async_nats::header::{HeaderMap, HeaderName};
    use proptest::prelude::*;

    fn event() -> Event {
        Event::builder("1", "/sensors/größe", "temperature")
            .attribute("subject", "a \"b\" 50%")
            .attribute("datacontenttype", "application/json; charset=utf-8")
            .attribute("empty", "")
            .data(r#"{"value":23.5}"#)
            .build()
            .unwrap()
    }

    #[test]
    fn headers_are_those_of_the_binding() {
        let (headers, payload) = encode(&event());
        let mut names: Vec<String> = headers.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        let expected = ["ce-empty", "ce-id", "ce-source", "ce-specversion", "ce-subject", "ce-type", "content-type"];
        assert_eq!(names, expected);
        assert_eq!(headers.get("ce-subject").unwrap().as_str(), "a%20%22b%22%2050%25");
        assert_eq!(payload, r#"{"value":23.5}"#);
    }

    #[test]
    fn the_brokers_own_headers_are_no_attributes() {
        let (mut headers, payload) = encode(&event());
        headers.insert("Nats-Msg-Id", "x");
        headers.insert("traceparent", "y");
        assert_eq!(decode(Some(&headers), payload), Ok(event()));
    }

    #[test]
    fn structured_messages_are_read_with_and_without_a_content_type() {
        let payload = json::encode(&event()).unwrap();
        assert_eq!(decode(None, payload.clone()), Ok(event()));
        let mut headers = HeaderMap::new();
        headers.insert("Content-Type", "application/cloudevents+json; charset=utf-8");
        assert_eq!(decode(Some(&headers), payload), Ok(event()));
    }

    /// NATS binding 1.0.3-wip, section 3.1: `datacontenttype` is an attribute as any other there, and names of headers
    /// are compared without regard to case. Issue 8, G10.
    #[test]
    fn the_content_type_may_be_repeated_and_names_may_have_any_case() {
        let required = [("CE-SpecVersion", "1.0"), ("Ce-Id", "1"), ("ce-Source", "/s"), ("ce-type", "t")];
        let read = |more: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            required.iter().chain(more).for_each(|(name, value)| headers.append(*name, *value));
            decode(Some(&headers), Bytes::from_static(b"x"))
        };
        let plain =
            Event::builder("1", "/s", "t").attribute("datacontenttype", "text/plain").data("x").build().unwrap();
        for same in [
            &[("ce-datacontenttype", "text/plain")][..],
            &[("content-type", "text/plain")],
            &[("ce-datacontenttype", "text/plain"), ("content-type", "text/plain")],
            &[("Content-Type", "text/plain"), ("Ce-DataContentType", "text/plain")],
        ] {
            assert_eq!(read(same).as_ref(), Ok(&plain), "{same:?}");
        }
        let different = read(&[("ce-datacontenttype", "text/csv"), ("content-type", "text/plain")]);
        assert!(different.unwrap_err().to_string().contains("more than once"));
        assert!(read(&[("ce-id", "2")]).unwrap_err().to_string().contains("more than once"));
    }

    #[test]
    fn attributes_that_do_not_fit_into_headers_are_read_back_all_the_same() {
        let event = |size: usize| {
            let builder = Event::builder("1", "/s", "t").attribute("x", "ä".repeat(size / 6));
            builder.attribute("datacontenttype", "image/png").data(vec![0xFF; 100]).build().unwrap()
        };
        for (size, structured) in [(MAX_HEADERS - 200, false), (MAX_HEADERS, true), (150_000, true)] {
            let (headers, payload) = encode(&event(size));
            assert_eq!(headers.get(CONTENT_TYPE).unwrap().as_str() == media_type::STRUCTURED, structured, "{size}");
            let size_of_headers: usize = headers.iter().map(|(_, values)| values[0].as_str().len()).sum();
            assert!(size_of_headers < MAX_HEADERS);
            assert_eq!(decode(Some(&headers), payload), Ok(event(size)));
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let structured = malformed(&json::encode(&event()).unwrap());
        assert!(decode(&structured, structured.payload_bytes()).is_err(), "whatever the payload is");
        let (mut headers, payload) = encode(&event());
        headers.append("ce-id", "2");
        assert!(decode(Some(&headers), payload.clone()).is_err(), "an attribute twice");
        headers.insert("ce-id", "%ff");
        assert!(decode(Some(&headers), payload).is_err(), "not UTF-8");
        assert!(decode(None, Bytes::from_static(b"text")).is_err(), "neither form");
        assert!(decode(None, Bytes::new()).is_err());
    }

    /// A message with a header line that is none, behind those of an event.
    fn malformed(payload: &[u8]) -> nats::Message {
        let headers = "NATS/1.0\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\nno colon\r\n\r\n";
        let line = format!("HMSG s 1 {} {}\r\n", headers.len(), headers.len() + payload.len());
        let bytes = [line.as_bytes(), headers.as_bytes(), payload, b"\r\n"].concat();
        let mut decoder = nats::Decoder::new(bytes.len());
        decoder.space()[..bytes.len()].copy_from_slice(&bytes);
        decoder.advance(bytes.len());
        let Ok(Some(nats::ServerOp::Message(_, message))) = decoder.decode() else { panic!("no message") };
        message
    }

    /// The message as the wire's own client reads it.
    fn message(headers: &HeaderMap, payload: &[u8]) -> nats::Message {
        let mut block = nats::HeaderBlock::new();
        Some(headers).pairs().try_for_each(|(name, value)| block.append(name, value)).unwrap();
        nats::Message::compose("s", None, Some(&block), payload).unwrap()
    }

    #[test]
    fn an_event_is_read_in_place_only_if_its_headers_can_be_passed_on() {
        let read = |more: &[(&str, &str)]| {
            let mut headers = encode(&Event::builder("1", "/s", "t").build().unwrap()).0;
            more.iter().for_each(|(name, value)| headers.append(*name, *value));
            read_in_place(&&message(&headers, b"x"), |_, _| {}).map(|event| partition_key_in_place(&event).to_owned())
        };
        assert_eq!(read(&[("Nats-Msg-Id", "x"), ("content-type", "a/b")]).as_deref(), Some("1"));
        assert_eq!(read(&[("ce-subject", "s"), ("ce-partitionkey", "")]).as_deref(), Some("s"));
        assert_eq!(read(&[("ce-subject", "s"), ("ce-partitionkey", "p")]).as_deref(), Some("p"));
        let structured = ("content-type", "application/cloudevents+json");
        for more in [&[structured][..], &[("content-type", "a/b"), ("Content-Type", "a/b")], &[("CE-X", "1")]] {
            assert_eq!(read(more), None, "{more:?}");
        }
        assert!(read_in_place(&&malformed(b"x"), |_, _| {}).is_none());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            id in "[^\\p{C}]{1,20}", event_type in "[^\\p{C}]{1,20}", value in "[^\\p{C}]{0,20}",
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let built = Event::builder(&id, "/s", &event_type).attribute("x", value).data(data).build();
            let event = built.unwrap();
            let (headers, payload) = encode(&event);
            let name_is_ours = |name: &HeaderName| AsRef::<str>::as_ref(name).starts_with(PREFIX);
            prop_assert!(headers.iter().all(|(name, _)| name_is_ours(name)));
            prop_assert_eq!(decode(Some(&headers), payload.clone()), Ok(event.clone()));
            let (block, same) = super::encode(&event);
            prop_assert_eq!(&same, &payload);
            let message = nats::Message::compose("events.0.t", None, Some(&block), &same).unwrap();
            let pairs: Vec<_> = (&message).pairs().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            let mut expected: Vec<_> =
                Some(&headers).pairs().map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
            expected.sort_by_key(|pair| pairs.iter().position(|other| other == pair));
            prop_assert_eq!(pairs, expected);
            if let Some(in_place) = read_in_place(&&message, |_, _| {}) {
                prop_assert!(in_place.attributes().all(|(name, value)| event.attribute(name) == Some(value)));
                prop_assert_eq!(in_place.attributes().count(), event.attributes().count());
                prop_assert_eq!(partition_key_in_place(&in_place), partition_key(&event));
            }
            prop_assert_eq!(decode(&message, payload), Ok(event));
        }
    }

    #[test]
    fn the_partition_key_falls_back() {
        let event = Event::builder("1", "/s", "t").build().unwrap();
        assert_eq!(partition_key(&event), "1");
        let event = Event::builder("1", "/s", "t").attribute("subject", "sensor").build().unwrap();
        assert_eq!(partition_key(&event), "sensor");
        let event = event.with_extension("partitionkey", "key").unwrap();
        assert_eq!(partition_key(&event), "key");
    }
}
