//! What becomes of what is in flight when the lane, its pin or a lease goes to somebody else.

use super::{LEAVE_GRACE, Leaving, Owner};
use crate::event::{Id, Moment};
use crate::exchange::Action;
use crate::lane::in_flight::Stage;

impl Owner {
    /// The lane goes to somebody else.
    pub fn leave(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        if self.pulls.leave() {
            self.leaving = Leaving::Unpinning;
            self.out.push(Action::Unpin(self.lane));
        } else {
            self.leaving = Leaving::Unpinned;
            self.give_up();
        }
    }

    /// Lets go of what the broker may give to somebody else.
    pub(super) fn lapse(&mut self, now: Moment) {
        self.lapse_shelf(now);
        let lapsed = self.hand.lapse(now);
        if lapsed.is_empty() {
            return;
        }
        self.out.extend(lapsed.into_iter().map(Action::Drop));
        self.doubt(now);
        self.changed(now);
    }

    pub(super) fn give_up(&mut self) {
        let given_up = self.hand.give_up();
        self.give_back(&given_up);
        if self.is_leaving() {
            self.out.extend(self.parked.let_go(false).into_iter().map(Action::Drop));
        }
    }

    /// Something that could not be given up then is over: it is given up now, if the lane was left or its pin is lost.
    pub(super) fn give_up_if_left(&mut self) {
        if self.leaving == Leaving::Unpinned || self.pulls.pin().is_none() {
            self.give_up();
        }
    }

    pub(super) fn give_back(&mut self, ids: &[Id]) {
        if ids.is_empty() {
            return;
        }
        // At once, the broker would give what a lane leaves to our own pulls again, which are still open, and so on.
        let wait = if self.is_leaving() { 2 * LEAVE_GRACE } else { 0 };
        self.out.extend(ids.iter().map(|id| Action::GiveBack { id: *id, wait }));
        self.claim.gives_back();
    }

    /// Whether the broker has forgotten the delivery of this event that is in flight: that is dropped then.
    pub(super) fn is_forgotten(&mut self, id: Id) -> bool {
        let forgotten = self.hand.forget(id);
        if forgotten.is_some() {
            self.forget(forgotten);
        }
        forgotten.is_some()
    }

    /// Drops what the broker has forgotten that it lent it to us.
    pub(super) fn forget(&mut self, forgotten: impl IntoIterator<Item = Id>) {
        self.out.extend(forgotten.into_iter().map(Action::Drop));
    }

    /// Lets go of everything, at the process's end.
    pub fn abandon(&mut self, out: &mut Vec<Action>) {
        out.append(&mut self.out);
        out.extend(self.hand.take_all().map(|held| match held.stage {
            // Told is told.
            Stage::Settled { asked: true } => Action::Drop(held.id),
            Stage::Settled { asked: false } => Action::Acknowledge { id: held.id, confirm: false },
            _ => Action::GiveBack { id: held.id, wait: 0 },
        }));
        out.extend(self.parked.let_go(true).into_iter().map(Action::Drop));
        let (lane, over) = (self.lane, self.lease.abandon());
        out.extend(over.map(|over| Action::FreeLease { lane, over }));
        out.append(&mut self.out);
    }
}
