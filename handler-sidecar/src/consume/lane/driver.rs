//! One lane at work: what the owner ([`super::owner`]) wants done is done here, and what happens is told to it.

mod events;
mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::Message;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt as _};
use tidegate_broker_client::layout;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::events::Events;
use super::owner::{Id, Input, Owner};
use super::pulls::Pin;
use super::sizes::Sizes;
use super::terms::{Moment, Terms, millis};
use super::wire;
use crate::broker::connection::Link;
use crate::broker::pull::status::Trouble;
use crate::consume::in_hand::InHand;
use crate::consume::process::{Context, Verdict};
use crate::deliver::brake::{Brake, State};
use crate::ops::watchdog::Watchdog;

/// The lane wakes at least this often.
const TICK: Duration = Duration::from_secs(1);
/// How long a lane that was left still gives back what was on its way.
const LINGER: Duration = Duration::from_millis(200);
/// An event that could not be tried waits at least this long.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);

/// What the lanes of a process share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// What every event needs.
    pub context: Arc<Context>,
    /// Attempts that may run at the same time.
    pub permits: Arc<Semaphore>,
    /// Lanes that the broker does not serve.
    pub troubled: Arc<AtomicUsize>,
    /// Lanes whose events wait for nothing.
    pub stalled: Arc<AtomicUsize>,
    /// How large events are.
    pub sizes: Arc<Sizes>,
    /// The connection.
    pub link: watch::Receiver<Link>,
    /// The handler.
    pub brake: watch::Receiver<Brake>,
}

/// What happened.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, and a box would be an allocation per event")]
enum Happened {
    Input(Input),
    Attempted(Id, InHand, Option<Verdict>),
    /// So many events wait; `None`: the broker did not say.
    Counted(Option<u64>),
}

/// A lane that this process pulls.
pub struct Lane {
    shared: Shared,
    terms: Terms,
    consumer: String,
    owner: Owner,
    origin: Instant,
    events: Events,
    /// What comes by each open pull, with the pull's number: it is not in the message.
    messages: SelectAll<BoxStream<'static, (u64, Message)>>,
    /// When the last pull was sent.
    pulled: Instant,
    epoch: u64,
    under_way: FuturesUnordered<BoxFuture<'static, Happened>>,
    left: Option<Instant>,
    trouble: Option<Trouble>,
    watchdog: Watchdog,
    stalled: bool,
}

impl Lane {
    /// Takes up a lane; nothing is pulled before [`Self::run`].
    pub fn new(shared: Shared, lane: u16, terms: Terms) -> Self {
        let epoch = shared.link.borrow().epoch;
        Self {
            consumer: layout::lane_consumer(&shared.context.config.handler, lane),
            owner: Owner::new(terms.clone()),
            origin: Instant::now(),
            messages: SelectAll::new(),
            pulled: Instant::now(),
            events: Events::new(shared.context.clone()),
            under_way: FuturesUnordered::new(),
            left: None,
            trouble: None,
            watchdog: Watchdog::new(shared.context.config.ack_wait, Instant::now()),
            stalled: false,
            shared,
            terms,
            epoch,
        }
    }

    /// Works until it is told to leave and has nothing in hand any more. Dropping it gives back what is in hand.
    pub async fn run(mut self, leave: CancellationToken) {
        loop {
            self.act().await;
            self.watch();
            if self.left.is_some_and(|end| end <= Instant::now()) {
                return;
            }
            self.wait(&leave).await;
        }
    }

    fn now(&self) -> Moment {
        millis(self.origin.elapsed())
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        tracing::trace!(consumer = self.consumer, now, ?input, "lane");
        self.owner.input(now, input);
    }

    /// Whether more events are wanted.
    fn wants_more(&self) -> bool {
        let up = match self.shared.brake.borrow().state() {
            State::Up => true,
            State::Unavailable(_) => self.owner.in_hand() == 0,
            State::Unreachable(_) => false,
        };
        up && self.shared.link.borrow().connected
    }

    /// How many events a pull may bring. None while too many bytes are held; but a lane that can start nothing before it
    /// has what the broker waits for asks for one now and then, because what is held may be its own.
    fn batch(&self) -> u32 {
        let is_due = || self.pulled.elapsed() >= Duration::from_millis(self.terms.pull_every);
        match (self.wants_more(), self.shared.context.budget.has_room()) {
            (true, true) => self.shared.sizes.batch(self.terms.batch),
            (true, false) if self.owner.lacks_events() && is_due() => 1,
            _ => 0,
        }
    }

    /// Whether an attempt may start. Without a connection the broker may be another one when it is back, which has lent
    /// the event to somebody else.
    fn can_start(&self, now: Moment) -> bool {
        self.shared.link.borrow().connected && self.owner.can_start(now)
    }

    /// Does what is to be done now.
    async fn act(&mut self) {
        let link = *self.shared.link.borrow_and_update();
        if link.epoch != self.epoch {
            self.epoch = link.epoch;
            self.input(Input::Reconnected);
        }
        let now = self.now();
        for action in self.owner.actions(now, self.batch()) {
            self.perform(action).await;
        }
        while self.can_start(self.now()) {
            let Ok(permit) = self.shared.permits.clone().try_acquire_owned() else { break };
            self.start(permit);
        }
        if self.left.is_none() && self.owner.has_left() {
            self.left = Some(Instant::now() + LINGER);
        }
    }

