//! `routing: Direct`: events from publisher to handler without a stream between.
//!
//! The sidecars of a handler are one queue group, so that each event comes to one of them. It is posted once. There
//! is no acknowledgement and so no second attempt: what the handler does not take is counted and gone, as is what
//! comes when `concurrency` events are in flight and [`QUEUE`] more wait. Filters, formats, rates and replies are
//! those of a stored event.
//!
//! While the handler takes no connections the sidecar leaves the group: events go to the other sidecars, if there
//! are any. A drain leaves it too, and finishes what has come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::{FuturesUnordered, SelectAll, StreamExt as _, select_all};
use tidegate_broker_client::layout;
use tidegate_broker_client::stored;
use tidegate_cloudevents::Event;
use tidegate_telemetry::Instrument as _;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep_until, timeout};

use crate::broker::connection::Link;
use crate::consume::process::Context;
use crate::consume::unordered::Counted;
use crate::deliver::brake::{Brake, State};
use crate::deliver::post::{Answered, Attempt};
use crate::event::filter::Judged;
use crate::event::request::{self, Place};
use crate::ops::config;
use crate::ops::health::{Health, Progress};
use crate::ops::metrics::Settled;
use crate::settle::outcome_log::Ending;

/// Events that may wait for one of those in flight to end.
const QUEUE: usize = 256;
/// They have this many bytes at most, whatever their number.
const QUEUE_BYTES: usize = 8 << 20;
/// How long a reply is tried. What waits for it is in flight and keeps others out.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);
/// What the connection may take to send a subscription, and what the broker sent may take to arrive after its end.
const BROKER_LIMIT: Duration = Duration::from_secs(2);
/// It wakes at least this often, so that the watchdog sees it.
const TICK: Duration = Duration::from_secs(1);

/// The task, and what it owns.
pub struct Direct {
    context: Arc<Context>,
    health: Arc<Health>,
    link: watch::Receiver<Link>,
    brake: watch::Receiver<Brake>,
    events: SelectAll<Subscriber>,
    /// When it subscribed last.
    joined_at: Instant,
    waiting: Waiting,
    in_flight: FuturesUnordered<BoxFuture<'static, ()>>,
    /// When a drain is over at the latest.
    drained_by: Option<Instant>,
}

impl Direct {
    /// Puts it together; nothing is subscribed to before [`Self::run`].
    pub fn new(context: Arc<Context>, health: Arc<Health>, link: watch::Receiver<Link>) -> Self {
        Self {
            brake: context.availability.subscribe(),
            context,
            health,
            link,
            events: SelectAll::new(),
            joined_at: Instant::now(),
            waiting: Waiting::default(),
            in_flight: FuturesUnordered::new(),
            drained_by: None,
        }
    }

    /// Works until it is drained.
    pub async fn run(mut self) {
        while !self.is_done() {
            self.health.beat();
            self.steer().await;
            self.wait().await;
        }
        self.forget();
        while self.waiting.pop().is_some() {
            self.dropped();
        }
        if !self.in_flight.is_empty() {
            tracing::warn!(left = self.in_flight.len(), "deliveries did not finish in time");
        }
    }

    /// Ends the subscriptions at once; what has come by them and was not taken in is counted.
    fn forget(&mut self) {
        // Without the runtime's budget, which would let it end before the last one.
        while let Some(Some(_)) = unconstrained(self.events.next()).now_or_never() {
            self.dropped();
        }
        self.events.clear();
    }

    fn dropped(&self) {
        Counted::new(&self.context.metrics).how = Settled::Dropped;
    }

    fn is_done(&self) -> bool {
        let over = self.events.is_empty() && self.in_flight.is_empty() && self.waiting.events.is_empty();
        self.drained_by.is_some_and(|end| over || Instant::now() >= end)
    }

    /// Joins or leaves the group, as the handler's state and the drain say.
    async fn steer(&mut self) {
        let state = self.brake.borrow_and_update().state().clone();
        self.context.metrics.handler(&state);
        let connected = self.link.borrow_and_update().connected;
        let reachable = !matches!(state, State::Unreachable(_));
        if self.drained_by.is_some() {
            self.health.set(Progress::Draining);
            if !connected {
                // Nothing can come.
                self.forget();
            }
            return;
        }
        if !reachable {
            self.forget();
        } else if self.events.is_empty() {
            self.join().await;
        }
        // The broker confirms no subscription: it is taken to know of it a tick later.
        let is_known = !self.events.is_empty() && self.joined_at.elapsed() >= TICK;
        self.health.set(match (connected, reachable, is_known) {
            (false, ..) => Progress::Disconnected,
            (true, false, _) => Progress::Unreachable,
            (true, true, false) => Progress::Opening,
            (true, true, true) => Progress::Pulling,
        });
    }

