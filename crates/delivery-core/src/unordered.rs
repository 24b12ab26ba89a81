//! Events in any order: each starts as soon as it is here, and is settled by a message that needs no answer.
//!
//! # Sessions
//! What is asked for comes to one inbox. A session, which is that inbox and its open requests, is closed where its
//! account is in doubt (a status that does not say how many events are left, a new connection, no heartbeat), and
//! another is opened. The first request of a session is short, with a quick heartbeat: no other answer would soon tell
//! that the consumer is there. All expire well below the broker's response threshold (2 min), or an event that follows
//! a long silence would not find its way back.
//!
//! The broker has no way to cancel a request, and what it sends while the inbox closes may get lost on its way, to come
//! again only after `ack_wait`. So a session is closed only where it is of no use any more:
//!
//! - While the handler is not available, nothing more is asked for (or one event, to try it, if there is none here);
//!   what an open request still brings waits here with the rest. Nor is anything asked for while there is no memory.
//! - A drain first winds down: nothing more is asked for, and what the open request still brings is delivered, until
//!   it is used up (at once, if there is a backlog) or [`WIND_DOWN`] is over. Then the inbox is closed, and what arrives
//!   after that is given back at once. (Given back while the request is open, an event would come straight back to us.)
//!   An event that was on its way in that instant comes to another replica after `ack_wait`: late, not twice.

mod held;
mod session;

use self::held::Held;
use self::session::Session;
use crate::event::{Disposition, Id, Moment, millis};
use crate::exchange::{Action, Arrived, Close, Demand, Handler, Heard, Input, Service, Trouble};
use crate::{Discipline, window};

/// How long what an open request brings is still delivered after a drain was asked for.
const WIND_DOWN: Moment = 1000;
/// After so many silent sessions in a row the connection is made again.
const MAX_SILENCES: u32 = 2;
/// The wait before another session, doubled with each that fails, give or take a fifth.
const FIRST_PAUSE: Moment = 100;
/// The longest of these waits.
const LONGEST_PAUSE: Moment = 5000;

/// The discipline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unordered {
    /// Attempts that may run at the same time, and events that may be here or asked for.
    slots: usize,
    held: Held,
    session: Option<Session>,
    /// The number of the last session.
    sessions: u64,
    failures: u32,
    /// Silent sessions in a row.
    silences: u32,
    retry_at: Moment,
    trouble: Option<Trouble>,
    answered: bool,
    /// When a drain ends the session at the latest.
    wind_down: Option<Moment>,
    chance: u64,
    out: Vec<Action>,
}

impl Unordered {
    /// So many attempts at a time; the broker is told of an event that is worked on every `renew_every` milliseconds.
    /// `seed`: of what chance decides, the length of pauses.
    pub fn new(slots: usize, renew_every: Moment, seed: u64) -> Self {
        Self {
            slots,
            held: Held::new(renew_every),
            session: None,
            sessions: 0,
            failures: 0,
            silences: 0,
            retry_at: 0,
            trouble: None,
            answered: false,
            wind_down: None,
            chance: seed | 1,
            out: Vec::new(),
        }
    }

