//! The way from the shelf: the first event of a key is read when it is due, delivered under the lease of the shelf, and
//! removed when it is settled.

use super::{Leaving, Owner};
use crate::event::{Disposition, Id, Key, Moment};
use crate::exchange::{Action, FetchResult, Tenancy};
use crate::lane::in_flight::Stage;
use crate::lane::parked::{FOREVER, Front, Last};

impl Owner {
    /// The attempt of a parked event is over. Whether it was one.
    pub(super) fn parked_attempted(&mut self, now: Moment, id: Id, disposition: Disposition) -> bool {
        let Some((_, line)) = self.parked.of(id) else { return false };
        match Self::again_at(now, disposition) {
            None => {
                line.front = Front::Here(id, Stage::Settled { asked: false });
                self.memory.note(id);
            }
            // Its place in memory is for others meanwhile.
            Some(from) if from >= now.saturating_add(self.terms.kept_for) || self.leaving != Leaving::No => {
                line.put_off(from);
                line.again = false;
                self.out.push(Action::Drop(id));
            }
            Some(from) => line.front = Front::Here(id, Stage::Waiting(from)),
        }
        self.give_up_if_left();
        true
    }

    /// The shelf says what is first for a key.
    pub(super) fn fetched(&mut self, now: Moment, key: Key, result: FetchResult) {
        let line = self.parked.get_mut(key).filter(|line| line.front == Front::Reading);
        let Some(line) = line else {
            if let FetchResult::Event(arrived) = result {
                self.out.push(Action::Drop(arrived.id));
            }
            return;
        };
        match result {
            FetchResult::Unknown => line.front = Front::Unread(now + self.terms.pause),
            FetchResult::Nothing => {
                (line.front, line.last) = (Front::Unread(0), Last::Known(0));
                // What was perhaps copied is known not to be there.
                for held in self.hand.iter_mut().filter(|held| held.key == key) {
                    if let Stage::Copying { from, .. } = held.stage {
                        held.stage = Stage::Waiting(from);
                    }
                }
                self.remove_if_empty(key);
            }
            FetchResult::Event(arrived) if self.leaving != Leaving::No || !self.lease.is_ours(now) => {
                line.front = Front::Unread(0);
                self.out.push(Action::Drop(arrived.id));
            }
            FetchResult::Event(arrived) => {
                // It was delivered here under a lease that ended before it was removed.
                let is_settled = self.terms.rules.memory && self.memory.has(arrived.id);
                let stage = if is_settled { Stage::Settled { asked: false } } else { Stage::Waiting(0) };
                line.front = Front::Here(arrived.id, stage);
            }
        }
        self.changed(now);
        self.give_up_if_left();
    }

    /// A parked event is removed from the shelf, or not.
    pub(super) fn unparked(&mut self, id: Id, removed: bool) {
        let Some((key, line)) = self.parked.of(id) else { return };
        if removed {
            (line.front, line.again) = (Front::Unread(0), false);
            if line.last == Last::Known(id.sequence) {
                line.last = Last::Known(0);
            }
            self.out.push(Action::Drop(id));
            self.remove_if_empty(key);
        } else {
            line.front = Front::Here(id, Stage::Settled { asked: false });
        }
        self.give_up_if_left();
    }

    /// What became of taking the lease of the shelf.
    pub(super) fn leased(&mut self, now: Moment, answer: Tenancy) {
        let is_stranger = self.parked.is_stranger();
        self.lease.answered(&self.terms, now, answer, is_stranger);
        self.lapse_shelf(now);
        self.give_up_if_left();
    }

    /// Without the lease nothing of the shelf is ours: what runs ends.
    pub(super) fn lapse_shelf(&mut self, now: Moment) {
        if !self.lease.is_ours(now) && self.terms.rules.leases {
            self.out.extend(self.parked.let_go(true).into_iter().map(Action::Drop));
        }
    }

    /// What is due on the way from the shelf: the lease is kept, first events are read, settled ones removed.
    pub(super) fn unpark(&mut self, now: Moment) {
        let lane = self.lane;
        let is_wanted = match self.leaving {
            Leaving::No if !self.is_others => !self.parked.is_empty(),
            _ => self.parked.is_busy(),
        };
        if is_wanted {
            if let Some(over) = self.lease.due(&self.terms, now) {
                self.out.push(Action::TakeLease { lane, over });
            }
        } else if let Some(over) = self.lease.free(now) {
            self.out.push(Action::FreeLease { lane, over });
        }
        for (_, line) in self.parked.iter_mut() {
            if let Front::Here(id, stage @ Stage::Settled { asked: false }) = &mut line.front {
                *stage = Stage::Settled { asked: true };
                self.out.push(Action::Unpark { id: *id });
            }
        }
        if self.leaving != Leaving::No || !self.lease.is_ours(now) {
            return;
        }
        let (copying, rules) = (&self.copying, self.terms.rules);
        let is_copying = |key| copying.iter().flatten().any(|(_, other)| *other == key);
        let is_free = |key| !(rules.reads_alone && is_copying(key));
        let keys = self.parked.read(now, self.reads, is_free);
        self.out.extend(keys.into_iter().map(|(key, again)| Action::Fetch { lane, key, again }));
    }

    /// The next attempt of an event that its key waits for.
    pub(super) fn again_at(now: Moment, disposition: Disposition) -> Option<Moment> {
        match disposition {
            Disposition::Over(_) => None,
            Disposition::RetryIn(wait) => Some(now.saturating_add(crate::event::millis(wait))),
            Disposition::GiveBack(wait) => {
                Some(now.saturating_add(crate::event::millis(wait).max(super::SHORTEST_WAIT)))
            }
            Disposition::Detain => Some(FOREVER),
        }
    }
}