    async fn join(&mut self) {
        match timeout(BROKER_LIMIT, subscribe(&self.context)).await {
            Ok(Ok(subscribers)) => {
                tracing::info!(handler = self.context.config.handler, "subscribed to events");
                self.events = select_all(subscribers);
                self.joined_at = Instant::now();
            }
            Ok(Err(error)) => tracing::warn!(%error, "not subscribed to events: trying on"),
            Err(_) => tracing::debug!("the broker takes no subscription"),
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    async fn wait(&mut self) {
        let Self { context, events, in_flight, link, brake, drained_by, .. } = self;
        let wake = (Instant::now() + TICK).min(drained_by.unwrap_or_else(|| Instant::now() + TICK));
        let came = tokio::select! {
            biased;
            () = context.drain.begun(), if drained_by.is_none() => {
                *drained_by = Some(Instant::now() + config::drain_limit(&context.config));
                leave(events).await;
                None
            }
            Some(()) = in_flight.next(), if !in_flight.is_empty() => None,
            came = events.next(), if !events.is_empty() => came,
            Ok(()) = link.changed() => None,
            Ok(()) = brake.changed() => None,
            () = sleep_until(wake) => None,
        };
        if let Some(message) = came
            && self.waiting.push(message).is_err()
        {
            self.dropped();
        }
        self.start();
    }

    /// Starts what there is room for.
    fn start(&mut self) {
        let concurrency = self.context.config.delivery.slots();
        let has_room = || self.context.budget.has_room();
        while (self.in_flight.is_empty() || (self.in_flight.len() < concurrency && has_room()))
            && let Some(message) = self.waiting.pop()
        {
            self.in_flight.push(process(self.context.clone(), message).boxed());
        }
    }
}

/// One subscription for each type that is asked for, all sent to the broker (which does not confirm them).
async fn subscribe(context: &Context) -> Result<Vec<Subscriber>, SubscribeError> {
    let Context { client, config, .. } = context;
    let mut subscribers = Vec::new();
    for subject in layout::filter_subjects(&config.handler, &config.filter.types, None) {
        // The rest is what is redriven, and here nothing is.
        if subject.starts_with("events.") {
            subscribers.push(client.queue_subscribe(subject, config.handler.clone()).await?);
        }
    }
    if let Err(error) = client.flush().await {
        tracing::debug!(%error, "a subscription is not sent yet");
    }
    Ok(subscribers)
}

/// Ends the subscriptions; what the broker sent before it heard of that still comes.
async fn leave(events: &mut SelectAll<Subscriber>) {
    let ends = join_all(events.iter_mut().map(Subscriber::drain));
    if timeout(BROKER_LIMIT, ends).await.is_err() {
        events.clear();
    }
}

/// Events that have come and are not in flight yet.
#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Message>,
    bytes: usize,
}

impl Waiting {
    /// Takes an event in, unless there are too many; an event that is alone always fits.
    fn push(&mut self, message: Message) -> Result<(), ()> {
        let bytes = self.bytes + message.length;
        if !self.events.is_empty() && (self.events.len() >= QUEUE || bytes > QUEUE_BYTES) {
            return Err(());
        }
        self.bytes = bytes;
        self.events.push_back(message);
        Ok(())
    }

    fn pop(&mut self) -> Option<Message> {
        let message = self.events.pop_front()?;
        self.bytes -= message.length;
        Some(message)
    }
}

/// Takes one event to its end.
async fn process(context: Arc<Context>, message: Message) {
    let _share = context.budget.share(message.length);
    let mut counted = Counted::new(&context.metrics);
    // Also if a drain ends before it does: it cannot go back.
    counted.how = Settled::Failed;
    let event = match stored::decode(message.headers.as_ref(), message.payload) {
        Ok(event) => event,
        Err(invalid) => {
            tracing::debug!(%invalid, "what came is no event");
            return;
        }
    };
    match context.judge(&event).await {
        Judged::Passes => {}
        Judged::Excluded | Judged::Failed(_) => {
            counted.how = Settled::Filtered;
            return;
        }
        // Nothing of a Direct topic is kept.
        Judged::TooCostly => return,
    }
    let place = Place { attempt: 1, sequence: None };
    let extended = request::extended(event, message.headers.as_ref(), &context.config.topic, place);
    let delivered = match extended {
        Ok(event) => {
            let span = context.traces.process(message.headers.as_ref(), &event, place);
            deliver(&context, &event).instrument(span).await
        }
        Err(error) => Err(error),
    };
    match delivered {
        Ok(()) => counted.how = Settled::Acknowledged,
        Err(problem) => tracing::debug!(problem, "an event is lost"),
    }
}

/// The one attempt, and the reply. An event that waits for its turn does so in a drain, too: it cannot go back.
async fn deliver(context: &Context, event: &Event) -> Result<(), String> {
    if let Some(limiter) = &context.options.limiter {
        limiter.turn().await;
    }
    let Answered { answer, content } = match context.attempt(event).await {
        Attempt::Answered(answered) => answered,
        Attempt::Unreachable(why) => {
            context.availability.unreachable(&why);
            return Err(why);
        }
    };
    // What is not stored has no sequence; a random number tells it from others.
    let number = fastrand::u64(..);
    if !answer.is_success() {
        context.outcomes.failed(number, event, Ending::Refused, answer.status(), &answer.to_string());
        return Err(answer.to_string());
    }
    context.outcomes.handled(number);
    context.publish_reply(event, content, REPLY_PATIENCE).await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: usize) -> Message {
        Message {
            subject: "events.1.t".into(),
            reply: None,
            payload: Vec::new().into(),
            headers: None,
            status: None,
            description: None,
            length,
        }
    }

    #[test]
    fn what_waits_is_bounded_by_number_and_size() {
        let mut waiting = Waiting::default();
        assert_eq!((0..QUEUE + 5).filter(|_| waiting.push(message(1)).is_ok()).count(), QUEUE);
        assert!(waiting.pop().is_some() && waiting.push(message(1)).is_ok());
        while waiting.pop().is_some() {}
        assert_eq!(waiting.bytes, 0);
        assert!(waiting.push(message(QUEUE_BYTES * 2)).is_ok(), "alone, whatever its size");
        assert!(waiting.push(message(1)).is_err());
    }
}
