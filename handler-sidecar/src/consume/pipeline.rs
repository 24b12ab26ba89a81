//! Fetch → permit → deliver → settle, in one task.
//!
//! The pipeline owns the pull session and every event in hand. Each time something happens it *steers*: opens,
//! tops up or closes the session so that it fits the connection, the handler and the drain.
//!
//! # Closing a session
//! The broker has no way to cancel a pull request, and what it sends while the inbox closes may get lost on its
//! way, to come again only after `ack_wait`. So a session is closed only where it is of no use any more:
//!
//! - While the handler is not available, nothing more is asked for (or one event, to try it, if there is none in
//!   hand); what an open request still brings waits in hand with the rest, for which there are permits.
//! - Nor is anything asked for while too many bytes are held ([`crate::ops::budget`]).
//! - A drain first winds down: nothing more is asked for, and what the open request still brings is delivered,
//!   until it is used up (at once, if there is a backlog) or [`WIND_DOWN`] is over. Then the inbox is closed,
//!   and what arrives after that is given back at once. (Given back while the request is open, an event would
//!   come straight back to us.) An event that was on its way in that instant comes to another replica after
//!   `ack_wait`: late, not twice.
//!
//! After that the deliveries in flight finish, and everything is flushed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, pending};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::broker::connection::Link;
use crate::broker::pull::status::Trouble;
use crate::broker::pull::{Arrival, Session, window};
use crate::consume::process::Context;
use crate::consume::unordered::process;
use crate::deliver::brake::{Brake, State};
use crate::ops::config;
use crate::ops::health::{Health, Progress};
use crate::settle::backoff::Backoff;

/// How long what an open request brings is still delivered after a drain was asked for.
const WIND_DOWN: Duration = Duration::from_secs(1);
/// The pipeline wakes at least this often, so that the watchdog sees it.
const TICK: Duration = Duration::from_secs(1);
/// So much of what has arrived is taken in before the events in hand go on.
const AT_ONCE: usize = 32;
/// After so many silent sessions in a row the connection is made again.
const MAX_SILENCES: u32 = 2;
/// What the last flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// What one command to the connection may take, which waits only if its queue is full.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);
const RETRIES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(5), factor: 2.0, jitter: 0.2 };

/// The pipeline and what it owns.
pub struct Pipeline {
    context: Arc<Context>,
    health: Arc<Health>,
    link: watch::Receiver<Link>,
    brake: watch::Receiver<Brake>,
    told: Option<State>,
    in_flight: FuturesUnordered<BoxFuture<'static, ()>>,
    session: Option<Session>,
    epoch: u64,
    failures: u32,
    /// Silent sessions in a row.
    silences: u32,
    retry_at: Instant,
    trouble: Option<Trouble>,
    answered: bool,
    drained_by: Option<Drained>,
}

/// The two ends of patience, once a drain was asked for.
#[derive(Clone, Copy)]
struct Drained {
    wind_down: Instant,
    limit: Instant,
}

impl Pipeline {
    /// Puts it together; nothing is pulled before [`Self::run`].
    pub fn new(context: Arc<Context>, health: Arc<Health>, link: watch::Receiver<Link>) -> Self {
        Self {
            brake: context.availability.subscribe(),
            told: None,
            context,
            health,
            link,
            in_flight: FuturesUnordered::new(),
            session: None,
            epoch: 0,
            failures: 0,
            silences: 0,
            retry_at: Instant::now(),
            trouble: None,
            answered: false,
            drained_by: None,
        }
    }

    /// Works until it is drained. Dropping it gives back what is in hand.
    pub async fn run(mut self) {
        loop {
            self.health.beat();
            self.steer().await;
            if self.is_done() {
                break;
            }
            self.wait().await;
        }
        if !self.in_flight.is_empty() {
            tracing::warn!(
                left = self.in_flight.len(),
                "deliveries did not finish in time: their events are given back"
            );
            self.in_flight.clear();
        }
        if !matches!(timeout(FLUSH_LIMIT, self.context.client.flush()).await, Ok(Ok(()))) {
            tracing::warn!("not everything could be told to the broker: it delivers some events again");
        }
    }

    fn is_done(&self) -> bool {
        let settled = self.session.is_none() && self.in_flight.is_empty();
        self.drained_by.is_some_and(|end| settled || Instant::now() >= end.limit)
    }

    /// Waits for the next thing to happen, and takes it in.
    async fn wait(&mut self) {
        let wake = self.wake_at();
        let Self { context, in_flight, session, link, brake, drained_by, .. } = self;
        let arrival = tokio::select! {
            biased;
            () = context.drain.begun(), if drained_by.is_none() => {
                let now = Instant::now();
                let limit = now + config::drain_limit(&context.config);
                *drained_by = Some(Drained { wind_down: now + WIND_DOWN, limit });
                None
            }
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {
                // What else is done by now, too: what follows is for all of it. (The next wait asks again.)
                while let Some(Some(())) = in_flight.next().now_or_never() {}
                None
            }
            arrival = next(session) => Some(arrival),
            Ok(()) = link.changed() => None,
            Ok(()) = brake.changed() => None,
            () = sleep_until(wake) => None,
        };
        let (mut arrived, mut taken) = (arrival, 0);
        while let Some(arrival) = arrived {
            self.take_in(arrival);
            taken += 1;
            arrived = if taken < AT_ONCE { next(&mut self.session).now_or_never() } else { None };
        }
    }

    fn wake_at(&self) -> Instant {
        let session = self.session.as_ref();
        let drained = self.drained_by.map(|end| if session.is_some() { end.wind_down } else { end.limit });
        let now = Instant::now();
        [
            session.and_then(Session::silent_at),
            session.and_then(Session::closed_by),
            session.is_none().then_some(self.retry_at),
            drained,
        ]
        .into_iter()
        .flatten()
        .filter(|instant| *instant > now)
        .fold(now + TICK, Instant::min)
    }

