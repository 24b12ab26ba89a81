//! The times of a lane's protocol, and its rules.

use std::time::Duration;

use super::parked::MAX_KEYS;
use crate::event::{Moment, millis};

/// The shortest of the lane's own times.
const SHORTEST: Moment = 20;
/// How long an owner may not pull is decided by the broker (5 s): it pulls several times in that.
const PULL_EVERY: Moment = 1500;
const MARGIN: Moment = 3000;
/// A head that waits for less is as good as one that runs.
const PARK_WAIT: Moment = 20;
/// More than a lane's handlers take in the time of a pull.
const AT_WORK: usize = 64;
/// A quarter of what a lane has in flight when no key fails.
const PARK_ABOVE: usize = 16;
/// What waits for a few seconds only leaves room soon, and to copy it costs as much as to store it did.
const SHELVED_AFTER: Moment = 5000;
/// To read an event again costs more than to keep it for so long.
const KEPT_FOR: Moment = 1000;
/// Longest lease of the shelf.
const SHELF_LEASE: Moment = 15_000;
const RELEASE_NOTICED_WITHIN: Moment = 10_000;
/// Half of the window: the other half comes meanwhile.
const COPIES: usize = 256;

/// The times of the protocol, all in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LaneTiming {
    /// After this the broker gives an unacknowledged event to somebody else.
    pub ack_wait: Moment,
    /// A lease ends this much earlier than the broker's own count, which covers what is on its way.
    pub margin: Moment,
    /// A lease with less than this left is renewed.
    pub renew_below: Moment,
    /// There is a pull that is younger than this: it keeps the pin, and what it brings has a young lease.
    pub pull_every: Moment,
    /// The broker ends a pull after this.
    pub pull_expires: Moment,
    /// Events of a pull, at most.
    pub batch: u32,
    /// A first wait after a refused pull, and before the broker's state is asked for again; doubled each time.
    pub pause: Moment,
    /// The longest of these waits.
    pub longest_pause: Moment,
    /// While so many events are in flight that do not wait for an attempt, no more are asked for than keep the pin:
    /// those beyond them in the window are for heads and markers.
    pub at_work: usize,
    /// What is behind a head that waits for at least so long is parked,
    pub park_wait: Moment,
    /// as far as it is more than so many events: a few cost the window nothing, and to copy them is work.
    pub park_above: usize,
    /// An event whose next attempt is later than this leaves the window, with its key.
    pub shelved_after: Moment,
    /// A parked event whose next attempt is later than this is read again then.
    pub kept_for: Moment,
    /// After this without a change the lease of a lane's part of the shelf is free.
    pub shelf_lease: Moment,
    /// It is asked this often whether a key is released that waits for a person, and for what is parked where there is
    /// more than can be known.
    pub release_noticed_within: Moment,
    /// Copies that go to the shelf together, at most.
    pub copies: usize,
    /// Parked keys that are known at a time.
    pub known_keys: usize,
    /// What the protocol consists of.
    pub rules: Rules,
}

/// The rules of the protocol. All of them hold, but in the model check, which shows that each is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// An event starts, and is acknowledged, only under a live lease.
    pub leases: bool,
    /// After a take-over, and whenever something is in doubt, nothing starts until all that the broker waits for
    /// is in flight.
    pub barrier: bool,
    /// The next event of a key waits until the acknowledgement of the one before is confirmed.
    pub confirmation: bool,
    /// What was settled here and comes again is acknowledged again, not started.
    pub memory: bool,
    /// What the broker waits for and is with no one is asked for.
    pub reclaiming: bool,
    /// That is asked for only where it is known to be with no one.
    pub caution: bool,
    /// The shelf is not asked for the events of a key while a copy of one is on its way to it.
    pub reads_alone: bool,
    /// A parked event starts only when it is acknowledged: a new owner would get it again.
    pub twins: bool,
    /// Which keys are parked is known before anything starts.
    pub inventory: bool,
    /// Up to where a key is copied is known before more of it is.
    pub ends: bool,
    /// Whether a key is held is known before something of it is read.
    pub marks: bool,
    /// Where more keys are parked than can be known, all are looked through again and again.
    pub rounds: bool,
    /// Where there is no record of a lease of the shelf, a former owner may have it.
    pub patience: bool,
    /// What comes after something was given back is held before it counts.
    pub holding: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            leases: true,
            barrier: true,
            confirmation: true,
            memory: true,
            reclaiming: true,
            caution: true,
            reads_alone: true,
            twins: true,
            inventory: true,
            ends: true,
            marks: true,
            rounds: true,
            patience: true,
            holding: true,
        }
    }
}

impl LaneTiming {
    /// The times that follow from the consumer's acknowledgement wait.
    pub fn of(ack_wait: Duration) -> Self {
        let ack_wait = millis(ack_wait);
        let pull_every = (ack_wait / 6).clamp(SHORTEST, PULL_EVERY);
        Self {
            ack_wait,
            margin: (ack_wait / 6).min(MARGIN),
            renew_below: ack_wait / 2,
            pull_every,
            pull_expires: 2 * pull_every,
            batch: 32,
            pause: 2 * SHORTEST,
            longest_pause: (ack_wait / 8).clamp(2 * SHORTEST, 1000),
            at_work: AT_WORK,
            park_wait: PARK_WAIT,
            park_above: PARK_ABOVE,
            shelved_after: SHELVED_AFTER,
            kept_for: KEPT_FOR,
            shelf_lease: (ack_wait / 2).min(SHELF_LEASE),
            release_noticed_within: RELEASE_NOTICED_WITHIN,
            copies: COPIES,
            known_keys: MAX_KEYS,
            rules: Rules::default(),
        }
    }

    /// When a lease ends that began at this moment at the latest.
    pub fn lease(&self, begun: Moment) -> Moment {
        if self.rules.leases { begun + self.ack_wait.saturating_sub(self.margin) } else { Moment::MAX }
    }

    /// The wait after this many of the same in a row.
    pub fn pause(&self, repeated: u32) -> Moment {
        (self.pause << repeated.min(16)).min(self.longest_pause)
    }
}
