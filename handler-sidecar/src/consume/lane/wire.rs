//! The messages of a lane: pull requests with a pin, the consumer's state.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tidegate_broker_client::{layout, stored};

use super::hand::Key;
use super::owner::Input;
use super::pulls::Pin;
use super::terms::{Moment, Terms};
use crate::broker::pull::Error;
use crate::broker::pull::status::{self, Signal, Trouble};
use crate::consume::in_hand::InHand;

/// The header in which the broker names the pin under which it delivers.
const PIN: &str = "Nats-Pin-Id";
/// The status of a pull whose pin is not in force.
const WRONG_PIN: u16 = 423;
const NANOS: u128 = 1_000_000;

/// The body of a pull request; durations in nanoseconds.
#[derive(Serialize)]
struct PullRequest<'a> {
    batch: u32,
    expires: u128,
    group: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

#[derive(Serialize)]
struct UnpinRequest<'a> {
    group: &'a str,
}

/// What is read of CONSUMER.INFO.
#[derive(Deserialize)]
struct Info {
    delivered: Delivered,
    num_ack_pending: u64,
    num_pending: u64,
    #[serde(default)]
    priority_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    group: String,
    #[serde(default)]
    pinned_client_id: String,
}

#[derive(Deserialize)]
struct Delivered {
    consumer_seq: u64,
}

/// A pull of so many events under this pin. It has no `max_bytes`: with it a pinned consumer of three servers (2.15.2) delivers nothing at
/// all; `tests/order` shows it.
pub fn pull_request(terms: &Terms, batch: u32, pin: Option<&str>) -> Result<Bytes, serde_json::Error> {
    let expires = u128::from(terms.pull_expires) * NANOS;
    let request = PullRequest { batch, expires, group: layout::LANE_GROUP, id: pin };
    serde_json::to_vec(&request).map(Bytes::from)
}

/// The end of our pin.
pub fn unpin_request() -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(&UnpinRequest { group: layout::LANE_GROUP }).map(Bytes::from)
}

/// The consumer's state, as far as the owner wants to know it.
pub fn state(payload: &[u8]) -> Input {
    match serde_json::from_slice::<Info>(payload) {
        Ok(info) => {
            let group = info.priority_groups.into_iter().find(|group| group.group == layout::LANE_GROUP);
            let pin = group.map(|group| group.pinned_client_id).filter(|pin| !pin.is_empty());
            let (delivered, pending) = (info.delivered.consumer_seq, info.num_ack_pending);
            Input::State { delivered, pending, pin: pin.map(Pin::from) }
        }
        // An error of the API, or none of its answers at all.
        Err(_) => Input::NoState,
    }
}

/// How many events wait for somebody: published and not delivered, or delivered and not acknowledged.
pub fn waiting(payload: &[u8]) -> Option<u64> {
    let info: Info = serde_json::from_slice(payload).ok()?;
    Some(info.num_pending.saturating_add(info.num_ack_pending))
}

/// What a status message says about a pull, and what to tell a person.
pub fn status(message: &Message, pull: u64) -> Option<(Input, Option<Trouble>)> {
    let code = message.status?;
    if code.as_u16() == WRONG_PIN {
        return Some((Input::WrongPin(pull), None));
    }
    match status::parse(code, message.description.as_deref(), message.headers.as_ref()) {
        Signal::Heartbeat => None,
        Signal::Ended(_) => Some((Input::PullEnded(pull), None)),
        Signal::Lost(trouble) => Some((Input::PullRefused(pull), Some(trouble))),
    }
}

/// The pin in an event's headers; empty where the consumer knows no pins.
pub fn pin(headers: Option<&HeaderMap>) -> &str {
    headers.and_then(|headers| headers.get(PIN)).map_or("", |value| value.as_str())
}

/// The event's partition key. What is no valid event is a key of its own: it will never get to a handler.
pub fn key(event: &InHand) -> Key {
    let mut hasher = DefaultHasher::new();
    match stored::decode(event.headers(), event.payload()) {
        Ok(decoded) => stored::partition_key(&decoded).hash(&mut hasher),
        Err(_) => event.sequence().hash(&mut hasher),
    }
    hasher.finish()
}

/// Sends a pull; what it brings comes to an inbox of its own, because nothing else tells which pull brought it.
///
/// # Errors
/// It is not sent.
pub async fn send_pull(client: &Client, consumer: &str, request: Bytes) -> Result<Subscriber, Error> {
    let inbox = client.new_inbox();
    let messages = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(layout::pull_subject(consumer), inbox, request).await?;
    Ok(messages)
}

/// What a pull brings: so many events, or fewer and a status that ends it.
pub fn until_used_up(messages: Subscriber, batch: u32) -> impl Stream<Item = Message> + Send {
    stream::unfold(Some((messages, batch)), |open| async move {
        let (mut messages, left) = open?;
        let message = messages.next().await?;
        let left = if message.status.is_some() { 0 } else { left.saturating_sub(1) };
        Some((message, (left > 0).then_some((messages, left))))
    })
}

/// How long a request may take, so that another one fits into what is left of a lease.
pub fn patience(terms: &Terms) -> Moment {
    (terms.ack_wait / 6).clamp(100, 2000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_as_the_broker_wants_them() {
        let terms = Terms::of(Duration::from_secs(30));
        let body = pull_request(&terms, 32, Some("pin")).unwrap();
        assert_eq!(body, r#"{"batch":32,"expires":3000000000,"group":"owner","id":"pin"}"#);
        let body = pull_request(&terms, 32, None).unwrap();
        assert_eq!(body, r#"{"batch":32,"expires":3000000000,"group":"owner"}"#);
        assert_eq!(unpin_request().unwrap(), r#"{"group":"owner"}"#);
    }

    #[test]
    fn states_and_what_is_none() {
        let info = br#"{"type":"x","delivered":{"consumer_seq":7,"stream_seq":9},"num_ack_pending":3,"num_pending":2,
            "priority_groups":[{"group":"other","pinned_client_id":"b"},{"group":"owner","pinned_client_id":"a"}]}"#;
        assert_eq!(state(info), Input::State { delivered: 7, pending: 3, pin: Some("a".into()) });
        assert_eq!(waiting(info), Some(5));
        let unpinned = br#"{"delivered":{"consumer_seq":7},"num_ack_pending":3,"num_pending":0,"priority_groups":[{"group":"owner"}]}"#;
        assert_eq!(state(unpinned), Input::State { delivered: 7, pending: 3, pin: None });
        for other in [&b""[..], b"{}", br#"{"error":{"code":404}}"#] {
            assert_eq!(state(other), Input::NoState);
            assert_eq!(waiting(other), None);
        }
    }
}
