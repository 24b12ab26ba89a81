//! The way of the events behind a head that fails: copied to the shelf, and taken from there when the head is settled.

use std::collections::BTreeMap;

use super::{Leaving, Owner};
use crate::event::{Disposition, Id, Key, Lane, Moment};
use crate::exchange::{Action, FetchResult, ParkResult};
use crate::lane::hand::{Held, Stage};
use crate::lane::parked::{Front, Mark};

/// Bytes of events that are copied together, unless it is one event. The broker keeps them aside until it has all.
const MAX_BYTES: usize = 1024 * 1024;

/// What of one key is in hand, seen from its oldest event on.
struct Queue {
    head: u64,
    /// Whether the others wait for longer than an attempt takes.
    is_blocked: bool,
    /// The others that are not copied, oldest first; if one may be on the shelf already, the oldest such one alone.
    copies: Vec<u64>,
    /// Whether it is that.
    is_unsure: bool,
    /// Whether a copy is under way.
    is_copying: bool,
}

impl Owner {
    /// An event is settled: it stays as the marker of its key where something may be parked behind it. Whether it does.
    pub(super) fn mark(&mut self, sequence: u64) -> bool {
        let Some(held) = self.hand.get_mut(sequence) else { return false };
        let is_marker = self.parked.get(held.key).map_or(held.again, |line| line.head == sequence);
        if is_marker {
            held.stage = Stage::Marker;
            let line = self.parked.line(held.key, sequence);
            (line.front, line.again) = (Front::Unread, held.again);
        }
        is_marker
    }

    /// The attempt of a parked event is over. Whether it was one.
    pub(super) fn parked_attempted(&mut self, now: Moment, id: Id, disposition: Disposition) -> bool {
        let Some(line) = self.parked.of(id) else { return false };
        let stage = match Self::again_at(now, disposition) {
            Some(from) => Stage::Waiting(from),
            None => Stage::Settled { asked: false },
        };
        line.front = Front::Here(id, stage);
        if stage == (Stage::Settled { asked: false }) {
            self.memory.note(id);
        }
        self.give_up_if_left();
        true
    }

    /// Copies are on the shelf, or not.
    pub(super) fn parked(&mut self, now: Moment, ids: &[Id], result: ParkResult) {
        let mut are_ours = false;
        for id in ids {
            let Some(held) = self.held(*id) else { continue };
            let Stage::Copying { unsure, .. } = held.stage else { continue };
            are_ours = true;
            held.stage = match result {
                ParkResult::Stored => Stage::Settled { asked: false },
                ParkResult::Refused if !unsure => Stage::Waiting(0),
                ParkResult::Refused | ParkResult::Unknown => Stage::Copying { asked: false, unsure: true },
            };
            if result == ParkResult::Stored {
                self.copies.note(*id);
            }
        }
        match result {
            ParkResult::Stored if are_ours => {
                self.parked.taken();
                self.changed(now);
            }
            ParkResult::Refused if are_ours => self.parked.refused(&self.terms, now),
            _ => {}
        }
        self.give_up_if_left();
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
        let head = line.head;
        match result {
            FetchResult::Unknown => line.front = Front::Unread,
            FetchResult::Nothing => {
                self.parked.remove(key);
                // What was perhaps copied is known not to be there.
                for held in self.hand.iter_mut().filter(|held| held.key == key) {
                    match held.stage {
                        Stage::Marker if held.id.sequence == head => held.stage = Stage::Settled { asked: false },
                        Stage::Copying { .. } => held.stage = Stage::Waiting(0),
                        _ => {}
                    }
                }
            }
            FetchResult::Event(arrived) => {
                let id = arrived.id;
                // The head itself, copied before it was the head, is settled; so is what was delivered here under a lease
                // that ended before it was removed.
                let is_head = id.sequence == head;
                let is_settled = is_head || self.memory.has(id);
                let stage = if is_settled { Stage::Settled { asked: false } } else { Stage::Waiting(0) };
                line.front = Front::Here(id, stage);
                // In hand, too, because its acknowledgement was not confirmed to a former owner.
                let twin = self.hand.get_mut(id.sequence).filter(|_| !is_head && self.terms.rules.twins);
                if let Some(twin) = twin
                    && matches!(twin.stage, Stage::Waiting(_) | Stage::Copying { .. })
                {
                    twin.stage = Stage::Settled { asked: false };
                    self.copies.note(twin.id);
                }
            }
        }
        self.changed(now);
        self.give_up_if_left();
    }

    /// A parked event is removed from the shelf, or not.
    pub(super) fn unparked(&mut self, id: Id, removed: bool) {
        let Some(line) = self.parked.of(id) else { return };
        if removed {
            (line.front, line.again) = (Front::Unread, false);
            self.out.push(Action::Drop(id));
        } else {
            line.front = Front::Here(id, Stage::Settled { asked: false });
        }
        self.give_up_if_left();
    }

