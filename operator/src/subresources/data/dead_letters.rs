//! Dead letters of a handler that are kept beside its topic.

use std::collections::BTreeMap;

use serde_json::Value;
use tidegate_broker_admin::api::{ApiError, Broker, Missing, StoredMessage};
use tidegate_broker_client::layout;
use tidegate_cloudevents::Event;

use super::query::LetterQuery;
use super::shown::{self, Shown};
use super::{Extent, Page, scan};

/// The headers that say why, each with its name in the answer.
const TEXTS: [(&str, &str); 5] = [
    ("Tidegate-Reason", "reason"),
    ("Tidegate-Last-Error", "lastError"),
    ("Tidegate-Time", "deadSince"),
    ("Tidegate-First-Attempt", "firstAttempt"),
    ("Tidegate-Last-Attempt", "lastAttempt"),
];
/// The same, of numbers.
const NUMBERS: [(&str, &str); 4] = [
    ("Tidegate-Sequence", "eventSequence"),
    ("Tidegate-Attempts", "attempts"),
    ("Tidegate-Outage-Attempts", "outageAttempts"),
    ("Tidegate-Last-Status", "lastStatus"),
];
/// The attempts, a JSON array.
const HISTORY: &str = "Tidegate-Attempt-History";

/// What the headers of a dead letter say.
type Fields = BTreeMap<&'static str, Value>;

/// What the stream of a handler's dead letters has.
///
/// # Errors
/// The broker is away, or the handler has no dead letters yet.
pub async fn extent(broker: &Broker, handler: &str) -> Result<Extent, ApiError> {
    Extent::of(broker, &layout::dead_letter_stream(handler)).await
}

/// Dead letters of the handler of this name in its topic's account.
///
/// # Errors
/// The broker is away, or the handler has no dead letters yet.
pub async fn page(broker: &Broker, handler: &str, query: &LetterQuery) -> Result<Page, ApiError> {
    let (stream, subject) = (layout::dead_letter_stream(handler), layout::dead_letter_subject(handler));
    scan(broker, &stream, &subject, query.from, query.limit, |message| {
        let event = shown::event(message);
        let why = why(message, false);
        if !is_meant(query, message, event.as_ref().ok(), &why) {
            return None;
        }
        let letter = Shown::of(message, &event);
        let letter = if query.with_data { letter } else { letter.without_data(message) };
        Some(letter.with(why))
    })
    .await
}

/// One, with every attempt that is on record.
///
/// # Errors
/// The broker is away, or there is no such dead letter.
pub async fn one(broker: &Broker, handler: &str, sequence: u64) -> Result<Shown, ApiError> {
    let message = broker.message(&layout::dead_letter_stream(handler), sequence).await?;
    let event = shown::event(&message);
    Ok(Shown::of(&message, &event).with(why(&message, true)))
}

/// Removes those with these sequences, and says which were not there.
///
/// # Errors
/// The broker is away: some may have been removed.
pub async fn drop(broker: &Broker, handler: &str, sequences: &[u64]) -> Result<Vec<u64>, ApiError> {
    let stream = layout::dead_letter_stream(handler);
    let mut gone = Vec::new();
    for sequence in sequences {
        // To delete what is not there is an error without a number of its own.
        match broker.message(&stream, *sequence).await {
            Ok(_) => broker.delete_message(&stream, *sequence).await?,
            Err(ApiError::NotFound(Missing::Message)) => gone.push(*sequence),
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

/// What the headers say. A sidecar wrote them, in a pod of the user's: what is not as it should be is left out.
fn why(message: &StoredMessage, with_history: bool) -> Fields {
    let mut fields = Fields::new();
    let Ok(headers) = message.headers() else { return fields };
    for (name, value) in headers.iter() {
        let named = |table: &[(&str, &'static str)]| {
            table.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, field)| *field)
        };
        if let Some(field) = named(&TEXTS) {
            fields.insert(field, value.into());
        } else if let (Some(field), Ok(number)) = (named(&NUMBERS), value.parse::<u64>()) {
            fields.insert(field, number.into());
        } else if with_history
            && name.eq_ignore_ascii_case(HISTORY)
            && let Ok(Value::Array(history)) = serde_json::from_str(value)
        {
            fields.insert("history", history.into());
        }
    }
    fields
}

fn is_meant(query: &LetterQuery, message: &StoredMessage, event: Option<&Event>, why: &Fields) -> bool {
    let is =
        |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
    let text = |field: &str| why.get(field).and_then(Value::as_str);
    layout::has_type(&query.types, event.map_or("", Event::event_type))
        && is(&query.reason, text("reason"))
        && query.since.is_none_or(|since| message.time >= since)
        && query.until.is_none_or(|until| message.time < until)
        && query.text.as_deref().is_none_or(|wanted| has_text(message, event, text("lastError"), wanted))
}

/// Whether an attribute, the last error or the data has this text, in this case.
fn has_text(message: &StoredMessage, event: Option<&Event>, error: Option<&str>, wanted: &str) -> bool {
    event.into_iter().flat_map(Event::attributes).any(|(_, value)| value.contains(wanted))
        || error.is_some_and(|error| error.contains(wanted))
        || str::from_utf8(&message.payload).is_ok_and(|data| data.contains(wanted))
}
