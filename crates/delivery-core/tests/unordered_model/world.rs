//! One sidecar with the real state machine, and a broker with a topic and a retry shelf: what is between them, and what
//! each event of the world does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_delivery_core::{
    Action, Arrival, Close, Demand, Discipline as _, Handler, Id, InboxReport, Input, Lane, Moment, Pin, Pull, SHELF,
    TOPIC, Unordered,
};

use crate::broker::{ACK_WAIT, Open, Stream};
use crate::troubles::Troubles;

/// Attempts at a time.
pub const SLOTS: usize = 2;
const RENEW_EVERY: Moment = 10_000;
/// What fails for long is tried again after this.
pub const LONG_WAIT: Moment = 6000;
/// Of the topic so many may be delivered and not acknowledged, those that wait for another attempt among them.
const MAX_PENDING: usize = 3;

/// What was settled is known for so long at least.
const REMEMBERS: Moment = 15_000;

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
    /// An event of which no copy is on the shelf is acknowledged as if there were one.
    Hasty,
    /// Nothing is put on the shelf.
    Shelfless,
    /// It hears of nothing that comes of the shelf.
    Blind,
    /// It takes each arrival for another event.
    Forgetful,
    /// It takes all events that get a sequence for the same one.
    Nameless,
}

/// On its way to the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Coming {
    Event(Lane, u64, u64),
    InboxReport(Lane, u64, InboxReport),
}

