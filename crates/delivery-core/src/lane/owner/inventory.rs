//! What an owner knows of the parked keys of its lane. It asks before it starts anything, and again when a barrier has
//! come down that went up for a new pin: what a former owner had on its way to the shelf is there by then.

use super::{Leaving, Owner};
use crate::event::{Key, Moment};
use crate::exchange::{Action, ParkedKeys};
use crate::lane::parked::Last;

/// The question for the parked keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inventory {
    /// Whether the answer is known.
    is_known: bool,
    /// When it was asked, if it is, and whether the answer counts.
    asked: Option<(Moment, bool)>,
    /// It is not asked before.
    not_before: Moment,
    unanswered: u32,
    asked_last: Moment,
}

impl Inventory {
    /// Nothing is known.
    pub fn new() -> Self {
        Self { is_known: false, asked: None, not_before: 0, unanswered: 0, asked_last: 0 }
    }

    /// What is known may be out of date.
    pub fn doubt(&mut self) {
        self.is_known = false;
        if let Some((_, counts)) = &mut self.asked {
            *counts = false;
        }
    }

    /// Whether it is known which keys are parked.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    fn due(&self, wants_more: bool, held_checked_every: Option<Moment>) -> Option<Moment> {
        let at = match (self.is_known, wants_more) {
            (false, _) | (_, true) => Some(self.not_before),
            (true, false) => held_checked_every.map(|every| self.not_before.max(self.asked_last + every)),
        };
        at.filter(|_| self.asked.is_none())
    }
}

impl Owner {
    /// Asks which keys are parked, if that is to be known.
    pub(super) fn list(&mut self, now: Moment) {
        if self.lists_at().is_some_and(|at| at <= now) {
            (self.inventory.asked, self.inventory.asked_last) = (Some((now, true)), now);
            self.out.push(Action::List(self.lane));
        }
    }

    /// When that is next.
    pub(super) fn lists_at(&self) -> Option<Moment> {
        let is_clear = self.barrier.is_none() && self.leaving == Leaving::No;
        let every = self.parked.has_held().then_some(self.terms.release_noticed_within);
        self.inventory.due(self.parked.wants_list(), every).filter(|_| is_clear)
    }

    /// The shelf has told which keys are parked, or not.
    pub(super) fn listed(&mut self, now: Moment, keys: Option<ParkedKeys>) {
        let Some((asked, counts)) = self.inventory.asked.take() else { return };
        let Some(ParkedKeys { keys, are_all }) = keys else {
            self.inventory.not_before = now + self.terms.pause(self.inventory.unanswered);
            self.inventory.unanswered = self.inventory.unanswered.saturating_add(1);
            return;
        };
        self.inventory.unanswered = 0;
        // Where there are more than can be known, not in a circle.
        self.inventory.not_before = if are_all { now } else { now + self.terms.longest_pause };
        let has_found = self.parked.found(now, asked, &keys, are_all);
        // The owner of the pin has all that the broker waits for. Without a pin it has to say that it waits for nothing: what is
        // parked must not be in flight from the lane, too.
        if has_found && self.last.is_none() {
            self.doubt(now);
        }
        self.inventory.is_known |= counts;
        self.look_for_keys();
    }

    /// Where there are more parked keys than are known, each key of an event that is here is looked for.
    pub(super) fn look_for_keys(&mut self) {
        for held in self.hand.iter() {
            self.parked.look_for(held.key);
        }
        self.parked.forget_absent(|key| self.hand.has_key(key));
    }

    /// The shelf has told up to where a key is copied, or not.
    pub(super) fn last_parked(&mut self, key: Key, last: Option<u64>) {
        let Some(line) = self.parked.get_mut(key).filter(|line| line.last == Last::Asking) else { return };
        line.last = last.map_or(Last::Unknown, Last::Known);
        self.remove_if_empty(key);
    }
}
