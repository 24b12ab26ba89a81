//! From an event to the broker's acknowledgement.

use std::sync::Arc;

use tidegate_broker_client::contract::{self, Routing};
use tidegate_cloudevents::Event;
use tidegate_wire::nats::{Client, Link};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::alarm::Alarm;
use crate::commit::{Committer, Outcome, PendingOutcome};
use crate::config::Limits;
use crate::message::{Message, Origin};
use crate::metrics::Metrics;
use crate::outcome::{self, Failure, Receipt, Stored};
use crate::trace::{self, Context};

/// Publishes events of one topic.
pub struct Publisher {
    client: Client,
    /// `None` on a Direct topic: events go to whatever subscribes, and there is no acknowledgement.
    committer: Option<Committer>,
    place: trace::Destination,
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
pub struct PendingPublish<'a> {
    publisher: &'a Publisher,
    way: OutcomeSource,
    begun: PublishStart,
}

/// How its outcome becomes known.
enum OutcomeSource {
    /// The committer says it.
    Stream(PendingOutcome),
    /// On a Direct topic: when the broker has taken in what the request had.
    Direct(Arc<SharedFlush>),
    /// It is known already.
    Known(Outcome),
}

/// One flush for all events of a request, made by the first of them that waits for it.
struct SharedFlush {
    /// The connection that they were given to.
    link: Link,
    result: OnceCell<Result<(), Failure>>,
}

/// A publish that has begun.
struct PublishStart {
    trace: trace::Publish,
    started: Instant,
}

impl Publisher {
    /// A publisher of a topic over this connection.
    pub fn new(client: Client, config: &contract::Ingress, limits: Limits, metrics: Arc<Metrics>) -> Self {
        let committer =
            (config.routing == Routing::Queued).then(|| Committer::new(client.clone(), config.flush, &limits));
        let alarm = Alarm::new(client.clone(), config);
        let place = trace::Destination::of(config);
        Self { client, committer, place, limits, metrics, alarm }
    }

    /// Publishes all events of a request and returns when the broker has acknowledged them.
    ///
    /// They are stored in their order. After a failure no further one is sent.
    ///
    /// # Errors
    /// Some are not known to be stored.
    pub async fn publish_all(&self, events: &[Event], request: &Context) -> Result<Receipt, Incomplete> {
        let (mut receipt, mut worst) = (Receipt::default(), None);
        let most = self.committer.as_ref().map_or(usize::MAX, Committer::most);
        for some in events.chunks(most) {
            let sent = match self.send_all(some, Origin::Anonymous, request).await {
                Ok(sent) => sent,
                Err(failure) => {
                    return Err(Incomplete {
                        failure: worst.max(Some(failure)).unwrap_or(failure),
                        stored: receipt.events,
                    });
                }
            };
            for sent in sent {
                match sent.outcome().await {
                    Outcome::Stored(stored) => receipt.add(stored),
                    Outcome::Failed(failure) => worst = worst.max(Some(failure)),
                    Outcome::Skipped => {}
                }
            }
            if worst.is_some() {
                break;
            }
        }
        worst.map_or(Ok(receipt), |failure| Err(Incomplete { failure, stored: receipt.events }))
    }

