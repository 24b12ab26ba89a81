//! One event's way to its disposition, the same in every order of delivery:
//!
//! ```text
//! decode ─▶ filter ─▶ attempts so far ─▶ age ─▶ rate ─▶ POST ─▶ outcome ─▶ reply or dead letter ─▶ disposition
//! ```
//!
//! Nothing here acknowledges an event, gives it back or renews it: the runner does, as the discipline says
//! ([`crate::consume::runner`]). Every wait has a bound of its own.

mod conclusion;
mod waits;

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::Either;
use tidegate_broker_client::contract::{Order, Sidecar};
use tidegate_broker_client::stored;
use tidegate_cloudevents::{Attributes, Event};
use tidegate_delivery_core::{Disposition, Outcome};
use tidegate_telemetry::{Instrument as _, Span};
use tidegate_wire::http::HeaderLines;
use tidegate_wire::nats::Client;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::message::Message;
use crate::consume::workload::WorkloadMeter;
use crate::deliver::answer::Answered;
use crate::deliver::availability::{AttemptEnd, Availability, Turn};
use crate::deliver::breaker::Blame;
use crate::deliver::post::{Attempt, Handler};
use crate::event::as_stored::AsStored;
use crate::event::batch::DeliveryResult;
use crate::event::filter::FilterResult;
use crate::event::request::{self, AttemptInfo, Body, EncodedRequest};
use crate::ops::budget::ByteBudget;
use crate::ops::drain::Drain;
use crate::ops::metrics::Metrics;
use crate::ops::options::Options;
use crate::ops::trace::{self, PublishContext, Traces};
use crate::settle::attempts::store::{AttemptHistory, Attempts};
use crate::settle::outcome::{Answer, Class};
use crate::settle::outcome_log::OutcomeLog;
use crate::settle::reply;
use crate::settle::shelf::Shelf;

/// Later, after something that is not the event's fault.
pub(crate) const REDELIVERY_DELAY: Duration = Duration::from_secs(30);

/// What every event needs.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Sidecar,
    /// The connection to the broker.
    pub client: Client,
    /// The handler's container.
    pub handler: Handler,
    /// Whether it is available.
    pub availability: Arc<Availability>,
    /// The attempts of events that come again.
    pub attempts: Attempts,
    /// Where events wait whose next attempt is not soon.
    pub shelf: Shelf,
    /// What else the handler asks for.
    pub options: Options,
    /// What events and answers may take.
    pub budget: ByteBudget,
    /// Whether the end has come.
    pub drain: Drain,
    /// The instruments.
    pub metrics: Metrics,
    /// Its spans.
    pub traces: Traces,
    /// What the operator scales by.
    pub workload: WorkloadMeter,
    /// Whether another sidecar of the handler has a container that takes connections.
    pub another_is_able: watch::Receiver<bool>,
    /// What the operator hears of.
    pub outcomes: OutcomeLog,
}

/// An event as it is sent.
#[derive(Debug)]
pub enum Outgoing {
    /// Taken apart: something has to look into it.
    Event(Box<Event>),
    /// As it is stored: its header lines, where they are sent at once. Else they are encoded when there is a connection,
    /// so that events that wait for one do not hold them.
    AsStored(Option<HeaderLines>),
}

/// An event that is to be sent.
#[derive(Debug)]
pub struct Ready {
    /// As the handler gets it.
    pub outgoing: Outgoing,
    /// Which attempt this is.
    pub place: AttemptInfo,
    /// The attempts before it; `None`: this is the first, as most are.
    pub known: Option<Box<AttemptHistory>>,
}

impl Ready {
    /// The attempts before it.
    pub fn into_known(self) -> AttemptHistory {
        self.known.map(|known| *known).unwrap_or_default()
    }

    /// How many there were that count.
    fn attempts(&self) -> u32 {
        self.known.as_ref().map_or(0, |known| known.record.attempts())
    }
}

/// What the end of an attempt means.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    class: Class,
    blame: Blame,
}

