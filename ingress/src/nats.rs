//! Events over NATS: a publisher sends a request to one subject, the answer is like that of a stream, so that the
//! `publish` of every client library's JetStream takes it for one.
//!
//! A message is an event by the CloudEvents NATS binding. None of its headers reaches the stream but as an attribute,
//! so no publisher can use the broker's own (`Nats-Msg-Id`, `Nats-Rollup`, …).
//!
//! The listener has a connection of its own, so that a flood of requests does not delay acknowledgements. A request
//! with malformed headers is answered 400, like every message that is not an event.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tidegate_broker_client::{layout, stored};
use tidegate_wire::nats::{Client, Message, Publish, SubscribeError, Subscriber};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::intake::{Intake, PendingEvent};
use crate::meanwhile::meanwhile;
use crate::message::Origin;
use crate::outcome::Stored;
use crate::problem::Problem;
use crate::share;
use crate::trace;

/// Each request goes to one of the topic's ingresses.
const GROUP: &str = "ingress";
/// The header in which a server says whose request an imported service is asked with.
const REQUEST_INFO: &str = "Nats-Request-Info";
/// The broker hears of the end within this time, or it has no connection.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes events over NATS.
pub struct Listener {
    client: Client,
    requests: Subscriber,
    intake: Arc<Intake>,
}

impl Listener {
    /// Begins to listen over this connection.
    ///
    /// # Errors
    /// None for the subject of publishers.
    pub fn new(client: Client, intake: Arc<Intake>) -> Result<Self, SubscribeError> {
        let requests = client.subscribe(layout::PUBLISH_SUBJECT, Some(GROUP))?;
        Ok(Self { client, requests, intake })
    }

    /// Answers requests until `stop`, then those that are on their way: as long as the broker may take to hear of it
    /// they are published, and what is left then is refused, so that its publisher repeats it elsewhere. They are sent
    /// to the broker in the order in which they came; what is in progress at a time is bounded by admission.
    pub async fn run(self, stop: CancellationToken) {
        let Self { client, mut requests, intake } = self;
        let mut in_flight = FuturesUnordered::new();
        let mut left_by = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if left_by.is_none() => {
                    left_by = Some(Instant::now() + LEAVE_TIMEOUT);
                    // What the broker sent before it heard of that still comes, and then the end.
                    requests.drain();
                }
                () = sleep_until(left_by.unwrap_or_else(Instant::now)), if left_by.is_some() => break,
                Some(()) = in_flight.next() => {}
                request = requests.next() => {
                    let Some(request) = request else { break };
                    let reply = request.reply().map(str::to_owned);
                    let taken = meanwhile(take(&intake, request), &mut in_flight, drop).await;
                    in_flight.push(answer(&client, &intake, reply, taken));
                }
            }
        }
        while let Some(Some(request)) = requests.next().now_or_never() {
            let reply = request.reply().map(str::to_owned);
            in_flight.push(answer(&client, &intake, reply, Err(Problem::leaving())));
        }
        while in_flight.next().await.is_some() {}
        if !matches!(timeout(LEAVE_TIMEOUT, client.flush()).await, Ok(Ok(()))) {
            tracing::debug!("cannot flush the answers to publishers");
        }
    }
}

async fn take(intake: &Intake, request: Message) -> Result<PendingEvent<'_>, Problem> {
    let account = account_of(&request);
    let client = account.clone().map_or(share::Client::Unknown, share::Client::Account);
    let admitted = intake.admission.admit(&intake.admission.client(client), request.size())?;
    let context = trace::of_message(&request);
    let event = stored::decode(&request, request.payload_bytes())?;
    intake.take(event, account.as_deref().map_or(Origin::Anonymous, Origin::Account), &context, admitted).await
}

/// What the server says of the account that a request came from.
#[derive(Deserialize)]
struct RequestInfo {
    acc: String,
}

