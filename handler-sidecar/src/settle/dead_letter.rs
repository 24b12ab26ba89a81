//! Keeping aside what could not be delivered: the whole event, and why.
//!
//! The letter is stored by the broker's own acknowledgement before the event is acknowledged. Until then the
//! event stays in flight; if the dead letter cannot be stored in a while, the event is given back and tried later.

use std::time::Duration;

use tidegate_broker_client::contract::Retry;
use tidegate_broker_client::{layout, outcomes};
use tidegate_wire::nats::{Client, HeaderBlock, InvalidHeader, Publish};
use tokio::time::sleep;

use crate::broker::message::Message;
use crate::broker::publish_ack::{self, NotStored};
use crate::settle::attempts::{Failed, Record};
use crate::settle::backoff::Backoff;
use crate::settle::outcome::Reason;

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(5);
/// The longest `Tidegate-Last-Error`, in bytes.
const ERROR_LIMIT: usize = 512;
/// The longest `Tidegate-Attempt-History`: the broker keeps at most 64 KiB of headers, of which an event may have 48.
const HISTORY_LIMIT: usize = 8 * 1024;
const TRIES: u32 = 5;
const PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(3), factor: 2.0, jitter: 0.2 };

/// Why an event is dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The reason.
    pub reason: Reason,
    /// The status of the last response, if there was one.
    pub status: Option<u16>,
    /// The last error, in any form.
    pub error: String,
    /// The attempts.
    pub record: Record,
}

impl DeadLetter {
    /// The letter of an event whose last attempt is on record already, so that nothing but the dead letter is missing.
    pub fn decided_before(record: &Record, policy: &Retry) -> Option<Self> {
        let used_up = (record.attempts() >= policy.max_attempts).then_some(Reason::AttemptsUsedUp);
        let reason = record.given_up().or(used_up)?;
        let last = record.failed().last();
        let (status, error) = (last.and_then(|last| last.status), last.map(|last| last.error.clone()));
        Some(Self { reason, status, error: error.unwrap_or_default(), record: record.clone() })
    }
}

/// Stores the dead letter, in a few tries, or one where there is no room. An event's letter is stored once under its
/// message id, which no other handler can know: "stored already" is true.
///
/// # Errors
/// The last try's error.
pub async fn store(
    client: &Client,
    handler: &str,
    event: &Message,
    letter: &DeadLetter,
    message_id: &str,
) -> Result<(), NotStored> {
    let headers = compose(handler, event, letter, message_id, &jiff::Timestamp::now().to_string())
        .map_err(|error| NotStored::Unwritable(error.to_string()))?;
    let (subject, payload) = (layout::dead_letter_subject(handler), event.stored().payload());
    let message = Publish { subject: &subject, headers: Some(&headers), payload, ..Publish::default() };
    let mut failures = 0;
    loop {
        let sent = client.request(&message, TRY_LIMIT).await;
        match sent.map_err(NotStored::from).and_then(|message| publish_ack::sequence(&message)) {
            Ok(_) => return Ok(()),
            Err(error) if failures + 1 == TRIES || error.is_full() => return Err(error),
            Err(_) => failures += 1,
        }
        sleep(PAUSES.wait(failures, fastrand::f64())).await;
    }
}

/// The stored headers without what the broker or an earlier letter wrote, and the reasons.
fn compose(
    handler: &str,
    event: &Message,
    letter: &DeadLetter,
    message_id: &str,
    time: &str,
) -> Result<HeaderBlock, InvalidHeader> {
    let mut headers = HeaderBlock::new();
    for (name, value) in event.headers().into_iter().flat_map(|headers| headers.iter()) {
        if !is_ours_or_the_brokers(name) {
            headers.append(name, value)?;
        }
    }
    headers.append("Nats-Msg-Id", message_id)?;
    headers.append("Tidegate-Handler", handler)?;
    headers.append("Tidegate-Reason", letter.reason.name())?;
    headers.append("Tidegate-Attempts", &letter.record.attempts().to_string())?;
    if letter.record.outage_attempts() > 0 {
        headers.append("Tidegate-Outage-Attempts", &letter.record.outage_attempts().to_string())?;
    }
    if let [first, .., last] | [first @ last] = letter.record.failed() {
        headers.append("Tidegate-First-Attempt", &single_line(&first.time))?;
        headers.append("Tidegate-Last-Attempt", &single_line(&last.time))?;
        headers.append("Tidegate-Attempt-History", &history(letter.record.failed()))?;
    }
    if let Some(status) = letter.status {
        headers.append("Tidegate-Last-Status", &status.to_string())?;
    }
    headers.append("Tidegate-Last-Error", &single_line(&letter.error))?;
    headers.append("Tidegate-Sequence", &event.sequence().to_string())?;
    headers.append("Tidegate-Time", time)?;
    Ok(headers)
}

/// Whether a header is not the event's own.
pub fn is_ours_or_the_brokers(name: &str) -> bool {
    ["nats-", "tidegate-"]
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

/// An error as a value of a header or an attribute.
fn single_line(text: &str) -> String {
    outcomes::single_line(text, ERROR_LIMIT)
}

/// The attempts as a JSON array in one line. Where they are too long, those after the first make room.
fn history(failed: &[Failed]) -> String {
    let entries: Vec<String> = failed.iter().filter_map(|failed| serde_json::to_string(failed).ok()).collect();
    let mut room = HISTORY_LIMIT.saturating_sub(entries.first().map_or(0, String::len));
    let fits = |entry: &&String| {
        let left = room.checked_sub(entry.len() + 1);
        room = left.unwrap_or_default();
        left.is_some()
    };
    let mut kept: Vec<&String> = entries.iter().skip(1).rev().take_while(fits).collect();
    kept.extend(entries.first());
    kept.reverse();
    // JSON escapes all control characters but this one, which no header can have.
    format!("[{}]", kept.into_iter().map(String::as_str).collect::<Vec<_>>().join(",").replace('\u{7f}', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: usize, error: &str) -> Failed {
        Failed::new(format!("2026-01-01T00:00:{number:02}Z"), Some(503), error)
    }

    #[test]
    fn a_history_is_one_line_of_json_within_its_bound() {
        let short: Vec<_> = (0..3).map(|number| failed(number, "a \"quoted\"\nerror, größe")).collect();
        let text = history(&short);
        assert!(HeaderBlock::new().append("x", &history(&[failed(1, "a\u{7f}b")])).is_ok());
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Vec<Failed>>(&text).unwrap(), short);
        let long: Vec<_> = (0..50).map(|number| failed(number, &"\"".repeat(300))).collect();
        let text = history(&long);
        assert!(text.len() <= HISTORY_LIMIT + 2, "{}", text.len());
        let read: Vec<Failed> = serde_json::from_str(&text).unwrap();
        assert!(read.len() > 5 && read[0] == long[0] && read[1..] == long[51 - read.len()..]);
    }

    #[test]
    fn the_brokers_headers_are_left_out() {
        for (name, expected) in [
            ("Nats-Msg-Id", true),
            ("nats-expected-stream", true),
            ("Tidegate-Reason", true),
            ("ce-id", false),
            ("traceparent", false),
            ("Nat", false),
            ("größe", false),
        ] {
            assert_eq!(is_ours_or_the_brokers(name), expected, "{name}");
        }
    }
}
