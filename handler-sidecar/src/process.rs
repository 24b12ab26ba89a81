//! One event from hand to settlement: decode, deliver, decide, settle.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use http::HeaderMap;
use tidegate_broker_client::contract::Sidecar;
use tidegate_broker_client::stored;
use tidegate_cloudevents::{Event, http as binding};
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, Span};

use crate::dead_letter::{self, Letter};
use crate::deliver::{self, Attempt, Handler};
use crate::drain::Drain;
use crate::in_hand::InHand;
use crate::metrics::{Metrics, Settled};
use crate::outcome::{self, Answer, Reason, Settle};
use crate::reachability::Reachability;
use crate::{config, trace};

/// An event waits in hand this long for a handler that is not reachable, which covers an ordinary restart of a
/// container; then somebody else may have it.
const UNREACHABLE_PATIENCE: Duration = Duration::from_secs(60);
/// Later, after something that is not the event's fault.
const LATER: Duration = Duration::from_secs(30);

/// What every event needs.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Sidecar,
    /// The connection to the broker.
    pub client: Client,
    /// The handler's container.
    pub handler: Handler,
    /// Whether it takes connections.
    pub reachability: Arc<Reachability>,
    /// Whether the end has come.
    pub drain: Drain,
    /// The instruments.
    pub metrics: Metrics,
}

/// Takes one event to its end.
pub async fn process(context: Arc<Context>, event: InHand) {
    let mut in_flight = InFlight { metrics: &context.metrics, how: Settled::GivenBack };
    context.metrics.came();
    in_flight.how = match stored::decode(event.headers(), event.payload()) {
        Ok(decoded) => {
            let span = trace::process(&context.config, &event, &decoded);
            context.deliver(event, decoded).instrument(span).await
        }
        Err(invalid) => context.keep_aside(event, Reason::Invalid, None, invalid.to_string()).await,
    };
}

/// Counts the event out, however its processing ends.
struct InFlight<'a> {
    metrics: &'a Metrics,
    how: Settled,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.left(self.how);
    }
}

/// How a wait for the handler ended.
enum Waited {
    Reachable,
    Draining,
    TooLong,
}

impl Context {
    async fn deliver(&self, event: InHand, decoded: Event) -> Settled {
        if outcome::never_finishes(event.attempt(), &self.config.delivery.retry) {
            let error = "no delivery of it ever ended".to_owned();
            return self.keep_aside(event, Reason::NeverFinished, None, error).await;
        }
        let decoded = match self.extended(&event, decoded) {
            Ok(decoded) => decoded,
            Err(error) => return self.keep_aside(event, Reason::Invalid, None, error).await,
        };
        loop {
            let (headers, body) = match request_parts(&decoded) {
                Ok(parts) => parts,
                Err(error) => return self.keep_aside(event, Reason::Invalid, None, error).await,
            };
            match self.attempt(&event, headers, body).await {
                Attempt::Answered(answer) => return self.settle(event, answer).await,
                Attempt::Unreachable(why) => self.reachability.lost(&why),
            }
            match self.wait_for_handler(&event).await {
                Waited::Reachable => {}
                Waited::Draining => {
                    event.give_back().await;
                    return Settled::GivenBack;
                }
                Waited::TooLong => {
                    event.retry_in(LATER).await;
                    return Settled::GivenBack;
                }
            }
        }
    }

    /// The event as the handler gets it.
    fn extended(&self, stored: &InHand, event: Event) -> Result<Event, String> {
        trace::with_publish_context(event, stored)
            .and_then(|event| event.with_extension("tidegatetopic", self.config.topic.as_str()))
            .and_then(|event| event.with_extension("tidegateattempt", stored.attempt().to_string()))
            .and_then(|event| event.with_extension("tidegatesequence", stored.sequence().to_string()))
            .map_err(|invalid| invalid.to_string())
    }

