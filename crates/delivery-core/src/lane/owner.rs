//! The protocol of a lane's owner: what happens goes in, what is to be done comes out.
//!
//! The invariant, which `tests/lane_model` checks: an event starts only under a live lease, and after all
//! earlier events of its key are settled; and nothing of a key is delivered from the lane while something of it is
//! parked.

mod inventory;
mod leaving;
mod lending;
mod parking;
mod reclaiming;
mod settling;
mod unparking;

use self::inventory::Inventory;
use self::reclaiming::Claim;
use super::barrier::Barrier;
use super::in_flight::{InFlight, Stage};
use super::lease::Lease;
use super::parked::{Front, MAX_READS, Parked};
use super::pulls::Pulls;
use super::timing::LaneTiming;
use crate::event::{Disposition, Id, Key, Lane, Moment};
use crate::exchange::{Action, InboxReport, Input, Kind, Pull};
use crate::memory::Memory;

/// An event that could not be tried waits at least this long.
const SHORTEST_WAIT: Moment = 50;
/// How long a lane that was left still gives back what was on its way.
pub const LEAVE_GRACE: Moment = 200;

/// A lane, as one of its owners sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    lane: Lane,
    terms: LaneTiming,
    hand: InFlight,
    pulls: Pulls,
    parked: Parked,
    inventory: Inventory,
    /// Of the lane's part of the shelf.
    lease: Lease,
    /// Whether the broker said last that another has the pin: the shelf is that one's, too.
    is_others: bool,
    /// The copies that are on their way to the shelf.
    copying: Option<Vec<(Id, Key)>>,
    /// Whether a parked event started last.
    parked_turn: bool,
    /// Parked events that may be read at a time.
    reads: u32,
    barrier: Option<Barrier>,
    /// Whether the broker said last that it waits for more than is in flight.
    lacks: bool,
    /// The consumer's number of the last delivery under our pin.
    last: Option<u64>,
    /// The highest sequence that ever came.
    highest: u64,
    memory: Memory,
    claim: Claim,
    leaving: Leaving,
    out: Vec<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Leaving {
    No,
    Unpinning,
    Unpinned,
}

impl Owner {
    /// One of this lane, that has nothing yet and knows of nothing that was settled.
    pub fn new(lane: Lane, terms: LaneTiming) -> Self {
        Self::with_memory(lane, terms, Memory::new(0))
    }

    /// One that knows what was settled when the lane was here before.
    pub(crate) fn with_memory(lane: Lane, terms: LaneTiming, memory: Memory) -> Self {
        Self {
            lane,
            // What is parked may be in flight from the lane, too.
            barrier: terms.rules.barrier.then(|| Barrier::new(0)),
            terms,
            hand: InFlight::default(),
            pulls: Pulls::default(),
            parked: Parked::default(),
            inventory: Inventory::new(),
            lease: Lease::default(),
            is_others: false,
            copying: None,
            parked_turn: false,
            reads: MAX_READS,
            lacks: false,
            last: None,
            highest: 0,
            memory,
            claim: Claim::default(),
            leaving: Leaving::No,
            out: Vec::new(),
        }
    }

    /// Takes in what happened.
    pub fn input(&mut self, now: Moment, input: Input) {
        self.lapse(now);
        match input {
            Input::Arrival(arrived) => self.arrived(now, &arrived),
            Input::Inbox(_, number, heard) => match heard {
                InboxReport::Open | InboxReport::Alive => {}
                InboxReport::Ended(_) | InboxReport::Closed => self.pulls.ended(number),
                InboxReport::Lost(trouble) => self.refused(now, number, &trouble),
                InboxReport::WrongPin => self.wrong_pin(now, number),
            },
            Input::Attempted(id, Some(disposition)) => self.attempted(now, id, disposition),
            Input::Acknowledged(id, confirmed) => self.acknowledged(now, id, confirmed),
            Input::Renewed(id, confirmed) => self.renewed(now, id, confirmed),
            Input::Parked(ids, result) => self.parked(now, &ids, result),
            Input::Fetched(_, key, result) => self.fetched(now, key, result),
            Input::Unparked(id, removed) => self.unparked(id, removed),
            Input::Listed(_, keys) => self.listed(now, keys),
            Input::LastParked(_, key, last) => self.last_parked(key, last),
            Input::Leased(_, answer) => self.leased(now, answer),
            Input::MarkFound(_, key, is_held) => self.mark_found(now, key, is_held),
            Input::Detained(_, key, is_marked) => self.detained(now, key, is_marked),
            Input::State(_, Some(state)) => self.state(now, &state),
            Input::State(_, None) => self.no_state(now),
            Input::Reclaimed(_, confirmed) => self.reclaimed(now, confirmed),
            Input::Unpinned(_) => {
                self.leaving = Leaving::Unpinned;
                self.give_up();
            }
            // The event is not here any more; and the rest is for those who watch over the lane.
            Input::Attempted(_, None) | Input::Waiting(..) | Input::Lanes(_) | Input::Others(_) => {}
        }
    }

    fn attempted(&mut self, now: Moment, id: Id, disposition: Disposition) {
        if self.parked_attempted(now, id, disposition) {
            return;
        }
        match Self::again_at(now, disposition) {
            None => self.settled(now, id),
            Some(from) => self.again(id, from),
        }
    }

