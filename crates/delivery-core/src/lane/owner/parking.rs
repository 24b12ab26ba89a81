//! The way to the shelf: the events of a key that fails are copied in their order, and leave the window.

use std::collections::BTreeMap;

use super::{Leaving, Owner};
use crate::event::{Id, Key, Moment};
use crate::exchange::{Action, ParkResult};
use crate::lane::in_flight::Stage;
use crate::lane::parked::{Custody, FOREVER, Front, Last};

/// Bytes of events that are copied together, unless it is one event. The broker keeps them aside until it has all.
const MAX_BYTES: usize = 1024 * 1024;

/// What of one key is in flight and belongs on the shelf.
#[derive(Debug, Default)]
struct Queue {
    /// Whether another attempt of its first event is so far away that it leaves the window at once.
    is_long: bool,
    /// Its events that wait, oldest first.
    copies: Vec<u64>,
    /// The oldest one that may be on the shelf or not.
    unsure: Option<u64>,
}

/// What a look at what is in flight finds.
#[derive(Debug, Default)]
struct Survey {
    queues: BTreeMap<Key, Queue>,
    /// Keys of which an event was seen that holds up the others as long as it is in flight.
    held_up: BTreeMap<Key, bool>,
    /// Sequences of events that are on the shelf, or settled from there.
    done: Vec<u64>,
    /// Keys up to where of which is to be asked for.
    unknown: Vec<Key>,
    /// Events that wait behind others.
    behind: usize,
}

impl Owner {
    /// Copies are on the shelf, or not.
    pub(super) fn parked(&mut self, now: Moment, ids: &[Id], result: ParkResult) {
        let copies = self.copying.take_if(|copies| copies.iter().map(|(id, _)| *id).eq(ids.iter().copied()));
        let Some(copies) = copies else { return };
        for (id, key) in &copies {
            if let Some(line) = self.parked.get_mut(*key) {
                line.last = match (result, line.last) {
                    (ParkResult::Stored, Last::Known(last)) => Last::Known(last.max(id.sequence)),
                    (ParkResult::Stored | ParkResult::Unknown, _) => Last::Unknown,
                    (ParkResult::Refused, last) => last,
                };
            }
            let Some(held) = self.held(*id) else { continue };
            let Stage::Copying { unsure, from, .. } = held.stage else { continue };
            held.stage = match result {
                ParkResult::Stored => Stage::Settled { asked: false },
                ParkResult::Refused if !unsure => Stage::Waiting(from),
                ParkResult::Refused | ParkResult::Unknown => Stage::Copying { asked: false, unsure: true, from },
            };
        }
        match result {
            ParkResult::Stored => {
                self.parked.taken();
                self.changed(now);
            }
            ParkResult::Refused => self.parked.refused(&self.terms, now),
            ParkResult::Unknown => {}
        }
        for (_, key) in &copies {
            self.remove_if_empty(*key);
        }
        self.give_up_if_left();
    }

    /// Nothing of a key is parked, or on its way there.
    pub(super) fn remove_if_empty(&mut self, key: Key) {
        let is_empty = self
            .parked
            .get(key)
            .is_some_and(|line| line.last == Last::Known(0) && matches!(line.front, Front::Unread(_)));
        if is_empty && !self.hand.has_copies(key) {
            self.parked.remove(key);
        }
    }

    /// What is due on the way to the shelf.
    pub(super) fn park(&mut self, now: Moment) {
        if self.leaving != Leaving::No || self.barrier.is_some() || !self.inventory.is_known() {
            return;
        }
        if self.parked.is_empty() && !self.hand.has_waits(now + self.terms.park_wait) {
            return;
        }
        let survey = self.survey(now);
        for sequence in &survey.done {
            if let Some(held) = self.hand.get_mut(*sequence) {
                held.stage = Stage::Settled { asked: false };
            }
        }
        let lane = self.lane;
        let asked = self.parked.ask_last(survey.unknown.iter().copied(), self.reads);
        self.out.extend(asked.into_iter().map(|key| Action::FindLast { lane, key }));
        if self.parked.is_open(now) && self.copying.is_none() {
            self.copy(survey);
        }
    }

