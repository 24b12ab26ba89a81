//! The protocol of a lane's owner: what happens goes in, what is to be done comes out.
//!
//! The invariant, which `tests/lane_model` checks: an event starts only under a live lease, and after all
//! earlier events of its key are settled; and nothing of a key is delivered from the lane while something of it is
//! parked, but for its head.

mod leaving;
mod parking;
mod reclaiming;
mod settling;

use self::reclaiming::Claim;
use super::barrier::Barrier;
use super::in_flight::{InFlight, Stage};
use super::parked::{Front, Parked};
use super::pulls::{ArrivalPin, Pulls};
use super::timing::LaneTiming;
use crate::event::{Disposition, Id, Key, Lane, Moment, millis};
use crate::exchange::{Action, Arrival, InboxReport, Input, Kind, Pull, State, Trouble};
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
    /// Whether a parked event started last.
    parked_turn: bool,
    /// Whether there is memory for more parked events.
    has_room: bool,
    barrier: Option<Barrier>,
    /// Whether the broker said last that it waits for more than is in flight.
    lacks: bool,
    /// The consumer's number of the last delivery under our pin.
    last: Option<u64>,
    /// The highest sequence that ever came.
    highest: u64,
    memory: Memory,
    /// What was copied to the shelf, and so is acknowledged.
    copies: Memory,
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
            terms,
            hand: InFlight::default(),
            pulls: Pulls::default(),
            parked: Parked::default(),
            parked_turn: false,
            has_room: true,
            barrier: None,
            lacks: false,
            last: None,
            highest: 0,
            copies: Memory::new(0),
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
            Input::Marked(id, written) => self.marked(id, written),
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

    /// When there is another attempt.
    fn again_at(now: Moment, disposition: Disposition) -> Option<Moment> {
        match disposition {
            Disposition::Over(_) => None,
            Disposition::RetryIn(wait) => Some(now.saturating_add(millis(wait))),
            Disposition::GiveBack(wait) => Some(now.saturating_add(millis(wait).max(SHORTEST_WAIT))),
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
        self.tell_parked(now);
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

    /// Whether there is memory for more than one parked event.
    pub fn set_room(&mut self, has_room: bool) {
        self.has_room = has_room;
    }

    /// Whether [`Self::start`] would give an event.
    pub fn can_start(&self, now: Moment) -> bool {
        let starts = self.barrier.is_none() && self.leaving == Leaving::No;
        starts && (self.next_parked(now).is_some() || self.hand.next(now).is_some())
    }

    fn next_parked(&self, now: Moment) -> Option<Key> {
        self.parked.next(now, |sequence| self.terms.rules.twins && self.hand.has(sequence))
    }

    /// The event whose attempt is to start this very moment.
    pub fn start(&mut self, now: Moment) -> Option<Id> {
        self.lapse(now);
        if self.barrier.is_some() || self.leaving != Leaving::No {
            return None;
        }
        // Where there are both they take turns: neither waits for the other.
        let (parked, next) = (self.next_parked(now), self.hand.next(now));
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
        [hand, parked, pulls, barrier, self.claim.ends_at(now)].into_iter().flatten().min()
    }

    /// Whether it has left and nothing is in flight.
    pub fn has_left(&self) -> bool {
        self.leaving == Leaving::Unpinned && self.hand.is_empty()
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
        self.last.is_none() || self.is_leaving() || self.barrier.is_some() || self.hand.has_plans(now)
    }

    /// Events that are here: in flight, and parked ones that were read.
    pub fn in_hand(&self) -> usize {
        self.hand.len() + self.parked.here()
    }

    /// Whether this event is in flight under a live lease.
    pub fn has_lease(&self, now: Moment, sequence: u64) -> bool {
        self.hand.until(sequence).is_some_and(|until| now < until)
    }

    /// What was settled here.
    pub(crate) fn into_memory(self) -> Memory {
        self.memory
    }

    /// Forgets what was settled long ago. `pulls`: whether it may pull.
    pub fn age(&mut self, now: Moment, pulls: bool) {
        self.memory.age(now, pulls);
        self.copies.age(now, pulls);
    }

    /// There is a new connection. A broker that was killed may have forgotten what it lent us, so nothing starts before
    /// it has said that it waits for what is in flight. What it said before that does not count.
    pub fn reconnected(&mut self, now: Moment) {
        self.pulls.disconnected();
        for memory in [&mut self.memory, &mut self.copies] {
            memory.keep(now, self.terms.ack_wait);
        }
        if self.last.is_some() {
            self.doubt(now);
        }
        self.changed(now);
    }

    fn arrived(&mut self, now: Moment, arrived: &Arrival) {
        let Arrival { id, inbox, ref pin, .. } = *arrived;
        let known = self.hand.has(id.sequence);
        let (sent, ours) = match self.pulls.served(inbox, pin) {
            ArrivalPin::Ours(sent) => (Some(sent), true),
            ArrivalPin::New(sent) => {
                self.last = None;
                self.claim.begin();
                self.doubt(now);
                (Some(sent), true)
            }
            ArrivalPin::Late(sent) => (sent, false),
        };
        let until = sent.map_or(0, |sent| self.terms.lease(sent));
        if !ours || (self.leaving != Leaving::No && !known) {
            // Given back without a lease, it might be taken from who has it by now.
            if known || until <= now {
                return self.out.push(Action::Drop(id));
            }
            return self.give_back(&[id]);
        }
        let known = known && !self.is_forgotten(id);
        // What is out of the stream's order was with somebody else, or was lost on its way.
        let gap = self.last.is_some_and(|last| id.delivery != last + 1);
        let again = !known && id.sequence <= self.highest;
        let is_unsure = self.terms.rules.holding && self.claim.is_unsure();
        if gap || again || until <= now || is_unsure {
            self.doubt(now);
        }
        self.last = self.last.max(Some(id.delivery));
        if !known && self.claim.has_given_back(id.delivery) {
            self.changed(now);
            return self.out.push(Action::Drop(id));
        }
        self.highest = self.highest.max(id.sequence);
        if known || until <= now {
            self.out.push(Action::Drop(id));
        }
        if until > now {
            let held = self.hand.take(arrived, until, arrived.again || again);
            held.is_unsure |= is_unsure && !known;
            self.recall(id);
        }
        self.changed(now);
    }

    /// Whether the broker's answer would say something: without a pin it serves others, if there are any.
    fn asks(&self, now: Moment) -> bool {
        let is_clear = !self.hand.is_unclear() && self.claim.ends_at(now).is_none();
        is_clear && (self.last.is_some() || self.claim.is_alone())
    }

    /// A consumer that moved was lent from by a server that may be gone: what it sent last may not have come.
    fn refused(&mut self, now: Moment, number: u64, trouble: &Trouble) {
        if *trouble == Trouble::Ending {
            return self.pulls.rest_until(now + Trouble::REST);
        }
        self.pulls.refused(number, &self.terms, now);
        if self.last.is_some() && matches!(trouble, Trouble::Moved | Trouble::NoConsumer) {
            self.doubt(now);
        }
    }

    fn wrong_pin(&mut self, now: Moment, number: u64) {
        if self.pulls.wrong_pin(number) {
            self.lost_pin(now);
        }
    }

    fn lost_pin(&mut self, now: Moment) {
        self.last = None;
        self.doubt(now);
        self.give_up();
    }

    fn state(&mut self, now: Moment, state: &State) {
        let Some(barrier) = &mut self.barrier else { return };
        let counts = barrier.answered(&self.terms, now);
        if counts {
            // It has forgotten these, and delivers them again.
            let forgotten = self.hand.cut(state.highest);
            self.forget(forgotten);
        }
        let in_hand = u64::try_from(self.hand.len()).unwrap_or(u64::MAX);
        self.lacks = in_hand < state.pending;
        if !counts || self.hand.highest() > Some(state.highest) {
            return;
        }
        if state.pin.as_ref() != self.pulls.pin() {
            // A broker that has started again knows of no pin, and says so to a pull only when it has something to
            // send.
            if self.pulls.leave() {
                self.lost_pin(now);
            }
        } else if state.pending == 0 && in_hand == 0 {
            // Whatever comes next comes under a new pin, or after the last.
            self.barrier = None;
        } else if state.pin.is_some() && in_hand == state.pending && self.last == Some(state.delivered) {
            self.barrier = None;
            self.claim.proved(state.pin.clone());
        } else if in_hand < state.pending {
            self.reclaim(now, state);
        } else if self.hand.all_wait() && self.claim.is_said_again(state) {
            // One of these is settled by somebody else, or was delivered again and lost: they come again.
            self.give_up();
            self.changed(now);
        }
    }

    fn no_state(&mut self, now: Moment) {
        if let Some(barrier) = &mut self.barrier {
            barrier.answered(&self.terms, now);
        }
    }

    fn doubt(&mut self, now: Moment) {
        if self.terms.rules.barrier && self.barrier.is_none() {
            self.barrier = Some(Barrier::new(now));
            self.lacks = false;
        }
    }

    fn changed(&mut self, now: Moment) {
        if let Some(barrier) = &mut self.barrier {
            barrier.changed(&self.terms, now);
        }
    }
}
