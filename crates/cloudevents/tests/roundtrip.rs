//! Whatever is a valid event survives every mode, unchanged.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use tidegate_cloudevents::{Event, Mode, http as binding, media_type};

/// A string attribute: anything but control characters and noncharacters.
fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 1..12).prop_map(|chars| {
        let allowed =
            |c: &char| !c.is_control() && !('\u{FDD0}'..='\u{FDEF}').contains(c) && u32::from(*c) & 0xFFFE != 0xFFFE;
        let text: String = chars.into_iter().filter(allowed).collect();
        if text.is_empty() { "x".to_owned() } else { text }
    })
}

/// Data with its content type, as JSON, text or bytes.
fn payload() -> impl Strategy<Value = (Option<String>, Bytes)> {
    let json = prop_oneof![Just("null".to_owned()), "-?[1-9][0-9]{0,30}", "\"[a-z ]*\"", Just("{\"a\":[1.50]}".into())];
    prop_oneof![
        json.prop_map(|json| (Some("application/json".to_owned()), Bytes::from(json))),
        text().prop_map(|text| (Some("text/plain; charset=utf-8".to_owned()), Bytes::from(text))),
        vec(any::<u8>(), 0..64).prop_map(|data| (Some("application/json".to_owned()), Bytes::from(data))),
        vec(any::<u8>(), 0..64).prop_map(|data| (Some("text/plain".to_owned()), Bytes::from(data))),
        vec(any::<u8>(), 0..64).prop_map(|data| (None, Bytes::from(data))),
    ]
}

prop_compose! {
    fn event()(
        id in text(), event_type in text(), subject in text(),
        source in "[a-zA-Z0-9:/?#@!$&'()*+,;=._~äß-]{1,20}",
        extensions in btree_map("x[a-z0-9]{0,10}", text(), 0..5),
        (content_type, data) in payload(),
    ) -> Event {
        let mut builder = Event::builder(&id, &source, &event_type).attribute("subject", subject).data(data);
        for (name, value) in extensions {
            builder = builder.attribute(name, value);
        }
        if let Some(content_type) = content_type {
            builder = builder.attribute("datacontenttype", content_type);
        }
        builder.build().unwrap()
    }
}

/// JSON may be written without the white space around it; nothing else may change.
fn same(left: &Event, right: &Event) -> bool {
    let attributes = |event: &Event| -> Vec<(String, String)> {
        event.attributes().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let data = |event: &Event| event.data().map(|data| data.trim_ascii().to_vec());
    attributes(left) == attributes(right)
        && left.data_content_type() == right.data_content_type()
        && data(left) == data(right)
}

fn typed(content_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
}

proptest! {
    #[test]
    fn binary(event in event()) {
        let (headers, body) = binding::encode_binary(&event).unwrap();
        for (name, value) in &headers {
            prop_assert!(name == CONTENT_TYPE || value.as_bytes().iter().all(u8::is_ascii_graphic));
        }
        prop_assert_eq!(binding::decode(&headers, body), Ok((Mode::Binary, vec![event])));
    }

    #[test]
    fn structured(event in event()) {
        let body = binding::encode_structured(&event).unwrap();
        let (mode, events) = binding::decode(&typed(media_type::STRUCTURED), body).unwrap();
        prop_assert_eq!(mode, Mode::Structured);
        prop_assert!(same(&events[0], &event), "{:?} became {:?}", event, events[0]);
    }

    #[test]
    fn batched(events in vec(event(), 0..4)) {
        let body = binding::encode_batch(&events).unwrap();
        let (mode, decoded) = binding::decode(&typed(media_type::BATCH), body).unwrap();
        prop_assert_eq!(mode, Mode::Batched);
        prop_assert_eq!(decoded.len(), events.len());
        prop_assert!(decoded.iter().zip(&events).all(|(left, right)| same(left, right)));
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(body in vec(any::<u8>(), 0..200), batch in any::<bool>()) {
        let content_type = if batch { media_type::BATCH } else { media_type::STRUCTURED };
        let _ = binding::decode(&typed(content_type), Bytes::from(body));
    }
}