    /// Copies what belongs on the shelf, oldest first, until few enough wait in the window.
    fn copy(&mut self, survey: Survey) {
        let unsure = survey.queues.values().filter_map(|queue| queue.unsure).min();
        let sequences = match unsure {
            // What is known there already would have a whole batch refused.
            Some(sequence) => vec![sequence],
            None => {
                let excess = survey.behind.saturating_sub(self.terms.park_above);
                let mut queues: Vec<Queue> =
                    survey.queues.into_values().filter(|queue| !queue.copies.is_empty()).collect();
                queues.sort_unstable_by_key(|queue| queue.copies[0]);
                self.choose(&queues, excess)
            }
        };
        let mut events = Vec::new();
        let mut bytes = 0;
        for sequence in sequences {
            let Some(held) = self.hand.get_mut(sequence) else { break };
            bytes += held.bytes;
            if bytes > MAX_BYTES && !events.is_empty() {
                break;
            }
            let (from, unsure) = match held.stage {
                Stage::Copying { from, unsure, .. } => (from, unsure),
                Stage::Waiting(from) => (from, false),
                _ => break,
            };
            held.stage = Stage::Copying { asked: true, unsure, from };
            events.push((held.id, held.key));
            self.parked.line(held.key, from);
        }
        if !events.is_empty() {
            self.copying = Some(events.clone());
            self.out.push(Action::Park { events });
        }
    }

    /// The events that go to the shelf together: of each of these keys the oldest. An event that is long away goes in
    /// any case.
    fn choose(&self, queues: &[Queue], mut excess: usize) -> Vec<u64> {
        let mut left = if self.parked.is_refused() { 1 } else { self.terms.copies };
        let mut sequences = Vec::new();
        for queue in queues {
            let wanted = if excess > 0 { excess.saturating_add(1) } else { usize::from(queue.is_long) };
            let chosen = queue.copies.iter().take(wanted.min(left));
            sequences.extend(chosen);
            let count = queue.copies.len().min(wanted).min(left);
            (left, excess) = (left - count, excess.saturating_sub(count));
        }
        sequences
    }

    /// Looks at each key's part of what is in flight.
    fn survey(&self, now: Moment) -> Survey {
        let mut survey = Survey::default();
        let rules = self.terms.rules;
        let copying: Vec<Key> = self.copying.iter().flatten().map(|(_, key)| *key).collect();
        for held in self.hand.iter() {
            let (key, sequence) = (held.key, held.id.sequence);
            let line = self.parked.get(key);
            let is_first = !survey.held_up.contains_key(&key);
            let holds_up = survey.held_up.entry(key).or_default();
            // "Nothing is parked" would be old when it is heard.
            let is_read = rules.reads_alone && line.is_some_and(|line| line.front == Front::Reading);
            if *holds_up || is_read || copying.contains(&key) {
                survey.behind += usize::from(line.is_some() && matches!(held.stage, Stage::Waiting(_)));
                continue;
            }
            let last = line.map(|line| match line.last {
                Last::Unknown if !rules.ends => Last::Known(0),
                last => last,
            });
            match (last, held.stage) {
                (Some(Last::Unknown), Stage::Waiting(_) | Stage::Copying { .. }) => {
                    survey.unknown.push(key);
                    *holds_up = true;
                }
                (Some(Last::Asking), Stage::Waiting(_) | Stage::Copying { .. }) => *holds_up = true,
                (Some(Last::Known(last)), Stage::Waiting(_) | Stage::Copying { .. }) if sequence <= last => {
                    survey.done.push(sequence);
                }
                (_, Stage::Copying { .. }) => {
                    let queue = survey.queues.entry(key).or_default();
                    queue.unsure = queue.copies.is_empty().then_some(sequence);
                    *holds_up = true;
                }
                (Some(_), Stage::Waiting(from)) => {
                    let queue = survey.queues.entry(key).or_default();
                    queue.is_long |= from == FOREVER;
                    queue.copies.push(sequence);
                    survey.behind += 1;
                }
                (None, Stage::Waiting(from)) if is_first => {
                    if from < now + self.terms.park_wait {
                        *holds_up = true;
                        continue;
                    }
                    let is_long = from >= now + self.terms.shelved_after;
                    survey.queues.insert(key, Queue { is_long, copies: vec![sequence], unsure: None });
                }
                (None, Stage::Waiting(_)) => match survey.queues.get_mut(&key) {
                    Some(queue) => {
                        queue.copies.push(sequence);
                        survey.behind += 1;
                    }
                    None => *holds_up = true,
                },
                // It runs, or is settled and not confirmed to be: what is behind it is not to overtake it.
                (_, Stage::Running) => *holds_up = true,
                (last, Stage::Settled { .. }) => *holds_up = last.is_none(),
            }
        }
        survey
    }