    /// Waits for the next thing to happen, and takes it in.
    async fn wait(&mut self, leave: &CancellationToken) {
        let now = self.now();
        let wake = self.owner.wake_at(now, self.batch() > 0);
        let wake = wake.map_or(TICK, |at| Duration::from_millis(at.saturating_sub(now).max(1))).min(TICK);
        let wake = self.left.into_iter().fold(Instant::now() + wake, Instant::min);
        // Without a permit it waits for one.
        let can_start = self.can_start(now);
        let leaving = self.owner.is_leaving();
        tokio::select! {
            biased;
            () = leave.cancelled(), if !leaving => self.input(Input::Leave),
            Some(happened) = self.under_way.next(), if !self.under_way.is_empty() => self.happened(happened),
            Some((pull, message)) = self.messages.next() => self.message(pull, message),
            Ok(permit) = self.shared.permits.clone().acquire_owned(), if can_start => self.start(permit),
            Ok(()) = self.shared.link.changed() => {}
            Ok(()) = self.shared.brake.changed() => {}
            () = sleep_until(wake) => {}
        }
    }

    fn message(&mut self, pull: u64, message: Message) {
        if message.status.is_some() {
            if let Some((input, trouble)) = wire::status(&message, pull) {
                self.troubled(trouble);
                self.input(input);
            }
            return;
        }
        let Context { client, budget, .. } = &*self.shared.context;
        self.shared.sizes.came(message.length);
        let Some(stored) = InHand::new(client.clone(), message, budget) else {
            tracing::error!("a message that is neither an event nor a status came to the inbox of a pull");
            return;
        };
        self.troubled(None);
        let pin = Pin::from(wire::pin(stored.headers()));
        let key = wire::key(&stored);
        let id = self.events.keep(stored);
        self.input(Input::Arrived { id, key, pull, pin });
    }

    /// Tells a person, once, what keeps the broker from serving the lane.
    fn troubled(&mut self, trouble: Option<Trouble>) {
        let trouble = trouble.filter(|trouble| !trouble.is_ordinary());
        if let Some(trouble) = &trouble
            && self.trouble.is_none()
        {
            tracing::warn!(consumer = self.consumer, %trouble, "no events of a lane are pulled: trying on");
            self.shared.troubled.fetch_add(1, Ordering::Relaxed);
        } else if trouble.is_none() && self.trouble.is_some() {
            tracing::info!(consumer = self.consumer, "pulling events of a lane");
            self.shared.troubled.fetch_sub(1, Ordering::Relaxed);
        }
        self.trouble = trouble;
    }

    fn happened(&mut self, happened: Happened) {
        match happened {
            Happened::Input(input) => self.input(input),
            Happened::Attempted(id, stored, verdict) => self.attempted(id, stored, verdict),
            Happened::Counted(waiting) => self.watchdog.answered(Instant::now(), waiting),
        }
    }

    fn attempted(&mut self, id: Id, mut stored: InHand, verdict: Option<Verdict>) {
        let now = self.now();
        let (Some(event), Some(verdict)) = (self.events.get_mut(id), verdict) else {
            // Its lease is over: it is not ours to give back.
            return stored.settled_elsewhere();
        };
        event.how = verdict.settled();
        let input = match verdict {
            Verdict::Acknowledge(_) => Input::Settled(id),
            Verdict::RetryIn(wait) => {
                stored.stays_in_hand();
                Input::Again(id, now + millis(wait))
            }
            Verdict::GiveBack(wait) => {
                // Why it waits is on record, as with an attempt; what only lost its turn left no trace.
                if !wait.is_zero() {
                    stored.stays_in_hand();
                }
                Input::Again(id, now + millis(wait.max(SHORTEST_WAIT)))
            }
        };
        event.stored = Some(stored);
        self.input(input);
    }

    /// Notices if events wait, and nothing is started for no reason.
    fn watch(&mut self) {
        let now = Instant::now();
        let Shared { context, permits, link, brake, .. } = &self.shared;
        let up = *brake.borrow().state() == State::Up && link.borrow().connected;
        // Other lanes may have all permits, or all the room.
        let works = permits.available_permits() < context.config.delivery.slots();
        if !up || works || self.owner.has_plans(self.now()) {
            self.watchdog.reset(now);
        } else if self.watchdog.ask(now) {
            self.count_waiting();
        }
        self.set_stalled(self.watchdog.is_stalled(now));
    }

    fn set_stalled(&mut self, stalled: bool) {
        match (std::mem::replace(&mut self.stalled, stalled), stalled) {
            (false, true) => self.shared.stalled.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.shared.stalled.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
    }

    /// Starts the next attempt: the lease is checked here, and the request is what follows.
    fn start(&mut self, permit: OwnedSemaphorePermit) {
        let now = self.now();
        let Some(id) = self.owner.start(now) else { return };
        let Some((stored, cancel)) = self.events.begin(id) else { return };
        self.watchdog.reset(Instant::now());
        let context = self.shared.context.clone();
        let attempt = async move {
            let verdict = cancel.run_until_cancelled(context.handle(&stored)).await;
            drop(permit);
            Happened::Attempted(id, stored, verdict)
        };
        self.under_way.push(attempt.boxed());
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.troubled(None);
        self.set_stalled(false);
    }
}