impl Context {
    /// Takes an event as far as its disposition.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, for each event in flight")]
    pub fn handle<'a>(&'a self, stored: &'a Message) -> impl Future<Output = Disposition> {
        async move {
            let (mut ready, span) = match self.begin(stored).await {
                Continue(ready) => ready,
                Break(disposition) => return disposition,
            };
            let delivered = async move {
                let conclusion = match self.deliver(stored, &mut ready).await {
                    Ok((answered, verdict)) => self.conclude(stored, ready, answered, verdict),
                    Err(wait) => Either::Right(self.untried(stored, ready, wait).boxed()),
                };
                // Awaited here, where the answer is gone: it would be a part of every event in flight.
                let disposition = conclusion.await;
                if trace::conclude(&Span::current(), disposition) {
                    stored.note_concluded();
                }
                disposition
            };
            delivered.instrument(span).await
        }
    }

    /// Everything before the first request; a break, if there is nothing to send.
    async fn begin(&self, stored: &Message) -> ControlFlow<Disposition, (Ready, Span)> {
        let first = AttemptInfo { attempt: 1, sequence: Some(stored.sequence()) };
        match self.as_stored(stored, first) {
            Some(Continue((outgoing, span))) => Continue((Ready { outgoing, place: first, known: None }, span)),
            Some(Break(settled)) => Break(Disposition::Over(settled)),
            None => Box::pin(self.prepare(stored)).await,
        }
    }

    /// The short way of an event that comes for the first time, if nothing here has to look into it.
    /// A break, if it is not for this handler.
    pub(crate) fn as_stored(
        &self,
        message: &Message,
        place: AttemptInfo,
    ) -> Option<ControlFlow<Outcome, (Outgoing, Span)>> {
        if !self.options.passes_on || !message.is_first() || self.excess_age(message).is_some() {
            return None;
        }
        let event = AsStored::read(message.stored())?;
        let judged = self.options.filter.judge_in_place(event.event())?;
        self.note_judged(event.event(), &judged);
        if judged != FilterResult::Passes {
            return Some(Break(Outcome::Filtered));
        }
        let span = self.traces.process(event.published(), &event, place);
        let lines = match self.handler.is_connected() {
            true => Some(event.request(&self.config.topic, place, &span).ok()?.lines),
            false => None,
        };
        Some(Continue((Outgoing::AsStored(lines), span)))
    }

    /// The same for an event that has to be taken apart.
    async fn prepare(&self, stored: &Message) -> ControlFlow<Disposition, (Ready, Span)> {
        if stored.is_of_the_shelf() {
            self.just_put_there(stored)?;
        }
        let event = match stored::decode(stored.stored(), stored.payload()) {
            Ok(event) => event,
            Err(invalid) => return Break(Box::pin(self.invalid(stored, invalid.to_string())).await),
        };
        match self.evaluate(&event).await {
            FilterResult::Passes => {}
            FilterResult::Excluded | FilterResult::Failed(_) => return Break(Disposition::Over(Outcome::Filtered)),
            FilterResult::TooCostly => return Break(Box::pin(self.dead_letter_unjudged(stored)).await),
        }
        let published = PublishContext::read(stored.headers());
        let known = match stored.is_first() {
            true => None,
            false => Some(Box::new(Box::pin(self.attempts_so_far(stored)).await?)),
        };
        let requests = known.as_ref().map_or(0, |known| known.record.requests());
        let place = AttemptInfo { attempt: requests.saturating_add(1), sequence: Some(stored.sequence()) };
        if let Some(excess) = self.excess_age(stored) {
            let known = known.map(|known| *known).unwrap_or_default();
            return Break(Box::pin(self.expire(stored, known, excess)).await);
        }
        match request::extended(event, published, &self.config.topic, place) {
            Ok(event) => {
                let span = self.traces.process(published, &event, place);
                Continue((Ready { outgoing: Outgoing::Event(Box::new(event)), place, known }, span))
            }
            Err(error) => Break(Box::pin(self.invalid(stored, error)).await),
        }
    }

    /// Sends until there is an answer.
    ///
    /// # Errors
    /// The handler was not available for long (or the sidecar ends), so the event was not sent: it is to go back for
    /// this time.
    fn deliver<'a>(
        &'a self,
        stored: &'a Message,
        ready: &'a mut Ready,
    ) -> impl Future<Output = Result<(Answered, Judgement), Duration>> {
        let mut patience = None;
        async move {
            loop {
                let turn = match self.availability.free_turn() {
                    Some(turn) => turn,
                    None => Box::pin(self.turn(&mut patience)).await?,
                };
                if self.options.limiter.is_some() {
                    Box::pin(self.paced()).await?;
                }
                if self.options.reply.is_some() {
                    Box::pin(self.room()).await?;
                }
                match self.attempt(stored, ready).await {
                    (Attempt::Unreachable(why), _) => self.availability.unreachable(&why),
                    (Attempt::Answered(answered), began) => {
                        let verdict = self.judge_attempt(ready.place, &answered.answer, turn, began);
                        return Ok((answered, verdict));
                    }
                }
            }
        }
    }

    fn judge_attempt(&self, place: AttemptInfo, answer: &Answer, turn: Turn, began: Instant) -> Judgement {
        let (class, event) = (answer.class(&self.config.delivery.retry.statuses), place.sequence.unwrap_or_default());
        let ended = AttemptEnd { event, is_first: place.attempt == 1, turn, began, answer, class };
        Judgement { class, blame: self.availability.ended(&ended) }
    }

    /// One request for one event, or its part of a request for several; and when it began.
    #[expect(clippy::manual_async_fn, reason = "an `async fn` holds its arguments twice, for each event in flight")]
    pub fn attempt<'a>(
        &'a self,
        stored: &'a Message,
        ready: &'a mut Ready,
    ) -> impl Future<Output = (Attempt, Instant)> {
        async move {
            let (running, began) = (self.workload.start(), Instant::now());
            let (attempt, took) = match (&self.options.batches, &ready.outgoing) {
                (Some(batches), Outgoing::Event(event)) => {
                    let DeliveryResult { attempt, took } = Box::pin(batches.deliver((**event).clone())).await;
                    (attempt, took)
                }
                _ => {
                    let wanted = self.options.reply.is_some().then_some(reply::LIMIT);
                    let attempt = self.handler.post(&mut || self.encode(stored, ready), wanted).await;
                    (attempt, began.elapsed())
                }
            };
            drop(running);
            if let Attempt::Answered(answered) = &attempt {
                self.metrics.attempted(took, &answered.answer);
                trace::record(&Span::current(), &answered.answer);
            }
            (attempt, began)
        }
    }

    /// The request for an event. What was encoded is let go of when it is sent: to send it again, it is encoded again.
    fn encode<'a>(&self, stored: &'a Message, ready: &mut Ready) -> Result<EncodedRequest<'a>, String> {
        match &mut ready.outgoing {
            Outgoing::Event(event) => request::single(self.config.delivery.format, event),
            Outgoing::AsStored(lines) => match lines.take() {
                Some(lines) => Ok(EncodedRequest { lines, body: Body::Stored(stored.stored()) }),
                None => {
                    let event = AsStored::read(stored.stored()).ok_or("it was read in place before")?;
                    let request = event.request(&self.config.topic, ready.place, &Span::current());
                    request.map_err(|error| error.to_string())
                }
            },
        }
    }

    /// Whether the sidecars of the handler share something out among themselves: its lanes, or its rate.
    pub fn shares(&self) -> bool {
        self.options.limiter.is_some() || matches!(self.config.delivery.order, Order::Key { .. })
    }

    /// Whether the event is for this handler.
    pub async fn evaluate(&self, event: &Event) -> FilterResult {
        let judged = self.options.filter.evaluate(event).await;
        self.note_judged(event, &judged);
        judged
    }

    fn note_judged(&self, event: &impl Attributes, judged: &FilterResult) {
        let (id, source) = (event.id(), event.source());
        match judged {
            FilterResult::Passes | FilterResult::Excluded => {}
            FilterResult::Failed(failed) => {
                tracing::debug!(id, source, %failed, "the filter's expression has no value: the event does not match");
                self.metrics.filter_failed();
            }
            FilterResult::TooCostly => {
                tracing::warn!(id, source, "the filter's expression is too much work for an event");
                self.metrics.filter_failed();
            }
        }
    }
}
