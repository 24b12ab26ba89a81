//! The protocol of a lane's owner: what happens goes in, what is to be done comes out. Pure.
//!
//! The invariant, which `tests/lane_model` checks: an event starts only under a live lease, and after all
//! earlier events of its key are settled.

mod exchange;
mod settling;

pub use exchange::{Action, Id, Input};

use super::barrier::Barrier;
use super::hand::{Hand, Key, Stage};
use super::pulls::{Pin, Pulls, Served};
use super::terms::{Moment, Terms};

/// A lane, as one of its owners sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    terms: Terms,
    hand: Hand,
    pulls: Pulls,
    barrier: Option<Barrier>,
    /// Whether the broker said last that it waits for more than is in hand.
    lacks: bool,
    /// The consumer's number of the last delivery under our pin.
    last: Option<u64>,
    /// The highest sequence that ever came.
    highest: u64,
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
    /// One that has nothing yet.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            hand: Hand::default(),
            pulls: Pulls::default(),
            barrier: None,
            lacks: false,
            last: None,
            highest: 0,
            leaving: Leaving::No,
            out: Vec::new(),
        }
    }

    /// Takes in what happened.
    pub fn input(&mut self, now: Moment, input: Input) {
        self.lapse(now);
        match input {
            Input::Arrived { id, key, pull, pin } => self.arrived(now, id, key, pull, &pin),
            Input::PullEnded(number) => self.pulls.ended(number),
            Input::PullRefused(number) => self.pulls.refused(number, &self.terms, now),
            Input::WrongPin(number) => self.wrong_pin(now, number),
            Input::Reconnected => self.reconnected(now),
            Input::Settled(id) => self.settled(now, id),
            Input::Again(id, from) => self.again(id, from),
            Input::Acknowledged(id, confirmed) => self.acknowledged(now, id, confirmed),
            Input::Renewed(id, confirmed) => self.renewed(id, confirmed),
            Input::State { delivered, pending, pin } => self.state(now, delivered, pending, pin.as_ref()),
            Input::NoState => self.no_state(now),
            Input::Leave => self.leave(),
            Input::Unpinned => {
                self.leaving = Leaving::Unpinned;
                self.give_up();
            }
        }
    }

    /// What is to be done now, in this order. `batch`: how many events a pull may bring; none may be sent, if that is 0.
    pub fn actions(&mut self, now: Moment, batch: u32) -> Vec<Action> {
        self.lapse(now);
        if self.barrier.as_mut().is_some_and(|barrier| barrier.is_stuck(&self.terms, now)) {
            self.give_up();
            self.changed(now);
        }
        self.tell(now);
        if self.last.is_some() && !self.hand.is_unclear() && self.barrier.as_mut().is_some_and(|up| up.ask(now)) {
            self.out.push(Action::Ask);
        }
        if batch > 0
            && self.leaving == Leaving::No
            && let Some((number, pin)) = self.pulls.due(&self.terms, now, batch)
        {
            self.out.push(Action::Pull { number, pin, batch });
        }
        std::mem::take(&mut self.out)
    }

    /// Whether [`Self::start`] would give an event.
    pub fn can_start(&self, now: Moment) -> bool {
        self.barrier.is_none() && self.leaving == Leaving::No && self.hand.next(now).is_some()
    }

    /// The event whose attempt is to start this very moment.
    pub fn start(&mut self, now: Moment) -> Option<Id> {
        self.lapse(now);
        if !self.can_start(now) {
            return None;
        }
        let sequence = self.hand.next(now)?;
        let held = self.hand.get_mut(sequence)?;
        held.stage = Stage::Running;
        Some(held.id(sequence))
    }

    /// When there is something to do, if nothing happens before. `pull`: whether one may be sent.
    pub fn wake_at(&self, now: Moment, pull: bool) -> Option<Moment> {
        let pull = pull && self.leaving == Leaving::No;
        let pulls = pull.then(|| self.pulls.wake_at(&self.terms, now));
        let asks = self.last.is_some() && !self.hand.is_unclear();
        let barrier = self.barrier.as_ref().filter(|_| asks).map(|barrier| barrier.wake_at(&self.terms));
        [self.hand.wake_at(&self.terms, now), pulls, barrier].into_iter().flatten().min()
    }

    /// Whether it has left and nothing is in hand.
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

    /// Events in hand.
    pub fn in_hand(&self) -> usize {
        self.hand.len()
    }

    /// A broker that was killed may have forgotten what it lent us, so nothing starts before it has said that it waits
    /// for what is in hand. What it said before that does not count.
    fn reconnected(&mut self, now: Moment) {
        self.pulls.forget();
        if self.last.is_some() {
            self.doubt(now);
        }
        self.changed(now);
    }

    fn arrived(&mut self, now: Moment, id: Id, key: Key, pull: u64, pin: &Pin) {
        let known = self.hand.has(id.sequence);
        let (sent, ours) = match self.pulls.served(pull, pin) {
            Served::Ours(sent) => (Some(sent), true),
            Served::Anew(sent) => {
                self.last = None;
                self.doubt(now);
                (Some(sent), true)
            }
            Served::Late(sent) => (sent, false),
        };
        let until = sent.map_or(0, |sent| self.terms.lease(sent));
        if !ours || (self.leaving != Leaving::No && !known) {
            // Given back without a lease, it might be taken from who has it by now.
            let back = !known && until > now;
            return self.out.push(if back { Action::GiveBack(id) } else { Action::Drop(id) });
        }
        // What is out of the stream's order was with somebody else, or was lost on its way.
        let gap = self.last.is_some_and(|last| id.delivery != last + 1);
        let again = !known && id.sequence <= self.highest;
        if gap || again || until <= now {
            self.doubt(now);
        }
        self.last = self.last.max(Some(id.delivery));
        self.highest = self.highest.max(id.sequence);
        if known || until <= now {
            self.out.push(Action::Drop(id));
        }
        if until > now {
            self.hand.take(id, key, until);
        }
        self.changed(now);
    }

    fn wrong_pin(&mut self, now: Moment, number: u64) {
        if self.pulls.wrong_pin(number) {
            self.last = None;
            self.doubt(now);
            self.give_up();
        }
    }

    fn state(&mut self, now: Moment, delivered: u64, pending: u64, pin: Option<&Pin>) {
        let Some(barrier) = &mut self.barrier else { return };
        let counts = barrier.answered(&self.terms, now);
        let in_hand = u64::try_from(self.hand.len()).unwrap_or(u64::MAX);
        let all_here = in_hand == pending;
        self.lacks = in_hand < pending;
        let ours = pin.is_some() && pin == self.pulls.pin();
        if counts && all_here && ours && self.last == Some(delivered) {
            self.barrier = None;
        }
    }

    fn no_state(&mut self, now: Moment) {
        if let Some(barrier) = &mut self.barrier {
            barrier.answered(&self.terms, now);
        }
    }

    fn leave(&mut self) {
        if self.leaving != Leaving::No {
            return;
        }
        if self.pulls.leave() {
            self.leaving = Leaving::Unpinning;
            self.out.push(Action::Unpin);
        } else {
            self.leaving = Leaving::Unpinned;
            self.give_up();
        }
    }

    /// Lets go of what the broker may give to somebody else.
    fn lapse(&mut self, now: Moment) {
        let lapsed = self.hand.lapse(now);
        if lapsed.is_empty() {
            return;
        }
        self.out.extend(lapsed.into_iter().map(Action::Drop));
        self.doubt(now);
        self.changed(now);
    }

    fn give_up(&mut self) {
        self.out.extend(self.hand.give_up().into_iter().map(Action::GiveBack));
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
