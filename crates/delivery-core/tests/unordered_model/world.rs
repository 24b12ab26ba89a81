//! One sidecar with the real state machine, and a broker: what is between them, and what each event of the world does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidegate_delivery_core::{
    Action, Arrived, Close, Demand, Discipline as _, Disposition, Handler, Heard, Id, Input, Moment, Pin, Pull,
    Settled, Trouble, Unordered,
};

/// Attempts at a time.
pub const SLOTS: usize = 2;
const ACK_WAIT: Moment = 30_000;
const RENEW_EVERY: Moment = 10_000;

/// What the model takes out of the machine or does to it, to show that the invariants would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// None.
    None,
    /// It acknowledges an event when its attempt starts.
    Early,
    /// An acknowledgement is not told.
    Mute,
    /// More events may be here than may run.
    Wide,
    /// More attempts start than may run.
    Eager,
    /// It learns of no new connection, and notices no silence.
    Deaf,
    /// Events are not renewed.
    Idle,
}

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Troubles {
    pub reconnects: u8,
    pub lost_requests: u8,
    pub refusals: u8,
    pub retries: u8,
    pub outages: u8,
    pub drains: u8,
}

/// A request at the broker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Open {
    inbox: u64,
    left: usize,
}

/// On its way to the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Coming {
    Event(u64, u64),
    Heard(u64, Heard),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub flaw: Flaw,
    pub now: Moment,
    pub trouble: Troubles,
    pub machine: Unordered,
    pub demand: Demand,
    /// Events published, of those that will be.
    pub published: u64,
    pub delivered: u64,
    /// What the broker waits for, and when it gives it to somebody else.
    pub pending: BTreeMap<u64, Moment>,
    pub again: BTreeSet<u64>,
    pub acknowledged: BTreeSet<u64>,
    pub open: Vec<Open>,
    pub inboxes: BTreeSet<u64>,
    pub coming: VecDeque<Coming>,
    pub arrivals: u64,
    /// The runner's table: events here, whether their attempt runs, and whether it is over.
    pub here: BTreeMap<Id, Option<bool>>,
    pub succeeded: BTreeSet<u64>,
    /// Whether requests may be left of an older session.
    pub disturbed: bool,
    pub broken: Option<&'static str>,
}

impl World {
    pub fn new(flaw: Flaw, trouble: Troubles) -> Self {
        let slots = if matches!(flaw, Flaw::Wide | Flaw::Eager) { SLOTS + 1 } else { SLOTS };
        let mut world = Self {
            flaw,
            now: 1,
            trouble,
            machine: Unordered::new(slots, if flaw == Flaw::Idle { 10 * ACK_WAIT } else { RENEW_EVERY }, 7),
            demand: Demand { handler: Handler::Up, connected: true, epoch: 1, room: true, turns: usize::MAX },
            published: 0,
            delivered: 0,
            pending: BTreeMap::new(),
            again: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            open: Vec::new(),
            inboxes: BTreeSet::new(),
            coming: VecDeque::new(),
            arrivals: 0,
            here: BTreeMap::new(),
            succeeded: BTreeSet::new(),
            disturbed: false,
            broken: None,
        };
        world.act();
        world
    }

    pub fn running(&self) -> impl Iterator<Item = Id> {
        self.here.iter().filter(|(_, runs)| **runs == Some(true)).map(|(id, _)| *id)
    }

    pub fn break_with(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }

    /// The machine takes something in, and what it wants is done.
    pub fn take(&mut self, input: Input) {
        self.machine.input(self.now, input);
        self.act();
    }