    /// Sends one event, as soon as not too many others are under way.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn send(
        &self,
        event: &Event,
        origin: Origin<'_>,
        request: &Context,
    ) -> Result<PendingPublish<'_>, Failure> {
        let mut sent = self.send_all(std::slice::from_ref(event), origin, request).await?;
        sent.pop().ok_or(Failure::Unavailable)
    }

    /// Sends events of one request, as soon as not too many others are under way.
    async fn send_all(
        &self,
        events: &[Event],
        origin: Origin<'_>,
        request: &Context,
    ) -> Result<Vec<PendingPublish<'_>>, Failure> {
        let (mut begun, mut messages) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
        for event in events {
            let started = Instant::now();
            let mut message = Message::of(event, origin);
            let trace = trace::Publish::start(&self.place, event, message.partition, request);
            trace.inject(&mut message.headers);
            messages.push(message);
            begun.push(PublishStart { trace, started });
        }
        match self.hand_over(messages).await {
            Ok(ways) => {
                let sent = begun.into_iter().zip(ways);
                Ok(sent.map(|(begun, way)| PendingPublish { publisher: self, way, begun }).collect())
            }
            Err(failure) => {
                begun.iter().for_each(|begun| self.ended(begun, Err(failure)));
                Err(failure)
            }
        }
    }

    /// Gives messages to the committer, or to the client where nothing is stored.
    async fn hand_over(&self, mut messages: Vec<Message>) -> Result<Vec<OutcomeSource>, Failure> {
        let link = self.client.current_link();
        if !link.connected {
            return Err(Failure::Unavailable);
        }
        if let Some(committer) = &self.committer {
            messages.iter_mut().try_for_each(Message::expect_stream).map_err(|_| Failure::Refused)?;
            return Ok(committer.submit(messages).await?.into_iter().map(OutcomeSource::Stream).collect());
        }
        let deadline = Instant::now() + self.limits.publish;
        let flush = Arc::new(SharedFlush { link, result: OnceCell::new() });
        let mut ways = Vec::with_capacity(messages.len());
        let mut failed = false;
        for message in messages {
            if failed {
                ways.push(OutcomeSource::Known(Outcome::Skipped));
                continue;
            }
            let given = timeout_at(deadline, self.give(&message)).await.unwrap_or(Err(Failure::Timeout));
            failed = given.is_err();
            let way = given.map(|()| OutcomeSource::Direct(Arc::clone(&flush)));
            ways.push(way.unwrap_or_else(|failure| OutcomeSource::Known(Outcome::Failed(failure))));
        }
        Ok(ways)
    }

    /// Gives a message to the client, where nothing is stored.
    async fn give(&self, message: &Message) -> Result<(), Failure> {
        self.client.publish(&message.publish()).await.map_err(|error| outcome::of_client_error(&error))
    }

    /// Waits until the broker has taken in what it was given over this connection. What was lost with it is not on
    /// the next one.
    async fn flushed(&self, link: Link) -> Result<(), Failure> {
        match self.client.flush().await {
            Ok(()) if self.client.current_link() == link => Ok(()),
            Ok(()) | Err(_) => Err(Failure::Unavailable),
        }
    }

    /// Stores an event whose time has come. It was counted, and has its trace, since it was published.
    ///
    /// # Errors
    /// It is not known to be stored.
    pub async fn move_on(&self, message: Message) -> Result<Stored, Failure> {
        let moved = async {
            let way = self.hand_over(vec![message]).await?.pop();
            match way {
                Some(OutcomeSource::Stream(submitted)) => Ok(submitted.outcome().await),
                Some(OutcomeSource::Direct(_) | OutcomeSource::Known(_)) | None => Err(Failure::Unavailable),
            }
        };
        let failure = match moved.await {
            Ok(Outcome::Stored(stored)) => return Ok(stored),
            Ok(Outcome::Failed(failure)) | Err(failure) => failure,
            Ok(Outcome::Skipped) => Failure::Unavailable,
        };
        if let Some(alarm) = &self.alarm {
            alarm.raise(failure).await;
        }
        Err(failure)
    }

    fn ended(&self, PublishStart { trace, started }: &PublishStart, outcome: Result<Stored, Failure>) {
        trace.end(outcome.map(drop));
        self.metrics.published(outcome.map(drop), started.elapsed());
    }
}

impl PendingPublish<'_> {
    /// Waits for the broker's acknowledgement. On a Direct topic, which has none, for the broker to have taken in
    /// everything that was sent.
    ///
    /// # Errors
    /// The event is not known to be stored.
    pub async fn stored(self) -> Result<Stored, Failure> {
        match self.outcome().await {
            Outcome::Stored(stored) => Ok(stored),
            Outcome::Failed(failure) => Err(failure),
            // Of an event on its own nothing else can have failed.
            Outcome::Skipped => Err(Failure::Unavailable),
        }
    }

    async fn outcome(self) -> Outcome {
        let Self { publisher, way, begun } = self;
        let outcome = match way {
            OutcomeSource::Stream(submitted) => submitted.outcome().await,
            OutcomeSource::Known(outcome) => outcome,
            OutcomeSource::Direct(flush) => {
                let flushed = flush.result.get_or_init(|| publisher.flushed(flush.link));
                let flushed = timeout_at(begun.started + publisher.limits.publish, flushed).await;
                match *flushed.unwrap_or(&Err(Failure::Timeout)) {
                    Ok(()) => Outcome::Stored(Stored::default()),
                    Err(failure) => Outcome::Failed(failure),
                }
            }
        };
        match outcome {
            Outcome::Stored(stored) => publisher.ended(&begun, Ok(stored)),
            Outcome::Failed(failure) => {
                publisher.ended(&begun, Err(failure));
                if let Some(alarm) = &publisher.alarm {
                    alarm.raise(failure).await;
                }
            }
            Outcome::Skipped => {}
        }
        outcome
    }
}
