//! A stored message as JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tidegate_broker_admin::api::StoredMessage;
use tidegate_broker_client::stored;
use tidegate_cloudevents::{Event, json as format};
use time::format_description::well_known::Rfc3339;

/// A stored message as it is shown: `sequence`, `time`, and the event as CloudEvents writes it in JSON (`data`, or
/// `data_base64` where it is not text). What is no event has `problem` and `dataBase64` instead.
///
/// Data that is JSON is shown as it was published: a number that no float holds has all of its digits.
#[derive(Debug, Default, Serialize)]
pub struct Shown {
    #[serde(flatten)]
    fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
}

/// The event of a message, if it is one.
pub(super) fn event(message: &StoredMessage) -> Result<Event, String> {
    let headers = message.headers().map_err(|error| error.to_string())?;
    stored::decode(headers, message.payload.clone()).map_err(|error| error.to_string())
}

impl Shown {
    /// A message, and the event that it is.
    pub(super) fn of(message: &StoredMessage, event: &Result<Event, String>) -> Self {
        let time = message.time.format(&Rfc3339).unwrap_or_default();
        let mut shown = Self::default();
        shown.extend([("sequence", message.sequence.into()), ("time", time.into())]);
        match event.as_ref().map(document) {
            Ok(Ok(document)) => shown.event = Some(document),
            Ok(Err(error)) => shown.problem(&error.to_string(), message),
            Err(error) => shown.problem(error, message),
        }
        shown
    }

    fn problem(&mut self, why: &str, message: &StoredMessage) {
        let problem = format!("what is stored is no CloudEvent: {why}");
        self.extend([("problem", problem.into()), ("dataBase64", STANDARD.encode(&message.payload).into())]);
    }

    /// The same without the event's data; `dataBytes` says how much it is.
    pub(super) fn without_data(mut self, message: &StoredMessage) -> Self {
        self.fields.remove("dataBase64");
        self.event = self.event.and_then(|event| {
            let mut attributes: BTreeMap<String, Box<RawValue>> = serde_json::from_str(event.get()).ok()?;
            attributes.retain(|name, _| !matches!(name.as_str(), "data" | "data_base64"));
            serde_json::value::to_raw_value(&attributes).ok()
        });
        self.extend([("dataBytes", json!(message.payload.len()))]);
        self
    }

    /// The same with more fields.
    pub fn with<'a>(mut self, more: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        self.extend(more);
        self
    }

    fn extend<'a>(&mut self, more: impl IntoIterator<Item = (&'a str, Value)>) {
        self.fields.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
}

fn document(event: &Event) -> serde_json::Result<Box<RawValue>> {
    serde_json::from_slice(&format::encode(event)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_shown_as_it_was_published() {
        const DATA: &str = r#"{"b":12345678901234567890123.10,"a":1e400,"b2":0.1000}"#;
        let event = Event::builder("1", "/shop", "order.new").attribute("datacontenttype", "application/json");
        let event = Ok(event.data(DATA).build().unwrap());
        let message: StoredMessage = serde_json::from_value(json!({
            "subject": "events.0.order.new", "seq": 7, "time": "2026-01-31T12:00:00Z", "data": STANDARD.encode(DATA),
        }))
        .unwrap();
        let whole = serde_json::to_string(&Shown::of(&message, &event)).unwrap();
        assert!(whole.contains(DATA) && whole.contains(r#""sequence":7"#), "{whole}");
        let without = serde_json::to_value(Shown::of(&message, &event).without_data(&message)).unwrap();
        assert_eq!((&without["event"]["id"], &without["event"].get("data")), (&json!("1"), &None));
        assert_eq!(without["dataBytes"], DATA.len());
    }
}