    pub fn act(&mut self) {
        let demand = Demand { epoch: if self.flaw == Flaw::Deaf { 1 } else { self.demand.epoch }, ..self.demand };
        loop {
            let mut actions = Vec::new();
            self.machine.actions(self.now, &demand, &mut actions);
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| self.perform(action));
        }
        let started = std::iter::from_fn(|| self.machine.start(self.now, &demand)).collect::<Vec<_>>();
        for id in started {
            self.start(id);
        }
        self.check();
        self.deliver();
    }

    fn start(&mut self, id: Id) {
        match self.here.insert(id, Some(true)) {
            Some(None) => {}
            _ => self.break_with("what started was not waiting here"),
        }
        if self.flaw == Flaw::Early {
            self.settle(id, true);
            self.here.insert(id, Some(true));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Pull(Pull { inbox, batch, .. }) => {
                self.inboxes.insert(inbox);
                if self.demand.connected {
                    self.open.push(Open { inbox, left: batch });
                }
            }
            Action::Close(_, inbox, how) => {
                self.inboxes.remove(&inbox);
                self.open.retain(|open| open.inbox != inbox);
                match how {
                    Close::InOrder => self.coming.push_back(Coming::Heard(inbox, Heard::Closed)),
                    Close::AtOnce => self.coming.retain(
                        |coming| !matches!(coming, Coming::Event(to, _) | Coming::Heard(to, _) if *to == inbox),
                    ),
                }
            }
            Action::Acknowledge { id, confirm: false } => {
                if self.flaw != Flaw::Mute {
                    self.settle(id, true);
                }
            }
            Action::GiveBack { id, .. } => self.settle(id, false),
            Action::Renew { id, confirm: false } => {
                if let Some(until) = self.pending.get_mut(&id.sequence) {
                    *until = self.now + ACK_WAIT;
                }
            }
            Action::Reconnect => {}
            other => panic!("the unordered discipline does not want this: {other:?}"),
        }
    }

    /// An event leaves: the broker hears what became of it.
    fn settle(&mut self, id: Id, acknowledge: bool) {
        let Some(runs) = self.here.remove(&id) else { return self.break_with("an event was settled twice") };
        if acknowledge && (runs != Some(false) || !self.succeeded.contains(&id.sequence)) {
            self.break_with("an event was acknowledged before its outcome");
        }
        if !self.demand.connected {
            return;
        }
        if acknowledge {
            self.pending.remove(&id.sequence);
            self.again.remove(&id.sequence);
            self.acknowledged.insert(id.sequence);
        } else if self.pending.contains_key(&id.sequence) {
            self.again.insert(id.sequence);
        }
    }

    fn check(&mut self) {
        if self.running().count() > SLOTS {
            self.break_with("more attempts run than may");
        }
        let asked: usize =
            self.open.iter().filter(|open| self.inboxes.contains(&open.inbox)).map(|open| open.left).sum();
        let coming = self.coming.iter().filter(|coming| matches!(coming, Coming::Event(..))).count();
        if self.machine.in_hand() != self.here.len() && !matches!(self.flaw, Flaw::Early) {
            self.break_with("what is here is not what the machine holds");
        }
        // Of an older session something may still come.
        if !self.disturbed && self.flaw != Flaw::Eager && self.here.len() + asked + coming > SLOTS {
            self.break_with("more events were asked for than may run");
        }
        if self.machine.is_drained() && !self.here.is_empty() {
            self.break_with("a drain is over, and events are here");
        }
    }

    /// The broker delivers what it can.
    pub fn deliver(&mut self) {
        while let Some(index) = self.open.iter().position(|open| open.left > 0) {
            let new = (self.delivered < self.published).then_some(self.delivered + 1);
            let Some(sequence) = self.again.first().copied().or(new) else { return };
            self.again.remove(&sequence);
            self.delivered = self.delivered.max(sequence);
            self.pending.insert(sequence, self.now + ACK_WAIT);
            let open = &mut self.open[index];
            open.left -= 1;
            let inbox = open.inbox;
            self.open.retain(|open| open.left > 0);
            if self.inboxes.contains(&inbox) {
                self.coming.push_back(Coming::Event(inbox, sequence));
            }
        }
    }

    /// The sidecar takes what the broker sent.
    pub fn receive(&mut self) {
        match self.coming.pop_front() {
            Some(Coming::Heard(inbox, heard)) => self.take(Input::Inbox(0, inbox, heard)),
            Some(Coming::Event(inbox, sequence)) => {
                self.arrivals += 1;
                let id = Id { lane: 0, sequence, delivery: self.arrivals, arrival: self.arrivals };
                self.here.insert(id, None);
                let arrived = Arrived { id, key: 0, inbox, pin: Pin::default(), bytes: 1 };
                self.take(Input::Arrived(arrived));
            }
            None => {}
        }
    }

    /// An attempt ends.
    pub fn finish(&mut self, id: Id, success: bool) {
        self.here.insert(id, Some(false));
        if success {
            self.succeeded.insert(id.sequence);
        }
        let over = Disposition::Over(Settled::Acknowledged);
        let disposition = if success { over } else { Disposition::RetryIn(Duration::ZERO) };
        self.take(Input::Attempted(id, Some(disposition)));
    }

    /// Time goes on, to when the machine wants to look at it again, or by a second; heartbeats come meanwhile.
    pub fn tick(&mut self) {
        let wake = self.machine.wake_at(self.now).unwrap_or(Moment::MAX);
        self.now = wake.clamp(self.now + 1, self.now + 1000);
        let inboxes: BTreeSet<u64> = self.open.iter().map(|open| open.inbox).collect();
        for inbox in inboxes {
            if self.inboxes.contains(&inbox) && self.demand.connected {
                self.machine.input(self.now, Input::Inbox(0, inbox, Heard::Alive));
            }
        }
        if self.flaw == Flaw::Deaf {
            for inbox in &self.inboxes {
                self.machine.input(self.now, Input::Inbox(0, *inbox, Heard::Alive));
            }
        }
        let late: Vec<u64> = self.pending.iter().filter(|(_, until)| **until <= self.now).map(|(s, _)| *s).collect();
        for sequence in late {
            if self.here.keys().any(|id| id.sequence == sequence) && self.demand.connected {
                self.break_with("an event that is here went to somebody else");
            }
            self.again.insert(sequence);
        }
        self.act();
    }

    /// The connection is lost, with what was on its way, and made again.
    pub fn reconnect(&mut self) {
        self.disturbed = true;
        self.open.clear();
        self.coming.clear();
        self.demand.epoch += 1;
        self.act();
    }

    /// A request never arrives.
    pub fn lose_request(&mut self) {
        self.disturbed = true;
        self.open.pop();
    }

    /// The broker ends all requests without saying what is left of them.
    pub fn refuse(&mut self) {
        self.disturbed = true;
        if let Some(inbox) = self.open.last().map(|open| open.inbox) {
            self.open.clear();
            self.coming.push_back(Coming::Heard(inbox, Heard::Lost(Trouble::Moved)));
        }
    }

    /// The handler goes away, or comes back.
    pub fn turn(&mut self) {
        self.demand.handler = if self.demand.handler == Handler::Up { Handler::Away } else { Handler::Up };
        self.act();
    }

    pub fn drain(&mut self) {
        self.machine.drain(self.now);
        self.act();
    }
}
