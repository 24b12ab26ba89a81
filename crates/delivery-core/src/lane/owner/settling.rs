//! An event's way after its attempt: acknowledged and confirmed, or in flight for another one; and its lease meanwhile.

use super::Owner;
use crate::event::{Id, Moment};
use crate::exchange::Action;
use crate::lane::in_flight::{Delivery, Stage};

impl Owner {
    pub(super) fn held(&mut self, id: Id) -> Option<&mut Delivery> {
        self.hand.get_mut(id.sequence).filter(|held| held.id.arrival == id.arrival)
    }

    /// It came. If it is known to be settled, the broker has forgotten that, or was never told by this consumer: it is
    /// acknowledged, and neither started nor parked behind what its key waits for.
    pub(super) fn recall(&mut self, id: Id, is_settled: bool) {
        self.memory.came(id);
        let is_known = is_settled || (self.terms.rules.memory && self.memory.has(id));
        if let Some(held) = self.hand.get_mut(id.sequence).filter(|held| is_known && held.stage == Stage::Waiting(0)) {
            held.stage = Stage::Settled { asked: false };
        }
    }

    /// Its attempt is over: it is acknowledged next. One whose lease is over by now is acknowledged when it comes
    /// again.
    pub(super) fn settled(&mut self, now: Moment, id: Id) {
        self.memory.note(id);
        if self.held(id).is_none() {
            // It may be here again.
            return self.recall(id, false);
        }
        if let Some(held) = self.hand.get_mut(id.sequence) {
            held.stage = Stage::Settled { asked: false };
        }
        self.changed(now);
        if !self.terms.rules.confirmation {
            self.hand.remove(id.sequence);
            self.out.push(Action::Acknowledge { id, confirm: false });
        }
    }

    /// Its attempt is over, and there will be another one.
    pub(super) fn again(&mut self, id: Id, from: Moment) {
        if let Some(held) = self.held(id) {
            held.stage = Stage::Waiting(from);
        }
        self.give_up_if_left();
    }

    /// Only what is confirmed makes room for the next event of the key.
    pub(super) fn acknowledged(&mut self, now: Moment, id: Id, confirmed: bool) {
        let Some(held) = self.held(id) else { return };
        if confirmed {
            self.hand.remove(id.sequence);
            self.out.push(Action::Drop(id));
        } else {
            held.stage = Stage::Settled { asked: false };
        }
        self.changed(now);
    }

    /// What is confirmed counts from when it was sent.
    pub(super) fn renewed(&mut self, now: Moment, id: Id, confirmed: bool) {
        let Some(held) = self.held(id) else { return };
        let sent = held.renewing.take().filter(|_| confirmed);
        if let Some(until) = sent.map(|sent| self.terms.lease(sent))
            && let Some(held) = self.held(id)
        {
            held.until = held.until.max(until);
            if std::mem::take(&mut held.is_unsure) {
                self.changed(now);
            }
        }
    }

    /// Acknowledgements and renewals that are due.
    pub(super) fn tell(&mut self, now: Moment) {
        let mut acknowledged = false;
        for held in self.hand.iter_mut() {
            let id = held.id;
            if held.stage == (Stage::Settled { asked: false }) {
                held.stage = Stage::Settled { asked: true };
                acknowledged = true;
                self.out.push(Action::Acknowledge { id, confirm: true });
            } else if !matches!(held.stage, Stage::Settled { .. })
                && held.renewing.is_none()
                && (held.is_unsure || held.until.saturating_sub(self.terms.renew_below) <= now)
            {
                held.renewing = Some(now);
                let (renew, hold) =
                    (Action::Renew { id, confirm: true }, Action::Hold { id, wait: self.terms.ack_wait });
                self.out.push(if held.is_unsure { hold } else { renew });
            }
        }
        if acknowledged {
            self.changed(now);
        }
    }
}