    /// Adds what is to be done now, in this order. `batch`: how many events a pull may bring; none may be sent, if that
    /// is 0.
    pub fn actions(&mut self, now: Moment, batch: u32, out: &mut Vec<Action>) {
        self.lapse(now);
        if self.barrier.as_mut().is_some_and(|barrier| barrier.is_stuck(&self.terms, now)) {
            self.give_up();
            self.changed(now);
        }
        self.list(now);
        self.park(now);
        self.detain(now);
        self.find_marks();
        self.unpark(now);
        self.tell(now);
        if self.asks(now) && self.barrier.as_mut().is_some_and(|up| up.ask(now)) {
            self.out.push(Action::Ask(self.lane));
        }
        // Behind the barrier everything that the broker waits for has to come.
        let is_full = self.barrier.is_none() && self.is_full(now);
        let batch = if is_full { batch.min(1) } else { batch };
        if batch > 0
            && self.leaving == Leaving::No
            && let Some((inbox, pin)) = self.pulls.due(&self.terms, now, batch, is_full)
        {
            let (batch, expires) = (batch as usize, self.terms.pull_expires);
            self.out.push(Action::Pull(Pull { lane: self.lane, inbox, batch, expires, kind: Kind::Pinned(pin) }));
        }
        out.append(&mut self.out);
    }

    /// Whether enough is at work. Where the shelf has no room, what would go there is.
    fn is_full(&self, now: Moment) -> bool {
        let is_open = self.parked.is_open(now) && !self.parked.is_refused();
        self.hand.is_full(self.terms.at_work, |key| is_open && self.parked.get(key).is_some())
    }

    /// How many parked events may be read at a time, at least one.
    pub fn set_reads(&mut self, reads: u32) {
        self.reads = reads.clamp(1, MAX_READS);
    }

    /// Whether anything may start.
    fn is_open(&self) -> bool {
        let knows = self.inventory.is_known() || !self.terms.rules.inventory;
        self.barrier.is_none() && self.leaving == Leaving::No && knows
    }

    /// Whether [`Self::start`] would give an event.
    pub fn can_start(&self, now: Moment) -> bool {
        self.is_open() && (self.next_parked(now).is_some() || self.next_in_flight(now).is_some())
    }

    fn next_parked(&self, now: Moment) -> Option<Key> {
        let next = || self.parked.next(now, |sequence| self.terms.rules.twins && self.hand.has(sequence));
        self.lease.is_ours(now).then(next).flatten()
    }

    fn next_in_flight(&self, now: Moment) -> Option<u64> {
        self.hand.next(now, |key| self.parked.may_have(key))
    }

    /// The event whose attempt is to start this very moment.
    pub fn start(&mut self, now: Moment) -> Option<Id> {
        self.lapse(now);
        if !self.is_open() {
            return None;
        }
        // Where there are both they take turns: neither waits for the other.
        let (parked, next) = (self.next_parked(now), self.next_in_flight(now));
        self.parked_turn = parked.is_some() && (next.is_none() || !self.parked_turn);
        if let Some(line) = parked.filter(|_| self.parked_turn).and_then(|key| self.parked.get_mut(key))
            && let Front::Here(id, _) = line.front
        {
            line.front = Front::Here(id, Stage::Running);
            return Some(id);
        }
        let held = self.hand.get_mut(next?)?;
        held.stage = Stage::Running;
        Some(held.id)
    }

    /// When there is something to do, if nothing happens before. `pull`: whether one may be sent.
    pub fn wake_at(&self, now: Moment, pull: bool) -> Option<Moment> {
        let pull = pull && self.leaving == Leaving::No;
        let pulls = pull.then(|| self.pulls.wake_at(&self.terms, now));
        let barrier = self.barrier.as_ref().filter(|_| self.asks(now)).map(|barrier| barrier.wake_at(&self.terms));
        let (hand, parked) = (self.hand.wake_at(&self.terms, now), self.parked.wake_at(now));
        let lease = (!self.parked.is_empty() || !self.lease.is_idle()).then(|| self.lease.wake_at(&self.terms, now));
        let others = [self.claim.ends_at(now), lease.flatten(), self.lists_at()];
        [hand, parked, pulls, barrier].into_iter().chain(others).flatten().min()
    }

    /// Whether it has left and nothing is in flight.
    pub fn has_left(&self) -> bool {
        let is_empty = self.hand.is_empty() && self.parked.here() == 0;
        self.leaving == Leaving::Unpinned && is_empty && self.lease.is_idle()
    }

    /// Whether it was told to leave.
    pub fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    /// Whether nothing can start before more events have come.
    pub fn lacks_events(&self) -> bool {
        self.barrier.is_some() && self.lacks
    }

    /// Whether it works, or waits for a moment that it knows, or is not to start anything.
    pub fn has_plans(&self, now: Moment) -> bool {
        let is_idle = self.last.is_some() && self.is_open() && self.parked.is_empty();
        !is_idle || self.hand.has_plans(now)
    }

    /// Events that are here: in flight, and parked ones that were read.
    pub fn in_hand(&self) -> usize {
        self.hand.len() + self.parked.here()
    }

    /// Whether this event is in flight under a live lease.
    pub fn has_lease(&self, now: Moment, sequence: u64) -> bool {
        self.hand.until(sequence).is_some_and(|until| now < until)
    }

    /// Whether parked events are delivered here.
    pub fn has_shelf(&self, now: Moment) -> bool {
        self.lease.is_ours(now)
    }

    /// What was settled here.
    pub(crate) fn into_memory(self) -> Memory {
        self.memory
    }

    /// Forgets what was settled long ago. `pulls`: whether it may pull.
    pub fn age(&mut self, now: Moment, pulls: bool) {
        self.memory.age(now, pulls);
    }

    /// There is a new connection. A broker that was killed may have forgotten what it lent us, so nothing starts before
    /// it has said that it waits for what is in flight. What it said before that does not count.
    pub fn reconnected(&mut self, now: Moment) {
        self.pulls.disconnected();
        self.memory.keep(now, self.terms.ack_wait);
        self.parked.doubt();
        self.inventory.doubt();
        if self.last.is_some() {
            self.doubt(now);
        }
        self.changed(now);
    }
}
