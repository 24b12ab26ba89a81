//! Events over NATS: a publisher sends a request to one subject, the answer is like that of a stream, so that the
//! `publish` of every client library's JetStream takes it for one.
//!
//! A message is an event by the CloudEvents NATS binding. None of its headers reaches the stream but as an attribute,
//! so no publisher can use the broker's own (`Nats-Msg-Id`, `Nats-Rollup`, …).
//!
//! The subject says which publisher it is, and of which topic: its account imports that subject and no other. The topic's
//! rules say what it may publish; what it may not is answered 403.
//!
//! The listener has a connection of its own, so that a flood of requests does not delay acknowledgements. A request
//! with malformed headers is answered 400, like every message that is not an event.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use http::StatusCode;
use serde_json::json;
use tidegate_broker_client::layout::{self, ingress};
use tidegate_broker_client::stored;
use tidegate_cloudevents::Event;
use tidegate_publisher_auth::Publisher;
use tidegate_wire::nats::{Client, Message, Publish, SubscribeError, Subscriber};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::turns::{Turn, Turns};
use crate::admission::Admitted;
use crate::intake::Intake;
use crate::outcome::Stored;
use crate::problem::Problem;
use crate::share;
use crate::topics::Topics;
use crate::trace;

mod turns;

/// Each request goes to one of the broker's ingresses.
const GROUP: &str = "ingress";
/// The name in metrics.
const PROTOCOL: &str = "nats";
/// The broker hears of the end within this time, or it has no connection.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Takes events over NATS.
pub struct Listener {
    client: Client,
    requests: Subscriber,
    topics: Arc<Topics>,
}

/// A request: whose it is to which topic, if there is one, and its event, or why that is not taken.
type Request = (Option<(Arc<Intake>, Publisher)>, Result<WaitingEvent, Problem>);

/// An event that waits for its turn, with its share of the bounds.
struct WaitingEvent {
    event: Event,
    context: trace::Context,
    admitted: Admitted,
    turn: Turn,
    /// When it came: the wait is a part of a publish's time.
    started: Instant,
}

impl Listener {
    /// Begins to listen over this connection.
    ///
    /// # Errors
    /// None for the subject of publishers.
    pub fn new(client: Client, topics: Arc<Topics>) -> Result<Self, SubscribeError> {
        let requests = client.subscribe(ingress::PUBLISHES, Some(GROUP))?;
        Ok(Self { client, requests, topics })
    }

    /// Answers requests until `stop`, then those that are on their way: as long as the broker may take to hear of it
    /// they are published, and what is left then is refused, so that its publisher repeats it elsewhere. Those for a
    /// topic are sent to the broker in the order in which they came, and wait for no other topic's; what is in progress
    /// at a time is bounded by admission.
    pub async fn run(self, stop: CancellationToken) {
        let Self { client, mut requests, topics } = self;
        let (mut in_flight, mut turns) = (FuturesUnordered::new(), Turns::default());
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
                    let request = receive(&topics, &mut turns, request);
                    in_flight.push(answer(&client, &topics, reply, request));
                }
            }
        }
        while let Some(Some(request)) = requests.next().now_or_never() {
            let reply = request.reply().map(str::to_owned);
            in_flight.push(answer(&client, &topics, reply, (None, Err(Problem::leaving()))));
        }
        while in_flight.next().await.is_some() {}
        if !matches!(timeout(LEAVE_TIMEOUT, client.flush()).await, Ok(Ok(()))) {
            tracing::debug!("cannot flush the answers to publishers");
        }
    }
}

/// Takes a request on, or says why not, without waiting for anything.
fn receive(topics: &Topics, turns: &mut Turns, request: Message) -> Request {
    let started = Instant::now();
    let known = ingress::publisher_of(request.subject());
    let found = known.and_then(|(topic, name)| {
        let intake = topics.current().by_path(&topic.to_string()).cloned();
        intake.map(|intake| (intake, Publisher::nats(name)))
    });
    let Some((intake, publisher)) = found else { return (None, Err(Problem::no_topic())) };
    let mut read = || {
        let admission = &topics.shared.admission;
        let client = admission.client(share::Client::Publisher(request.subject().to_owned()));
        let admitted = admission.admit(&client, &intake.share, request.size())?;
        intake.permission(&publisher)?;
        let context = trace::of_message(&request);
        let event = stored::decode(&request, request.payload_bytes())?;
        Ok(WaitingEvent { event, context, admitted, turn: turns.next(&intake.id), started })
    };
    let event = read();
    (Some((intake, publisher)), event)
}

/// Publishes an event when its turn has come, and passes the broker's acknowledgement on. A message that asks for no
/// answer has none.
async fn answer(client: &Client, topics: &Topics, reply: Option<String>, (topic, event): Request) {
    let outcome = match (&topic, event) {
        (Some((intake, publisher)), Ok(event)) => publish(intake, publisher, event).await,
        (_, Err(problem)) => Err(problem),
        (None, Ok(_)) => Err(Problem::no_topic()),
    };
    if let Some((topic, publisher)) = &topic {
        topic.audit.record(Some(publisher), outcome.as_ref().map(|_| 1));
    }
    if let Err(problem) = &outcome {
        match topic {
            Some((topic, _)) => topic.metrics.refused(PROTOCOL, problem),
            None => topics.shared.instruments.without_topic(PROTOCOL, problem),
        }
    }
    let Some(reply) = reply else { return };
    let payload = reply_of(&outcome);
    let message = Publish { subject: &reply, payload: payload.as_bytes(), ..Publish::default() };
    if let Err(error) = client.publish(&message).await {
        tracing::debug!(%error, "cannot answer a publisher over NATS");
    }
}

/// A turn takes no longer than the time of its publish, which began no later than those of the turns after it.
async fn publish(intake: &Intake, publisher: &Publisher, event: WaitingEvent) -> Result<Stored, Problem> {
    let WaitingEvent { event, context, admitted, mut turn, started } = event;
    turn.come().await;
    let taken = intake.take(event, publisher, &context, admitted, started).await;
    drop(turn);
    taken?.stored().await
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
    use super::*;

    fn reply(outcome: Result<Stored, Problem>) -> String {
        reply_of(&outcome)
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
