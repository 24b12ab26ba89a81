//! The one loop of the sidecar: it tells a discipline what happens, does what that wants done, and has a future for
//! each attempt that runs.
//!
//! ```text
//! broker ─▶ line ─▶ discipline ─▶ attempts ─▶ disposition ─▶ discipline ─▶ line ─▶ broker
//! ```
//!
//! The runner owns every event that is here; one that waits costs no future. Whatever ends it, what is still here is
//! given back.

mod effects;
mod events;
mod parking;
mod questions;
mod shares;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tidegate_delivery_core::{Action, Demand, Discipline, Handler, Id, Lane, Pin, Service, millis};
use tidegate_wire::nats::Link;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use self::events::Events;
use self::parking::Marks;
use self::questions::Questions;
use crate::broker::line::{Line, LineEvent};
use crate::consume::flight::{Event, FlightResult, fly};
use crate::consume::process::Context;
use crate::deliver::availability::State;
use crate::ops::config;
use crate::ops::health::{Health, Progress};

pub use self::shares::Shares;

/// It wakes at least this often, so that the watchdog sees it.
const TICK: Duration = Duration::from_secs(1);
/// So much of what has come is taken in before the events that are here continue.
const MAX_TURN_EVENTS: usize = 256;
/// What the last flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// What a person reads of how events come.
#[derive(Debug, PartialEq, Eq)]
enum ServiceReport {
    Served,
    Partial(String),
    Troubled(Lane, String),
}

/// Makes the future of an attempt.
type Fly<F> = fn(Arc<Context>, Id, Arc<Event>) -> F;

/// The loop, and what it owns.
struct Runner<'a, F> {
    context: Arc<Context>,
    health: Arc<Health>,
    discipline: Box<dyn Discipline + Send>,
    shares: Option<Shares<'a>>,
    link: watch::Receiver<Link>,
    /// The connection over which questions were asked.
    asked_over: Link,
    state: watch::Receiver<State>,
    /// What was told of the handler last.
    told: Option<Handler>,
    /// What a person read last of how events come.
    said: Option<ServiceReport>,
    origin: Instant,
    line: Line,
    questions: Questions,
    events: Events,
    /// The pin that came last: most come with the same.
    pin: Pin,
    /// What records of leases know this process by.
    name: Arc<str>,
    marks: Marks,
    fly: Fly<F>,
    flights: FuturesUnordered<F>,
    actions: Vec<Action>,
    /// Empty, but for its memory.
    all: Vec<LineEvent>,
    /// When a drain is over at the latest.
    drained_by: Option<Instant>,
}

/// Takes events as this discipline says, until a drain is over. Dropping it gives back what is here.
pub async fn run(
    context: Arc<Context>,
    health: Arc<Health>,
    link: watch::Receiver<Link>,
    discipline: Box<dyn Discipline + Send>,
    shares: Option<Shares<'_>>,
) {
    let asked_over = *link.borrow();
    let runner = Runner {
        discipline,
        shares,
        asked_over,
        link,
        state: context.availability.subscribe(),
        told: None,
        said: None,
        origin: Instant::now(),
        line: Line::new(context.client.clone()),
        questions: Questions::new(effects::patience(context.config.ack_wait)),
        events: Events::new(context.clone()),
        pin: Pin::default(),
        name: format!("{:016x}", fastrand::u64(..)).into(),
        marks: Marks::new(),
        fly,
        flights: FuturesUnordered::new(),
        actions: Vec::new(),
        all: Vec::new(),
        drained_by: None,
        context,
        health,
    };
    runner.run().await;
}

