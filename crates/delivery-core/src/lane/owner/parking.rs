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

    /// Nothing of a key is parked, or on its way there. A key with a mark stays: a person may have removed what was
    /// parked of it, and has not released it by that.
    pub(super) fn remove_if_empty(&mut self, key: Key) {
        let is_empty = self
            .parked
            .get(key)
            .is_some_and(|line| line.last == Last::Known(0) && line.is_unread() && !line.may_be_marked());
        if is_empty && !self.hand.has_copies(key) {
            self.parked.remove(key, self.hand.has_key(key));
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
            self.copy(now, survey);
        }
    }

    /// Copies what belongs on the shelf, oldest first, until few enough wait in the window.
    fn copy(&mut self, now: Moment, survey: Survey) {
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
            self.bound(now);
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

    /// Keys that wait for a person and of which that is not on record. They are marked only under the lease of the shelf:
    /// the next owner asks for the marks once, and would not hear of a later one.
    pub(super) fn detain(&mut self, now: Moment) {
        if !self.lease.is_ours(now) {
            return;
        }
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
        self.remove_if_empty(key);
    }
}

#[cfg(test)]
mod tests;