    async fn attempt(&self, event: &InHand, headers: HeaderMap, body: Bytes) -> Attempt {
        let limit = self.config.delivery.timeout;
        let began = Instant::now();
        let sent = self.renewed(event, limit, self.handler.send(self.handler.request(headers, body))).await;
        let answer = match sent {
            None => Answer::Timeout(limit),
            Some(Ok(response)) => deliver::answer(response).await,
            Some(Err(Attempt::Answered(answer))) => answer,
            Some(Err(unreachable)) => return unreachable,
        };
        self.metrics.attempted(began.elapsed(), &answer);
        trace::record(&Span::current(), &answer);
        Attempt::Answered(answer)
    }

    async fn wait_for_handler(&self, event: &InHand) -> Waited {
        let wait = async {
            tokio::select! {
                () = self.reachability.reachable() => Waited::Reachable,
                () = self.drain.begun() => Waited::Draining,
            }
        };
        self.renewed(event, UNREACHABLE_PATIENCE, wait).await.unwrap_or(Waited::TooLong)
    }

    /// Works on the event for a limited time, and tells the broker now and then that it does. `None`: the time
    /// is over.
    async fn renewed<T>(&self, event: &InHand, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let every = config::renew_every(&self.config);
        let end = Instant::now() + limit;
        let mut work = std::pin::pin!(work);
        loop {
            let next = Instant::now() + every;
            match timeout_at(next.min(end), &mut work).await {
                Ok(done) => return Some(done),
                Err(_) if next >= end => return None,
                Err(_) => event.renew().await,
            }
        }
    }

    async fn settle(&self, event: InHand, answer: Answer) -> Settled {
        let retry = &self.config.delivery.retry;
        match outcome::decide(&answer, event.attempt(), retry, fastrand::f64()) {
            Settle::Acknowledge => {
                event.acknowledge().await;
                Settled::Acknowledged
            }
            Settle::RetryIn(wait) => {
                let (sequence, attempt) = (event.sequence(), event.attempt());
                tracing::debug!(sequence, attempt, ?wait, answer = %describe(&answer), "the event is retried");
                event.retry_in(wait).await;
                Settled::Retried
            }
            Settle::DeadLetter(reason) => {
                let status = match &answer {
                    Answer::Status { code, .. } => Some(code.as_u16()),
                    Answer::Timeout(_) | Answer::Broken(_) => None,
                };
                self.keep_aside(event, reason, status, describe(&answer)).await
            }
        }
    }

    /// Dead-letters: stored and confirmed, then acknowledged.
    async fn keep_aside(&self, event: InHand, reason: Reason, status: Option<u16>, error: String) -> Settled {
        let letter = Letter { reason, status, error };
        let store = dead_letter::store(&self.client, &self.config.handler, &event, &letter);
        let stored = self.renewed(&event, LATER, store).await;
        let (sequence, attempts, reason) = (event.sequence(), event.attempt(), reason.name());
        let problem = match stored {
            Some(Ok(())) => {
                tracing::warn!(sequence, attempts, reason, error = letter.error, "an event is dead-lettered");
                event.acknowledge().await;
                return Settled::DeadLettered;
            }
            Some(Err(error)) => error.to_string(),
            None => "it is not confirmed".to_owned(),
        };
        tracing::error!(sequence, reason, problem, "a dead letter is not stored: its event is tried again later");
        event.retry_in(LATER).await;
        Settled::GivenBack
    }
}

fn request_parts(event: &Event) -> Result<(HeaderMap, Bytes), String> {
    let (mut headers, body) = binding::encode_binary(event).map_err(|error| error.to_string())?;
    trace::headers(&Span::current(), event, &mut headers);
    Ok((headers, body))
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Status { code, text, .. } => format!("{code}: {text}"),
        Answer::Timeout(limit) => format!("no answer within {limit:?}"),
        Answer::Broken(error) => error.clone(),
    }
}
