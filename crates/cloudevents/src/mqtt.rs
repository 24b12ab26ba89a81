//! The MQTT protocol binding 1.0.2, reading: binary and structured content mode. It knows no batches.

use bytes::Bytes;

use crate::{Builder, Event, Invalid, json, media_type};

/// Reads the event of a PUBLISH packet of MQTT 5: its content type, its user properties, its payload.
///
/// In binary mode (section 3.1) each user property is an attribute under its own name, without a prefix and without
/// an encoding, and the content type is `datacontenttype`. (The SDK for JavaScript repeats it as a user property, so
/// that is read, too.)
///
/// # Errors
/// The content type is one of CloudEvents that is not supported, or the event breaks a rule.
pub fn decode<'a>(
    content_type: Option<&str>,
    properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    payload: Bytes,
) -> Result<Event, Invalid> {
    let essence = media_type::essence(content_type.unwrap_or_default()).to_ascii_lowercase();
    if essence == media_type::STRUCTURED {
        return json::decode(&payload);
    }
    if essence.starts_with("application/cloudevents") {
        let problem = "this event format is not supported over MQTT: send one event as application/cloudevents+json";
        return Err(Invalid::UnsupportedMediaType(problem.into()));
    }
    let mut builder = Builder::default().data(payload);
    for (name, value) in properties {
        if name == "datacontenttype" && content_type == Some(value) {
            continue;
        }
        builder = builder.attribute(name, value);
    }
    if let Some(content_type) = content_type {
        builder = builder.attribute("datacontenttype", content_type);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 4] =
        [("specversion", "1.0"), ("id", "1"), ("source", "/sensors/größe"), ("type", "temperature")];

    #[test]
    fn user_properties_are_attributes_as_they_are() {
        let properties = REQUIRED.into_iter().chain([("subject", "50% \"a\"")]);
        let event = decode(Some("text/plain"), properties, Bytes::from_static(b"23.5")).unwrap();
        assert_eq!(event.source(), "/sensors/größe");
        assert_eq!(event.attribute("subject"), Some("50% \"a\""));
        assert_eq!((event.data_content_type(), event.data().unwrap().as_ref()), (Some("text/plain"), &b"23.5"[..]));
    }

    #[test]
    fn a_repeated_content_type_is_no_contradiction() {
        let repeated = || REQUIRED.into_iter().chain([("datacontenttype", "a/b")]);
        for content_type in [Some("a/b"), None] {
            let event = decode(content_type, repeated(), Bytes::new()).unwrap();
            assert_eq!(event.data_content_type(), Some("a/b"));
        }
    }

    #[test]
    fn the_structured_mode_is_known_by_its_content_type() {
        let event = Event::builder("1", "/s", "t").build().unwrap();
        let payload = json::encode(&event).unwrap();
        assert_eq!(decode(Some("Application/CloudEvents+JSON; charset=utf-8"), [], payload), Ok(event));
    }

    #[test]
    fn what_is_no_event_is_refused() {
        let of = |content_type, properties: &[(&'static str, &'static str)]| {
            decode(content_type, properties.iter().copied(), Bytes::new())
        };
        assert!(of(None, &[]).is_err(), "nothing at all");
        assert!(of(Some("a/b"), &[REQUIRED.as_slice(), &[("datacontenttype", "c/d")]].concat()).is_err());
        assert!(of(None, &[REQUIRED.as_slice(), &[("id", "2")]].concat()).is_err(), "an attribute twice");
        assert!(of(None, &[REQUIRED.as_slice(), &[("Nats-Msg-Id", "x")]].concat()).is_err(), "no attribute's name");
        let batch = of(Some("application/cloudevents-batch+json"), &[]);
        assert!(matches!(batch, Err(Invalid::UnsupportedMediaType(_))));
    }
}