    fn take_in(&mut self, arrival: Arrival) {
        let closing = self.session.as_ref().is_none_or(|session| session.closed_by().is_some());
        match arrival {
            // Dropped, it goes back.
            Arrival::Event(event) if closing && self.drained_by.is_some() => drop(event),
            Arrival::Event(event) => self.in_flight.push(process(self.context.clone(), event).boxed()),
            Arrival::Alive => {}
            Arrival::Trouble(trouble) => return self.pause(trouble),
            Arrival::Closed => self.session = None,
        }
        if !closing {
            self.works();
        }
    }

    /// The consumer answers.
    fn works(&mut self) {
        if !self.answered || self.trouble.is_some() {
            tracing::info!(handler = self.context.config.handler, "pulling events");
        }
        self.answered = true;
        self.trouble = None;
        self.failures = 0;
        self.silences = 0;
    }

    /// The session is of no use; another one is opened after a while.
    fn pause(&mut self, trouble: Trouble) {
        self.failures = self.failures.saturating_add(1);
        self.silences = if trouble == Trouble::Silent { self.silences + 1 } else { 0 };
        self.retry_at = Instant::now() + RETRIES.wait(self.failures, fastrand::f64());
        if !trouble.is_ordinary() {
            if self.trouble.as_ref() != Some(&trouble) {
                tracing::warn!(handler = self.context.config.handler, %trouble, "no events are pulled: trying on");
            }
            self.answered = false;
            self.trouble = Some(trouble);
        }
    }

    /// Makes the session fit the connection, the handler and the drain.
    async fn steer(&mut self) {
        let link = *self.link.borrow_and_update();
        let state = self.handler_state();
        let now = Instant::now();
        let is_over = |end: Option<Instant>| end.is_some_and(|end| end <= now);
        if is_over(self.session.as_ref().and_then(Session::closed_by)) {
            self.session = None;
        }
        if link.connected && is_over(self.session.as_ref().and_then(Session::silent_at)) {
            self.pause(Trouble::Silent);
        }
        if link.connected && self.silences >= MAX_SILENCES {
            self.reconnect().await;
        }
        if link.connected {
            self.steer_session(link, &state, now).await;
        } else if self.drained_by.is_some() {
            // Nothing can come, and nothing can be told.
            self.session = None;
        }
        self.tell(link, state != State::Up);
    }

    /// The server says nothing to one session after another: it may be frozen, and another one may not be.
    async fn reconnect(&mut self) {
        self.silences = 0;
        tracing::warn!("the broker is silent: connecting again");
        let commanded = timeout(COMMAND_LIMIT, self.context.client.force_reconnect()).await;
        if !matches!(commanded, Ok(Ok(()))) {
            tracing::debug!("the connection takes no command");
        }
    }

    /// How many events there may be in hand for more to be asked for.
    fn allowance(&self, state: &State) -> usize {
        match state {
            State::Unreachable(_) => 0,
            _ if !self.context.budget.has_room() => 0,
            // One that tries it.
            State::Unavailable(_) => 1,
            State::Up => {
                let most = self.context.config.delivery.slots();
                let limiter = self.context.options.limiter.as_ref();
                limiter.map_or(most, |limiter| most.min(self.in_flight.len() + limiter.room()))
            }
        }
    }

    async fn steer_session(&mut self, link: Link, state: &State, now: Instant) {
        let allowance = self.allowance(state);
        let used_up = self.drained_by.is_some_and(|end| end.wind_down <= now);
        let Some(session) = &mut self.session else {
            if self.drained_by.is_none() && self.retry_at <= now {
                self.open(link, window::request(allowance, self.in_flight.len(), 0)).await;
            }
            return;
        };
        if session.closed_by().is_some() {
            return;
        }
        let winding_down = self.drained_by.is_some();
        let useless = self.epoch != link.epoch || self.retry_at > now;
        let wound_down = winding_down && (used_up || *state != State::Up || session.outstanding() == 0);
        if useless || wound_down {
            session.close().await;
        } else if !winding_down
            && let Some(batch) = window::request(allowance, self.in_flight.len(), session.outstanding())
            && !matches!(timeout(COMMAND_LIMIT, session.request(batch)).await, Ok(Ok(())))
        {
            self.pause(Trouble::Silent);
        }
    }

    async fn open(&mut self, link: Link, batch: Option<usize>) {
        let Some(batch) = batch else { return };
        let Context { client, config, budget, .. } = &*self.context;
        match timeout(COMMAND_LIMIT, Session::open(client, &config.handler, budget, batch)).await {
            Ok(Ok(session)) => {
                self.session = Some(session);
                self.epoch = link.epoch;
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "no pull");
                self.pause(Trouble::Silent);
            }
            Err(_) => self.pause(Trouble::Silent),
        }
    }

    fn handler_state(&mut self) -> State {
        let state = self.brake.borrow_and_update().state().clone();
        if self.told.as_ref() != Some(&state) {
            self.context.metrics.handler(&state);
            self.told = Some(state.clone());
        }
        state
    }

    fn tell(&self, link: Link, down: bool) {
        self.health.set(if self.drained_by.is_some() {
            Progress::Draining
        } else if !link.connected {
            Progress::Disconnected
        } else if self.answered {
            Progress::Pulling
        } else if down {
            Progress::Unreachable
        } else {
            Progress::Opening
        });
    }
}

async fn next(session: &mut Option<Session>) -> Arrival {
    match session {
        Some(session) => session.next().await,
        None => pending().await,
    }
}
