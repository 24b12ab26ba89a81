//! The parked keys of a lane: which there are, up to where each is copied, and how far each is with its first event.
//! Pure.
//!
//! The events of a key that fails are on the shelf in the order of the stream, from the first that is not settled. So
//! of such a key every event up to the last copy is settled or on the shelf.

mod known;
mod line;
mod section;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::in_flight::Stage;
use super::timing::LaneTiming;
use crate::event::{Id, Key, Moment};

pub use self::known::Found;
pub use self::line::{Custody, Front, Last, Line};
pub use self::section::Section;

/// So many keys of a lane are read at a time: what is read takes memory.
pub const MAX_READS: u32 = 8;
/// And so many times as many events are here, waiting for their turn or at work.
const HERE_FOR_EACH: usize = 4;
/// Keys that are known at a time. Others are found one by one, and by the lists of sections, one after the other.
pub const MAX_KEYS: usize = 4096;
/// The wait of an event that nothing but a person ends.
pub const FOREVER: Moment = Moment::MAX;

/// All parked keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parked {
    lines: BTreeMap<Key, Line>,
    /// Whether there may be others than these.
    has_others: bool,
    /// Keys that were looked for, where there may be others, and of which nothing is parked.
    absent: BTreeSet<Key>,
    /// Whether a key was found that this owner did not park.
    is_stranger: bool,
    /// The key that was read last.
    turn: Key,
    refused: u32,
    not_before: Moment,
}

impl Parked {
    /// The key's line, which is made if there is none, of an event that waits until this moment.
    pub fn line(&mut self, key: Key, from: Moment) -> &mut Line {
        self.lines.entry(key).or_insert_with(|| Line::new(from))
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
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Key, &mut Line)> {
        self.lines.iter_mut().map(|(key, line)| (*key, line))
    }

    /// Whether keys are parked that this owner did not park.
    pub fn is_stranger(&self) -> bool {
        self.is_stranger
    }

    /// What is known of the shelf may be out of date: it may have lost its end.
    pub fn doubt(&mut self) {
        for line in self.lines.values_mut() {
            line.last = Last::Unknown;
        }
    }

    /// Up to where keys are copied is to be asked for: of these, if nothing of them is on its way to the shelf.
    pub fn ask_last(&mut self, keys: impl Iterator<Item = Key>, limit: u32) -> Vec<Key> {
        let asking = self.lines.values().filter(|line| line.last == Last::Asking).count();
        let limit = (limit as usize).saturating_sub(asking);
        let mut asked = Vec::new();
        for key in keys {
            if asked.len() >= limit {
                break;
            }
            if let Some(line) = self.lines.get_mut(&key).filter(|line| line.last == Last::Unknown) {
                line.last = Last::Asking;
                asked.push(key);
            }
        }
        asked
    }

    /// The keys whose first event is to be read now, each in its turn; they are taken for being read. At most so many are
    /// on their way; if it is one, only while none is here. `is_free`: whether nothing of the key is on its way to the shelf. With each: whether a
    /// former owner may have begun an attempt.
    pub fn read(&mut self, now: Moment, limit: u32, is_free: impl Fn(Key) -> bool) -> Vec<(Key, bool)> {
        let reading = self.lines.values().filter(|line| line.front == Front::Reading).count();
        let reads = limit as usize;
        let here = if reads > 1 { reads * HERE_FOR_EACH } else { reads };
        let limit = reads.saturating_sub(reading).min(here.saturating_sub(reading + self.here()));
        let after = self.lines.range((Bound::Excluded(self.turn), Bound::Unbounded));
        let keys = after.chain(self.lines.range(..=self.turn));
        let unread = keys.filter(|(key, line)| line.is_due(now) && is_free(**key));
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
    pub fn of(&mut self, id: Id) -> Option<(Key, &mut Line)> {
        self.lines.iter_mut().find(|(_, line)| line.here() == Some(id)).map(|(key, line)| (*key, line))
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a parked event is worked on.
    pub fn is_busy(&self) -> bool {
        self.lines.values().any(Line::is_busy)
    }

    /// Events that are here.
    pub fn here(&self) -> usize {
        self.lines.values().filter(|line| line.here().is_some()).count()
    }

    /// Nothing of this key is parked.
    pub fn remove(&mut self, key: Key, is_in_flight: bool) {
        self.lines.remove(&key);
        if self.has_others && is_in_flight {
            self.absent.insert(key);
        }
        if self.lines.is_empty() {
            self.is_stranger = false;
        }
    }

    /// Lets go of the events that are here, of all lines or of those that are not worked on, and returns them.
    pub fn let_go(&mut self, with_busy: bool) -> Vec<Id> {
        let mut gone = Vec::new();
        for line in self.lines.values_mut().filter(|line| with_busy || !line.is_busy()) {
            if let Front::Here(id, _) = line.front {
                gone.push(id);
                (line.front, line.again) = (Front::Unread(0), true);
            }
        }
        gone
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

    /// A parked event that may start: it waits no longer. `is_in_flight`: whether the event of this sequence is in
    /// flight from the lane, too, so that the broker would deliver it again.
    pub fn next(&self, now: Moment, is_in_flight: impl Fn(u64) -> bool) -> Option<Key> {
        let may_start = |line: &Line| match line.front {
            Front::Here(id, Stage::Waiting(from)) => from <= now && !line.is_marked() && !is_in_flight(id.sequence),
            _ => false,
        };
        self.lines.iter().find(|(_, line)| may_start(line)).map(|(key, _)| *key)
    }

    /// When a parked event's wait is over, or copies may be made again.
    pub fn wake_at(&self, now: Moment) -> Option<Moment> {
        let of = |line: &Line| match line.front {
            Front::Here(_, Stage::Waiting(from)) | Front::Unread(from) => Some(from),
            _ => None,
        };
        let opens = self.is_refused().then_some(self.not_before);
        self.lines.values().filter_map(of).chain(opens).filter(|at| *at > now).min()
    }
}
