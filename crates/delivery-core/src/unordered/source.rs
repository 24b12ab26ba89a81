//! A consumer of which events come: its session, the events of it that are here, and how it is.

use std::time::Duration;

use super::GONE_PULL;
use super::carryover::Carryover;
use super::in_flight::InFlight;
use super::session::Session;
use crate::event::{Disposition, Id, Lane, Moment, millis};
use crate::exchange::{Action, Arrival, Close, Demand, Handler, InboxReport, Trouble};
use crate::memory::Memory;
use crate::obstacle::Obstacle;
use crate::window;

/// The wait before another session, doubled with each that fails, give or take a fifth.
const FIRST_PAUSE: Moment = 100;
/// The longest of these waits.
const LONGEST_PAUSE: Moment = 5000;
/// The wait of an event that is to wait for a person, which only a key can.
const DETAINED: Duration = Duration::from_secs(60);

/// A source of events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    lane: Lane,
    /// Events that may be here or asked for.
    slots: usize,
    pub held: InFlight,
    memory: Memory,
    carryover: Carryover,
    /// What a drain gives back as soon as the session is closed, and after which wait.
    withheld: Vec<(Id, Moment)>,
    ack_wait: Moment,
    /// The connection over which the broker was told what it may forget.
    epoch: u64,
    session: Option<Session>,
    /// The number of the last session.
    sessions: u64,
    failures: u32,
    /// Silent sessions in a row.
    pub silences: u32,
    retry_at: Moment,
    /// The server ends: nothing more is asked of it, and what was asked for may still come, until then.
    rests_until: Option<Moment>,
    pub obstacle: Obstacle,
    pub has_answered: bool,
    chance: u64,
}

impl Source {
    /// The source with this number, of which so many events may be here or asked for.
    pub fn new(lane: Lane, slots: usize, ack_wait: Moment, renew_every: Moment, seed: u64) -> Self {
        Self {
            lane,
            slots,
            held: InFlight::new(renew_every),
            memory: Memory::new(0),
            carryover: Carryover::default(),
            withheld: Vec::new(),
            ack_wait,
            epoch: 0,
            session: None,
            sessions: 0,
            failures: 0,
            silences: 0,
            retry_at: 0,
            rests_until: None,
            obstacle: Obstacle::default(),
            has_answered: false,
            chance: seed | 1,
        }
    }

