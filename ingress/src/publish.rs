//! From an event to the broker's acknowledgement.

use std::sync::Arc;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::header::{NATS_EXPECTED_STREAM, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::{self, message::PublishMessage};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tidegate_broker_client::contract::{self, Routing};
use tidegate_broker_client::layout;
use tidegate_cloudevents::Event;
use tidegate_telemetry::{Instrument as _, Server};
use tokio::time::{Instant, timeout_at};

use crate::alarm::Alarm;
use crate::config::Limits;
use crate::meanwhile::meanwhile;
use crate::message::{Message, Origin};
use crate::metrics::Metrics;
use crate::outcome::{self, Failure, Receipt, Stored};
use crate::trace::{self, Context};

/// Publishes events of one topic.
pub struct Publisher {
    client: Client,
    /// `None` on a Direct topic: events go to whatever subscribes, and there is no acknowledgement.
    stream: Option<jetstream::Context>,
    place: trace::Place,
    limits: Limits,
    metrics: Arc<Metrics>,
    alarm: Option<Alarm>,
}

/// Not every event of a request was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The worst of the failures.
    pub failure: Failure,
    /// Events that were stored nevertheless.
    pub stored: usize,
}

/// An event on its way to the broker.
pub struct Sent<'a> {
    publisher: &'a Publisher,
    acknowledgement: Option<PublishAckFuture>,
    trace: trace::Publish,
    started: Instant,
}

impl Publisher {
    /// A publisher of a topic over this connection.
    pub fn new(client: Client, config: &contract::Ingress, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let stream = (config.routing == Routing::Queued).then(|| {
            ContextBuilder::new()
                .timeout(limits.publish)
                .ack_timeout(limits.publish)
                .max_ack_inflight(limits.publishes)
                .backpressure_on_inflight(true)
                .build(client.clone())
        });
        let alarm = Alarm::new(client.clone(), config);
        let server = config.servers.first().and_then(|url| Server::parse(url));
        let place = trace::Place::new(&config.topic, server);
        Self { client, stream, place, limits, metrics, alarm }
    }

    /// Publishes all events of a request and returns when the broker has acknowledged them.
    ///
    /// They are sent one after the other, so that the stream keeps their order; the acknowledgements of several
    /// are waited for together. After a failure no further one is sent.
    ///
    /// # Errors
    /// Some are not known to be stored.
    pub async fn publish_all(&self, events: &[Event], request: &Context) -> Result<Receipt, Incomplete> {
        let mut in_flight = FuturesUnordered::new();
        let (mut receipt, mut worst) = (Receipt::default(), None);
        let mut settle = |outcome: Result<Stored, Failure>| {
            match outcome {
                Ok(stored) => receipt.add(stored),
                Err(failure) => worst = worst.max(Some(failure)),
            }
            worst.is_none()
        };
        for event in events {
            if in_flight.len() >= self.limits.publishes_per_request
                && let Some(outcome) = in_flight.next().await
                && !settle(outcome)
            {
                break;
            }
            let sending = self.send(event, Origin::Anonymous, request);
            let sent = meanwhile(sending, &mut in_flight, |outcome| {
                settle(outcome);
            });
            match sent.await {
                Ok(sent) => in_flight.push(sent.stored()),
                Err(failure) => {
                    settle(Err(failure));
                    break;
                }
            }
        }
        while let Some(outcome) = in_flight.next().await {
            settle(outcome);
        }
        worst.map_or(Ok(receipt), |failure| Err(Incomplete { failure, stored: receipt.events }))
    }

    /// Sends one event, as soon as not too many others are in flight.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn send(&self, event: &Event, origin: Origin<'_>, request: &Context) -> Result<Sent<'_>, Failure> {
        let started = Instant::now();
        let mut message = Message::of(event, origin);
        let trace = trace::Publish::start(&self.place, event, message.partition, request);
        trace.inject(&mut message.headers);
        let handing_over = timeout_at(started + self.limits.publish, self.hand_over(message));
        match handing_over.instrument(trace.span.clone()).await.unwrap_or(Err(Failure::Timeout)) {
            Ok(acknowledgement) => Ok(Sent { publisher: self, acknowledgement, trace, started }),
            Err(failure) => {
                self.ended(&trace, started, Err(failure));
                Err(failure)
            }
        }
    }

    /// Gives a message to the client.
    async fn hand_over(&self, message: Message) -> Result<Option<PublishAckFuture>, Failure> {
        // Without a connection the client would keep the message and send it later, after we said no.
        if self.client.connection_state() != State::Connected {
            return Err(Failure::Unavailable);
        }
        let Message { subject, message_id, mut headers, payload, .. } = message;
        let Some(stream) = &self.stream else {
            let publish = self.client.publish_with_headers(subject, headers, payload);
            return publish.await.map(|()| None).map_err(|error| outcome::of_client_error(&error));
        };
        headers.insert(NATS_MESSAGE_ID, message_id);
        headers.insert(NATS_EXPECTED_STREAM, layout::EVENT_STREAM);
        let publish = PublishMessage::build().headers(headers).payload(payload);
        let sent = stream.send_publish(subject, publish).await;
        sent.map(Some).map_err(|error| outcome::of_publish_error(&error))
    }

    fn ended(&self, trace: &trace::Publish, started: Instant, outcome: Result<Stored, Failure>) {
        trace.end(outcome.map(drop));
        self.metrics.published(outcome.map(drop), started.elapsed());
    }
}

impl Sent<'_> {
    /// Waits for the broker's acknowledgement. On a Direct topic, which has none, for the client to have
    /// written everything to its connection.
    ///
    /// # Errors
    /// The event is not known to be stored.
    pub async fn stored(self) -> Result<Stored, Failure> {
        let Self { publisher, acknowledgement, trace, started } = self;
        let waiting = async {
            match acknowledgement {
                Some(acknowledgement) => match acknowledgement.await {
                    Ok(acknowledgement) => outcome::of_acknowledgement(&acknowledgement),
                    Err(error) => Err(outcome::of_publish_error(&error)),
                },
                None => publisher.client.flush().await.map(|()| Stored::default()).map_err(|_| Failure::Unavailable),
            }
        };
        let waiting = timeout_at(started + publisher.limits.publish, waiting).instrument(trace.span.clone());
        let outcome = waiting.await.unwrap_or(Err(Failure::Timeout));
        publisher.ended(&trace, started, outcome);
        if let (Err(failure), Some(alarm)) = (outcome, &publisher.alarm) {
            alarm.raise(failure).await;
        }
        outcome
    }
}