    /// It is on record that a head is settled, or not.
    pub(super) fn marked(&mut self, id: Id, written: bool) {
        if self.held(id).is_none() {
            return;
        }
        if let Some(line) = self.parked.of_head(id.sequence) {
            line.mark = if written { Mark::OnRecord } else { Mark::Missing };
        }
        self.give_up_if_left();
    }

    fn give_up_if_left(&mut self) {
        if self.leaving == Leaving::Unpinned {
            self.give_up();
        }
    }

    /// What is due for the parked keys.
    pub(super) fn tell_parked(&mut self, now: Moment) {
        let lane = self.lane;
        self.read_and_remove(lane);
        if self.barrier.is_none() && self.leaving == Leaving::No && self.parked.is_open(now) {
            self.park(now);
        }
    }

    /// Reads what is first, puts settled heads on record, removes what is settled.
    fn read_and_remove(&mut self, lane: Lane) {
        let reads_alone = self.terms.rules.reads_alone;
        let keys = self.parked.read(self.has_room, |key| !(reads_alone && self.hand.is_copying(key)));
        self.out.extend(keys.into_iter().map(|(key, again)| Action::Fetch { lane, key, again }));
        for line in self.parked.iter_mut() {
            let Front::Here(id, stage) = line.front else { continue };
            if stage == (Stage::Settled { asked: false }) {
                line.front = Front::Here(id, Stage::Settled { asked: true });
                self.out.push(Action::Unpark { id });
            } else if line.mark == Mark::Missing
                && let Some(head) = self.hand.get_mut(line.head)
            {
                line.mark = Mark::Asked;
                self.out.push(Action::Mark { id: head.id });
            }
        }
    }

    /// Copies what is behind heads that wait, oldest first, until few enough are left. Of a key one copy at a time, or
    /// several that are stored all together or not at all, so that the shelf has them in their order.
    fn park(&mut self, now: Moment) {
        let is_blocked = !self.parked.is_empty() || self.hand.has_waits(now + self.terms.park_wait);
        if !is_blocked || !self.hand.may_have_to_park(self.terms.park_above) {
            return;
        }
        let rules = self.terms.rules;
        let (queues, behind) = self.queues(now);
        let mut excess = behind.saturating_sub(self.terms.park_above);
        let mut queues: Vec<(Key, Queue)> = queues.into_iter().filter(|(_, queue)| !queue.copies.is_empty()).collect();
        queues.sort_unstable_by_key(|(_, queue)| queue.copies.first().copied());
        for (key, queue) in queues {
            let is_reading = self.parked.get(key).is_some_and(|line| line.front == Front::Reading);
            let is_busy = (queue.is_copying && rules.copies_in_turn) || (is_reading && rules.reads_alone);
            if is_busy || !queue.is_blocked || (excess == 0 && !queue.is_unsure) {
                continue;
            }
            let limit = match queue.is_unsure || self.parked.is_refused() {
                true => 1,
                false => self.terms.copies.min(excess),
            };
            let ids = self.take_for_copies(&queue.copies, limit, queue.is_unsure);
            excess = excess.saturating_sub(ids.len());
            self.parked.line(key, queue.head);
            self.out.push(Action::Park { ids, key });
        }
    }

    /// Takes so many of these events for being copied, but no more bytes than go together.
    fn take_for_copies(&mut self, sequences: &[u64], limit: usize, unsure: bool) -> Vec<Id> {
        let (mut ids, mut bytes) = (Vec::new(), 0);
        for sequence in sequences.iter().take(limit) {
            let Some(held) = self.hand.get_mut(*sequence) else { break };
            bytes += held.bytes;
            if bytes > MAX_BYTES && !ids.is_empty() {
                break;
            }
            held.stage = Stage::Copying { asked: true, unsure };
            ids.push(held.id);
        }
        ids
    }

    /// Each key's part of what is in hand, and how many events wait behind heads that are blocked.
    fn queues(&self, now: Moment) -> (BTreeMap<Key, Queue>, usize) {
        let mut queues = BTreeMap::<Key, Queue>::new();
        let mut behind = 0;
        let is_blocked = |held: &Held| {
            let waits = matches!(held.stage, Stage::Waiting(from) if from >= now + self.terms.park_wait);
            waits || self.parked.get(held.key).is_some()
        };
        for held in self.hand.iter() {
            let sequence = held.id.sequence;
            let Some(queue) = queues.get_mut(&held.key) else {
                let (head, is_blocked) = (sequence, is_blocked(held));
                let queue = Queue { head, is_blocked, copies: Vec::new(), is_unsure: false, is_copying: false };
                queues.insert(held.key, queue);
                continue;
            };
            match held.stage {
                Stage::Waiting(_) if queue.is_blocked => {
                    behind += 1;
                    if !queue.is_unsure {
                        queue.copies.push(sequence);
                    }
                }
                Stage::Copying { asked: true, .. } => queue.is_copying = true,
                Stage::Copying { asked: false, .. } if !queue.is_unsure => {
                    queue.copies = vec![sequence];
                    queue.is_unsure = true;
                }
                _ => {}
            }
        }
        (queues, behind)
    }
}
