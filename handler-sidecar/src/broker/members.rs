//! The sidecars of a handler hear of each other, over plain messages inside the handler's own account.
//!
//! Where they share something out, each says every second that it is there, at once when it comes, when it hears of a
//! new one and when it goes. Where they do not, only those speak whose handler takes no connections, and are answered
//! by another whose handler does: their deliveries are then given to that one.
//!
//! A sidecar that is not heard of for [`FORGOTTEN`] is forgotten, but only by one that still hears itself: without a
//! connection no sidecar knows which others are there. Nothing rests on all of them agreeing at every moment: the
//! broker decides which of them may pull a lane, and its lease when an event may start.

mod holdings;
pub mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdings::Holdings;
use serde::{Deserialize, Serialize};
use share::Member;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_delivery_core::Lane;
use tidegate_wire::nats::{Client, Link, Publish};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::consume::process::Context;
use crate::deliver::availability::State;

/// How often each says that it is there.
pub const PERIOD: Duration = Duration::from_secs(1);
/// A member that is silent for this long is gone.
pub const FORGOTTEN: Duration = Duration::from_millis(3500);
/// A new member waits this long for the others' answers before it takes a lane.
pub const ACQUAINTANCE: Duration = Duration::from_millis(400);
/// Whoever asks where nothing is shared out is answered within this time.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
/// No more members are remembered.
const MAX_MEMBERS: usize = 1024;
/// What one command to the connection may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);

/// What a sidecar says of itself, so that the others know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Heartbeat {
    id: Member,
    /// Whether its handler takes events.
    able: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    goes: bool,
    /// The lanes of which it may have events, where there are lanes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lanes: Option<BTreeSet<Lane>>,
}

/// What was heard.
struct ReceivedHeartbeat {
    id: Member,
    able: bool,
    /// Its sender does not know this sidecar.
    new: bool,
}

/// Each member, and whether its handler takes events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View(BTreeMap<Member, bool>);

impl View {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The lanes of this member. Those whose handler takes no events have none, unless that is so for all.
    pub fn lanes(&self, me: Member, lanes: u16) -> BTreeSet<u16> {
        let able: Vec<Member> = self.0.iter().filter(|(_, able)| **able).map(|(member, _)| *member).collect();
        let takers = if able.is_empty() { self.0.keys().copied().collect() } else { able };
        let owners = share::owners(lanes, &takers);
        (0..lanes).zip(owners).filter(|(_, owner)| *owner == Some(me)).map(|(lane, _)| lane).collect()
    }
}

/// The sidecars of this handler, as this one knows them.
#[derive(Debug)]
pub struct Members {
    me: Member,
    view: watch::Sender<View>,
    count: watch::Sender<usize>,
    another_is_able: watch::Sender<bool>,
    /// The lanes of which this one may have events.
    mine: watch::Sender<BTreeSet<Lane>>,
    /// What the others have said of theirs, where there are lanes.
    holdings: Mutex<Option<Holdings>>,
    /// The lanes of which others may have events, if it is known.
    others: watch::Sender<Option<BTreeSet<Lane>>>,
}

