//! The HTTP binding, rule by rule.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_cloudevents::{Event, Invalid, Mode, http as binding};

const REQUIRED: [(&str, &str); 4] = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];

fn headers(list: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
    }
    headers
}

fn decode(more: &[(&str, &str)], body: &'static str) -> Result<(Mode, Vec<Event>), Invalid> {
    binding::decode(&headers(&[&REQUIRED, more].concat()), Bytes::from(body))
}

fn refused(more: &[(&str, &str)]) -> String {
    match decode(more, "{}").unwrap_err() {
        Invalid::Malformed(malformed) => malformed.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn binary_mode() {
    let more = [("content-type", "application/json"), ("ce-subject", "a%20b"), ("ce-x", "\"q r\""), ("other", "no")];
    let (mode, events) = decode(&more, "[1]").unwrap();
    assert_eq!((mode, events.len()), (Mode::Binary, 1));
    let event = &events[0];
    assert_eq!((event.id(), event.source(), event.event_type()), ("1", "/s", "t"));
    assert_eq!((event.attribute("subject"), event.attribute("x")), (Some("a b"), Some("q r")));
    assert_eq!((event.attribute("other"), event.data_content_type()), (None, Some("application/json")));
    assert_eq!(event.data().unwrap(), "[1]");
}

#[test]
fn the_content_type_decides_even_beside_ce_headers() {
    let (mode, events) =
        decode(&[("content-type", "application/cloudevents-batch+json; charset=UTF-8")], "[]").unwrap();
    assert_eq!((mode, events), (Mode::Batched, vec![]));
    let body = r#"{"specversion":"1.0","id":"2","source":"/s","type":"t"}"#;
    let (mode, events) = decode(&[("content-type", "Application/CloudEvents+JSON")], body).unwrap();
    assert_eq!((mode, events[0].id()), (Mode::Structured, "2"));
}

#[test]
fn what_is_not_supported_is_told_apart_from_what_is_wrong() {
    for (name, value) in [
        ("content-type", "application/cloudevents+avro"),
        ("content-type", "application/cloudevents"),
        ("content-type", "application/cloudevents+json; charset=latin1"),
    ] {
        let error = decode(&[(name, value)], "{}").unwrap_err();
        assert!(matches!(error, Invalid::UnsupportedMediaType(_)), "{value}: {error}");
    }
    for encoding in ["gzip", "identity, gzip", "br"] {
        let error = decode(&[("content-encoding", encoding)], "{}").unwrap_err();
        assert!(matches!(error, Invalid::UnsupportedEncoding(_)), "{encoding}: {error}");
    }
    assert!(decode(&[("content-encoding", "Identity")], "{}").is_ok());
    for list in [&[][..], &[("content-type", "application/json")][..]] {
        let error = binding::decode(&headers(list), Bytes::new()).unwrap_err();
        assert!(matches!(error, Invalid::UnsupportedMediaType(_)), "{error}");
    }
}

#[test]
fn broken_headers_are_named() {
    assert!(refused(&[("ce-id", "2")]).contains("\"id\" is there more than once"));
    assert!(refused(&[("content-type", "a/b"), ("content-type", "a/b")]).contains("Content-Type"));
    assert!(refused(&[("content-type", "json")]).contains("datacontenttype"));
    assert!(refused(&[("ce-datacontenttype", "text/plain")]).contains("send Content-Type"));
    assert!(refused(&[("ce-x", "%C0%A0")]).contains("UTF-8"));
    assert!(refused(&[("ce-x", "a%0D%0ANats-Msg-Id: 1")]).contains("control character"));
    assert!(refused(&[("ce-nats-msg-id", "1")]).contains("a-z and 0-9"));
    assert!(refused(&[("ce-data", "1")]).contains("reserved"));
    assert!(refused(&[("ce-", "1")]).contains("a-z and 0-9"));
}

#[test]
fn the_encoding_is_ascii_without_spaces_and_without_datacontenttype() {
    let event = Event::builder("a \"b\" 50%", "/größe", "t")
        .attribute("datacontenttype", "text/plain; charset=utf-8")
        .data("x")
        .build()
        .unwrap();
    let (headers, body) = binding::encode_binary(&event).unwrap();
    assert_eq!(headers["ce-id"], "a%20%22b%22%2050%25");
    assert_eq!(headers["ce-source"], "/gr%C3%B6%C3%9Fe");
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    assert!(!headers.contains_key("ce-datacontenttype"));
    assert_eq!(body, "x");
}
