//! From an event to the broker's acknowledgement.

use std::sync::Arc;

use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture};
use async_nats::jetstream::{self, message::PublishMessage};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use opentelemetry::Context;
use tidegate_broker_client::{layout, stored};
use tidegate_cloudevents::Event;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument as _;

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::outcome::{self, Failure};
use crate::trace;

/// Publishes events of one topic.
pub struct Publisher {
    client: Client,
    jetstream: jetstream::Context,
    topic: String,
    limits: Limits,
    metrics: Arc<Metrics>,
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
struct Sent {
    acknowledgement: PublishAckFuture,
    trace: trace::Publish,
    started: Instant,
}

impl Publisher {
    /// A publisher of this topic over this connection.
    pub fn new(client: Client, topic: String, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let jetstream = ContextBuilder::new()
            .timeout(limits.publish)
            .ack_timeout(limits.publish)
            .max_ack_inflight(limits.publishes)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Self { client, jetstream, topic, limits, metrics }
    }

    /// Publishes all events of a request and returns when the broker has acknowledged them.
    ///
    /// They are sent one after the other, so that the stream keeps their order; the acknowledgements of several
    /// are waited for together. After a failure no further one is sent.
    ///
    /// # Errors
    /// Some are not known to be stored.
    pub async fn publish_all(&self, events: &[Event], request: &Context) -> Result<(), Incomplete> {
        let mut in_flight = FuturesUnordered::new();
        let (mut stored, mut worst) = (0, None);
        let mut settle = |outcome: Result<(), Failure>| {
            match outcome {
                Ok(()) => stored += 1,
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
            match self.send(event, request).await {
                Ok(sent) => in_flight.push(self.acknowledged(sent)),
                Err(failure) => {
                    settle(Err(failure));
                    break;
                }
            }
        }
        while let Some(outcome) = in_flight.next().await {
            settle(outcome);
        }
        worst.map_or(Ok(()), |failure| Err(Incomplete { failure, stored }))
    }

    /// Sends one event.
    async fn send(&self, event: &Event, request: &Context) -> Result<Sent, Failure> {
        let started = Instant::now();
        let message_id = layout::message_id(event.source(), event.id());
        let partition = layout::partition(partition_key(event));
        let trace = trace::Publish::start(&self.topic, event, &message_id, partition, request);
        let subject = layout::event_subject(partition, event.event_type());
        let (mut headers, payload) = stored::encode(event);
        trace.inject(&mut headers);
        let message = PublishMessage::build()
            .headers(headers)
            .payload(payload)
            .message_id(message_id)
            .expected_stream(layout::EVENT_STREAM);
        let sending = self.hand_over(subject, message, started + self.limits.publish);
        match sending.instrument(trace.span.clone()).await {
            Ok(acknowledgement) => Ok(Sent { acknowledgement, trace, started }),
            Err(failure) => {
                self.ended(&trace, started, Err(failure));
                Err(failure)
            }
        }
    }

    /// Gives a message to the client, as soon as not too many others are in flight.
    async fn hand_over(
        &self,
        subject: String,
        message: PublishMessage,
        deadline: Instant,
    ) -> Result<PublishAckFuture, Failure> {
        // Without a connection the client would keep the message and send it later, after we said no.
        if self.client.connection_state() != State::Connected {
            return Err(Failure::Unavailable);
        }
        let sent = timeout_at(deadline, self.jetstream.send_publish(subject, message)).await;
        sent.map_err(|_| Failure::Timeout)?.map_err(|error| outcome::of_publish_error(&error))
    }

    /// Waits for the broker's acknowledgement.
    async fn acknowledged(&self, sent: Sent) -> Result<(), Failure> {
        let Sent { acknowledgement, trace, started } = sent;
        let waiting = timeout_at(started + self.limits.publish, acknowledgement.into_future());
        let outcome = match waiting.instrument(trace.span.clone()).await {
            Ok(Ok(acknowledgement)) => outcome::of_acknowledgement(&acknowledgement),
            Ok(Err(error)) => Err(outcome::of_publish_error(&error)),
            Err(_) => Err(Failure::Timeout),
        };
        self.ended(&trace, started, outcome);
        outcome
    }

    fn ended(&self, trace: &trace::Publish, started: Instant, outcome: Result<(), Failure>) {
        trace.end(outcome);
        self.metrics.published(outcome, started.elapsed());
    }
}

/// What decides an event's partition: the `partitionkey` extension, else `subject`, else `id`.
fn partition_key(event: &Event) -> &str {
    let named = |name| event.attribute(name).filter(|value| !value.is_empty());
    named("partitionkey").or_else(|| named("subject")).unwrap_or_else(|| event.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_key_falls_back() {
        let event = Event::builder("1", "/s", "t").build().unwrap();
        assert_eq!(partition_key(&event), "1");
        let event = Event::builder("1", "/s", "t").attribute("subject", "sensor").build().unwrap();
        assert_eq!(partition_key(&event), "sensor");
        let event = event.with_extension("partitionkey", "key").unwrap();
        assert_eq!(partition_key(&event), "key");
    }
}
