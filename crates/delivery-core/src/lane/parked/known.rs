//! Which keys are known to be parked, where there may be more than can be known. Pure.
//!
//! Where there are more, the lists of all sections are asked for one after the other, round by round, and what is found
//! in one makes those lines room that wait for longest: the shelf has all of them, and the next round finds them again.
//! What is held is known only where its events are in flight. So whatever is parked is found within a round.

use std::collections::BTreeSet;

use super::{Custody, Line, Parked, Section};
use crate::event::{Key, Moment};
use crate::exchange::ParkedKeys;

/// So much of what is known makes room at a time: what is found in its place is to be read.
const PART_THAT_MAKES_ROOM: usize = 4;

/// What was found in a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Whether there are keys that this owner did not know.
    pub has_new: bool,
    /// Whether others had to make room for them, or some have none.
    pub lacks_room: bool,
    /// Whether some have none: the section is to be asked for again.
    pub is_cut: bool,
}

impl Parked {
    /// Whether something of this key is parked, or may be.
    pub fn may_have(&self, key: Key) -> bool {
        self.lines.contains_key(&key) || (self.has_others && !self.absent.contains(&key))
    }

    /// Makes a line for a key of which it is not known whether it is parked. The shelf is asked for it.
    pub fn look_for(&mut self, key: Key) {
        if self.may_have(key) {
            self.lines.entry(key).or_insert_with(Line::sought);
        }
    }

    /// Whether keys may be parked that are not known.
    pub fn has_others(&self) -> bool {
        self.has_others
    }

    /// Whether half of what can be known is not.
    pub fn has_room(&self, max: usize) -> bool {
        self.lines.len() <= max / 2
    }

    /// Whether a key waits for a person, so that its release is to be noticed.
    pub fn has_held(&self) -> bool {
        self.lines.values().any(|line| matches!(line.custody, Custody::Marked(_)))
    }

    /// The shelf has told which keys of a section are parked, and which of them are held; it was asked at this moment.
    /// `max` keys are known at a time.
    pub fn found(
        &mut self,
        (now, asked): (Moment, Moment),
        section: Section,
        told: &ParkedKeys,
        max: usize,
        is_in_flight: impl Fn(Key) -> bool,
    ) -> Found {
        if section == Section::ALL {
            self.has_others = !told.are_all;
        }
        self.compare((now, asked), section, told, &is_in_flight);
        let wants = |is_held: bool| !(is_held && self.has_others);
        let new = told.keys.iter().filter(|(key, is_held)| wants(*is_held) && !self.lines.contains_key(key));
        let wanted: Vec<(Key, bool)> = new.copied().collect();
        let excess = (self.lines.len() + wanted.len()).saturating_sub(max);
        if excess > 0 && section != Section::ALL {
            self.make_room(now, excess.min((max / PART_THAT_MAKES_ROOM).max(1)), &is_in_flight);
        }
        let room = max.saturating_sub(self.lines.len());
        let (has_new, is_cut) = (room > 0 && !wanted.is_empty(), wanted.len() > room);
        self.is_stranger |= has_new;
        self.has_others |= is_cut;
        self.lines.extend(wanted.into_iter().take(room).map(|(key, is_held)| (key, Line::found(now, is_held))));
        Found { has_new, lacks_room: excess > 0, is_cut }
    }

    /// What is known of these keys is what the shelf says.
    fn compare(
        &mut self,
        (now, asked): (Moment, Moment),
        section: Section,
        told: &ParkedKeys,
        is_in_flight: impl Fn(Key) -> bool,
    ) {
        let held: BTreeSet<Key> = told.keys.iter().filter(|(_, is_held)| *is_held).map(|(key, _)| *key).collect();
        // Of more than can be told it has told the last ones.
        let first = if told.are_all { Some(0) } else { told.keys.first().map(|(key, _)| *key) };
        let is_told = |key: Key| section.has(key) && first.is_some_and(|first| key >= first);
        for (key, line) in self.lines.iter_mut().filter(|(key, _)| is_told(**key)) {
            match line.custody {
                Custody::Marked(since) if since < asked && !held.contains(key) => line.release(),
                // A former owner's, which is heard of late.
                Custody::Free if held.contains(key) => line.custody = Custody::Marked(now),
                _ => {}
            }
        }
        if self.has_others {
            let is_held = |line: &Line| matches!(line.custody, Custody::Marked(since) if since < asked);
            let is_known = |key, line: &Line| is_held(line) && line.is_idle(now) && !is_in_flight(key);
            self.lines.retain(|key, line| !(is_told(*key) && is_known(*key, line)));
        }
    }

    /// Whether more than `max` keys are known.
    pub fn exceeds(&self, max: usize) -> bool {
        self.lines.len() > max
    }

    /// No more than `max` keys are known, but for those of which events are in flight, which are these.
    pub fn bound(&mut self, now: Moment, max: usize, in_flight: &BTreeSet<Key>) {
        let were_all = !self.has_others;
        let excess = self.lines.len().saturating_sub(max);
        self.make_room(now, excess + max / PART_THAT_MAKES_ROOM, |key| in_flight.contains(&key));
        if were_all && self.has_others {
            self.absent.extend(in_flight.iter().filter(|key| !self.lines.contains_key(key)));
        }
    }

    /// Forgets what it can do without, so many at most: what waits for longest.
    fn make_room(&mut self, now: Moment, count: usize, is_in_flight: impl Fn(Key) -> bool) {
        let idle = self.lines.iter().filter(|(key, line)| line.is_idle(now) && !is_in_flight(**key));
        let mut idle: Vec<(Moment, Key)> = idle.map(|(key, line)| (line.waits_until(), *key)).collect();
        idle.sort_unstable_by(|one, other| other.cmp(one));
        idle.truncate(count);
        self.has_others |= !idle.is_empty();
        for (_, key) in idle {
            self.lines.remove(&key);
        }
    }

    /// Keys of which it is not known whether they are held, and of which the shelf is to be asked now.
    pub fn ask_marks(&mut self, limit: u32) -> Vec<Key> {
        let asking = self.lines.values().filter(|line| line.custody == Custody::Asking).count();
        let unknown = self.lines.iter_mut().filter(|(_, line)| line.custody == Custody::Unknown);
        let asked = unknown.take((limit as usize).saturating_sub(asking));
        asked
            .map(|(key, line)| {
                line.custody = Custody::Asking;
                *key
            })
            .collect()
    }

    /// What was found not to be parked may be by now.
    pub fn doubt_absent(&mut self) {
        self.absent.clear();
    }

    /// Keys of which no event is in flight need not be known to be absent.
    pub fn forget_absent(&mut self, is_in_flight: impl Fn(Key) -> bool) {
        self.absent.retain(|key| is_in_flight(*key));
    }
}
