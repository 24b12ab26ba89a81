//! What an owner knows of the parked keys of its lane. It asks before it starts anything, and again when a barrier has
//! come down that went up for a new pin: what a former owner had on its way to the shelf is there by then.

use super::{Leaving, Owner};
use crate::event::{Key, Moment};
use crate::exchange::{Action, ParkedKeys};
use crate::lane::parked::{Custody, Found, Last, Parked, Section};
use crate::lane::timing::LaneTiming;

/// The question for the parked keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inventory {
    /// Whether the answer is known: which keys are parked, or that there are more than can be known.
    is_known: bool,
    /// When it was asked, if it is, and whether the answer counts.
    asked: Option<(Moment, bool)>,
    /// Of which section it is asked, or will be.
    section: Section,
    /// Whether there was no room for what was found last.
    lacks_room: bool,
    /// It is not asked before.
    not_before: Moment,
    unanswered: u32,
    asked_last: Moment,
}

impl Inventory {
    /// Nothing is known.
    pub fn new() -> Self {
        Self {
            is_known: false,
            asked: None,
            section: Section::ALL,
            lacks_room: false,
            not_before: 0,
            unanswered: 0,
            asked_last: 0,
        }
    }

    /// What is known may be out of date.
    pub fn doubt(&mut self) {
        (self.is_known, self.section, self.lacks_room) = (false, Section::ALL, false);
        if let Some((_, counts)) = &mut self.asked {
            *counts = false;
        }
    }

    /// Whether it is known which keys are parked.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// When it is asked next. Where there are more keys than can be known, the sections follow one after the other as
    /// long as there is room for what is found, and a round follows the other after a while.
    fn due(&self, parked: &Parked, terms: &LaneTiming) -> Option<Moment> {
        let later = self.not_before.max(self.asked_last + terms.release_noticed_within);
        let at = match (self.is_known, parked.has_others()) {
            (false, _) => Some(self.not_before),
            (true, false) => parked.has_held().then_some(later),
            (true, true) if !terms.rules.rounds => None,
            (true, true) if self.section == Section::ALL => Some(later),
            (true, true) if self.lacks_room && !parked.has_room(terms.known_keys) => Some(later),
            (true, true) => Some(self.not_before),
        };
        at.filter(|_| self.asked.is_none())
    }

    /// This was found in the section.
    fn found(&mut self, found: Found, next: Option<Section>) {
        self.is_known = true;
        self.lacks_room = found.lacks_room;
        self.section = next.unwrap_or(Section::ALL);
    }
}

impl Owner {
    /// Asks which keys are parked, if that is to be known.
    pub(super) fn list(&mut self, now: Moment) {
        if self.lists_at().is_some_and(|at| at <= now) {
            (self.inventory.asked, self.inventory.asked_last) = (Some((now, true)), now);
            self.out.push(Action::List(self.lane, self.inventory.section));
        }
    }

    /// When that is next.
    pub(super) fn lists_at(&self) -> Option<Moment> {
        let is_clear = self.barrier.is_none() && self.leaving == Leaving::No;
        self.inventory.due(&self.parked, &self.terms).filter(|_| is_clear)
    }

    /// The shelf has told which keys are parked, or not.
    pub(super) fn listed(&mut self, now: Moment, keys: Option<ParkedKeys>) {
        let Some((asked, counts)) = self.inventory.asked.take() else { return };
        let Some(told) = keys else {
            self.inventory.not_before = now + self.terms.pause(self.inventory.unanswered);
            self.inventory.unanswered = self.inventory.unanswered.saturating_add(1);
            return;
        };
        (self.inventory.unanswered, self.inventory.not_before) = (0, now);
        if !counts {
            return;
        }
        if !self.inventory.is_known {
            self.parked.doubt_absent();
        }
        let (section, max, hand) = (self.inventory.section, self.terms.known_keys, &self.hand);
        let found = self.parked.found((now, asked), section, &told, max, |key| hand.has_key(key));
        let next = match section {
            Section::ALL if self.parked.has_others() => Some(Section::first_of(told.count, max)),
            section if found.is_cut => Some(section),
            section => section.next(),
        };
        self.inventory.found(found, next);
        // The owner of the pin has all that the broker waits for. Without a pin it has to say that it waits for nothing: what is
        // parked must not be in flight from the lane, too.
        if found.has_new && self.last.is_none() {
            self.doubt(now);
        }
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
    /// No more parked keys than may be are known, whoever parked them.
    pub(super) fn bound(&mut self, now: Moment) {
        let max = self.terms.known_keys;
        if self.parked.exceeds(max) {
            let in_flight = self.hand.iter().map(|held| held.key).collect();
            self.parked.bound(now, max, &in_flight);
        }
    }

    /// Asks of which keys it is not known whether they are held.
    pub(super) fn find_marks(&mut self) {
        let lane = self.lane;
        let asked = self.parked.ask_marks(self.reads);
        self.out.extend(asked.into_iter().map(|key| Action::FindMark { lane, key }));
    }

    /// The shelf has told whether a key is held, or not.
    pub(super) fn mark_found(&mut self, now: Moment, key: Key, is_held: Option<bool>) {
        let Some(line) = self.parked.get_mut(key).filter(|line| line.custody == Custody::Asking) else { return };
        match is_held {
            Some(is_held) => line.set_held(now, is_held && self.terms.rules.marks),
            None => line.custody = Custody::Unknown,
        }
        self.remove_if_empty(key);
    }
}
