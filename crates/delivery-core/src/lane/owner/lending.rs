//! What the broker lends to the owner, and the barrier: nothing starts before all that it waits for is here.

use super::{Leaving, Owner};
use crate::event::Moment;
use crate::exchange::{Action, Arrival, State, Trouble};
use crate::lane::barrier::Barrier;
use crate::lane::pulls::ArrivalPin;

impl Owner {
    pub(super) fn arrived(&mut self, now: Moment, arrived: &Arrival) {
        let Arrival { id, inbox, ref pin, .. } = *arrived;
        let known = self.hand.has(id.sequence);
        let (sent, ours) = match self.pulls.served(inbox, pin) {
            ArrivalPin::Ours(sent) => (Some(sent), true),
            ArrivalPin::New(sent) => {
                self.last = None;
                self.is_others = false;
                self.claim.begin();
                self.inventory.doubt();
                self.doubt(now);
                (Some(sent), true)
            }
            ArrivalPin::Late(sent) => (sent, false),
        };
        let until = sent.map_or(0, |sent| self.terms.lease(sent));
        if !ours || (self.leaving != Leaving::No && !known) {
            // Given back without a lease, it might be taken from who has it by now.
            if known || until <= now {
                return self.out.push(Action::Drop(id));
            }
            return self.give_back(&[id]);
        }
        let known = known && !self.is_forgotten(id);
        // What is out of the stream's order was with somebody else, or was lost on its way.
        let gap = self.last.is_some_and(|last| id.delivery != last + 1);
        let again = !known && id.sequence <= self.highest;
        let is_unsure = self.terms.rules.holding && self.claim.is_unsure();
        if gap || again || until <= now || is_unsure {
            self.doubt(now);
        }
        self.last = self.last.max(Some(id.delivery));
        if !known && self.claim.has_given_back(id.delivery) {
            self.changed(now);
            return self.out.push(Action::Drop(id));
        }
        self.highest = self.highest.max(id.sequence);
        if known || until <= now {
            self.out.push(Action::Drop(id));
        }
        if until > now {
            let held = self.hand.take(arrived, until);
            held.is_unsure |= is_unsure && !known;
            self.recall(id, arrived.is_settled);
            self.parked.look_for(arrived.key);
        }
        self.changed(now);
    }

    /// Whether the broker's answer would say something: without a pin it serves others, if there are any. Or it has
    /// nothing to serve, and what is parked is ours.
    pub(super) fn asks(&self, now: Moment) -> bool {
        let is_clear = !self.hand.is_unclear() && self.claim.ends_at(now).is_none();
        let wants_shelf = !self.inventory.is_known() || !self.parked.is_empty();
        is_clear && (self.last.is_some() || self.claim.is_alone() || wants_shelf)
    }

    /// A consumer that moved was lent from by a server that may be gone: what it sent last may not have come.
    pub(super) fn refused(&mut self, now: Moment, number: u64, trouble: &Trouble) {
        if *trouble == Trouble::Ending {
            return self.pulls.rest_until(now + Trouble::REST);
        }
        self.pulls.refused(number, &self.terms, now);
        if self.last.is_some() && matches!(trouble, Trouble::Moved | Trouble::NoConsumer) {
            self.doubt(now);
        }
    }

    pub(super) fn wrong_pin(&mut self, now: Moment, number: u64) {
        if self.pulls.wrong_pin(number) {
            self.lost_pin(now);
        }
    }

    pub(super) fn lost_pin(&mut self, now: Moment) {
        self.last = None;
        self.doubt(now);
        self.give_up();
    }

    pub(super) fn state(&mut self, now: Moment, state: &State) {
        self.is_others = state.pin.is_some() && state.pin.as_ref() != self.pulls.pin();
        let Some(barrier) = &mut self.barrier else { return };
        let counts = barrier.answered(&self.terms, now);
        if counts {
            // It has forgotten these, and delivers them again.
            let forgotten = self.hand.cut(state.highest);
            self.forget(forgotten);
        }
        let in_hand = u64::try_from(self.hand.len()).unwrap_or(u64::MAX);
        self.lacks = in_hand < state.pending;
        if !counts || self.hand.highest() > Some(state.highest) {
            return;
        }
        if state.pin.as_ref() != self.pulls.pin() {
            // A broker that has started again knows of no pin, and says so to a pull only when it has something to
            // send.
            if self.pulls.leave() {
                self.lost_pin(now);
            }
        } else if state.pending == 0 && in_hand == 0 {
            // Whatever comes next comes under a new pin, or after the last.
            self.barrier = None;
        } else if state.pin.is_some() && in_hand == state.pending && self.last == Some(state.delivered) {
            self.barrier = None;
            self.claim.proved(state.pin.clone());
        } else if in_hand < state.pending {
            self.reclaim(now, state);
        } else if self.hand.all_wait() && self.claim.is_said_again(state) {
            // One of these is settled by somebody else, or was delivered again and lost: they come again.
            self.give_up();
            self.changed(now);
        }
    }

    pub(super) fn no_state(&mut self, now: Moment) {
        if let Some(barrier) = &mut self.barrier {
            barrier.answered(&self.terms, now);
        }
    }

    pub(super) fn doubt(&mut self, now: Moment) {
        if self.terms.rules.barrier && self.barrier.is_none() {
            self.barrier = Some(Barrier::new(now));
            self.lacks = false;
        }
    }

    pub(super) fn changed(&mut self, now: Moment) {
        if let Some(barrier) = &mut self.barrier {
            barrier.changed(&self.terms, now);
        }
    }
}
