//! The sidecars of a handler hear of each other, over plain messages inside the handler's own account.
//!
//! Each says every second that it is there, at once when it comes, when it hears of a new one and when it goes.
//! Who is not heard of for [`FORGOTTEN`] is forgotten, but only by who still hears itself: without a connection
//! nobody can tell who is there. Nothing rests on all of them agreeing at every moment: who may pull a lane is
//! decided by the broker, and when an event may start by its lease.

pub mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use share::Member;
use tidegate_broker_client::layout;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::drain::Drain;

/// How often each says that it is there.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Who is silent for this long is gone.
pub const FORGOTTEN: Duration = Duration::from_millis(3500);
/// Who comes waits this long for the others' answers before it takes a lane.
pub const ACQUAINTANCE: Duration = Duration::from_millis(400);
/// More are not kept in mind.
const MOST: usize = 1024;
/// What one command to the connection may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(1);

/// What a sidecar says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Word {
    id: Member,
    /// Whether its handler takes events.
    able: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    goes: bool,
}

/// Who is there: each member, and whether its handler takes events.
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
    able: watch::Sender<bool>,
}

impl Members {
    /// This one alone; `count` is told how many there are.
    pub fn new(count: watch::Sender<usize>) -> Self {
        let me = fastrand::u64(..);
        Self { me, view: watch::Sender::new(View(BTreeMap::from([(me, true)]))), count, able: watch::Sender::new(true) }
    }

    /// This member's name.
    pub fn me(&self) -> Member {
        self.me
    }

    /// How many there are, this one included.
    pub fn count(&self) -> usize {
        self.view.borrow().count()
    }

    /// Who is there, and every change of it.
    pub fn subscribe(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    /// Says whether this one's handler takes events.
    pub fn set_able(&self, able: bool) {
        self.able.send_if_modified(|told| std::mem::replace(told, able) != able);
    }

    /// Speaks and listens, and says so when the drain begins. Never returns.
    pub async fn run(&self, client: &Client, drain: &Drain) {
        // Both fail only if the connection is closed for good.
        let Ok(mut words) = client.subscribe(layout::MEMBER_SUBJECT).await else { return pending().await };
        let mut able = self.able.subscribe();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = BTreeMap::from([(self.me, Instant::now())]);
        let mut goes = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.forget(&mut heard),
                () = drain.begun(), if !goes => goes = true,
                Ok(()) = able.changed() => {}
                word = words.next() => {
                    let Some(message) = word else { return pending().await };
                    if !self.listen(&message.payload, &mut heard) {
                        continue;
                    }
                }
            }
            self.say(client, goes).await;
        }
    }

    async fn say(&self, client: &Client, goes: bool) {
        let word = Word { id: self.me, able: *self.able.borrow(), goes };
        let Ok(word) = serde_json::to_vec(&word) else { return };
        let said = client.publish(layout::MEMBER_SUBJECT, Bytes::from(word));
        if !matches!(timeout(COMMAND_LIMIT, said).await, Ok(Ok(()))) {
            tracing::debug!("the other sidecars were not told that this one is there");
        }
    }

    /// Takes a word in; whether it is of somebody new, who does not know this one.
    fn listen(&self, payload: &[u8], heard: &mut BTreeMap<Member, Instant>) -> bool {
        let Ok(Word { id, able, goes }) = serde_json::from_slice(payload) else { return false };
        if goes && id != self.me {
            heard.remove(&id);
            self.change(|members| members.remove(&id).is_some());
            return false;
        }
        let new = !heard.contains_key(&id);
        if new && heard.len() >= MOST {
            return false;
        }
        heard.insert(id, Instant::now());
        self.change(|members| members.insert(id, able) != Some(able));
        new
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
            let count = self.count();
            tracing::debug!(count, "the handler's sidecars changed");
            self.count.send_if_modified(|told| std::mem::replace(told, count) != count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(id: Member, able: bool, goes: bool) -> Vec<u8> {
        serde_json::to_vec(&Word { id, able, goes }).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn others_come_and_go() {
        let members = Members::new(watch::Sender::new(1));
        let mut heard = BTreeMap::from([(members.me, Instant::now())]);
        let other = members.me.wrapping_add(1);
        assert!(members.listen(&word(other, true, false), &mut heard), "new");
        assert!(!members.listen(&word(other, true, false), &mut heard), "known");
        assert_eq!((members.count(), *members.count.borrow()), (2, 2));
        assert!(!members.listen(&word(other, true, true), &mut heard));
        assert_eq!(members.count(), 1);
        assert!(!members.listen(b"nonsense", &mut heard));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_is_forgotten_by_who_hears_itself() {
        let members = Members::new(watch::Sender::new(1));
        let mut heard = BTreeMap::new();
        members.listen(&word(members.me.wrapping_add(1), true, false), &mut heard);
        tokio::time::advance(FORGOTTEN).await;
        members.forget(&mut heard);
        assert_eq!(members.count(), 2, "without a connection nobody can tell");
        members.listen(&word(members.me, true, false), &mut heard);
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
