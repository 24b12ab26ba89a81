//! What happens to events whichever way they come: over HTTP, MQTT or NATS.

use std::sync::Arc;

use tidegate_broker_client::message_id::TopicKey;
use tidegate_cloudevents::Event;

use crate::admission::{Admission, Admitted};
use crate::config::{Limits, request_limit};
use crate::message::Origin;
use crate::metrics::Metrics;
use crate::outcome::{Receipt, Stored};
use crate::problem::Problem;
use crate::publish::{Publisher, Sent};
use crate::trace::Context;

/// The rules of all publishers of a topic: bounds, sizes, deduplication.
pub struct Intake {
    /// Which request is taken on.
    pub admission: Arc<Admission>,
    /// Bounds in time and number.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// With which the message ids of handlers are verified.
    pub message_ids: TopicKey,
    publisher: Publisher,
    max_event_size: usize,
}

/// An event that was given to the broker, with its share of the bounds.
pub struct Taken<'a> {
    sent: Sent<'a>,
    _admitted: Admitted,
}

impl Intake {
    /// With this publisher, for events of at most this many bytes.
    pub fn new(
        publisher: Publisher,
        message_ids: TopicKey,
        limits: Limits,
        metrics: Arc<Metrics>,
        max_event_size: usize,
    ) -> Self {
        let admission = Arc::new(Admission::new(&limits, request_limit(max_event_size)));
        Self { admission, limits, metrics, message_ids, publisher, max_event_size }
    }

    /// Publishes the events of a request, and waits for the broker. `origin` is that of a single event; those of a
    /// batch are anonymous.
    ///
    /// # Errors
    /// Not all events are known to be stored.
    pub async fn publish(&self, events: &[Event], origin: Origin<'_>, request: &Context) -> Result<Receipt, Problem> {
        events.iter().try_for_each(|event| self.check_size(event))?;
        if let [event] = events {
            return self
                .send(event, origin, request)
                .await?
                .stored()
                .await
                .map(Receipt::from)
                .map_err(|failure| Problem::not_stored(failure, 0, 1));
        }
        let published = self.publisher.publish_all(events, request).await;
        published.map_err(|incomplete| Problem::not_stored(incomplete.failure, incomplete.stored, events.len()))
    }

    /// Gives one event to the broker. What is taken first is stored first.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn take(
        &self,
        event: &Event,
        origin: Origin<'_>,
        request: &Context,
        admitted: Admitted,
    ) -> Result<Taken<'_>, Problem> {
        self.check_size(event)?;
        Ok(Taken { sent: self.send(event, origin, request).await?, _admitted: admitted })
    }

    async fn send(&self, event: &Event, origin: Origin<'_>, request: &Context) -> Result<Sent<'_>, Problem> {
        let sent = self.publisher.send(event, origin, request).await;
        sent.map_err(|failure| Problem::not_stored(failure, 0, 1))
    }

    fn check_size(&self, event: &Event) -> Result<(), Problem> {
        match event.size() {
            size if size > self.max_event_size => Err(Problem::event_too_large(event.id(), size, self.max_event_size)),
            _ => Ok(()),
        }
    }
}

impl Taken<'_> {
    /// Waits for the broker's acknowledgement.
    ///
    /// # Errors
    /// The event is not known to be stored.
    pub async fn stored(self) -> Result<Stored, Problem> {
        self.sent.stored().await.map_err(|failure| Problem::not_stored(failure, 0, 1))
    }
}