impl Coming {
    fn inbox(&self) -> (Lane, u64) {
        match self {
            Self::Event(lane, inbox, _) | Self::InboxReport(lane, inbox, _) => (*lane, *inbox),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub flaw: Flaw,
    pub now: Moment,
    pub trouble: Troubles,
    pub machine: Unordered,
    pub demand: Demand,
    /// The highest sequence of those that are published.
    pub published: u64,
    /// Which event has a sequence: a stream that has lost its end gives it to another.
    pub stored: BTreeMap<u64, u64>,
    stores: u64,
    /// Which event each arrival is.
    names: BTreeMap<u64, u64>,
    pub topic: Stream,
    pub shelf: Stream,
    /// The broker knows these copies by their message ids.
    pub copied: BTreeSet<u64>,
    /// Events whose attempt failed, and when there may be another.
    pub records: BTreeMap<u64, Moment>,
    pub open: Vec<Open>,
    pub inboxes: BTreeSet<(Lane, u64)>,
    pub coming: VecDeque<Coming>,
    pub arrivals: u64,
    /// The runner's table: events here, whether their attempt runs, and whether it is over.
    pub here: BTreeMap<Id, Option<bool>>,
    /// By sequence, and which event that was.
    pub handled: BTreeSet<(u64, u64)>,
    /// What this sidecar has settled since it lives, and when.
    pub settled: BTreeMap<(Lane, (u64, u64)), Moment>,
    /// Attempts of one source that started one after the other while the other had an event that waits.
    pub in_a_row: (Lane, u8),
    /// Whether requests may be left of an older session.
    pub disturbed: bool,
    pub broken: Option<&'static str>,
}

pub fn machine(flaw: Flaw) -> Unordered {
    let slots = if matches!(flaw, Flaw::Wide | Flaw::Eager) { SLOTS + 1 } else { SLOTS };
    Unordered::new(slots, ACK_WAIT, if flaw == Flaw::Idle { 10 * ACK_WAIT } else { RENEW_EVERY }, 7)
}

impl World {
    pub fn new(flaw: Flaw, trouble: Troubles) -> Self {
        let mut world = Self {
            flaw,
            now: 1,
            trouble,
            machine: machine(flaw),
            demand: Demand { handler: Handler::Up, connected: true, epoch: 1, room: true, turns: usize::MAX },
            published: 0,
            stored: BTreeMap::new(),
            stores: 0,
            names: BTreeMap::new(),
            topic: Stream::new(MAX_PENDING),
            shelf: Stream::new(usize::MAX),
            copied: BTreeSet::new(),
            records: BTreeMap::new(),
            open: Vec::new(),
            inboxes: BTreeSet::new(),
            coming: VecDeque::new(),
            arrivals: 0,
            here: BTreeMap::new(),
            handled: BTreeSet::new(),
            settled: BTreeMap::new(),
            in_a_row: (TOPIC, 0),
            disturbed: false,
            broken: None,
        };
        world.act();
        world
    }

    /// What the broker gives to somebody else, but not to a request that was open just now, long before `ack_wait`.
    pub fn waits_for_others(&self) -> Vec<u64> {
        let soon = self.now + 2000..self.now + 3000;
        self.topic.pending.iter().filter(|(_, until)| soon.contains(until)).map(|(sequence, _)| *sequence).collect()
    }

    pub fn running(&self) -> impl Iterator<Item = Id> {
        self.here.iter().filter(|(_, runs)| **runs == Some(true)).map(|(id, _)| *id)
    }

    fn stream(&mut self, lane: Lane) -> &mut Stream {
        if lane == SHELF { &mut self.shelf } else { &mut self.topic }
    }

    /// Whether everything that was published is handled, and nothing is kept any more.
    pub fn is_settled(&self) -> bool {
        let all_handled = self.stored.iter().all(|(sequence, stored)| self.handled.contains(&(*sequence, *stored)));
        all_handled && self.topic.is_empty() && self.shelf.is_empty()
    }

    /// Which event it is, whatever the machine takes it for.
    pub fn name(&self, id: Id) -> (u64, u64) {
        (id.sequence, self.names[&id.arrival])
    }

    /// Whether the stream has lost it.
    pub fn is_lost(&self, id: Id) -> bool {
        self.stored.get(&id.sequence) != Some(&self.names[&id.arrival])
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
        while let Some(id) = self.machine.start(self.now, &demand) {
            self.start(id);
        }
        self.check();
        self.deliver();
    }

    fn start(&mut self, id: Id) {
        let other_waits = self.here.iter().any(|(other, runs)| other.lane != id.lane && runs.is_none());
        self.in_a_row = match self.in_a_row {
            (lane, times) if lane == id.lane && other_waits => (lane, times + 1),
            _ => (id.lane, u8::from(other_waits)),
        };
        if self.in_a_row.1 > 1 {
            self.break_with("a source waits for the other");
        }
        if self.settled.get(&(id.lane, self.name(id))).is_some_and(|at| self.now < at + REMEMBERS) {
            self.break_with("what was settled here starts again");
        }
        match self.here.insert(id, Some(true)) {
            Some(None) => {}
            _ => self.break_with("what started was not waiting here"),
        }
        if self.flaw == Flaw::Early {
            self.settle(id, None);
            self.here.insert(id, Some(true));
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Pull(Pull { lane, inbox, batch, .. }) => {
                self.inboxes.insert((lane, inbox));
                if self.demand.connected {
                    self.open.push(Open { lane, inbox, left: batch });
                }
            }
            Action::Close(lane, inbox, how) => {
                self.inboxes.remove(&(lane, inbox));
                self.open.retain(|open| (open.lane, open.inbox) != (lane, inbox));
                match how {
                    Close::InOrder => self.coming.push_back(Coming::InboxReport(lane, inbox, InboxReport::Closed)),
                    // What is not read by then is lost.
                    Close::AtOnce => {
                        let on_its_way = self.coming.len();
                        self.coming.retain(|coming| coming.inbox() != (lane, inbox));
                        if self.coming.len() < on_its_way {
                            self.break_with("what was on its way is lost");
                        }
                    }
                }
            }
            Action::Acknowledge { id, confirm: false } => {
                if self.flaw != Flaw::Mute {
                    self.settle(id, None);
                }
            }
            Action::GiveBack { id, wait } => self.settle(id, Some(wait)),
            Action::Renew { id, confirm: false } => {
                let now = self.now;
                self.stream(id.lane).renew(now, id.sequence);
            }
            Action::Drop(id) => drop(self.here.remove(&id)),
            Action::Reconnect => {}
            other => panic!("the unordered discipline does not want this: {other:?}"),
        }
    }

    /// An event leaves: the broker hears what became of it.
    fn settle(&mut self, id: Id, wait: Option<Moment>) {
        let Some(runs) = self.here.remove(&id) else { return self.break_with("an event was settled twice") };
        let is_safe = self.handled.contains(&self.name(id)) || (id.lane == TOPIC && self.shelf.keeps(id.sequence));
        // What was settled before is acknowledged again before it starts.
        let is_over = runs == Some(false) || (runs.is_none() && self.settled.contains_key(&(id.lane, self.name(id))));
        if wait.is_none() && (!is_over || !is_safe) {
            self.break_with("an event was acknowledged before its outcome");
        }
        if !self.demand.connected {
            return;
        }
        let on_its_way = |coming: &Coming| matches!(coming, Coming::Event(lane, _, sequence) if (*lane, *sequence) == (id.lane, id.sequence));
        if self.is_lost(id) && self.coming.iter().any(on_its_way) {
            // The other event is settled by this, too. It will be here in a moment; nothing can be done about that.
            return;
        }
        let now = self.now;
        match wait {
            None => self.stream(id.lane).acknowledge(now, id.sequence),
            Some(wait) => self.stream(id.lane).give_back(now, id.sequence, wait),
        }
    }

    fn check(&mut self) {
        if self.running().count() > SLOTS {
            self.break_with("more attempts run than may");
        }
        if self.machine.in_hand() != self.here.len() && !matches!(self.flaw, Flaw::Early | Flaw::Blind) {
            self.break_with("what is here is not what the machine holds");
        }
        for (lane, slots) in [(TOPIC, SLOTS), (SHELF, Unordered::shelf_slots(SLOTS))] {
            let is_open = |open: &&Open| open.lane == lane && self.inboxes.contains(&(lane, open.inbox));
            let asked: usize = self.open.iter().filter(is_open).map(|open| open.left).sum();
            let coming = self.coming.iter().filter(|coming| matches!(coming, Coming::Event(from, ..) if *from == lane));
            let here = self.here.keys().filter(|id| id.lane == lane).count();
            // Of an older session something may still come.
            if !self.disturbed && self.flaw != Flaw::Eager && here + asked + coming.count() > slots {
                self.break_with("more events were asked for than may run");
            }
        }
        let is_lost = |(sequence, stored): (&u64, &u64)| {
            let is_kept = self.topic.keeps(*sequence) || self.shelf.keeps(*sequence);
            !is_kept && !self.handled.contains(&(*sequence, *stored))
        };
        if self.stored.iter().any(is_lost) {
            self.break_with("an event is lost");
        }
        if self.machine.is_drained() && !self.here.is_empty() {
            self.break_with("a drain is over, and events are here");
        }
    }

    pub fn publish(&mut self) {
        self.published += 1;
        self.stores += 1;
        self.stored.insert(self.published, self.stores);
        self.topic.store(self.published);
        self.deliver();
    }

    /// The broker delivers what it can.
    pub fn deliver(&mut self) {
        for index in 0..self.open.len() {
            while self.open[index].left > 0 {
                let (now, Open { lane, inbox, .. }) = (self.now, self.open[index]);
                let Some(sequence) = self.stream(lane).next(now) else { break };
                self.open[index].left -= 1;
                if self.inboxes.contains(&(lane, inbox)) {
                    self.coming.push_back(Coming::Event(lane, inbox, sequence));
                }
            }
        }
        self.open.retain(|open| open.left > 0);
    }

    /// The sidecar takes what the broker sent.
    pub fn receive(&mut self) {
        match self.coming.pop_front() {
            Some(Coming::Event(SHELF, ..) | Coming::InboxReport(SHELF, ..)) if self.flaw == Flaw::Blind => {}
            Some(Coming::InboxReport(lane, inbox, heard)) => self.take(Input::Inbox(lane, inbox, heard)),
            Some(Coming::Event(lane, inbox, sequence)) => {
                self.arrivals += 1;
                let name = self.stored[&sequence];
                self.names.insert(self.arrivals, name);
                let stored = match self.flaw {
                    Flaw::Forgetful => self.arrivals,
                    Flaw::Nameless => 0,
                    _ => name,
                };
                let id = Id { lane, sequence, stored, delivery: self.arrivals, arrival: self.arrivals };
                self.here.insert(id, None);
                let arrived = Arrival { id, key: 0, inbox, pin: Pin::default(), bytes: 1, is_settled: false };
                self.take(Input::Arrival(arrived));
            }
            None => {}
        }
    }

    /// Time passes, to when the machine wants to look at it again, or by a second; heartbeats come meanwhile.
    pub fn tick(&mut self) {
        let wake = self.machine.wake_at(self.now).unwrap_or(Moment::MAX);
        self.now = wake.clamp(self.now + 1, self.now + 1000);
        let asked: BTreeSet<(Lane, u64)> = self.open.iter().map(|open| (open.lane, open.inbox)).collect();
        for (lane, inbox) in self.inboxes.clone() {
            if (self.demand.connected && asked.contains(&(lane, inbox))) || self.flaw == Flaw::Deaf {
                self.machine.input(self.now, Input::Inbox(lane, inbox, InboxReport::Alive));
            }
        }
        let now = self.now;
        for lane in [TOPIC, SHELF] {
            for sequence in self.stream(lane).late(now) {
                let is_here = self.here.keys().any(|id| (id.lane, id.sequence) == (lane, sequence));
                if is_here && self.demand.connected {
                    self.break_with("an event that is here went to somebody else");
                }
            }
        }
        self.act();
    }
}
