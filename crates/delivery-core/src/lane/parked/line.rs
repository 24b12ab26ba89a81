//! What waits on the shelf for one key. Pure.

use super::FOREVER;
use crate::event::{Id, Moment};
use crate::lane::in_flight::Stage;

/// The first parked event of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Front {
    /// The shelf is to be asked for it from this moment on.
    Unread(Moment),
    /// The shelf is asked.
    Reading,
    /// It is here. Settled means that it is to be removed from the shelf.
    Here(Id, Stage),
}

/// Up to where a key is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Last {
    /// It is not known.
    Unknown,
    /// The shelf is asked.
    Asking,
    /// Up to the event of this sequence; 0: nothing is.
    Known(u64),
}

/// Whether a key waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Custody {
    /// It is not known.
    Unknown,
    /// The shelf is asked.
    Asking,
    /// It does not.
    Free,
    /// It does, and that is not on record.
    Unmarked,
    /// It is being put on record.
    Marking,
    /// It is on record since this moment.
    Marked(Moment),
}

/// What waits on the shelf for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The first event.
    pub front: Front,
    /// Whether a former owner may have begun an attempt of that.
    pub again: bool,
    /// The last event.
    pub last: Last,
    /// Whether it waits for a person.
    pub custody: Custody,
}

impl Line {
    /// One that begins with an event that waits until this moment.
    pub fn new(from: Moment) -> Self {
        let custody = if from == FOREVER { Custody::Unmarked } else { Custody::Free };
        Self { front: Front::Unread(from), again: false, last: Last::Known(0), custody }
    }

    /// One that is found.
    pub fn found(now: Moment, is_held: bool) -> Self {
        let mut line = Self::sought();
        line.set_held(now, is_held);
        line
    }

    /// One of a key of which nothing is known.
    pub fn sought() -> Self {
        Self { front: Front::Unread(0), again: true, last: Last::Unknown, custody: Custody::Unknown }
    }

    /// It waits for a person no longer. Perhaps nothing of it is there any more: the shelf is asked.
    pub fn release(&mut self) {
        self.custody = Custody::Free;
        if self.is_unread() {
            self.front = Front::Unread(0);
        }
        if self.last == Last::Known(0) {
            self.last = Last::Unknown;
        }
    }

    /// Whether its mark is on the shelf, or may be.
    pub fn is_marked(&self) -> bool {
        matches!(self.custody, Custody::Marking | Custody::Marked(_))
    }

    /// The same, or that is not known.
    pub fn may_be_marked(&self) -> bool {
        self.is_marked() || matches!(self.custody, Custody::Unknown | Custody::Asking)
    }

    /// The shelf says whether its key is held.
    pub fn set_held(&mut self, now: Moment, is_held: bool) {
        let (from, custody) = if is_held { (FOREVER, Custody::Marked(now)) } else { (0, Custody::Free) };
        (self.front, self.custody) = (Front::Unread(from), custody);
    }

    /// Whether its first event is to be read.
    pub fn is_due(&self, now: Moment) -> bool {
        let is_unread = matches!(self.front, Front::Unread(from) if from <= now);
        is_unread && self.custody == Custody::Free && self.last != Last::Known(0)
    }

    /// Whether its first event is neither here nor asked for.
    pub fn is_unread(&self) -> bool {
        matches!(self.front, Front::Unread(_))
    }

    /// Whether nothing of it is here or asked for, and its key waits: what the shelf has of it can be found again.
    pub fn is_idle(&self, now: Moment) -> bool {
        let waits = match self.custody {
            Custody::Free => matches!(self.front, Front::Unread(from) if from > now),
            Custody::Marked(_) => self.is_unread(),
            _ => false,
        };
        waits && self.last != Last::Asking
    }

    /// Until when its key waits.
    pub fn waits_until(&self) -> Moment {
        match (self.custody, self.front) {
            (Custody::Marked(_), _) => FOREVER,
            (_, Front::Unread(from)) => from,
            (_, Front::Reading | Front::Here(..)) => 0,
        }
    }

    pub(super) fn here(&self) -> Option<Id> {
        match self.front {
            Front::Here(id, _) => Some(id),
            _ => None,
        }
    }

    /// Whether its first event is worked on.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.front, Front::Here(_, Stage::Running | Stage::Settled { .. }))
    }

    /// Its first event is read again at this moment.
    pub fn put_off(&mut self, until: Moment) {
        self.front = Front::Unread(until);
        if until == FOREVER {
            self.custody = Custody::Unmarked;
        }
    }
}
