//! What the broker waits for and is with no one: lost on its way here, or settled by an acknowledgement that the broker
//! has forgotten. It would come when the acknowledgement wait is over; here it is asked for.
//!
//! The broker does not tell which events it waits for, but it takes a NAK for any that it does wait for, whether or not
//! it came here (`processNak` of nats-server): so each that may be one of them is given back, and those that are not
//! are ignored. That must not be done to what another member works on. It is not, where
//!
//! - all that the broker waited for was here before, and the pin has been ours since then: what was delivered after
//!   that was delivered to us; or
//! - no other member has to do with the lane: those that are there say so, and those that are gone were not heard to
//!   have it for as long as they could have a lease. Of those that no one here has ever heard this says nothing; so it
//!   counts only if all that the broker waited for was here once, or after the time of a lease.

use std::ops::RangeInclusive;

use super::{Leaving, Owner};
use crate::event::Moment;
use crate::exchange::{Action, Pin, State};
use crate::lane::timing::LaneTiming;

/// Sequences that are given back at a time: the last that were delivered, as it is these that get lost. What is older
/// comes when the acknowledgement wait is over.
const MAX_SEQUENCES: usize = 4096;

/// What is known of what others have of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The pin under which all that the broker waited for was here.
    proven: Option<Pin>,
    /// Whether no other member has to do with the lane.
    alone: bool,
    /// When that was said first, whatever it was.
    known_since: Option<Moment>,
    /// What the broker waited for when it said last that it waits for more than is here.
    lacked: Option<(u64, u64)>,
    /// What is given back may be on its way until then: it must not be what has come meanwhile, and runs.
    reclaims_until: Option<Moment>,
    /// Whether something was given back since all was here: the broker may hear of it after it has lent the same to us
    /// again, as one does that has forgotten the first delivery.
    gave_back: bool,
    /// What was delivered up to this number under the pin in force and had not come then was given back.
    given_back: u64,
}

impl Claim {
    /// All that the broker waits for is here, under this pin.
    pub fn proved(&mut self, pin: Option<Pin>) {
        self.proven = pin;
        self.lacked = None;
        self.gave_back = false;
    }

    /// Something is given back.
    pub fn gives_back(&mut self) {
        self.gave_back = true;
    }

    /// Whether the broker may take back what it lends to us now.
    pub fn is_unsure(&self) -> bool {
        self.gave_back
    }

    /// Whether no other member has to do with the lane.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// Whether this delivery was given back while it was on its way here, so that the event comes again.
    pub fn has_given_back(&self, delivery: u64) -> bool {
        delivery <= self.given_back
    }

    /// The pin is new, and so may be the numbers of deliveries.
    pub fn begin(&mut self) {
        self.given_back = 0;
    }

    /// When it is over at the latest that something is given back, if that is under way.
    pub fn ends_at(&self, now: Moment) -> Option<Moment> {
        self.reclaims_until.filter(|end| now < *end)
    }

    /// Whether the broker says the same as the last time.
    pub fn is_said_again(&mut self, state: &State) -> bool {
        let said = (state.delivered, state.pending);
        self.lacked.replace(said) == Some(said)
    }

    /// Whether what is lacking is with no one. It may be on its way to here: so only when the broker has said the same
    /// twice.
    fn is_with_nobody(&mut self, terms: &LaneTiming, now: Moment, state: &State) -> bool {
        let still = self.is_said_again(state);
        let ours = state.pin.is_some() && state.pin == self.proven;
        let old = self.known_since.is_some_and(|since| now >= since + terms.ack_wait);
        let alone = self.alone && (self.proven.is_some() || old);
        still && (ours || alone || !terms.rules.caution)
    }
}

impl Owner {
    /// Whether no other member has to do with the lane.
    pub fn set_alone(&mut self, now: Moment, alone: bool) {
        if alone && !self.claim.alone {
            self.inventory.doubt();
        }
        self.claim.alone = alone;
        self.claim.known_since.get_or_insert(now);
    }

    /// The broker has what was given back; if it is not `confirmed`, that may be on its way for as long as a lease
    /// allows for.
    pub(super) fn reclaimed(&mut self, now: Moment, confirmed: bool) {
        if confirmed {
            self.claim.reclaims_until = None;
        }
        self.changed(now);
    }

    /// The broker waits for more than is here.
    pub(super) fn reclaim(&mut self, now: Moment, state: &State) {
        let wanted = self.terms.rules.reclaiming && self.leaving == Leaving::No;
        if !wanted || !self.claim.is_with_nobody(&self.terms, now, state) {
            return;
        }
        self.claim.lacked = None;
        let range: RangeInclusive<u64> = state.floor.saturating_add(1)..=state.highest;
        let newest = range.rev().filter(|sequence| !self.hand.has(*sequence)).take(MAX_SEQUENCES);
        let mut sequences: Vec<u64> = newest.collect();
        if sequences.is_empty() {
            return;
        }
        sequences.reverse();
        self.claim.given_back = state.delivered;
        self.claim.gives_back();
        self.claim.reclaims_until = Some(now.saturating_add(self.terms.margin).saturating_add(1));
        self.out.push(Action::Reclaim { lane: self.lane, delivered: state.delivered, sequences });
    }
}
