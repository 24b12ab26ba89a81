//! A stored message as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidegate_broker_admin::api::StoredMessage;
use tidegate_broker_client::stored;
use tidegate_cloudevents::{Event, json as format};
use time::format_description::well_known::Rfc3339;

/// The event of a message, if it is one.
pub(super) fn event(message: &StoredMessage) -> Result<Event, String> {
    let headers = message.headers().map_err(|error| error.to_string())?;
    stored::decode(headers, message.payload.clone()).map_err(|error| error.to_string())
}

/// `sequence`, `time`, and the event as CloudEvents writes it in JSON (`data`, or `data_base64` where it is not text). What
/// is no event has `problem` and `dataBase64` instead.
pub(super) fn message(message: &StoredMessage, event: &Result<Event, String>) -> Value {
    let mut shown = json!({
        "sequence": message.sequence,
        "time": message.time.format(&Rfc3339).unwrap_or_default(),
    });
    match event.as_ref().map(|event| format::encode(event).and_then(|bytes| serde_json::from_slice::<Value>(&bytes))) {
        Ok(Ok(document)) => shown["event"] = document,
        Ok(Err(error)) => problem(&mut shown, &error.to_string(), message),
        Err(error) => problem(&mut shown, error, message),
    }
    shown
}

fn problem(shown: &mut Value, why: &str, message: &StoredMessage) {
    shown["problem"] = format!("what is stored is no CloudEvent: {why}").into();
    shown["dataBase64"] = STANDARD.encode(&message.payload).into();
}

/// The same without the event's data; `dataBytes` says how much it is.
pub(super) fn without_data(mut shown: Value, message: &StoredMessage) -> Value {
    for place in ["/event", ""] {
        if let Some(Value::Object(fields)) = shown.pointer_mut(place) {
            for data in ["data", "data_base64", "dataBase64"] {
                fields.remove(data);
            }
        }
    }
    shown["dataBytes"] = message.payload.len().into();
    shown
}
