//! The lanes of this process: those that the members' shares give it.
//!
//! A lane that goes to another member is left first: what runs finishes, the rest goes back. The other one may
//! pull already; the broker serves it as soon as this one has given up the pin.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::driver::{Lane, Shared};
use super::sizes::Sizes;
use super::terms::Terms;
use crate::broker::connection::Link;
use crate::broker::members::{ACQUAINTANCE, Members, View};
use crate::consume::process::Context;
use crate::deliver::brake::State;
use crate::ops::config;
use crate::ops::health::{Health, Progress};

/// It wakes at least this often, so that the watchdog sees it.
const TICK: Duration = Duration::from_secs(1);
/// What the last flush may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The lanes, and what says which are ours.
pub struct Lanes<'a> {
    shared: Shared,
    health: Arc<Health>,
    members: &'a Members,
    view: watch::Receiver<View>,
    count: u16,
    terms: Terms,
    active: BTreeMap<u16, CancellationToken>,
    running: FuturesUnordered<BoxFuture<'static, u16>>,
    limit: Option<Instant>,
}

impl<'a> Lanes<'a> {
    /// Puts it together; nothing is pulled before [`Self::run`].
    pub fn new(
        context: Arc<Context>,
        health: Arc<Health>,
        link: watch::Receiver<Link>,
        count: u16,
        members: &'a Members,
    ) -> Self {
        let shared = Shared {
            permits: Arc::new(Semaphore::new(context.config.delivery.slots())),
            troubled: Arc::default(),
            stalled: Arc::default(),
            sizes: Arc::new(Sizes::new(context.client.max_payload())),
            brake: context.availability.subscribe(),
            link,
            context,
        };
        Self {
            terms: Terms::of(shared.context.config.ack_wait),
            view: members.subscribe(),
            active: BTreeMap::new(),
            running: FuturesUnordered::new(),
            limit: None,
            shared,
            health,
            members,
            count,
        }
    }

    /// Works until it is drained. Dropping it gives back what is in hand.
    pub async fn run(mut self) {
        let drain = self.shared.context.drain.clone();
        // The others are heard first, or a newcomer would ask for all lanes.
        tokio::select! {
            () = sleep(ACQUAINTANCE) => {}
            () = drain.begun() => {}
        }
        loop {
            self.health.beat();
            self.steer();
            if self.limit.is_some_and(|limit| self.running.is_empty() || limit <= Instant::now()) {
                break;
            }
            tokio::select! {
                () = drain.begun(), if self.limit.is_none() => {
                    self.limit = Some(Instant::now() + config::drain_limit(&self.shared.context.config));
                }
                Some(lane) = self.running.next(), if !self.running.is_empty() => {
                    self.active.remove(&lane);
                }
                Ok(()) = self.view.changed() => {}
                Ok(()) = self.shared.link.changed() => {}
                Ok(()) = self.shared.brake.changed() => {}
                () = sleep_until(Instant::now() + TICK) => {}
            }
        }
        if !self.running.is_empty() {
            tracing::warn!("deliveries did not finish in time: their events are given back");
            self.running.clear();
        }
        if !matches!(timeout(FLUSH_LIMIT, self.shared.context.client.flush()).await, Ok(Ok(()))) {
            tracing::warn!("not everything could be told to the broker: it delivers some events again");
        }
    }

    /// Takes up and leaves lanes as the members' shares say.
    fn steer(&mut self) {
        let state = self.shared.brake.borrow_and_update().state().clone();
        self.shared.context.metrics.handler(&state);
        let link = *self.shared.link.borrow_and_update();
        let view = self.view.borrow_and_update();
        let wanted = if self.limit.is_some() { BTreeSet::new() } else { view.lanes(self.members.me(), self.count) };
        drop(view);
        for (lane, leave) in &self.active {
            if !wanted.contains(lane) {
                leave.cancel();
            }
        }
        for lane in wanted {
            // One that is being left comes back when that is done.
            self.active.entry(lane).or_insert_with(|| {
                let leave = CancellationToken::new();
                self.running.push(own(self.shared.clone(), lane, self.terms.clone(), leave.clone()).boxed());
                leave
            });
        }
        self.shared.sizes.share_among(self.active.len());
        self.health.set_stalled(self.limit.is_none() && self.shared.stalled.load(Ordering::Relaxed) > 0);
        self.health.set(if self.limit.is_some() {
            Progress::Draining
        } else if !link.connected {
            Progress::Disconnected
        } else if self.shared.troubled.load(Ordering::Relaxed) > 0 {
            Progress::Opening
        } else if matches!(state, State::Unreachable(_)) {
            Progress::Unreachable
        } else {
            Progress::Pulling
        });
    }
}

async fn own(shared: Shared, lane: u16, terms: Terms, leave: CancellationToken) -> u16 {
    tracing::debug!(lane, "a lane is taken up");
    Lane::new(shared, lane, terms).run(leave).await;
    tracing::debug!(lane, "a lane is left");
    lane
}
