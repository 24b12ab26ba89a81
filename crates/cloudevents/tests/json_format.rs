//! The JSON event format, rule by rule.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use bytes::Bytes;
use tidegate_cloudevents::{Event, Invalid, json};

const REQUIRED: &str = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;

fn decode(members: &str) -> Result<Event, Invalid> {
    json::decode(&Bytes::from(format!("{{{REQUIRED}{members}}}")))
}

fn data(members: &str) -> Option<Bytes> {
    decode(members).unwrap().data().cloned()
}

fn refused(members: &str) -> String {
    decode(members).unwrap_err().to_string()
}

#[test]
fn json_data_keeps_its_bytes() {
    let precise = r#"{"b":1.10,"a":123456789012345678901234567890}"#;
    for content_type in ["application/json", "application/vnd.shop+json; charset=utf-8"] {
        let members = format!(r#","datacontenttype":"{content_type}","data":{precise}"#);
        assert_eq!(data(&members).unwrap(), precise);
    }
    assert_eq!(data(r#","data":"text","datacontenttype":"application/json""#).unwrap(), "\"text\"");
}

#[test]
fn data_without_a_content_type_is_json_and_says_so_afterwards() {
    let event = decode(r#","data":{"value":23.5}"#).unwrap();
    assert_eq!(event.data_content_type(), Some("application/json"));
    assert_eq!(event.data().unwrap(), r#"{"value":23.5}"#);
    assert_eq!(decode(r#","data_base64":"AQI=""#).unwrap().data_content_type(), None);
}

#[test]
fn data_of_another_type_is_a_string() {
    assert_eq!(data(r#","datacontenttype":"text/plain","data":"a\nä""#).unwrap(), "a\nä");
    assert_eq!(data(r#","datacontenttype":"application/xml","data":"<a/>""#).unwrap(), "<a/>");
    assert!(refused(r#","datacontenttype":"text/plain","data":{"a":1}"#).contains("send a string"));
}

#[test]
fn binary_data() {
    assert_eq!(data(r#","data_base64":"AAH/""#).unwrap(), &[0, 1, 255][..]);
    assert!(refused(r#","data_base64":"AAH_""#).contains("RFC 4648"));
    assert!(refused(r#","data_base64":1"#).contains("RFC 4648"));
    assert!(refused(r#","data":1,"data_base64":"AAH/""#).contains("send one of them"));
}

#[test]
fn null_is_unset() {
    let event = decode(r#","subject":null,"x":null,"data_base64":null"#).unwrap();
    assert_eq!((event.attribute("subject"), event.attribute("x"), event.data()), (None, None, None));
    assert_eq!(decode(r#","datacontenttype":"text/plain","data":null"#).unwrap().data(), None, "null is no text");
    assert_eq!(data(r#","data":null,"data_base64":"AQI=""#).unwrap(), &[1, 2][..]);
    assert!(json::decode(&Bytes::from(r#"{"specversion":"1.0","id":null,"source":"/s","type":"t"}"#)).is_err());
}

/// JSON event format 1.0.2, section 3.1: with a JSON type "the data value MUST be translated into a JSON value", and
/// null is one. Issue 8, G10: null and the empty string were dropped.
#[test]
fn null_and_the_empty_string_are_data_and_not_the_same() {
    for (members, expected, content_type) in [
        (r#","data":null"#, "null", "application/json"),
        (r#","data":"""#, "\"\"", "application/json"),
        (r#","datacontenttype":"application/a+json","data":null"#, "null", "application/a+json"),
        (r#","datacontenttype":"text/plain","data":"""#, "", "text/plain"),
        (r#","datacontenttype":"image/png","data_base64":"""#, "", "image/png"),
    ] {
        let event = decode(members).unwrap();
        assert_eq!(event.data().unwrap(), expected, "{members}");
        assert_eq!(event.data_content_type(), Some(content_type), "{members}");
        assert_eq!(json::decode(&json::encode(&event).unwrap()), Ok(event), "{members}");
    }
    let written = |members| String::from_utf8(json::encode(&decode(members).unwrap()).unwrap().into()).unwrap();
    assert!(written(r#","data":null"#).ends_with(r#""data":null}"#));
    assert!(written(r#","datacontenttype":"text/plain","data":"""#).ends_with(r#""data":""}"#));
}

/// JSON event format 1.0.2, section 3.1. Issue 8, H9: it went out as data_base64.
#[test]
fn what_came_as_text_goes_out_as_text() {
    for content_type in ["application/xml", "application/soap+xml", "image/svg+xml", "text/xml", "application/yaml"] {
        let event = decode(&format!(r#","datacontenttype":"{content_type}","data":"<größe/>""#)).unwrap();
        let written = String::from_utf8(json::encode(&event).unwrap().into()).unwrap();
        assert!(written.ends_with(r#""data":"<größe/>"}"#), "{written}");
    }
}

#[test]
fn extensions_become_canonical_strings() {
    let event = decode(r#","a":-5,"b":true,"c":"x","d":2147483647"#).unwrap();
    let value = |name| event.attribute(name).unwrap();
    assert_eq!((value("a"), value("b"), value("c"), value("d")), ("-5", "true", "x", "2147483647"));
    for bad in [r#","a":2147483648"#, r#","a":1.5"#, r#","a":1e3"#, r#","a":{}"#, r#","a":[]"#] {
        assert!(refused(bad).starts_with("attribute \"a\""), "{bad}");
    }
    assert!(refused(r#","subject":5"#).contains("JSON string"));
    assert!(refused(r#","a":"\ud800""#).contains("surrogates"));
}

#[test]
fn names_are_checked_and_unique() {
    for bad in [r#","Nats-Msg-Id":"1""#, r#","Id":"1""#, r#","a b":"1""#, r#","":"1""#] {
        assert!(refused(bad).contains("a-z and 0-9"), "{bad}");
    }
    for twice in [r#","id":"2""#, r#","a":"1","a":"1""#, r#","data":1,"data":2"#] {
        assert!(refused(twice).contains("more than once"), "{twice}");
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for bad in ["", "[]", "1", "{", "\"x\"", "{}x"] {
        assert!(json::decode(&Bytes::from(bad)).is_err(), "{bad}");
    }
    assert!(json::decode_batch(&Bytes::from("{}")).is_err());
}

#[test]
fn a_batch_names_the_event_that_is_wrong_and_is_bounded() {
    let good = format!("{{{REQUIRED}}}");
    let error = json::decode_batch(&Bytes::from(format!("[{good},{{\"id\":\"1\"}}]"))).unwrap_err();
    assert_eq!(error.to_string(), "event 1 of the batch: attribute \"specversion\" is missing: every event needs it");
    assert_eq!(json::decode_batch(&Bytes::from("[]")), Ok(vec![]));

    let batch = |count| Bytes::from(format!("[{}]", vec![good.as_str(); count].join(",")));
    assert_eq!(json::decode_batch(&batch(1000)).unwrap().len(), 1000);
    assert_eq!(json::decode_batch(&batch(1001)), Err(Invalid::TooMany { limit: 1000 }));
}

#[test]
fn data_is_written_in_the_most_readable_way_that_loses_nothing() {
    let written = |content_type: Option<&str>, data: &'static [u8]| {
        let mut builder = Event::builder("1", "/s", "t").data(data);
        if let Some(content_type) = content_type {
            builder = builder.attribute("datacontenttype", content_type);
        }
        let json = String::from_utf8(json::encode(&builder.build().unwrap()).unwrap().into()).unwrap();
        json.strip_prefix(&format!("{{{REQUIRED}")).unwrap().trim_end_matches('}').to_owned()
    };
    assert_eq!(written(Some("application/json"), b"[1]"), r#","datacontenttype":"application/json","data":[1]"#);
    assert!(written(Some("application/json"), b"[1").ends_with(r#""data_base64":"WzE=""#));
    assert!(written(Some("application/json"), b"null").ends_with(r#""data":null"#));
    assert!(written(Some("text/csv"), b"a,\"b\"").ends_with(r#""data":"a,\"b\"""#));
    assert!(written(Some("text/csv"), b"\xff").ends_with(r#""data_base64":"/w==""#));
    assert_eq!(written(None, b"x"), r#","data_base64":"eA==""#);
}
