//! How attempts end, and what follows from it.

use std::time::Duration;

use tidegate_delivery_core::{Disposition, Id, Input, Moment, Outcome, TOPIC};

use crate::world::{Flaw, LONG_WAIT, World};

/// How an attempt ends that may end in any way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    Success,
    /// To be tried again soon.
    Soon,
    /// To be tried again much later; its copy is confirmed.
    Later,
    /// The same; its copy is stored, and that is not confirmed.
    Unconfirmed,
    /// The same; there is no room for a copy.
    Full,
}

impl World {
    /// An attempt ends.
    pub fn finish(&mut self, id: Id, outcome: AttemptEnd) {
        self.here.insert(id, Some(false));
        let disposition = self.dispose(id, outcome);
        if matches!(disposition, Disposition::Over(_)) {
            self.settled.insert((id.lane, self.name(id)), self.now);
        }
        self.take(Input::Attempted(id, Some(disposition)));
    }

    /// As `settle/failure.rs` of the sidecar decides.
    fn dispose(&mut self, id: Id, outcome: AttemptEnd) -> Disposition {
        let sequence = id.sequence;
        if self.is_lost(id) {
            // Its record and its copies are others than those of the event that has got its sequence.
            return if outcome == AttemptEnd::Success { self.handle(id) } else { Disposition::RetryIn(Duration::ZERO) };
        }
        let left = |now: Moment, due: Moment| Duration::from_millis(due.saturating_sub(now));
        if let Some(due) = self.records.get(&sequence).copied() {
            // It belongs on the shelf, where it may be, or has been.
            if id.lane == TOPIC {
                return self.shelve(sequence, outcome, left(self.now, due));
            }
            if self.now < due {
                return Disposition::GiveBack(left(self.now, due));
            }
        }
        match outcome {
            AttemptEnd::Success => self.handle(id),
            AttemptEnd::Soon => Disposition::RetryIn(Duration::ZERO),
            AttemptEnd::Later | AttemptEnd::Unconfirmed | AttemptEnd::Full => {
                self.records.insert(sequence, self.now + LONG_WAIT);
                let wait = Duration::from_millis(LONG_WAIT);
                if id.lane == TOPIC { self.shelve(sequence, outcome, wait) } else { Disposition::RetryIn(wait) }
            }
        }
    }

    fn handle(&mut self, id: Id) -> Disposition {
        self.handled.insert(self.name(id));
        Disposition::Over(Outcome::Acknowledged)
    }

    fn shelve(&mut self, sequence: u64, outcome: AttemptEnd, wait: Duration) -> Disposition {
        if self.flaw == Flaw::Shelfless || (outcome == AttemptEnd::Full && self.flaw != Flaw::Hasty) {
            return Disposition::RetryIn(wait);
        }
        if outcome != AttemptEnd::Full && self.copied.insert(sequence) {
            self.shelf.store(sequence);
        }
        match outcome {
            AttemptEnd::Unconfirmed => Disposition::RetryIn(wait),
            _ => Disposition::Over(Outcome::Retried),
        }
    }
}
