//! What happens to events whichever way they come: over HTTP, MQTT or NATS.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use tidegate_broker_client::contract::{self, ServedTopic};
use tidegate_broker_client::message_id::TopicKey;
use tidegate_broker_client::{TopicId, later};
use tidegate_cloudevents::Event;
use tidegate_publisher_auth::{Permission, Publisher, Rules};
use tokio::time::Instant;

use crate::admission::{Admitted, TopicShare};
use crate::audit::Audit;
use crate::delay::{self, Delayer, DeliveryTime, Timed};
use crate::message::Origin;
use crate::metrics::Metrics;
use crate::outcome::{Receipt, Stored};
use crate::problem::Problem;
use crate::publish::{PendingPublish, TopicPublisher};
use crate::topics::Engine;
use crate::trace::Context;

/// Events of one request that are stored until their times, at a time.
const DELAYED_AT_A_TIME: usize = 32;

/// A topic as its publishers meet it: rights, bounds, sizes, deduplication.
pub struct Intake {
    /// Which topic.
    pub id: TopicId,
    /// What its requests may take of what is bounded.
    pub share: Arc<TopicShare>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is counted of each publisher.
    pub audit: Arc<Audit>,
    /// With which the message ids of handlers are verified.
    pub message_ids: Arc<TopicKey>,
    /// Which state of it this is, in the operator's words.
    pub revision: String,
    /// The audience of tokens for it.
    pub audience: String,
    rules: Rules,
    publisher: Arc<TopicPublisher>,
    /// `None` on a Direct topic, which stores nothing.
    delayer: Option<Arc<Delayer>>,
    max_event_size: usize,
}

/// The events of a request are stored.
pub struct Accepted {
    /// How.
    pub receipt: Receipt,
    /// Of a single event that is to be published later: by what it can be cancelled.
    pub cancel_key: Option<String>,
}

/// An event that was given to the broker, with its share of the bounds.
pub struct PendingEvent {
    way: OutcomeSource,
    _admitted: Admitted,
}

enum OutcomeSource {
    /// It is on its way to the stream of events.
    Now(PendingPublish),
    /// It is stored until its time.
    Later(BoxFuture<'static, Result<Stored, Problem>>),
}

impl Intake {
    /// The topic of this description, which works with this engine.
    pub fn new(topic: &ServedTopic, engine: &Engine, share: Arc<TopicShare>) -> Self {
        let Engine { publisher, delayer, message_ids, metrics, audit } = engine.clone();
        let ServedTopic { id, revision, max_event_size, .. } = topic;
        let (id, revision, max_event_size) = (id.clone(), revision.clone(), *max_event_size);
        let (audience, rules) = (contract::audience(&id), Rules::new(&topic.publishers));
        Self { id, share, metrics, audit, message_ids, revision, audience, rules, publisher, delayer, max_event_size }
    }

    /// What this publisher may publish: known before anything is read of what it sends.
    ///
    /// # Errors
    /// It may publish nothing. Whoever showed nothing is asked who they are.
    pub fn permission(&self, publisher: &Publisher) -> Result<Permission, Problem> {
        self.rules.permission(publisher).ok_or_else(|| refusal(publisher))
    }

    /// Publishes the events of a request, now or at their times, and waits for the broker. Either all of them are
    /// permitted, or none is published. The origin of a handler is that of a single event.
    ///
    /// # Errors
    /// Not all events are known to be stored.
    pub async fn publish(
        &self,
        events: Vec<Event>,
        permission: &Permission,
        origin: Origin<'_>,
        request: &Context,
    ) -> Result<Accepted, Problem> {
        events.iter().try_for_each(|event| self.check(event, permission))?;
        let all = events.len();
        let (now, later) = delay::split(events)?;
        if later.is_empty() {
            return Ok(Accepted { receipt: self.publish_now(&now, 0, origin, request).await?, cancel_key: None });
        }
        let keys = self.delay(later, origin, request, all).await?;
        let mut receipt = if now.is_empty() {
            Receipt::default()
        } else {
            self.publish_now(&now, keys.len(), origin, request).await?
        };
        keys.iter().for_each(|_| receipt.add(Stored::default()));
        Ok(Accepted { receipt, cancel_key: keys.into_iter().next().filter(|_| all == 1) })
    }

