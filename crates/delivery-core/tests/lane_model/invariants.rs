//! What must hold in the world: checked where an attempt starts, and of what is acknowledged.

use crate::lane::Lane;
use crate::world::State;

impl State {
    /// A node starts an attempt, if its owner has one: here the invariant is checked.
    pub fn start(&mut self, lane: &Lane, node: usize) {
        let Some(id) = self.nodes[node].owner.start(self.now) else { return };
        self.nodes[node].running.insert(id);
        let key = lane.key(id.sequence);
        let earlier: Vec<u64> = (1..id.sequence).filter(|sequence| lane.key(*sequence) == key).collect();
        let is_parked = id.delivery == 0;
        let is_lent = |sequence: &u64| {
            let lent = self.broker.pending.get(sequence).is_some_and(|pending| pending.with == node);
            // Of one that the broker has forgotten and lent again, it may hear that another gives it back.
            let others = !lane.lone || lane.trouble.joins > 0;
            lent && ((others && self.has_forgotten(lane)) || !self.broker.again.contains(sequence))
        };
        // A record that was lost says nothing: its owner knows until when it is one.
        let is_lost = self.trouble.lost_records < lane.trouble.lost_records;
        let is_tenant = is_lost || self.shelf.tenant() == Some((node, self.nodes[node].life));
        if !(if is_parked { is_tenant } else { is_lent(&id.sequence) }) {
            self.broken = Some("it started without a lease");
        }
        if self.shelf.held.contains(&key) && !self.has_forgotten(lane) {
            self.broken = Some("it started while its key was held");
        }
        let other = &self.nodes[1 - node];
        if is_parked && other.is_there && other.owner.has_shelf(self.now) {
            self.broken = Some("it started while another had the shelf");
        }
        // A broker that has forgotten whom it lent an event lends it to two.
        if !self.has_forgotten(lane) && other.is_there && other.owner.has_lease(self.now, id.sequence) {
            self.broken = Some("it started while another had it");
        }
        if self.nodes[node].handled.contains(&id.sequence) {
            self.broken = Some("it started again where it was handled");
        }
        let is_settled = |sequence: &u64| {
            self.broker.acknowledged.contains(sequence) && (!self.shelf.has(*sequence) || self.has_forgotten(lane))
        };
        if !earlier.iter().all(is_settled) {
            self.broken = Some("it started before an earlier one was settled");
        }
        let has_forgotten = self.has_forgotten(lane);
        let latest = self.latest.entry(key).or_default();
        if id.sequence < *latest && !has_forgotten {
            self.broken = Some("it started again after a later one");
        }
        *latest = id.sequence.max(*latest);
    }

    /// What is acknowledged is handled, or is on the shelf.
    pub fn has_lost(&self) -> bool {
        let is_lost = |sequence: &u64| !self.handled.contains(sequence) && !self.shelf.has(*sequence);
        self.broker.acknowledged.iter().any(is_lost)
    }

    /// Whether something is parked of a held key, and all of that is acknowledged: else it comes again, after it was
    /// removed.
    pub fn can_purge(&self, lane: &Lane) -> bool {
        let is_held = |sequence: &&u64| self.shelf.held.contains(&lane.key(**sequence));
        let mut copies = self.shelf.copies.iter().filter(is_held).peekable();
        copies.peek().is_some() && copies.all(|sequence| self.broker.acknowledged.contains(sequence))
    }

    /// Whether the broker was killed. It forgets deliveries, and acknowledgements that it has confirmed: another owner
    /// may get an event as if for the first time, with those behind it that are parked.
    fn has_forgotten(&self, lane: &Lane) -> bool {
        self.trouble.restarts < lane.trouble.restarts
    }
}
