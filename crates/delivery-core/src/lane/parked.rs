//! The parked keys of a lane: which there are, and how far each is with the first event that waits for it on the shelf.
//! Pure.
//!
//! The events behind a head that fails are copied to the shelf and leave the window. When the head is settled it stays
//! in flight as the *marker* of its key: its lease is what the parked events run under, one after the other, and a new
//! owner has it before it starts anything. A key is written to and read one at a time, so that "nothing is parked" is
//! true when it is heard.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::in_flight::Stage;
use super::timing::LaneTiming;
use crate::event::{Id, Key, Moment};

/// So many keys of a lane are read at a time: what is read takes memory.
const MAX_READS: usize = 8;

/// The first parked event of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Front {
    /// It is not needed yet: the head is not settled.
    Behind,
    /// The shelf is to be asked for it.
    Unread,
    /// The shelf is asked.
    Reading,
    /// It is here. Outcome means that it is to be removed from the shelf.
    Here(Id, Stage),
}

/// Whether it is on record that a head is settled, so that no later owner delivers it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// It is not.
    Missing,
    /// It is being written.
    OpenQuestion,
    /// It is.
    OnRecord,
}

/// What waits on the shelf for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The sequence of the key's head, or marker, which is in flight.
    pub head: u64,
    /// The head's record.
    pub mark: Mark,
    /// The first event.
    pub front: Front,
    /// Whether a former owner may have begun an attempt of that.
    pub again: bool,
}

impl Line {
    fn new(head: u64) -> Self {
        Self { head, mark: Mark::Missing, front: Front::Behind, again: false }
    }

    /// Whether nothing of it is under way, and the next owner finds all that it needs.
    fn is_idle(&self) -> bool {
        let rests = matches!(self.front, Front::Unread | Front::Here(_, Stage::Waiting(_)));
        rests && self.mark == Mark::OnRecord
    }

    fn here(&self) -> Option<Id> {
        match self.front {
            Front::Here(id, _) => Some(id),
            _ => None,
        }
    }
}

/// All parked keys, and keys of which it is not known whether they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parked {
    lines: BTreeMap<Key, Line>,
    /// The key that was read last.
    turn: Key,
    refused: u32,
    not_before: Moment,
}

impl Parked {
    /// The key's line, which is made if there is none.
    pub fn line(&mut self, key: Key, head: u64) -> &mut Line {
        self.lines.entry(key).or_insert_with(|| Line::new(head))
    }

    /// The key's line.
    pub fn get(&self, key: Key) -> Option<&Line> {
        self.lines.get(&key)
    }

    /// The key's line.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Line> {
        self.lines.get_mut(&key)
    }

    /// All lines.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Line> {
        self.lines.values_mut()
    }

    /// The keys whose first event is to be read now, each in its turn; they are taken for being read. Without room in
    /// memory one at a time. `is_free`: whether nothing of the key is on its way to the shelf. With each: whether a
    /// former owner may have begun an attempt.
    pub fn read(&mut self, has_room: bool, is_free: impl Fn(Key) -> bool) -> Vec<(Key, bool)> {
        let is_reading = |line: &&Line| line.front == Front::Reading;
        let reading = self.lines.values().filter(is_reading).count();
        let limit = match has_room {
            true => MAX_READS.saturating_sub(reading),
            false => usize::from(reading + self.here() == 0),
        };
        let after = self.lines.range((Bound::Excluded(self.turn), Bound::Unbounded));
        let keys = after.chain(self.lines.range(..=self.turn));
        let unread = keys.filter(|(key, line)| line.front == Front::Unread && is_free(**key));
        let keys: Vec<(Key, bool)> = unread.take(limit).map(|(key, line)| (*key, line.again)).collect();
        for (key, _) in &keys {
            self.turn = *key;
            if let Some(line) = self.lines.get_mut(key) {
                line.front = Front::Reading;
            }
        }
        keys
    }

    /// The line of this parked event, which is here.
    pub fn of(&mut self, id: Id) -> Option<&mut Line> {
        self.lines.values_mut().find(|line| line.here() == Some(id))
    }

    /// The line of this marker.
    pub fn of_head(&mut self, head: u64) -> Option<&mut Line> {
        self.lines.values_mut().find(|line| line.head == head)
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Events that are here.
    pub fn here(&self) -> usize {
        self.lines.values().filter(|line| line.here().is_some()).count()
    }

    /// Nothing is parked behind this head any more.
    pub fn remove(&mut self, key: Key) {
        self.lines.remove(&key);
    }

    /// Lets go of the lines whose head is not in flight any more, and returns what is here of them.
    pub fn let_go(&mut self, is_in_hand: impl Fn(u64) -> bool) -> Vec<Id> {
        let gone = self.lines.extract_if(.., |_, line| !is_in_hand(line.head));
        gone.filter_map(|(_, line)| line.here()).collect()
    }

    /// Whether this marker may be given to the next owner now.
    pub fn is_idle(&self, head: u64) -> bool {
        self.lines.values().any(|line| line.head == head && line.is_idle())
    }

    /// The shelf has taken a copy.
    pub fn taken(&mut self) {
        self.refused = 0;
    }

    /// The shelf has no room, or is not there: no copies for a while.
    pub fn refused(&mut self, terms: &LaneTiming, now: Moment) {
        self.not_before = now + terms.pause(self.refused);
        self.refused = self.refused.saturating_add(1);
    }

    /// Whether the shelf had no room for the last copies. It may have room for one.
    pub fn is_refused(&self) -> bool {
        self.refused > 0
    }

    /// Whether copies may be made.
    pub fn is_open(&self, now: Moment) -> bool {
        now >= self.not_before
    }

    /// A parked event that may start: on record is its head, and it waits no longer. `is_in_hand`: whether the event of
    /// this sequence is still in flight, too, so that the broker would deliver it again.
    pub fn next(&self, now: Moment, is_in_hand: impl Fn(u64) -> bool) -> Option<Key> {
        let may_start = |line: &Line| match line.front {
            Front::Here(id, Stage::Waiting(from)) => {
                from <= now && line.mark == Mark::OnRecord && !is_in_hand(id.sequence)
            }
            _ => false,
        };
        self.lines.iter().find(|(_, line)| may_start(line)).map(|(key, _)| *key)
    }

    /// When a parked event's wait is over, or copies may be made again.
    pub fn wake_at(&self, now: Moment) -> Option<Moment> {
        let of = |line: &Line| match line.front {
            Front::Here(_, Stage::Waiting(from)) => Some(from),
            _ => None,
        };
        let opens = (!self.lines.is_empty()).then_some(self.not_before);
        self.lines.values().filter_map(of).chain(opens).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(keys: std::ops::Range<Key>) -> Parked {
        let mut parked = Parked::default();
        keys.for_each(|key| parked.line(key, key).front = Front::Unread);
        parked
    }

    #[test]
    fn each_key_is_read_in_its_turn() {
        let mut parked = unread(0..20);
        let first = parked.read(true, |_| true);
        assert_eq!(first.len(), MAX_READS);
        assert_eq!(parked.read(true, |_| true), [], "enough are being read");
        first.iter().for_each(|(key, _)| parked.line(*key, 0).front = Front::Unread);
        let second = parked.read(true, |key| key != 12);
        assert!(second.iter().all(|key| !first.contains(key) && key.0 != 12), "{first:?} {second:?}");
    }

    #[test]
    fn without_room_one_is_read() {
        let mut parked = unread(0..3);
        assert_eq!(parked.read(false, |_| true).len(), 1);
        assert_eq!(parked.read(false, |_| true), []);
    }
}
