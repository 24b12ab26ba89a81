//! Which lanes other members may have events of. Pure.
//!
//! Each member says which lanes it has to do with. What one said last counts until the lease of what it may have had
//! then is over, also if it is not heard of any more: it may be dead, or it may have lost the broker and continue to
//! work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidegate_delivery_core::Lane;
use tokio::time::Instant;

use super::share::Member;
use super::{ACQUAINTANCE, MAX_MEMBERS};

/// What one member said.
#[derive(Debug)]
struct ReportedLanes {
    until: Instant,
    /// `None`: it does not say.
    lanes: Option<BTreeSet<Lane>>,
}

/// What all others said.
#[derive(Debug)]
pub struct Holdings {
    ack_wait: Duration,
    lanes: Lane,
    said: BTreeMap<Member, ReportedLanes>,
    /// Before this the others are not heard.
    hears_from: Instant,
}

impl Holdings {
    /// Of a handler with so many lanes.
    pub fn new(now: Instant, ack_wait: Duration, lanes: Lane) -> Self {
        Self { ack_wait, lanes, said: BTreeMap::new(), hears_from: now + ACQUAINTANCE }
    }

    /// Another member has to do with these lanes.
    pub fn heard(&mut self, now: Instant, member: Member, lanes: Option<BTreeSet<Lane>>) {
        self.said.retain(|_, said| said.until > now);
        if self.said.len() >= MAX_MEMBERS && !self.said.contains_key(&member) {
            // More than there can be: nothing is known for certain.
            self.hears_from = self.hears_from.max(now + self.ack_wait);
            return;
        }
        self.said.insert(member, ReportedLanes { until: now + self.ack_wait, lanes });
    }

    /// There is a new connection: what was said meanwhile was not heard.
    pub fn reconnected(&mut self, now: Instant) {
        self.hears_from = self.hears_from.max(now + ACQUAINTANCE);
        self.said.values_mut().for_each(|said| said.until = now + self.ack_wait);
    }

    /// The lanes of which others may have events.
    pub fn others(&self, now: Instant) -> BTreeSet<Lane> {
        let all = 0..self.lanes;
        let alive = || self.said.values().filter(|said| said.until > now);
        if now < self.hears_from || alive().any(|said| said.lanes.is_none()) {
            return all.collect();
        }
        alive().filter_map(|said| said.lanes.as_ref()).flatten().copied().filter(|lane| all.contains(lane)).collect()
    }

    /// When it may change if nothing is heard.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let ends = self.said.values().map(|said| said.until);
        ends.chain([self.hears_from]).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK_WAIT: Duration = Duration::from_secs(30);

    fn lanes(lanes: &[Lane]) -> BTreeSet<Lane> {
        lanes.iter().copied().collect()
    }

    #[test]
    fn what_was_said_last_counts_for_a_lease() {
        let start = Instant::now();
        let mut holdings = Holdings::new(start, ACK_WAIT, 3);
        assert_eq!(holdings.others(start), lanes(&[0, 1, 2]), "nobody was heard yet");
        let now = start + ACQUAINTANCE;
        assert_eq!(holdings.others(now), lanes(&[]));
        holdings.heard(now, 7, Some(lanes(&[1, 9])));
        holdings.heard(now, 8, Some(lanes(&[2])));
        assert_eq!(holdings.others(now), lanes(&[1, 2]));
        holdings.heard(now, 8, Some(lanes(&[])));
        assert_eq!(holdings.others(now + ACK_WAIT / 2), lanes(&[1]), "one may be dead");
        assert_eq!(holdings.wake_at(now + ACK_WAIT / 2), Some(now + ACK_WAIT));
        assert_eq!(holdings.others(now + ACK_WAIT), lanes(&[]));
        holdings.heard(now, 9, None);
        assert_eq!(holdings.others(now), lanes(&[0, 1, 2]), "one of an earlier release");
    }

    #[test]
    fn a_connection_that_was_lost_hid_what_was_said() {
        let start = Instant::now();
        let mut holdings = Holdings::new(start, ACK_WAIT, 3);
        holdings.heard(start, 7, Some(lanes(&[1])));
        let later = start + 2 * ACK_WAIT;
        holdings.reconnected(later);
        assert_eq!(holdings.others(later), lanes(&[0, 1, 2]));
        assert_eq!(holdings.others(later + ACQUAINTANCE), lanes(&[1]));
        assert_eq!(holdings.others(later + ACK_WAIT), lanes(&[]));
    }

    #[test]
    fn strangers_without_end_are_no_end_of_memory() {
        let start = Instant::now();
        let mut holdings = Holdings::new(start, ACK_WAIT, 2);
        (0..5000).for_each(|member| holdings.heard(start, member, Some(lanes(&[]))));
        assert_eq!(holdings.said.len(), MAX_MEMBERS);
        assert_eq!(holdings.others(start + ACQUAINTANCE), lanes(&[0, 1]));
    }
}