    /// Publishes events at once; `delayed` others of their request are stored until their times.
    async fn publish_now(
        &self,
        events: &[Event],
        delayed: usize,
        origin: Origin<'_>,
        request: &Context,
    ) -> Result<Receipt, Problem> {
        let all = events.len() + delayed;
        if let ([event], 0) = (events, delayed) {
            let stored = self.send(event, origin, request, Instant::now()).await?.stored().await;
            return stored.map(Receipt::from).map_err(|failure| Problem::not_stored(failure, 0, 1));
        }
        let published = self.publisher.publish_all(events, origin, request).await;
        published.map_err(|incomplete| Problem::not_stored(incomplete.failure, delayed + incomplete.stored, all))
    }

    /// Stores events of a request until their times, in any order. Either all of their times are good, or nothing is
    /// stored. Answers with their keys.
    async fn delay(
        &self,
        events: Vec<Timed>,
        origin: Origin<'_>,
        request: &Context,
        all: usize,
    ) -> Result<Vec<String>, Problem> {
        let delayer = self.delayer()?;
        delayer.check(events.iter().map(|(_, at)| *at)).await?;
        let store = |(event, at): Timed| delayer.store(delayer.prepare(&event, at, origin, request));
        let stored: Vec<_> = stream::iter(events.into_iter().map(store)).buffered(DELAYED_AT_A_TIME).collect().await;
        let (mut keys, mut problem) = (Vec::new(), None);
        for outcome in stored {
            match outcome {
                Ok(key) => keys.push(key),
                Err(why) => problem = problem.or(Some(why)),
            }
        }
        match problem {
            None => Ok(keys),
            Some(problem) => Err(problem.in_batch(keys.len(), all)),
        }
    }

    /// Gives one event to the broker, in the time of a publish that began at `started`. What is taken first is stored
    /// first, but for what is to be published later.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn take(
        &self,
        mut event: Event,
        publisher: &Publisher,
        request: &Context,
        admitted: Admitted,
        started: Instant,
    ) -> Result<PendingEvent, Problem> {
        self.check(&event, &self.permission(publisher)?)?;
        let origin = Origin::of(publisher);
        let Some(at) = event.take_extension(later::ATTRIBUTE) else {
            return Ok(PendingEvent {
                way: OutcomeSource::Now(self.send(&event, origin, request, started).await?),
                _admitted: admitted,
            });
        };
        let (at, delayer) = (DeliveryTime::parse(&at)?, Arc::clone(self.delayer()?));
        let delayed = delayer.prepare(&event, at, origin, request);
        let storing = async move {
            delayer.check([at].into_iter()).await?;
            delayer.store(delayed).await.map(|_| Stored::default())
        };
        Ok(PendingEvent { way: OutcomeSource::Later(storing.boxed()), _admitted: admitted })
    }

    /// Cancels an event that waits for its time.
    ///
    /// # Errors
    /// There is none, or the broker did not say.
    pub async fn cancel(&self, key: &str) -> Result<(), Problem> {
        match &self.delayer {
            Some(delayer) if delayer.cancel(key).await? => Ok(()),
            _ => Err(Problem::not_delayed()),
        }
    }

    fn delayer(&self) -> Result<&Arc<Delayer>, Problem> {
        self.delayer.as_ref().ok_or_else(Problem::no_delayed_events)
    }

    async fn send(
        &self,
        event: &Event,
        origin: Origin<'_>,
        request: &Context,
        started: Instant,
    ) -> Result<PendingPublish, Problem> {
        let sent = self.publisher.send(event, origin, request, started).await;
        sent.map_err(|failure| Problem::not_stored(failure, 0, 1))
    }

    fn check(&self, event: &Event, permission: &Permission) -> Result<(), Problem> {
        permission.check(event.source(), event.event_type()).map_err(Problem::event_not_allowed)?;
        match event.size() {
            size if size > self.max_event_size => Err(Problem::event_too_large(event.id(), size, self.max_event_size)),
            _ => Ok(()),
        }
    }
}

/// Why a publisher may publish nothing to a topic, whether there is such a topic or not.
pub fn refusal(publisher: &Publisher) -> Problem {
    if publisher.is_anonymous() { Problem::unauthenticated(None) } else { Problem::not_allowed(publisher) }
}

impl PendingEvent {
    /// Waits for the broker's acknowledgement.
    ///
    /// # Errors
    /// The event is not known to be stored.
    pub async fn stored(self) -> Result<Stored, Problem> {
        match self.way {
            OutcomeSource::Now(sent) => sent.stored().await.map_err(|failure| Problem::not_stored(failure, 0, 1)),
            OutcomeSource::Later(storing) => storing.await,
        }
    }
}