    /// Keys that wait for a person and of which that is not on record.
    pub(super) fn detain(&mut self) {
        let (lane, copying) = (self.lane, &self.copying);
        let is_copying = |key| copying.iter().flatten().any(|(_, other)| *other == key);
        for (key, line) in self.parked.iter_mut() {
            let is_there = !matches!(line.last, Last::Known(0)) && !is_copying(key);
            if line.custody == Custody::Unmarked && is_there {
                line.custody = Custody::Marking;
                self.out.push(Action::Detain { lane, key });
            }
        }
    }

    /// It is on record that a key is held, or not.
    pub(super) fn detained(&mut self, now: Moment, key: Key, is_marked: bool) {
        if let Some(line) = self.parked.get_mut(key).filter(|line| line.custody == Custody::Marking) {
            line.custody = if is_marked { Custody::Marked(now) } else { Custody::Unmarked };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::{Disposition, Outcome};
    use crate::exchange::{Arrival, FetchResult, Input, ParkedKeys, Pin, State, Tenancy};
    use crate::lane::timing::LaneTiming;

    const KEY: Key = 7;

    fn id(sequence: u64, delivery: u64) -> Id {
        Id { lane: 0, sequence, stored: sequence, delivery, arrival: sequence * 1000 + delivery }
    }

    fn arrived(id: Id) -> Arrival {
        Arrival { id, key: KEY, inbox: 1, pin: Pin::from("p"), bytes: 1 }
    }

    fn actions(owner: &mut Owner, now: Moment) -> Vec<Action> {
        let mut out = Vec::new();
        owner.actions(now, 32, &mut out);
        out
    }

    /// Everything that is asked of the broker is answered as by one that has these keys parked.
    fn settle(owner: &mut Owner, from: Moment, state: &State, parked: &[(Key, bool)]) -> Vec<Action> {
        let mut all = Vec::new();
        for now in (0..30).map(|step| from + step * 50) {
            for action in actions(owner, now) {
                let answer = match &action {
                    Action::Ask(_) => Input::State(0, Some(state.clone())),
                    Action::List(_) => Input::Listed(0, Some(ParkedKeys { keys: parked.to_vec(), are_all: true })),
                    Action::TakeLease { over, .. } => Input::Leased(0, Tenancy::Ours(over + 1)),
                    Action::Acknowledge { id, .. } => Input::Acknowledged(*id, true),
                    Action::Detain { key, .. } => Input::Detained(0, *key, true),
                    _ => {
                        all.push(action);
                        continue;
                    }
                };
                all.push(action);
                owner.input(now, answer);
            }
        }
        all
    }

    /// An owner to which these came, the n-th by the n-th delivery.
    fn owner(sequences: &[u64]) -> (Owner, State) {
        let mut owner = Owner::new(0, LaneTiming::of(Duration::from_secs(30)));
        let highest = sequences.iter().copied().max().unwrap_or(0);
        let count = sequences.len() as u64;
        let pin = (count > 0).then(|| Pin::from("p"));
        let state = State { delivered: count, pending: count, floor: 0, highest, pin };
        actions(&mut owner, 0);
        owner.input(0, Input::State(0, None));
        for (delivery, sequence) in (1..).zip(sequences) {
            owner.input(1, Input::Arrival(arrived(id(*sequence, delivery))));
        }
        (owner, state)
    }

    fn copies(actions: &[Action]) -> Vec<u64> {
        let events = actions.iter().filter_map(|action| match action {
            Action::Park { events } => Some(events),
            _ => None,
        });
        events.flatten().map(|(id, _)| id.sequence).collect()
    }

    fn fail(owner: &mut Owner, now: Moment, disposition: Disposition) -> Id {
        let started = owner.start(now).unwrap();
        owner.input(now, Input::Attempted(started, Some(disposition)));
        started
    }

    #[test]
    fn an_event_that_waits_for_long_leaves_the_window_alone() {
        for (seconds, expected) in [(4, vec![]), (20, vec![1])] {
            let (mut owner, state) = owner(&[1, 2, 3]);
            settle(&mut owner, 100, &state, &[]);
            fail(&mut owner, 2000, Disposition::RetryIn(Duration::from_secs(seconds)));
            assert_eq!(copies(&settle(&mut owner, 2001, &state, &[])), expected, "{seconds} s");
        }
    }

    #[test]
    fn where_many_wait_behind_it_they_go_along_in_their_order() {
        let (mut owner, state) = owner(&[1, 2, 3]);
        owner.terms.park_above = 0;
        settle(&mut owner, 100, &state, &[]);
        fail(&mut owner, 2000, Disposition::RetryIn(Duration::from_secs(1)));
        assert_eq!(copies(&actions(&mut owner, 2001)), [1, 2, 3]);
    }

    /// A consumer that was made again below the last copy delivers what is on the shelf or was settled from there.
    #[test]
    fn what_is_copied_and_comes_again_is_acknowledged() {
        let (mut owner, state) = owner(&[1, 2]);
        settle(&mut owner, 100, &state, &[(KEY, false)]);
        assert!(!owner.can_start(2000), "the key is parked");
        owner.input(2000, Input::LastParked(0, KEY, Some(1)));
        let told = actions(&mut owner, 2001);
        assert!(
            told.iter().any(|action| matches!(action, Action::Acknowledge { id, .. } if id.sequence == 1)),
            "{told:?}"
        );
        assert!(!told.iter().any(|action| matches!(action, Action::Acknowledge { id, .. } if id.sequence == 2)));
    }

    #[test]
    fn a_key_that_waits_for_a_person_is_marked_and_released() {
        let (mut owner, state) = owner(&[1]);
        settle(&mut owner, 100, &state, &[]);
        let held = fail(&mut owner, 2000, Disposition::Detain);
        assert_eq!(copies(&settle(&mut owner, 2001, &state, &[])), [1]);
        owner.input(4000, Input::Parked(vec![held], ParkResult::Stored));
        let state = State { pending: 0, floor: 1, ..state };
        let told = settle(&mut owner, 4001, &state, &[(KEY, true)]);
        assert!(told.contains(&Action::Detain { lane: 0, key: KEY }), "{told:?}");
        assert!(!told.iter().any(|action| matches!(action, Action::Fetch { .. })), "it waits");
        let told = settle(&mut owner, 20_000, &state, &[(KEY, true)]);
        assert!(told.contains(&Action::List(0)) && !told.iter().any(|action| matches!(action, Action::Fetch { .. })));
        let told = settle(&mut owner, 40_000, &state, &[(KEY, false)]);
        assert!(told.iter().any(|action| matches!(action, Action::Fetch { key: KEY, .. })), "{told:?}");
    }

    #[test]
    fn a_parked_event_is_read_when_it_is_due() {
        let (mut owner, mut state) = owner(&[]);
        state.pin = None;
        let told = settle(&mut owner, 100, &state, &[(KEY, false)]);
        let fetch = Action::Fetch { lane: 0, key: KEY, again: true };
        assert!(!told.contains(&fetch), "a former owner may have the lease");
        let told = settle(&mut owner, 16_000, &state, &[(KEY, false)]);
        assert!(told.contains(&fetch), "{told:?}");
        let parked = Id { delivery: 5, ..id(9, 5) };
        owner.input(18_000, Input::Fetched(0, KEY, FetchResult::Event(arrived(parked))));
        fail(&mut owner, 18_001, Disposition::RetryIn(Duration::from_secs(60)));
        assert!(actions(&mut owner, 18_002).contains(&Action::Drop(parked)), "it takes no memory");
        let fetch = Action::Fetch { lane: 0, key: KEY, again: false };
        assert!(!settle(&mut owner, 70_000, &state, &[(KEY, false)]).contains(&fetch));
        assert!(settle(&mut owner, 78_001, &state, &[(KEY, false)]).contains(&fetch));
        owner.input(80_000, Input::Fetched(0, KEY, FetchResult::Event(arrived(parked))));
        fail(&mut owner, 80_001, Disposition::Over(Outcome::Acknowledged));
        assert!(actions(&mut owner, 80_002).contains(&Action::Unpark { id: parked }));
    }
}
