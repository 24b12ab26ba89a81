//! The events that are here, in the order of their arrival, and when the broker is told again that they are.

use std::collections::{BTreeMap, VecDeque};

use super::GONE_PULL;
use super::carryover::is_same;
use crate::event::{Id, Moment};
use crate::exchange::Action;

/// Those that are due within this part of the period are renewed together.
const TOGETHER: Moment = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Delivery {
    id: Id,
    renew_at: Moment,
    running: bool,
    /// The stream has lost it: there is nothing to tell of it.
    is_lost: bool,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InFlight {
    renew_every: Moment,
    here: BTreeMap<u64, Delivery>,
    waiting: VecDeque<Id>,
    running: usize,
    /// No renewal is due before.
    renewal_at: Option<Moment>,
}

impl InFlight {
    /// None yet.
    pub fn new(renew_every: Moment) -> Self {
        Self { renew_every, here: BTreeMap::new(), waiting: VecDeque::new(), running: 0, renewal_at: None }
    }

    /// Takes in what came.
    pub fn take(&mut self, now: Moment, id: Id) {
        let renew_at = now + self.renew_every;
        self.here.insert(id.arrival, Delivery { id, renew_at, running: false, is_lost: false });
        self.waiting.push_back(id);
        self.renewal_at.get_or_insert(renew_at);
    }

    /// Those that the stream has, as far as is known.
    pub fn kept(&self) -> impl Iterator<Item = Id> {
        self.here.values().filter(|one| !one.is_lost).map(|one| one.id)
    }

    /// The stream has lost this event. Its attempt takes its course, and nothing is told of it.
    pub fn lose(&mut self, id: Id) {
        self.here.values_mut().filter(|one| is_same(one.id, id)).for_each(|one| one.is_lost = true);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.here.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.here.is_empty()
    }

    /// How many of them run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// The next one that starts.
    pub fn start(&mut self) -> Option<Id> {
        let id = self.waiting.pop_front()?;
        let one = self.here.get_mut(&id.arrival)?;
        one.running = true;
        self.running += 1;
        Some(id)
    }

    /// Lets go of one whose attempt is over. Whether the stream has lost it; `None`: it was not here.
    pub fn remove(&mut self, id: Id) -> Option<bool> {
        let gone = self.here.remove(&id.arrival);
        self.running -= usize::from(gone.as_ref().is_some_and(|one| one.running));
        if self.here.is_empty() {
            self.renewal_at = None;
        }
        gone.map(|one| one.is_lost)
    }

    /// Lets go of all arrivals of this event that wait, and returns them.
    pub fn remove_waiting(&mut self, id: Id) -> Vec<Id> {
        let twice: Vec<Id> = self.waiting.iter().filter(|other| is_same(**other, id)).copied().collect();
        if !twice.is_empty() {
            self.waiting.retain(|other| !is_same(*other, id));
        }
        twice.into_iter().filter(|id| self.remove(*id).is_some()).collect()
    }

    /// When a renewal may be due.
    pub fn renewal_at(&self) -> Option<Moment> {
        self.renewal_at
    }

    /// Adds the renewals that are due. All events are looked at, but rarely: with a timer for each the most of them,
    /// which are over long before, would have it for nothing.
    pub fn renew(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.renewal_at.is_none_or(|at| now < at) {
            return;
        }
        let soon = now + self.renew_every / TOGETHER;
        for one in self.here.values_mut().filter(|one| one.renew_at <= soon && !one.is_lost) {
            one.renew_at = now + self.renew_every;
            out.push(Action::Renew { id: one.id, confirm: false });
        }
        self.renewal_at = self.here.values().filter(|one| !one.is_lost).map(|one| one.renew_at).min();
    }

    /// Gives all back.
    pub fn abandon(&mut self, out: &mut Vec<Action>) {
        (self.running, self.renewal_at) = (0, None);
        self.waiting.clear();
        out.extend(std::mem::take(&mut self.here).into_values().map(|Delivery { id, is_lost, .. }| {
            if is_lost { Action::Drop(id) } else { Action::GiveBack { id, wait: GONE_PULL } }
        }));
    }
}
