//! Keeping aside what could not be delivered: the whole event, and why.
//!
//! The letter is stored by the broker's own acknowledgement before the event is acknowledged. Until then the
//! event stays in hand; if the letter cannot be stored in a while, the event is given back and tried later.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Request, RequestError};
use serde::Deserialize;
use tidegate_broker_client::layout;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::in_hand::InHand;
use crate::outcome::Reason;

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(5);
/// The longest `Tidegate-Last-Error`, in bytes.
const ERROR_LIMIT: usize = 512;
const TRIES: u32 = 5;
const PAUSES: Backoff =
    Backoff { initial: Duration::from_millis(200), max: Duration::from_secs(3), factor: 2.0, jitter: 0.2 };

/// Why an event is kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The reason.
    pub reason: Reason,
    /// The status of the last response, if there was one.
    pub status: Option<u16>,
    /// The last error, in any form.
    pub error: String,
}

/// Why a letter is not stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody confirmed it.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The stream did not take it.
    #[error("the stream refused it: {0}")]
    Refused(String),
    /// The answer is not an acknowledgement.
    #[error("not an acknowledgement: {0}")]
    Unintelligible(String),
}

/// The broker's acknowledgement of a stored message.
#[derive(Deserialize)]
struct Acknowledgement {
    seq: Option<u64>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    description: String,
}

/// Stores the letter, in a few tries.
///
/// # Errors
/// The last try's error.
pub async fn store(client: &Client, handler: &str, event: &InHand, letter: &Letter) -> Result<(), Error> {
    let headers = compose(handler, event, letter, &jiff::Timestamp::now().to_string());
    let mut failures = 0;
    loop {
        let request = Request::new().headers(headers.clone()).payload(event.payload()).timeout(Some(TRY_LIMIT));
        let sent = client.send_request(layout::dead_letter_subject(handler), request).await;
        match sent.map_err(Error::from).and_then(|message| confirmed(&message)) {
            Ok(()) => return Ok(()),
            Err(error) if failures + 1 == TRIES => return Err(error),
            Err(_) => failures += 1,
        }
        sleep(PAUSES.wait(failures, fastrand::f64())).await;
    }
}

fn confirmed(message: &Message) -> Result<(), Error> {
    match serde_json::from_slice(&message.payload) {
        Ok(Acknowledgement { error: Some(error), .. }) => Err(Error::Refused(error.description)),
        Ok(Acknowledgement { seq: Some(_), .. }) => Ok(()),
        Ok(_) => Err(Error::Unintelligible("no sequence".into())),
        Err(error) => Err(Error::Unintelligible(error.to_string())),
    }
}

/// The stored headers without what the broker or an earlier letter wrote, and the reasons.
fn compose(handler: &str, event: &InHand, letter: &Letter, time: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in event.headers().into_iter().flat_map(HeaderMap::iter) {
        if !is_ours_or_the_brokers(name.as_ref()) {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    // The same event dead-lettered twice (a crash before the acknowledgement) is stored once.
    headers.insert("Nats-Msg-Id", format!("{handler}:{}", event.sequence()));
    headers.insert("Tidegate-Handler", handler);
    headers.insert("Tidegate-Reason", letter.reason.name());
    headers.insert("Tidegate-Attempts", event.attempt().to_string());
    if let Some(status) = letter.status {
        headers.insert("Tidegate-Last-Status", status.to_string());
    }
    headers.insert("Tidegate-Last-Error", single_line(&letter.error));
    headers.insert("Tidegate-Sequence", event.sequence().to_string());
    headers.insert("Tidegate-Time", time);
    headers
}

fn is_ours_or_the_brokers(name: &str) -> bool {
    ["nats-", "tidegate-"]
        .iter()
        .any(|prefix| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)))
}

/// A header value: one line without control characters, bounded.
fn single_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(ERROR_LIMIT));
    for c in text.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if line.len() + c.len_utf8() > ERROR_LIMIT {
            break;
        }
        line.push(c);
    }
    line
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn message(payload: &'static str) -> Message {
        Message {
            subject: "_INBOX.x".into(),
            reply: None,
            payload: Bytes::from_static(payload.as_bytes()),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    #[test]
    fn only_a_sequence_without_an_error_confirms() {
        assert!(confirmed(&message(r#"{"stream":"dead-letters","seq":1}"#)).is_ok());
        assert!(confirmed(&message(r#"{"stream":"dead-letters","seq":1,"duplicate":true}"#)).is_ok());
        for other in [
            r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"d","seq":0}"#,
            r#"{"stream":"dead-letters"}"#,
            "",
            "+OK",
        ] {
            assert!(confirmed(&message(other)).is_err(), "{other}");
        }
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

    proptest! {
        #[test]
        fn an_error_is_one_bounded_line(text in "\\PC{0,80}|[\\s\\S]{0,700}") {
            let line = single_line(&text);
            prop_assert!(line.len() <= ERROR_LIMIT);
            prop_assert!(!line.contains(char::is_control));
        }
    }
}