impl<F: Future<Output = FlightResult>> Runner<'_, F> {
    async fn run(mut self) {
        let mut sleep = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            self.health.beat();
            self.steer();
            if self.is_done() {
                break;
            }
            self.wait(sleep.as_mut()).await;
        }
        if !self.flights.is_empty() {
            tracing::warn!(left = self.flights.len(), "deliveries did not finish in time");
        }
        self.abandon();
        if !self.line.flush(FLUSH_LIMIT).await {
            tracing::warn!("some acknowledgements did not reach the broker: it delivers those events again");
        }
    }

    fn is_done(&self) -> bool {
        self.drained_by.is_some_and(|end| self.discipline.is_drained() || Instant::now() >= end)
    }

    /// The conditions of the moment.
    fn demand(&mut self) -> Demand {
        let Link { connected, epoch } = *self.link.borrow_and_update();
        let handler = match *self.state.borrow_and_update() {
            State::Up => Handler::Up,
            State::Failing { .. } => Handler::Trying,
            State::Unreachable(_) => Handler::Away,
        };
        if self.told != Some(handler) {
            self.told = Some(handler);
            self.context.metrics.handler(handler);
        }
        let turns = self.context.options.limiter.as_ref().map_or(usize::MAX, |limiter| limiter.room());
        Demand { handler, connected, epoch, room: self.context.budget.has_room(), turns }
    }

    /// Does what is to be done now.
    fn steer(&mut self) {
        while let Some(input) = self.shares.as_mut().and_then(Shares::changed) {
            self.input(input);
        }
        let link = *self.link.borrow();
        if std::mem::replace(&mut self.asked_over, link) != link {
            self.questions.lose_all(Instant::now());
        }
        while let Some(input) = self.questions.expired(Instant::now()) {
            self.input(input);
        }
        let demand = self.demand();
        self.act(&demand);
        while let Some(id) = self.discipline.start(self.now(), &demand) {
            if let Some(event) = self.events.begin(id) {
                self.flights.push((self.fly)(self.context.clone(), id, event));
            }
        }
        self.tell(&demand);
    }

    /// Waits for the next thing to happen, and takes it in.
    async fn wait(&mut self, mut sleep: std::pin::Pin<&mut Sleep>) {
        let wake = self.wake_at();
        // One that is due earlier only wakes once too often; to move it is work in each round.
        if sleep.is_elapsed() || wake < sleep.deadline() {
            sleep.as_mut().reset(wake);
        }
        let has_flights = !self.flights.is_empty();
        let shares = async {
            match &mut self.shares {
                Some(shares) => shares.changes().await,
                None => std::future::pending().await,
            }
        };
        let mut came = None;
        tokio::select! {
            biased;
            () = self.context.drain.begun(), if self.drained_by.is_none() => {
                self.drained_by = Some(Instant::now() + config::drain_limit(&self.context.config));
                let now = self.now();
                self.discipline.drain(now);
            }
            Some(landed) = self.flights.next(), if has_flights => {
                self.landed(landed);
                // What else is done by now, too: what follows is for all of it. (The next wait asks again.)
                while let Some(Some(landed)) = self.flights.next().now_or_never() {
                    self.landed(landed);
                }
            }
            first = self.line.next() => came = Some(first),
            Ok(()) = self.link.changed() => {}
            Ok(()) = self.state.changed() => {}
            () = shares => {}
            () = sleep => {}
        }
        if let Some(first) = came {
            self.all_that_came(first);
        }
    }

    /// Takes in what came, and what else is here by now. What the broker delivered by several pulls is put in its
    /// order.
    fn all_that_came(&mut self, first: LineEvent) {
        let mut all = std::mem::take(&mut self.all);
        all.push(first);
        while all.len() < MAX_TURN_EVENTS
            && let Some(next) = self.line.next_now()
        {
            all.push(next);
        }
        if self.shares.is_some() && !all.is_sorted_by_key(effects::order) {
            all.sort_by_key(effects::order);
        }
        for came in all.drain(..) {
            self.came(came);
        }
        self.all = all;
    }

    fn wake_at(&self) -> Instant {
        let (now, moment) = (Instant::now(), self.now());
        let wakes = self.discipline.wake_at(moment).map(|at| {
            // A moment that is over by a part of a millisecond is not slept for again and again.
            self.origin + Duration::from_millis(at.clamp(moment + 1, moment + millis(TICK)))
        });
        let others = [self.questions.wake_at(), self.shares.as_ref().and_then(Shares::wake_at), self.drained_by];
        wakes.into_iter().chain(others.into_iter().flatten()).fold(now + TICK, Instant::min)
    }

    /// Tells the probes, and a person once, how it is.
    fn tell(&mut self, demand: &Demand) {
        let service = self.discipline.service();
        self.health.set(match (self.drained_by, demand.connected, demand.handler, service) {
            (Some(_), ..) => Progress::Draining,
            (_, false, ..) => Progress::Disconnected,
            (_, _, Handler::Away, _) => Progress::Unreachable,
            (.., Service::Serving | Service::Partial(..)) => Progress::Pulling,
            (.., Service::Opening | Service::Troubled(..)) => Progress::Opening,
        });
        self.health.set_stalled(self.discipline.is_stalled(self.now()));
        let says = match service {
            Service::Opening => return,
            Service::Serving => ServiceReport::Served,
            Service::Partial(_, trouble) => ServiceReport::Partial(trouble.to_string()),
            Service::Troubled(lane, trouble) => ServiceReport::Troubled(lane, trouble.to_string()),
        };
        if self.said.as_ref() != Some(&says) {
            let handler = &self.context.config.handler;
            match &says {
                ServiceReport::Served => tracing::info!(handler, "pulling events"),
                ServiceReport::Partial(trouble) => {
                    tracing::warn!(handler, trouble, "what waits on the retry shelf is not pulled: trying on")
                }
                ServiceReport::Troubled(lane, trouble) => {
                    tracing::warn!(handler, lane, trouble, "no events are pulled: trying on")
                }
            }
            self.said = Some(says);
        }
    }
}

impl<F> Drop for Runner<'_, F> {
    fn drop(&mut self) {
        self.abandon();
    }
}
