//! Events made of what a person says (pure, but for ids and the time).

use bytes::Bytes;
use serde_json::{Map, Value};
use tidegate_cloudevents::{Event, SPEC_VERSION, json};

use crate::failure::Failure;
use crate::terminal;

/// What events get that do not say it.
#[derive(Debug)]
pub struct Defaults<'a> {
    /// Their type.
    pub event_type: &'a str,
    /// Their source.
    pub source: &'a str,
    /// Their subject.
    pub subject: Option<&'a str>,
    /// Further attributes.
    pub attributes: &'a [(String, String)],
}

/// One event. Data that is no JSON is text.
///
/// # Errors
/// It would be no valid CloudEvent.
pub fn one(data: Option<&str>, id: Option<&str>, defaults: &Defaults<'_>) -> Result<Event, Failure> {
    let mut fields = Map::new();
    if let Some(id) = id {
        fields.insert("id".into(), id.into());
    }
    if let Some(data) = data {
        match serde_json::from_str::<Value>(data) {
            Ok(value) => fields.insert("data".into(), value),
            Err(_) => {
                fields.insert("datacontenttype".into(), "text/plain".into());
                fields.insert("data".into(), data.into())
            }
        };
    }
    complete(fields, defaults).map_err(Failure::Usage)
}

/// One event for each line that is not empty.
///
/// # Errors
/// A line is no event; it is named, and nothing is to be sent.
pub fn of_lines(text: &str, defaults: &Defaults<'_>) -> Result<Vec<Event>, Failure> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let event = |(number, line): (usize, &str)| {
        of_line(line, defaults).map_err(|why| Failure::Usage(format!("line {}: {why}", number + 1)))
    };
    let events: Vec<Event> = lines.map(event).collect::<Result<_, _>>()?;
    if events.is_empty() {
        return Err(Failure::Usage("there is no event: write one JSON document in each line".into()));
    }
    Ok(events)
}

fn of_line(line: &str, defaults: &Defaults<'_>) -> Result<Event, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("is no JSON: {error}"))?;
    match value {
        Value::Object(fields) if fields.contains_key("specversion") => complete(fields, defaults),
        data => complete(Map::from_iter([("data".to_owned(), data)]), defaults),
    }
}

fn complete(mut fields: Map<String, Value>, defaults: &Defaults<'_>) -> Result<Event, String> {
    let mut default = |name: &str, value: &str| {
        fields.entry(name).or_insert_with(|| value.into());
    };
    default("specversion", SPEC_VERSION);
    default("id", &new_id());
    default("source", defaults.source);
    default("type", defaults.event_type);
    default("time", &jiff::Timestamp::now().to_string());
    if let Some(subject) = defaults.subject {
        default("subject", subject);
    }
    for (name, value) in defaults.attributes {
        default(name, value);
    }
    let text = serde_json::to_vec(&Value::Object(fields)).map_err(|error| error.to_string())?;
    json::decode(&Bytes::from(text)).map_err(|error| terminal::text(&error.to_string()))
}

/// An id that no other event has.
fn new_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults<'_> = Defaults { event_type: "t", source: "/s", subject: None, attributes: &[] };

    #[test]
    fn data_is_json_or_text_and_the_rest_is_made() {
        let event = one(Some(r#"{"a": 1}"#), None, &DEFAULTS).unwrap();
        assert_eq!((event.event_type(), event.source(), event.id().len()), ("t", "/s", 32));
        assert!(event.attribute("time").is_some());
        assert_eq!(event.data().unwrap().as_ref(), br#"{"a":1}"#);
        let text = one(Some("hello"), Some("1"), &DEFAULTS).unwrap();
        assert_eq!((text.id(), text.data_content_type()), ("1", Some("text/plain")));
        assert_eq!(text.data().unwrap().as_ref(), b"hello");
        assert_ne!(one(None, None, &DEFAULTS).unwrap().id(), one(None, None, &DEFAULTS).unwrap().id());
    }

    #[test]
    fn a_line_is_an_event_or_the_data_of_one() {
        let text = "{\"specversion\":\"1.0\",\"id\":\"7\",\"type\":\"own\"}\n\n{\"type\":\"temperature\"}\n";
        let events = of_lines(text, &DEFAULTS).unwrap();
        assert_eq!((events[0].id(), events[0].event_type(), events[0].source()), ("7", "own", "/s"));
        assert_eq!(events[1].event_type(), "t", "what has no specversion is data");
        for (bad, said) in [
            ("{}\nx", "line 2: is no JSON"),
            ("\n\n", "there is no event"),
            (r#"{"specversion":"1.0","id":""}"#, "line 1: "),
            (r#"{"specversion":"0.3"}"#, "line 1: "),
        ] {
            let error = of_lines(bad, &DEFAULTS).unwrap_err();
            assert!(error.to_string().contains(said) && error.code() == 2, "{error}");
        }
    }

    #[test]
    fn attributes_are_of_every_event_that_does_not_have_them() {
        let attributes = [("tenant".to_owned(), "a".to_owned())];
        let defaults = Defaults { subject: Some("s"), attributes: &attributes, ..DEFAULTS };
        let lines = "{\"specversion\":\"1.0\",\"tenant\":\"own\"}\n1";
        let events = of_lines(lines, &defaults).unwrap();
        assert_eq!((events[0].attribute("tenant"), events[1].attribute("tenant")), (Some("own"), Some("a")));
        assert_eq!(events[1].attribute("subject"), Some("s"));
    }
}
