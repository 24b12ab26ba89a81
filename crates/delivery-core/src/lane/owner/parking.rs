//! The way of the events behind a head that fails: copied to the shelf, and taken from there when the head is settled.

use std::collections::BTreeMap;

use super::{Leaving, Owner};
use crate::event::{Disposition, Id, Key, Lane, Moment};
use crate::exchange::{Action, FetchResult, ParkResult};
use crate::lane::in_flight::{Delivery, Stage};
use crate::lane::parked::{Front, Mark};

/// Bytes of events that are copied together, unless it is one event. The broker keeps them aside until it has all.
const MAX_BYTES: usize = 1024 * 1024;

/// What of one key is in flight, seen from its oldest event on.
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
                // The head itself, copied before it was the head, is settled; so is what was delivered here under a
                // lease that ended before it was removed.
                let is_head = id.sequence == head;
                let is_settled = is_head || self.memory.has(id);
                if !is_settled && self.pass_on(key, head, id.sequence) {
                    self.out.push(Action::Drop(id));
                    self.changed(now);
                    return self.give_up_if_left();
                }
                let Some(line) = self.parked.get_mut(key) else { return };
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

    /// What is first on the shelf may be parked behind another event than this marker: one in flight that is between
    /// them and not settled. That one is the head then, and the marker is acknowledged. Whether there is one.
    fn pass_on(&mut self, key: Key, marker: u64, front: u64) -> bool {
        let is_between = |held: &&mut Delivery| held.key == key && (marker + 1..front).contains(&held.id.sequence);
        let is_open = |held: &&mut Delivery| matches!(held.stage, Stage::Waiting(_) | Stage::Copying { .. });
        let Some(head) = self.hand.iter_mut().find(|held| is_between(held) && is_open(held)) else { return false };
        head.again = true;
        // The shelf has its events in order, so this one is not there.
        if matches!(head.stage, Stage::Copying { .. }) {
            head.stage = Stage::Waiting(0);
        }
        if let Some(held) = self.hand.get_mut(marker) {
            held.stage = Stage::Settled { asked: false };
        }
        self.parked.remove(key);
        true
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
                line.mark = Mark::OpenQuestion;
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

    /// Each key's part of what is in flight, and how many events wait behind heads that are blocked.
    fn queues(&self, now: Moment) -> (BTreeMap<Key, Queue>, usize) {
        let mut queues = BTreeMap::<Key, Queue>::new();
        let mut behind = 0;
        let is_blocked = |held: &Delivery| {
            let waits = matches!(held.stage, Stage::Waiting(from) if from >= now + self.terms.park_wait);
            waits || self.parked.get(held.key).is_some()
        };
        for held in self.hand.iter() {
            let sequence = held.id.sequence;
            let Some(queue) = queues.get_mut(&held.key) else {
                // An event that came again before the head of a line is not the head of what is on the shelf.
                let head = self.parked.get(held.key).map_or(sequence, |line| line.head);
                let is_blocked = is_blocked(held);
                let queue = Queue { head, is_blocked, copies: Vec::new(), is_unsure: false, is_copying: false };
                queues.insert(held.key, queue);
                continue;
            };
            match held.stage {
                _ if sequence <= queue.head => {}
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Outcome;
    use crate::exchange::{Arrival, Input, Pin, State};
    use crate::lane::timing::LaneTiming;

    const KEY: Key = 7;

    fn id(sequence: u64, delivery: u64) -> Id {
        Id { lane: 0, sequence, stored: sequence, delivery, arrival: sequence * 1000 + delivery }
    }

    fn arrived(id: Id, inbox: u64, again: bool) -> Arrival {
        Arrival { id, key: KEY, inbox, pin: Pin::from("p"), bytes: 1, again }
    }

    /// An owner that has these, the n-th by the n-th delivery, and whose barrier is down.
    fn owner(events: &[(u64, bool)]) -> Owner {
        let mut owner = Owner::new(0, LaneTiming::of(Duration::from_secs(30)));
        owner.actions(0, 32, &mut Vec::new());
        for (delivery, (sequence, again)) in (1..).zip(events) {
            owner.input(1, Input::Arrival(arrived(id(*sequence, delivery), 1, *again)));
        }
        let (count, highest) = (events.len() as u64, events.iter().map(|event| event.0).max().unwrap());
        let state = State { delivered: count, pending: count, floor: 0, highest, pin: Some(Pin::from("p")) };
        (100..110).for_each(|now| drop(answer(&mut owner, now * 10, &state)));
        assert!(owner.can_start(1200), "the barrier is down");
        owner
    }

    /// What is done now, after which the broker says its state.
    fn answer(owner: &mut Owner, now: Moment, state: &State) -> Vec<Action> {
        let out = actions(owner, now);
        owner.input(now, Input::State(0, Some(state.clone())));
        out
    }

    fn actions(owner: &mut Owner, now: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        owner.actions(now, 32, &mut out);
        out
    }

    fn handle(owner: &mut Owner, now: Moment, sequence: u64) {
        let started = owner.start(now).unwrap();
        assert_eq!(started.sequence, sequence);
        owner.input(now, Input::Attempted(started, Some(Disposition::Over(Outcome::Acknowledged))));
    }

    /// The broker had forgotten that 1 is settled: 22 is parked behind 21, which is not.
    #[test]
    fn what_is_parked_behind_a_later_event_does_not_overtake_it() {
        let mut owner = owner(&[(1, true), (21, true)]);
        handle(&mut owner, 1200, 1);
        assert!(actions(&mut owner, 1201).iter().any(|action| matches!(action, Action::Fetch { .. })));
        let parked = || FetchResult::Event(arrived(Id { arrival: 99, ..id(22, 1) }, 0, false));
        owner.input(1202, Input::Fetched(0, KEY, parked()));
        let told = actions(&mut owner, 1203);
        assert!(told.iter().any(|action| matches!(action, Action::Drop(id) if id.sequence == 22)), "{told:?}");
        let acknowledged = told.iter().find_map(|action| match action {
            Action::Acknowledge { id, .. } => Some(*id),
            _ => None,
        });
        owner.input(1204, Input::Acknowledged(acknowledged.unwrap(), true));
        handle(&mut owner, 1205, 21);
        assert!(actions(&mut owner, 1206).iter().any(|action| matches!(action, Action::Fetch { .. })));
        owner.input(1207, Input::Fetched(0, KEY, parked()));
        assert!(actions(&mut owner, 1208).iter().any(|action| matches!(action, Action::Mark { .. })));
        owner.input(1209, Input::Marked(id(21, 2), true));
        assert_eq!(owner.start(1210).map(|id| id.sequence), Some(22));
    }

    /// A consumer that was made again below the head of a line delivers what is before it once more.
    #[test]
    fn a_head_is_not_parked_behind_what_came_again_before_it() {
        let mut owner = owner(&[(1, false), (2, false), (3, false), (4, false)]);
        owner.terms.park_above = 0;
        let first = owner.start(1200).unwrap();
        let wait = Some(Disposition::RetryIn(Duration::from_secs(20)));
        owner.input(1201, Input::Attempted(first, wait));
        let parks = |actions: Vec<Action>| -> Vec<u64> {
            let ids = actions.into_iter().filter_map(|action| match action {
                Action::Park { ids, .. } => Some(ids),
                _ => None,
            });
            ids.flatten().map(|id| id.sequence).collect()
        };
        assert_eq!(parks(actions(&mut owner, 1202)), [2, 3, 4]);
        let copied = [id(2, 2), id(3, 3), id(4, 4)];
        owner.input(1203, Input::Parked(copied.to_vec(), ParkResult::Stored));
        actions(&mut owner, 1203);
        copied.iter().for_each(|id| owner.input(1204, Input::Acknowledged(*id, true)));
        owner.input(1205, Input::Arrival(arrived(id(0, 5), 1, true)));
        owner.input(1205, Input::Arrival(arrived(id(5, 6), 1, false)));
        let state = State { delivered: 6, pending: 3, floor: 0, highest: 5, pin: Some(Pin::from("p")) };
        let parked: Vec<u64> = (130..140).flat_map(|now| parks(answer(&mut owner, now * 10, &state))).collect();
        assert_eq!(parked, [5], "neither 0 nor the head");
    }
}