/// The publisher's account. The server writes the header, over whatever the publisher put there; if it is not there
/// exactly once and readable, the account is unknown.
fn account_of(request: &Message) -> Option<String> {
    let headers = request.headers()?;
    // In another case it is the publisher's, not the server's.
    let mut values = headers.iter().filter(|(name, _)| *name == REQUEST_INFO);
    let (Some((_, value)), None) = (values.next(), values.next()) else { return None };
    let RequestInfo { acc } = serde_json::from_str(value).ok()?;
    Some(acc).filter(|account| !account.is_empty())
}

/// Waits for the broker's acknowledgement and passes it on. A message that asks for none has none.
async fn answer(client: &Client, intake: &Intake, reply: Option<String>, taken: Result<PendingEvent<'_>, Problem>) {
    let outcome = match taken {
        Ok(taken) => taken.stored().await,
        Err(problem) => Err(problem),
    };
    if let Err(problem) = &outcome {
        intake.metrics.refused("nats", problem);
    }
    let Some(reply) = reply else { return };
    let payload = reply_of(&outcome);
    let message = Publish { subject: &reply, payload: payload.as_bytes(), ..Publish::default() };
    if let Err(error) = client.publish(&message).await {
        tracing::debug!(%error, "cannot answer a publisher over NATS");
    }
}

/// A publish acknowledgement of JetStream, or an error in its form.
fn reply_of(outcome: &Result<Stored, Problem>) -> String {
    let reply = match outcome {
        Ok(Stored { sequence, duplicate: false }) => json!({"stream": layout::EVENT_STREAM, "seq": sequence}),
        Ok(Stored { sequence, duplicate: true }) => {
            json!({"stream": layout::EVENT_STREAM, "seq": sequence, "duplicate": true})
        }
        Err(problem) => json!({"error": {"code": code_of(problem.status), "description": problem.detail}}),
    };
    reply.to_string()
}

/// Everything that is not an event is 400, for whatever reason.
fn code_of(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => StatusCode::BAD_REQUEST.as_u16(),
        other => other.as_u16(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_wire::nats::HeaderBlock;

    use super::*;

    fn request(headers: Option<&HeaderBlock>) -> Message {
        Message::compose(layout::PUBLISH_SUBJECT, None, headers, b"").unwrap()
    }

    fn reply(outcome: Result<Stored, Problem>) -> String {
        reply_of(&outcome)
    }

    #[test]
    fn an_account_is_what_the_server_said_once() {
        let of = |values: &[&str]| {
            let mut headers = HeaderBlock::new();
            headers.append("nats-request-info", "{}").unwrap();
            for value in values {
                headers.append(REQUEST_INFO, value).unwrap();
            }
            account_of(&request(Some(&headers)))
        };
        assert_eq!(of(&[r#"{"acc":"ABC","rtt":1}"#]).as_deref(), Some("ABC"));
        for other in [&[][..], &["{}"], &["x"], &[r#"{"acc":""}"#], &[r#"{"acc":1}"#], &[r#"{"acc":"A"}"#, "{}"]] {
            assert_eq!(of(other), None, "{other:?}");
        }
        assert_eq!(account_of(&request(None)), None);
    }

    #[test]
    fn answers_are_those_of_a_stream() {
        let stored = |duplicate| Ok(Stored { sequence: 7, duplicate });
        assert_eq!(reply(stored(false)), r#"{"seq":7,"stream":"events"}"#);
        assert_eq!(reply(stored(true)), r#"{"duplicate":true,"seq":7,"stream":"events"}"#);
        assert_eq!(reply(Err(Problem::invalid("no"))), r#"{"error":{"code":400,"description":"no"}}"#);
        let unsupported = tidegate_cloudevents::Invalid::UnsupportedMediaType("no".into());
        assert_eq!(reply(Err(unsupported.into())), r#"{"error":{"code":400,"description":"no"}}"#);
    }
}
