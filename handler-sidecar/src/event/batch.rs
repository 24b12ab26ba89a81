//! Several events in one request.
//!
//! Each event's own task hands it over and waits for its answer, renewing the event meanwhile and judging the
//! answer as if it had been alone; one task here gathers what came, sends it, and hands the answers out. So a batch
//! is a matter of the request alone: whatever else happens to an event happens to it by itself.
//!
//! A batch goes out when it is full, when its first event has waited for `maxWait`, or when a drain begins; but
//! only `concurrency` of them are in flight at a time, and what waits for that is gathered further.

pub mod answers;

use std::sync::Arc;
use std::time::Duration;

use tidegate_cloudevents::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::deliver::answer::Answered;
use crate::deliver::post::{Attempt, Handler};
use crate::event::request;
use crate::ops::drain::Drain;
use crate::settle::outcome::Answer;

/// A batch holds this many bytes of events at most, unless a single one is larger.
const MAX_SIZE: usize = 2 << 20;

/// What a batch may be.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Events at most.
    pub max_events: usize,
    /// The first event waits no longer for others.
    pub max_wait: Duration,
    /// Batches in flight at most.
    pub concurrency: usize,
}

/// How an event's part of a request ended, and how long the request took.
#[derive(Debug)]
pub struct DeliveryResult {
    /// How it ended.
    pub attempt: Attempt,
    /// From the first byte sent to the answer.
    pub took: Duration,
}

/// Where events are handed over. With the last one dropped, nothing more is gathered.
#[derive(Clone, Debug)]
pub struct Batches {
    joining: mpsc::Sender<QueuedEvent>,
}

/// An event on its way into a batch.
#[derive(Debug)]
struct QueuedEvent {
    event: Event,
    since: Instant,
    answer: oneshot::Sender<DeliveryResult>,
}

impl Batches {
    /// Starts to gather for this handler.
    pub fn start(handler: Handler, terms: BatchLimits, drain: Drain) -> Self {
        let (joining, joined) = mpsc::channel(terms.max_events);
        tokio::spawn(Collector { joined, carried: None, handler, terms, drain }.run());
        Self { joining }
    }

    /// Sends an event as part of a batch.
    pub async fn deliver(&self, event: Event) -> DeliveryResult {
        let (answer, answered) = oneshot::channel();
        let joined = self.joining.send(QueuedEvent { event, since: Instant::now(), answer }).await;
        let delivered = if joined.is_ok() { answered.await.ok() } else { None };
        // Its task is gone, by a panic or with the process: whether the event was sent is not known.
        delivered.unwrap_or_else(|| {
            let broken = Answer::Broken("its batch was given up".to_owned());
            DeliveryResult { attempt: Attempt::Answered(Answered::without_content(broken)), took: Duration::ZERO }
        })
    }
}

/// The task that gathers.
struct Collector {
    joined: mpsc::Receiver<QueuedEvent>,
    /// What did not fit into the batch before.
    carried: Option<QueuedEvent>,
    handler: Handler,
    terms: BatchLimits,
    drain: Drain,
}

impl Collector {
    async fn run(mut self) {
        let permits = Arc::new(Semaphore::new(self.terms.concurrency));
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let Some(batch) = self.gather().await else { return };
            tokio::spawn(send(self.handler.clone(), batch, permit));
        }
    }

    /// The next batch; `None` when there will be none.
    async fn gather(&mut self) -> Option<Vec<QueuedEvent>> {
        let first = match self.carried.take() {
            Some(first) => first,
            None => self.joined.recv().await?,
        };
        let end = first.since + self.terms.max_wait;
        let mut size = first.event.size();
        let mut batch = vec![first];
        while batch.len() < self.terms.max_events {
            let Some(next) = self.next(end).await else { break };
            size += next.event.size();
            if size > MAX_SIZE {
                self.carried = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }

    /// The next event; `None` when it is not worth waiting for. What is here already is taken in any case.
    async fn next(&mut self, end: Instant) -> Option<QueuedEvent> {
        tokio::select! {
            biased;
            next = timeout_at(end, self.joined.recv()) => next.ok().flatten(),
            () = self.drain.begun() => None,
        }
    }
}

/// Sends a batch and hands out the answers. An event whose delivery was cancelled was given back, and is left out.
async fn send(handler: Handler, mut batch: Vec<QueuedEvent>, _permit: OwnedSemaphorePermit) {
    batch.retain(|joined| !joined.answer.is_closed());
    if batch.is_empty() {
        return;
    }
    let (events, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|joined| (joined.event, joined.answer)).unzip();
    let began = Instant::now();
    let attempt = handler.post(&mut || request::batch(&events), Some(answers::LIMIT)).await;
    let took = began.elapsed();
    for (answer, attempt) in waiting.into_iter().zip(answers::of_each(&events, attempt)) {
        // A delivery that was cancelled has given its event back.
        let _ = answer.send(DeliveryResult { attempt, took });
    }
}