    /// Events asked for that have not come.
    pub fn outstanding(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.outstanding)
    }

    /// Events here.
    pub fn in_hand(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing is expected of the session any more.
    fn is_closing(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.closed_by.is_some())
    }

    fn arrived(&mut self, now: Moment, arrived: &Arrived) {
        let closing = self.is_closing();
        if let Some(session) = self.session.as_mut().filter(|session| session.number == arrived.inbox) {
            session.arrived(now);
        }
        if closing && self.wind_down.is_some() {
            self.out.push(Action::GiveBack { id: arrived.id, wait: 0 });
        } else {
            self.held.take(now, arrived.id);
        }
        if !closing {
            self.works();
        }
    }

    fn heard(&mut self, now: Moment, number: u64, heard: Heard) {
        let closing = self.is_closing();
        let Some(session) = self.session.as_mut().filter(|session| session.number == number) else { return };
        session.heard = now;
        match heard {
            Heard::Alive => {}
            Heard::Ended(left) => session.outstanding = session.outstanding.saturating_sub(left),
            Heard::Lost(trouble) => return self.pause(now, trouble),
            Heard::WrongPin => return self.pause(now, Trouble::Refused("it asks for a pin".to_owned())),
            Heard::Closed => {
                self.session = None;
                return;
            }
        }
        if !closing {
            self.works();
        }
    }

    /// The consumer answers.
    fn works(&mut self) {
        self.answered = true;
        self.trouble = None;
        self.failures = 0;
        self.silences = 0;
    }

    /// The session is of no use; another one is opened after a while.
    fn pause(&mut self, now: Moment, trouble: Trouble) {
        self.silences = if trouble == Trouble::Silent { self.silences + 1 } else { 0 };
        let pause = (FIRST_PAUSE << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + pause * 4 / 5 + self.chance() % (pause * 2 / 5);
        if !trouble.is_ordinary() {
            self.answered = false;
            self.trouble = Some(trouble);
        }
    }

    /// The next number of a xorshift generator.
    fn chance(&mut self) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance
    }

    /// How many events there may be here for more to be asked for.
    fn allowance(&self, demand: &Demand) -> usize {
        match demand.handler {
            Handler::Away => 0,
            _ if !demand.room => 0,
            Handler::Trying => 1,
            Handler::Up => self.slots.min(self.held.len().saturating_add(demand.turns)),
        }
    }

    /// Makes the session fit the connection, the handler and the drain.
    fn steer(&mut self, now: Moment, demand: &Demand) {
        let is_over = |end: Option<Moment>| end.is_some_and(|end| end <= now);
        if is_over(self.session.as_ref().and_then(|session| session.closed_by)) {
            self.close_at_once();
        }
        if !demand.connected {
            if self.wind_down.is_some() {
                // Nothing can come, and nothing can be told.
                self.close_at_once();
            }
            return;
        }
        if is_over(self.session.as_ref().and_then(Session::silent_at)) {
            self.pause(now, Trouble::Silent);
        }
        if self.silences >= MAX_SILENCES {
            // The server says nothing to one session after another: it may be frozen, and another one may not be.
            self.silences = 0;
            self.out.push(Action::Reconnect);
        }
        self.steer_session(now, demand);
    }

    fn steer_session(&mut self, now: Moment, demand: &Demand) {
        let (allowance, in_hand) = (self.allowance(demand), self.held.len());
        let Some(session) = &mut self.session else {
            if self.wind_down.is_none()
                && self.retry_at <= now
                && let Some(batch) = window::request(allowance, in_hand, 0)
            {
                self.sessions += 1;
                let (session, pull) = Session::open(self.sessions, demand.epoch, now, batch);
                self.session = Some(session);
                self.out.push(Action::Pull(pull));
            }
            return;
        };
        if session.closed_by.is_some() {
            return;
        }
        let useless = session.epoch != demand.epoch || self.retry_at > now;
        let wound_down =
            self.wind_down.is_some_and(|end| end <= now || demand.handler != Handler::Up || session.outstanding == 0);
        if useless || wound_down {
            self.out.push(session.close(now));
        } else if self.wind_down.is_none()
            && let Some(batch) = window::request(allowance, in_hand, session.outstanding)
        {
            self.out.push(Action::Pull(session.request(now, batch)));
        }
    }

    fn close_at_once(&mut self) {
        if let Some(session) = self.session.take() {
            self.out.push(Action::Close(0, session.number, Close::AtOnce));
        }
    }
}

impl Discipline for Unordered {
    fn input(&mut self, now: Moment, input: Input) {
        match input {
            Input::Arrived(arrived) => self.arrived(now, &arrived),
            Input::Inbox(_, number, heard) => self.heard(now, number, heard),
            Input::Attempted(id, Some(disposition)) if self.held.remove(id) => self.out.push(match disposition {
                Disposition::Over(_) => Action::Acknowledge { id, confirm: false },
                Disposition::RetryIn(wait) | Disposition::GiveBack(wait) => Action::GiveBack { id, wait: millis(wait) },
            }),
            _ => {}
        }
    }

    fn actions(&mut self, now: Moment, demand: &Demand, out: &mut Vec<Action>) {
        self.steer(now, demand);
        if demand.connected {
            self.held.renew(now, &mut self.out);
        }
        out.append(&mut self.out);
    }

    fn start(&mut self, _now: Moment, _demand: &Demand) -> Option<Id> {
        self.held.start(self.slots)
    }

    fn wake_at(&self, now: Moment) -> Option<Moment> {
        let session = self.session.as_ref();
        [
            session.and_then(Session::silent_at),
            session.and_then(|session| session.closed_by),
            session.is_none().then_some(self.retry_at),
            self.wind_down.filter(|_| session.is_some()),
            self.held.renewal_at(),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
    }

    fn drain(&mut self, now: Moment) {
        self.wind_down.get_or_insert(now + WIND_DOWN);
    }

    fn is_drained(&self) -> bool {
        self.wind_down.is_some() && self.session.is_none() && self.held.is_empty() && self.out.is_empty()
    }

    fn service(&self) -> Service<'_> {
        match &self.trouble {
            Some(trouble) => Service::Troubled(0, trouble),
            None if self.answered => Service::Serving,
            None => Service::Opening,
        }
    }

    /// Silent sessions are what says so, sooner.
    fn is_stalled(&self, _now: Moment) -> bool {
        false
    }

    fn abandon(&mut self, out: &mut Vec<Action>) {
        self.close_at_once();
        out.append(&mut self.out);
        out.extend(self.held.take_all().map(|id| Action::GiveBack { id, wait: 0 }));
    }
}
