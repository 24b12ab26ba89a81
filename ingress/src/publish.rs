//! From an event to the broker's acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_cloudevents::Event;
use tidegate_wire::nats::{Client, Link};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::alarm::Alarm;
use crate::commit::{Committer, Outcome, PendingOutcome};
use crate::message::{Message, Origin};
use crate::metrics::Metrics;
use crate::outcome::{self, Failure, Receipt, Stored};
use crate::trace::{self, Context};

/// Publishes events of one topic.
pub struct TopicPublisher {
    client: Client,
    subjects: TopicSubjects,
    /// `None` on a Direct topic: events go to whatever subscribes, and there is no acknowledgement.
    queue: Option<Queue>,
    place: trace::Destination,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

/// What a topic has that stores events.
pub struct Queue {
    /// Sends them.
    pub committer: Committer,
    /// Tells the operator when they cannot be stored.
    pub alarm: Arc<Alarm>,
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
pub struct PendingPublish {
    publisher: Arc<TopicPublisher>,
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

impl TopicPublisher {
    /// A publisher of a topic over this connection. One publish takes no longer than `timeout`.
    pub fn new(
        client: Client,
        subjects: TopicSubjects,
        queue: Option<Queue>,
        place: trace::Destination,
        timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { client, subjects, queue, place, timeout, metrics }
    }

    /// Whether it is the only topic, which may take all there is.
    pub fn set_alone(&self, is_alone: bool) {
        if let Some(queue) = &self.queue {
            queue.committer.set_alone(is_alone);
        }
    }

    /// Publishes all events of a request and returns when the broker has acknowledged them.
    ///
    /// They are stored in their order. After a failure no further one is sent.
    ///
    /// # Errors
    /// Some are not known to be stored.
    pub async fn publish_all(
        self: &Arc<Self>,
        events: &[Event],
        origin: Origin<'_>,
        request: &Context,
    ) -> Result<Receipt, Incomplete> {
        let (mut receipt, mut worst) = (Receipt::default(), None);
        let most = self.queue.as_ref().map_or(usize::MAX, |queue| queue.committer.most());
        for some in events.chunks(most) {
            let sent = match self.send_all(some, origin, request, Instant::now()).await {
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

    /// Sends one event, as soon as not too many others are under way. Its time began at `started`.
    ///
    /// # Errors
    /// It was not sent.
    pub async fn send(
        self: &Arc<Self>,
        event: &Event,
        origin: Origin<'_>,
        request: &Context,
        started: Instant,
    ) -> Result<PendingPublish, Failure> {
        let mut sent = self.send_all(std::slice::from_ref(event), origin, request, started).await?;
        sent.pop().ok_or(Failure::Unavailable)
    }

    /// Sends events of one request, as soon as not too many others are under way.
    async fn send_all(
        self: &Arc<Self>,
        events: &[Event],
        origin: Origin<'_>,
        request: &Context,
        started: Instant,
    ) -> Result<Vec<PendingPublish>, Failure> {
        let (mut begun, mut messages) = (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()));
        for event in events {
            let mut message = Message::of(event, origin);
            let trace = trace::Publish::start(&self.place, event, message.partition, request);
            trace.inject(&mut message.headers);
            messages.push(message);
            begun.push(PublishStart { trace, started });
        }
        match self.hand_over(messages, started + self.timeout).await {
            Ok(ways) => {
                let sent = begun.into_iter().zip(ways);
                Ok(sent.map(|(begun, way)| PendingPublish { publisher: Arc::clone(self), way, begun }).collect())
            }
            Err(failure) => {
                begun.iter().for_each(|begun| self.ended(begun, Err(failure)));
                Err(failure)
            }
        }
    }

    /// Gives messages to the committer, or to the client where nothing is stored.
    async fn hand_over(&self, mut messages: Vec<Message>, deadline: Instant) -> Result<Vec<OutcomeSource>, Failure> {
        let link = self.client.current_link();
        if !link.connected {
            return Err(Failure::Unavailable);
        }
        messages.iter_mut().for_each(|message| message.subject = self.subjects.event(&message.subject));
        if let Some(Queue { committer, .. }) = &self.queue {
            messages.iter_mut().try_for_each(Message::expect_stream).map_err(|_| Failure::Refused)?;
            return Ok(committer.submit(messages, deadline).await?.into_iter().map(OutcomeSource::Stream).collect());
        }
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
            let way = self.hand_over(vec![message], Instant::now() + self.timeout).await?.pop();
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
        self.raise(failure).await;
        Err(failure)
    }

    async fn raise(&self, failure: Failure) {
        if let Some(Queue { alarm, .. }) = &self.queue {
            alarm.raise(failure).await;
        }
    }

    fn ended(&self, PublishStart { trace, started }: &PublishStart, outcome: Result<Stored, Failure>) {
        trace.end(outcome.map(drop));
        self.metrics.published(outcome.map(drop), started.elapsed());
    }
}

impl PendingPublish {
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
                let flushed = timeout_at(begun.started + publisher.timeout, flushed).await;
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
                publisher.raise(failure).await;
            }
            Outcome::Skipped => {}
        }
        outcome
    }
}
