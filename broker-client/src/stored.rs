//! The form of an event inside the stream.
//!
//! Written in the binary mode of the CloudEvents NATS binding 1.0.3-wip: attributes as `ce-<name>` headers with
//! percent-encoded values, `datacontenttype` as `content-type`, the data as payload. Read in that form and in the
//! structured mode of binding 1.0.2, so that other publishers can use either. (An event with more attributes than the
//! broker takes headers is written in the structured mode.)
//!
//! Every header that is read or written here is named `ce-…` or `content-type`: no attribute can be mistaken for
//! one of the broker's own headers (`Nats-…`), and none of those for an attribute.

use async_nats::header::{HeaderMap, HeaderValue, MALFORMED_HEADERS};
use bytes::Bytes;
use tidegate_cloudevents::{Builder, Event, Invalid, header_value, json, media_type};

/// The header that holds `datacontenttype`.
pub const CONTENT_TYPE: &str = "content-type";
/// Before each attribute's name in a header's.
const PREFIX: &str = "ce-";

/// Bytes of attributes that are written as headers. The broker takes 64 KiB with a message; the rest is room for the
/// trace, and for what a dead letter adds.
const MAX_HEADERS: usize = 40 * 1024;

/// The headers and the payload of an event.
pub fn encode(event: &Event) -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let line = |(name, value): (&str, &str)| "ce-: \r\n".len() + name.len() + header_value::encoded_len(value);
    // Writing strings into memory does not fail; if it did, the broker would say what it does not take.
    if event.attributes().map(line).sum::<usize>() > MAX_HEADERS
        && let Ok(payload) = json::encode(event)
    {
        headers.insert(CONTENT_TYPE, media_type::STRUCTURED);
        return (headers, payload);
    }
    for (name, value) in event.attributes() {
        headers.insert(format!("{PREFIX}{name}"), &*header_value::encode(value));
    }
    if let Some(content_type) = event.data_content_type() {
        headers.insert(CONTENT_TYPE, content_type);
    }
    (headers, event.data().cloned().unwrap_or_default())
}

/// The event of a stored message.
///
/// # Errors
/// The message is no valid event: somebody else than Tidegate wrote it.
pub fn decode(headers: Option<&HeaderMap>, payload: Bytes) -> Result<Event, Invalid> {
    let mut builder = Builder::default();
    let (mut content_type, mut repeated_type) = (None, None);
    let mut binary = false;
    if let Some(problem) = headers.and_then(|headers| headers.get(MALFORMED_HEADERS)) {
        return Err(Invalid::malformed(format!("the headers are malformed: {}", problem.as_str())));
    }
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        if name.eq_ignore_ascii_case(CONTENT_TYPE) {
            content_type = Some(only(CONTENT_TYPE, values)?.as_str());
        } else if let Some((prefix, attribute)) = name.split_at_checked(PREFIX.len())
            && prefix.eq_ignore_ascii_case(PREFIX)
        {
            binary = true;
            // Whichever case a client library gives to headers: attributes are in lower case.
            let attribute = &*attribute.to_ascii_lowercase();
            let value = header_value::decode(only(name, values)?.as_str().as_bytes())
                .ok_or_else(|| Invalid::attribute(attribute, "is not UTF-8: percent-encode its UTF-8 bytes"))?;
            if attribute == "datacontenttype" {
                repeated_type = Some(value);
            } else {
                builder = builder.attribute(attribute, value);
            }
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

/// What decides an event's partition, and the order of its delivery where that is asked for: the `partitionkey`
/// extension (CloudEvents partitioning extension), else `subject`, else `id`.
pub fn partition_key(event: &Event) -> &str {
    let named = |name| event.attribute(name).filter(|value| !value.is_empty());
    named("partitionkey").or_else(|| named("subject")).unwrap_or_else(|| event.id())
}

fn only<'a>(name: &str, values: &'a [HeaderValue]) -> Result<&'a HeaderValue, Invalid> {
    match values {
        [value] => Ok(value),
        _ => Err(Invalid::malformed(format!("header {name:?} must be there once, with one value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::header::HeaderName;
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
        let mut malformed = HeaderMap::new();
        malformed.insert(MALFORMED_HEADERS, "no colon");
        let structured = json::encode(&event()).unwrap();
        assert!(decode(Some(&malformed), structured).is_err(), "whatever the payload is");
        let (mut headers, payload) = encode(&event());
        headers.append("ce-id", "2");
        assert!(decode(Some(&headers), payload.clone()).is_err(), "an attribute twice");
        headers.insert("ce-id", "%ff");
        assert!(decode(Some(&headers), payload).is_err(), "not UTF-8");
        assert!(decode(None, Bytes::from_static(b"text")).is_err(), "neither form");
        assert!(decode(None, Bytes::new()).is_err());
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
            prop_assert_eq!(decode(Some(&headers), payload), Ok(event));
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
