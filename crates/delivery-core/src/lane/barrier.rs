//! The barrier: while it is up, no event of the lane starts. Pure.
//!
//! It goes up where events may be with somebody else (a new pin, a new connection) or lost on their way (a gap, a
//! lapsed lease). It comes down when the broker says that the pin is ours, that it waits for exactly as many events
//! as are in flight, and that nothing was delivered after the last that came here. Each event in flight has a live
//! lease, so the broker waits for it; so there is no other that it waits for. An answer counts only if nothing changed
//! since it was asked for.

use super::timing::LaneTiming;
use crate::event::Moment;

/// A barrier that is up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    since: Moment,
    next: Moment,
    repeated: u32,
    asked: Option<OpenQuestion>,
}

/// Whether the answer that is under way still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OpenQuestion {
    Unchanged,
    Changed,
}

impl Barrier {
    /// Up from now on.
    pub fn new(now: Moment) -> Self {
        Self { since: now, next: now, repeated: 0, asked: None }
    }

    /// What is in flight changed.
    pub fn changed(&mut self, terms: &LaneTiming, now: Moment) {
        if self.asked.is_some() {
            self.asked = Some(OpenQuestion::Changed);
        }
        self.repeated = 0;
        self.next = self.next.min(now + terms.pause);
    }

    /// Whether the broker is to be asked now; it is then taken as asked.
    pub fn ask(&mut self, now: Moment) -> bool {
        let due = self.asked.is_none() && self.next <= now;
        if due {
            self.asked = Some(OpenQuestion::Unchanged);
        }
        due
    }

    /// The answer came, or will not come. Whether it counts.
    pub fn answered(&mut self, terms: &LaneTiming, now: Moment) -> bool {
        self.next = now + terms.pause(self.repeated);
        self.repeated = self.repeated.saturating_add(1);
        self.asked.take() == Some(OpenQuestion::Unchanged)
    }

    /// Whether it is up for so long that something in flight is not what the broker waits for; the time starts again.
    pub fn is_stuck(&mut self, terms: &LaneTiming, now: Moment) -> bool {
        let stuck = now >= self.since + 2 * terms.ack_wait;
        if stuck {
            self.since = now;
        }
        stuck
    }

    /// When there is something to do for it.
    pub fn wake_at(&self, terms: &LaneTiming) -> Moment {
        let stuck = self.since + 2 * terms.ack_wait;
        if self.asked.is_none() { self.next.min(stuck) } else { stuck }
    }
}
