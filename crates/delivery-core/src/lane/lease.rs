//! The lease of a lane's part of the shelf: who may deliver its parked events. Pure.
//!
//! It is a record that is replaced by comparison with its sequence. Its owner renews it. Another owner takes it over
//! where it is free, or has not changed for the time of the lease.

use super::timing::LaneTiming;
use crate::event::Moment;
use crate::exchange::Tenancy;

/// The lease, as one owner of the lane knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The record that is to be replaced next; 0: there is none, as far as it is known.
    record: u64,
    /// Since when that is known to be another's.
    others_since: Option<Moment>,
    /// When the question was sent that is under way.
    asked: Option<Moment>,
    /// None is sent before.
    not_before: Moment,
    /// Unanswered ones in a row.
    unanswered: u32,
    /// It is ours from this moment on, because a former owner's is over by then,
    from: Moment,
    /// until this one.
    until: Moment,
}

impl Lease {
    /// Whether parked events may be delivered now.
    pub fn is_ours(&self, now: Moment) -> bool {
        (self.from..self.until).contains(&now)
    }

    /// The record to replace now, if it is time to; it is then taken as asked for.
    pub fn due(&mut self, terms: &LaneTiming, now: Moment) -> Option<u64> {
        if self.asked.is_some() || now < self.at(terms, now) {
            return None;
        }
        self.asked = Some(now);
        Some(self.record)
    }

    /// When there is something to ask for.
    fn at(&self, terms: &LaneTiming, now: Moment) -> Moment {
        let at = match self.others_since {
            _ if now < self.until => {
                self.until.saturating_sub(terms.shelf_lease - terms.shelf_lease / 3 - terms.margin)
            }
            Some(since) => since + terms.shelf_lease,
            None => 0,
        };
        at.max(self.not_before)
    }

    /// What became of it. `is_stranger`: whether keys are parked that this owner did not park.
    pub fn answered(&mut self, terms: &LaneTiming, now: Moment, answer: Tenancy, is_stranger: bool) {
        let Some(sent) = self.asked.take() else { return };
        match answer {
            Tenancy::Ours(sequence) => {
                let is_new = now >= self.until;
                // The record of who had it before may have made room for others.
                let was_lost = is_new && self.record == 0 && is_stranger && terms.rules.patience;
                if is_new {
                    self.from = if was_lost { sent + terms.shelf_lease } else { now };
                }
                let length = if terms.rules.leases { terms.shelf_lease - terms.margin } else { Moment::MAX - sent };
                self.until = sent + length;
                (self.record, self.others_since, self.unanswered) = (sequence, None, 0);
            }
            Tenancy::Other { sequence, is_free } => {
                self.until = 0;
                let is_new = sequence != self.record || self.others_since.is_none();
                self.others_since = match (is_free || sequence == 0, is_new) {
                    (true, _) => None,
                    (false, true) => Some(now),
                    (false, false) => self.others_since,
                };
                self.record = sequence;
                self.pause(terms, now);
            }
            Tenancy::Unknown => self.pause(terms, now),
        }
    }

    fn pause(&mut self, terms: &LaneTiming, now: Moment) {
        self.not_before = now + terms.pause(self.unanswered);
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// It is given up: the record to mark as free, if there is one of ours.
    pub fn free(&mut self, now: Moment) -> Option<u64> {
        let record = (now < self.until && self.asked.is_none()).then_some(self.record);
        (self.from, self.until) = (0, 0);
        (self.others_since, self.record) = (None, 0);
        record
    }

    /// Everything ends: the record to mark as free, if there is one of ours.
    pub fn abandon(&mut self) -> Option<u64> {
        (self.until > 0).then_some(self.record)
    }

    /// Whether nothing is ours or asked for.
    pub fn is_idle(&self) -> bool {
        self.asked.is_none() && self.until == 0
    }

    /// When there is something to do for it, or it ends or begins.
    pub fn wake_at(&self, terms: &LaneTiming, now: Moment) -> Option<Moment> {
        let asks = self.asked.is_none().then(|| self.at(terms, now).max(now));
        let changes = [self.from, self.until].into_iter().filter(|at| *at > now);
        changes.chain(asks).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn terms() -> LaneTiming {
        LaneTiming { shelf_lease: 15_000, margin: 3000, pause: 10, ..LaneTiming::of(Duration::from_secs(30)) }
    }

    #[test]
    fn it_is_taken_renewed_and_freed() {
        let (mut lease, terms) = (Lease::default(), terms());
        assert_eq!(lease.due(&terms, 100), Some(0));
        assert_eq!(lease.due(&terms, 101), None, "it is asked for");
        lease.answered(&terms, 200, Tenancy::Ours(7), false);
        assert!(lease.is_ours(200) && lease.is_ours(12_099) && !lease.is_ours(12_100), "from when it was sent");
        assert_eq!(lease.due(&terms, 5099), None);
        assert_eq!(lease.due(&terms, 5100), Some(7), "after a third of it");
        lease.answered(&terms, 5200, Tenancy::Unknown, false);
        assert!(lease.is_ours(5200), "it is what it was");
        assert_eq!(lease.due(&terms, 5300), Some(7));
        lease.answered(&terms, 5301, Tenancy::Ours(8), false);
        assert_eq!(lease.free(5302), Some(8));
        assert!(!lease.is_ours(5302));
    }

    #[test]
    fn anothers_is_taken_over_when_it_has_not_changed_for_its_time() {
        let (mut lease, terms) = (Lease::default(), terms());
        let other = |sequence, is_free| Tenancy::Other { sequence, is_free };
        lease.due(&terms, 0);
        lease.answered(&terms, 1, other(5, false), true);
        assert_eq!(lease.due(&terms, 15_000), None);
        assert_eq!(lease.due(&terms, 15_001), Some(5));
        lease.answered(&terms, 15_002, other(6, false), true);
        assert_eq!(lease.due(&terms, 30_001), None, "it was renewed");
        assert_eq!(lease.due(&terms, 30_002), Some(6));
        lease.answered(&terms, 30_003, other(7, true), true);
        assert_eq!(lease.due(&terms, 30_100), Some(7), "it is free");
        lease.answered(&terms, 30_101, Tenancy::Ours(8), true);
        assert!(lease.is_ours(30_101));
    }

    #[test]
    fn without_a_record_a_former_owner_may_still_have_it() {
        let (mut lease, terms) = (Lease::default(), terms());
        lease.due(&terms, 0);
        lease.answered(&terms, 1, Tenancy::Ours(5), true);
        assert!(!lease.is_ours(1));
        assert_eq!(lease.due(&terms, 5000), Some(5));
        lease.answered(&terms, 5001, Tenancy::Ours(6), true);
        assert!(!lease.is_ours(14_999) && lease.is_ours(15_000));
    }
}