/// Waits for this moment, if there is one.
async fn answer(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

impl Members {
    /// This one alone; `count` gets how many there are.
    pub fn new(count: watch::Sender<usize>) -> Self {
        let me = fastrand::u64(..);
        let view = watch::Sender::new(View(BTreeMap::from([(me, true)])));
        let (another_is_able, mine, others) = Default::default();
        Self { me, view, count, another_is_able, mine, holdings: Mutex::default(), others }
    }

    /// This one may have events of these lanes from now on; the others hear of it at once.
    pub fn announce(&self, lanes: BTreeSet<Lane>) {
        self.mine.send_replace(lanes);
    }

    /// The lanes of which others may have events, and every change of it; `None` until it is known.
    pub fn others(&self) -> watch::Receiver<Option<BTreeSet<Lane>>> {
        self.others.subscribe()
    }

    /// Does something with what the others said of their lanes, and tells what follows. Returns when that may change.
    fn hold(&self, how: impl FnOnce(&mut Holdings, Instant)) -> Option<Instant> {
        let now = Instant::now();
        let mut holdings = self.holdings.lock().unwrap_or_else(PoisonError::into_inner);
        let holdings = holdings.as_mut()?;
        how(holdings, now);
        let others = Some(holdings.others(now));
        self.others.send_if_modified(|told| std::mem::replace(told, others.clone()) != others);
        holdings.wake_at(now)
    }

    /// Where there are lanes, what the others say of theirs is heard from now on.
    fn begin_to_hold(&self, context: &Context) {
        if let Order::Key { lanes } = context.config.delivery.order {
            let holdings = Holdings::new(Instant::now(), context.config.ack_wait, lanes);
            *self.holdings.lock().unwrap_or_else(PoisonError::into_inner) = Some(holdings);
        }
    }

    /// The connection is lost or made again; which of the two.
    fn is_connected_again(&self, link: &mut watch::Receiver<Link>) -> bool {
        let connected = link.borrow_and_update().connected;
        if connected {
            self.hold(Holdings::reconnected);
        }
        connected
    }

    /// This member's name.
    pub fn me(&self) -> Member {
        self.me
    }

    /// How many there are, this one included.
    pub fn count(&self) -> usize {
        self.view.borrow().count()
    }

    /// The members, and every change of them.
    pub fn subscribe(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Whether another one's handler takes connections, as far as it is known, and every change of it.
    pub fn another_is_able(&self) -> watch::Receiver<bool> {
        self.another_is_able.subscribe()
    }

    /// Speaks and listens, and says so when the drain begins. Never returns.
    ///
    /// Where nothing is shared out only those speak whose handler takes no connections, and one that answers them.
    pub async fn run(&self, context: &Context) {
        let Context { client, drain, .. } = context;
        // It is a subject, and the connection lives as long as this.
        let Ok(mut heartbeats) = client.subscribe(layout::MEMBER_SUBJECT, None) else { return pending().await };
        let (always, mut state) = (context.shares(), context.availability.subscribe());
        state.mark_changed();
        self.begin_to_hold(context);
        let (mut mine, mut link) = (self.mine.subscribe(), client.link());
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = BTreeMap::from([(self.me, Instant::now())]);
        let (mut able, mut goes, mut answer_at) = (true, false, None);
        loop {
            let held_until = self.hold(|_, _| {});
            let speaks = tokio::select! {
                () = answer(held_until) => false,
                Ok(()) = mine.changed() => always,
                Ok(()) = link.changed() => self.is_connected_again(&mut link) && always,
                _ = ticks.tick() => {
                    self.forget(&mut heard);
                    always || !able
                }
                () = drain.begun(), if !goes => {
                    goes = true;
                    always
                }
                Ok(()) = state.changed() => {
                    let is_able = !matches!(*state.borrow_and_update(), State::Unreachable(_));
                    let changed = std::mem::replace(&mut able, is_able) != is_able;
                    if changed && !always && !able {
                        self.forget_all(&mut heard);
                    }
                    changed
                }
                () = answer(answer_at) => true,
                message = heartbeats.next() => {
                    let Some(message) = message else { return pending().await };
                    let Some(heartbeat) = self.listen(message.payload(), &mut heard) else { continue };
                    if heartbeat.able && heartbeat.id != self.me {
                        answer_at = None;
                    } else if !always && !heartbeat.able && able && !goes {
                        // Not all at once: one answer is enough.
                        answer_at.get_or_insert_with(|| Instant::now() + ANSWER_WITHIN.mul_f64(fastrand::f64()));
                    }
                    always && heartbeat.new
                }
            };
            if speaks {
                answer_at = None;
                self.say(client, able, goes).await;
            }
        }
    }

    async fn say(&self, client: &Client, able: bool, goes: bool) {
        let has_lanes = self.holdings.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let lanes = has_lanes.then(|| self.mine.borrow().clone());
        let heartbeat = Heartbeat { id: self.me, able, goes, lanes };
        let Ok(body) = serde_json::to_vec(&heartbeat) else { return };
        let message = Publish { subject: layout::MEMBER_SUBJECT, payload: &body, ..Publish::default() };
        if !matches!(timeout(COMMAND_LIMIT, client.publish_now(&message)).await, Ok(Ok(()))) {
            tracing::debug!("the heartbeat was not sent");
        }
    }

    /// Records a heartbeat, and returns it if its sender stays.
    fn listen(&self, payload: &[u8], heard: &mut BTreeMap<Member, Instant>) -> Option<ReceivedHeartbeat> {
        let Heartbeat { id, able, goes, lanes } = serde_json::from_slice(payload).ok()?;
        if id != self.me {
            self.hold(|holdings, now| holdings.heard(now, id, lanes));
        }
        if goes && id != self.me {
            heard.remove(&id);
            self.change(|members| members.remove(&id).is_some());
            return None;
        }
        let new = !heard.contains_key(&id);
        if new && heard.len() >= MAX_MEMBERS {
            return None;
        }
        heard.insert(id, Instant::now());
        self.change(|members| members.insert(id, able) != Some(able));
        Some(ReceivedHeartbeat { id, able, new })
    }

    /// Forgets the others: what was heard long ago may be over by now.
    fn forget_all(&self, heard: &mut BTreeMap<Member, Instant>) {
        heard.retain(|id, _| *id == self.me);
        self.change(|members| {
            members.retain(|id, _| *id == self.me);
            true
        });
    }

    fn forget(&self, heard: &mut BTreeMap<Member, Instant>) {
        let now = Instant::now();
        let hears_itself = heard.get(&self.me).is_some_and(|at| now - *at < 2 * PERIOD);
        if !hears_itself {
            return;
        }
        heard.retain(|_, at| now - *at < FORGOTTEN);
        self.change(|members| {
            let before = members.len();
            members.retain(|member, _| heard.contains_key(member));
            members.len() != before
        });
    }

    fn change(&self, how: impl FnOnce(&mut BTreeMap<Member, bool>) -> bool) {
        let changed = self.view.send_if_modified(|view| how(&mut view.0));
        if changed {
            let another = self.view.borrow().0.iter().any(|(id, able)| *id != self.me && *able);
            self.another_is_able.send_if_modified(|told| std::mem::replace(told, another) != another);
            let count = self.count();
            tracing::debug!(count, "the handler's sidecars changed");
            self.count.send_if_modified(|told| std::mem::replace(told, count) != count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(id: Member, able: bool, goes: bool) -> Vec<u8> {
        serde_json::to_vec(&Heartbeat { id, able, goes, lanes: None }).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn others_come_and_go() {
        let members = Members::new(watch::Sender::new(1));
        let mut heard = BTreeMap::from([(members.me, Instant::now())]);
        let other = members.me.wrapping_add(1);
        assert!(members.listen(&heartbeat(other, true, false), &mut heard).unwrap().new);
        assert!(*members.another_is_able().borrow());
        assert!(!members.listen(&heartbeat(other, true, false), &mut heard).unwrap().new, "known");
        assert_eq!((members.count(), *members.count.borrow()), (2, 2));
        assert!(members.listen(&heartbeat(other, true, true), &mut heard).is_none());
        assert_eq!(members.count(), 1);
        assert!(!*members.another_is_able().borrow());
        assert!(members.listen(b"nonsense", &mut heard).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_forgotten_by_who_hears_itself() {
        let members = Members::new(watch::Sender::new(1));
        let mut heard = BTreeMap::new();
        members.listen(&heartbeat(members.me.wrapping_add(1), true, false), &mut heard);
        tokio::time::advance(FORGOTTEN).await;
        members.forget(&mut heard);
        assert_eq!(members.count(), 2, "without a connection nobody can tell");
        members.listen(&heartbeat(members.me, true, false), &mut heard);
        members.forget(&mut heard);
        assert_eq!(members.count(), 1);
    }

    #[test]
    fn only_the_able_take_lanes_unless_nobody_is() {
        let view = |able: [bool; 2]| View(BTreeMap::from([(1, able[0]), (2, able[1])]));
        assert_eq!(view([true, false]).lanes(1, 4).len(), 4);
        assert_eq!(view([true, false]).lanes(2, 4).len(), 0);
        for both in [[true, true], [false, false]] {
            assert_eq!((view(both).lanes(1, 4).len(), view(both).lanes(2, 4).len()), (2, 2));
        }
    }
}