    /// Events asked for that have not come.
    pub fn outstanding(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.outstanding)
    }

    /// Whether it has no session.
    pub fn is_closed(&self) -> bool {
        self.session.is_none()
    }

    /// Whether nothing is expected of the session any more.
    fn is_closing(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.is_closing)
    }

    pub fn arrived(&mut self, now: Moment, arrived: &Arrival, winds_down: bool, out: &mut Vec<Action>) {
        let closing = self.is_closing();
        if let Some(session) = self.session.as_mut().filter(|session| session.number == arrived.inbox) {
            session.arrived(now);
        }
        self.memory.came(arrived.id);
        for lost in self.carryover.came(arrived.id) {
            self.held.lose(lost);
        }
        if self.memory.has(arrived.id) {
            out.push(Action::Acknowledge { id: arrived.id, confirm: false });
        } else if self.carryover.has(arrived.id) {
            // What becomes of the first is told of both.
            out.push(Action::Drop(arrived.id));
        } else if closing && winds_down {
            out.push(Action::GiveBack { id: arrived.id, wait: GONE_PULL });
        } else {
            self.held.take(now, arrived.id);
        }
        if !closing {
            self.works();
        }
    }

    pub fn heard(&mut self, now: Moment, number: u64, heard: InboxReport) {
        let closing = self.is_closing();
        let Some(session) = self.session.as_mut().filter(|session| session.number == number) else { return };
        session.heard = now;
        match heard {
            InboxReport::Open | InboxReport::Alive => {}
            InboxReport::Ended(left) => session.outstanding = session.outstanding.saturating_sub(left),
            InboxReport::Lost(Trouble::Ending) => {
                self.rests_until.get_or_insert(now + Trouble::REST);
                return;
            }
            InboxReport::Lost(trouble) => return self.pause(now, &trouble),
            InboxReport::WrongPin => return self.pause(now, &Trouble::Refused("it asks for a pin".to_owned())),
            InboxReport::Closed => {
                self.session = None;
                return;
            }
        }
        if !closing {
            self.works();
        }
    }

    /// An attempt of an event of it is over. In a drain the session is closed before anything is given back, or it
    /// would come straight back to us.
    pub fn attempted(&mut self, id: Id, disposition: Disposition, winds_down: bool, out: &mut Vec<Action>) {
        let Some(is_lost) = self.held.remove(id) else { return };
        self.carryover.remove(id);
        match disposition {
            Disposition::Over(_) => {
                // It may have come twice.
                let all = [id].into_iter().chain(self.held.remove_waiting(id));
                if is_lost {
                    out.extend(all.map(Action::Drop));
                } else {
                    self.memory.note(id);
                    out.extend(all.map(|id| Action::Acknowledge { id, confirm: false }));
                }
            }
            Disposition::RetryIn(_) | Disposition::GiveBack(_) | Disposition::Detain if is_lost => {
                out.push(Action::Drop(id))
            }
            Disposition::RetryIn(wait) | Disposition::GiveBack(wait) => self.give_back(id, wait, winds_down, out),
            // Without keys there is nothing that could wait for a person.
            Disposition::Detain => self.give_back(id, DETAINED, winds_down, out),
        }
    }

    fn give_back(&mut self, id: Id, wait: Duration, winds_down: bool, out: &mut Vec<Action>) {
        let wait = if winds_down { millis(wait).max(GONE_PULL) } else { millis(wait) };
        if winds_down && !self.is_closing() {
            self.withheld.push((id, wait));
        } else {
            out.push(Action::GiveBack { id, wait });
        }
    }

    /// Gives back what waited for the end of the session.
    fn release(&mut self, out: &mut Vec<Action>) {
        if self.is_closing() {
            out.extend(self.withheld.drain(..).map(|(id, wait)| Action::GiveBack { id, wait }));
        }
    }

    /// What was told over another connection may not have arrived, and what was heard there says nothing about this
    /// one.
    fn remember(&mut self, now: Moment, demand: &Demand) {
        if demand.connected && std::mem::replace(&mut self.epoch, demand.epoch) != demand.epoch {
            self.memory.keep(now, self.ack_wait);
            self.carryover = Carryover::of(self.held.kept());
            self.retry_at = self.retry_at.min(now);
            self.rests_until = None;
        }
        self.memory.age(now, demand.connected && self.outstanding() > 0);
    }

    /// The consumer answers.
    fn works(&mut self) {
        self.has_answered = true;
        self.obstacle.passed();
        self.failures = 0;
        self.silences = 0;
    }

    /// The session is of no use; another one is opened after a while.
    fn pause(&mut self, now: Moment, trouble: &Trouble) {
        self.silences = if *trouble == Trouble::Silent { self.silences + 1 } else { 0 };
        let pause = (FIRST_PAUSE << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + pause * 4 / 5 + self.chance() % (pause * 2 / 5);
        if self.obstacle.met(now, trouble) {
            self.has_answered = false;
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

    /// Makes the session fit the connection, the handler and the drain, which ends it at this moment at the latest.
    pub fn steer(&mut self, now: Moment, demand: &Demand, wind_down: Option<Moment>, out: &mut Vec<Action>) {
        self.remember(now, demand);
        self.steer_connection(now, demand, wind_down, out);
        self.release(out);
    }

    fn steer_connection(&mut self, now: Moment, demand: &Demand, wind_down: Option<Moment>, out: &mut Vec<Action>) {
        if !demand.connected {
            if wind_down.is_some() {
                // Nothing can come, and nothing can be told.
                self.close_at_once(out);
            }
            return;
        }
        if self.session.as_ref().and_then(Session::silent_at).is_some_and(|end| end <= now) {
            self.pause(now, &Trouble::Silent);
        }
        self.steer_session(now, demand, wind_down, out);
    }

    fn steer_session(&mut self, now: Moment, demand: &Demand, wind_down: Option<Moment>, out: &mut Vec<Action>) {
        let rests = self.rests_until.is_some_and(|end| now < end);
        let allowance = if rests { 0 } else { self.allowance(demand) };
        let in_hand = self.held.len();
        let is_rested = !rests && self.rests_until.take().is_some();
        let Some(session) = &mut self.session else {
            if wind_down.is_none()
                && self.retry_at <= now
                && let Some(batch) = window::request(allowance, in_hand, 0)
            {
                self.sessions += 1;
                let (session, pull) = Session::open(self.lane, self.sessions, demand.epoch, now, batch);
                self.session = Some(session);
                out.push(Action::Pull(pull));
            }
            return;
        };
        if session.is_closing {
            return;
        }
        let useless = session.epoch != demand.epoch || self.retry_at > now || is_rested;
        let withholds = !self.withheld.is_empty();
        let wound_down = wind_down
            .is_some_and(|end| end <= now || withholds || demand.handler != Handler::Up || session.outstanding == 0);
        if useless || wound_down {
            out.push(session.close());
        } else if wind_down.is_none()
            && let Some(batch) = window::request(allowance, in_hand, session.outstanding)
        {
            out.push(Action::Pull(session.request(now, batch)));
        }
    }

    pub fn close_at_once(&mut self, out: &mut Vec<Action>) {
        if let Some(session) = self.session.take() {
            out.push(Action::Close(self.lane, session.number, Close::AtOnce));
        }
        self.release(out);
    }

    /// When there is something to do, if nothing happens before.
    pub fn wakes(&self, wind_down: Option<Moment>) -> impl Iterator<Item = Moment> {
        let session = self.session.as_ref();
        [
            session.and_then(Session::silent_at),
            session.is_none().then_some(self.retry_at),
            self.rests_until,
            wind_down.filter(|_| session.is_some_and(|session| !session.is_closing)),
            self.held.renewal_at(),
        ]
        .into_iter()
        .flatten()
    }
}
