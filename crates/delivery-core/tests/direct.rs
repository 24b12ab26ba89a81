//! Properties of the direct discipline, over any order of what happens: what waits is bounded, each event starts at
//! most once and leaves exactly once, no more run than may, and a drain ends.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidegate_delivery_core::{
    Action, Arrival, Close, Demand, Direct, Discipline as _, Disposition, Handler, Id, InboxReport, Input, Outcome,
    Pin, Service,
};

const SLOTS: usize = 3;
const QUEUE: usize = 256;
const QUEUE_BYTES: usize = 8 << 20;

/// What the test takes out of the machine, to see each property fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    /// More run than may.
    Wide,
    /// What is over is told twice.
    Twice,
    /// An event that is dropped is not counted.
    Silent,
    /// It does not hear that its subscription is closed.
    Deaf,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Arrive(usize),
    Finish(prop::sample::Index),
    Handler(Handler),
    Room(bool),
    Connected(bool),
    Tick(u64),
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0usize..3 << 20).prop_map(Step::Arrive),
        6 => any::<prop::sample::Index>().prop_map(Step::Finish),
        1 => prop_oneof![Just(Handler::Up), Just(Handler::Trying), Just(Handler::Away)].prop_map(Step::Handler),
        1 => any::<bool>().prop_map(Step::Room),
        1 => any::<bool>().prop_map(Step::Connected),
        2 => (0u64..3000).prop_map(Step::Tick),
    ]
}

/// A runner that checks.
struct World {
    flaw: Flaw,
    machine: Direct,
    now: u64,
    demand: Demand,
    inbox: Option<u64>,
    /// Of which the broker was asked.
    asked: Vec<u64>,
    closing: Vec<u64>,
    /// Those here, with their bytes: waiting or running.
    waiting: BTreeMap<Id, usize>,
    running: BTreeSet<Id>,
    started: BTreeSet<Id>,
    left: BTreeSet<Id>,
    arrivals: u64,
}

impl World {
    fn new(flaw: Flaw) -> Self {
        let slots = if flaw == Flaw::Wide { SLOTS + 1 } else { SLOTS };
        Self {
            flaw,
            machine: Direct::new(slots),
            now: 0,
            demand: Demand { handler: Handler::Up, connected: true, epoch: 1, room: true, turns: usize::MAX },
            inbox: None,
            asked: Vec::new(),
            closing: Vec::new(),
            waiting: BTreeMap::new(),
            running: BTreeSet::new(),
            started: BTreeSet::new(),
            left: BTreeSet::new(),
            arrivals: 0,
        }
    }

    fn leave(&mut self, id: Id) -> Result<(), String> {
        let was_here = self.waiting.remove(&id).is_some() || self.running.remove(&id);
        if self.flaw == Flaw::Silent {
            return Ok(());
        }
        (self.left.insert(id) && was_here).then_some(()).ok_or(format!("{id:?} left twice"))
    }

    fn act(&mut self) -> Result<(), String> {
        loop {
            let mut actions = Vec::new();
            self.machine.actions(self.now, &self.demand, &mut actions);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                match action {
                    Action::Join(inbox) if self.inbox.is_none() => self.inbox = Some(inbox),
                    Action::Confirm(inbox) if self.inbox == Some(inbox) && self.demand.connected => {
                        self.asked.push(inbox);
                    }
                    Action::Close(_, inbox, how) if self.inbox == Some(inbox) || self.closing.contains(&inbox) => {
                        self.inbox = self.inbox.filter(|open| *open != inbox);
                        self.closing.retain(|closing| *closing != inbox);
                        if how == Close::InOrder {
                            self.closing.push(inbox);
                        }
                    }
                    Action::Drop(id) => {
                        self.leave(id)?;
                        if self.flaw == Flaw::Twice && self.started.contains(&id) {
                            self.leave(id)?;
                        }
                    }
                    other => return Err(format!("not wanted: {other:?}")),
                }
            }
        }
        while let Some(id) = self.machine.start(self.now, &self.demand) {
            let was_waiting = self.waiting.remove(&id).is_some();
            if !was_waiting || !self.started.insert(id) {
                return Err(format!("{id:?} started twice"));
            }
            self.running.insert(id);
        }
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        let bytes: usize = self.waiting.values().sum();
        if self.running.len() > SLOTS {
            return Err("too many run".to_owned());
        }
        if self.waiting.len() > QUEUE || (bytes > QUEUE_BYTES && self.waiting.len() > 1) {
            return Err(format!("too many wait: {} with {bytes} bytes", self.waiting.len()));
        }
        if self.machine.waiting() != (self.waiting.len(), bytes) {
            return Err("what waits is not what the machine knows".to_owned());
        }
        let here = u64::try_from(self.waiting.len() + self.running.len() + self.left.len()).unwrap();
        (here == self.arrivals).then_some(()).ok_or(format!("{here} of {} events are accounted for", self.arrivals))
    }

    fn arrive(&mut self, bytes: usize) -> Result<(), String> {
        // Before it has joined, and after it has left, nothing comes.
        let Some(inbox) = self.inbox.or(self.closing.last().copied()) else { return Ok(()) };
        self.arrivals += 1;
        let id = Id { lane: 0, sequence: 0, stored: 0, delivery: 0, arrival: self.arrivals };
        self.waiting.insert(id, bytes);
        let arrived = Arrival { id, key: 0, inbox, pin: Pin::default(), bytes, is_settled: false };
        self.machine.input(self.now, Input::Arrival(arrived));
        self.act()
    }

    /// The broker says that it has the subscriptions of this inbox.
    fn open(&mut self, inbox: u64) {
        self.machine.input(self.now, Input::Inbox(0, inbox, InboxReport::Open));
        self.act().unwrap();
    }

    fn finish(&mut self, id: Id) -> Result<(), String> {
        let disposition = Disposition::Over(Outcome::Acknowledged);
        self.machine.input(self.now, Input::Attempted(id, Some(disposition)));
        self.act()
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Arrive(bytes) => return self.arrive(bytes),
            Step::Finish(index) if !self.running.is_empty() => {
                let id = *self.running.iter().nth(index.index(self.running.len())).unwrap();
                return self.finish(id);
            }
            Step::Finish(_) => {}
            Step::Handler(handler) => self.demand.handler = handler,
            Step::Room(room) => self.demand.room = room,
            Step::Connected(connected) => self.demand.connected = connected,
            Step::Tick(time) => self.now += time,
            Step::Drain => self.machine.drain(self.now),
        }
        self.act()
    }

    /// The end: a drain, in which the broker confirms that nothing more comes, and attempts end.
    fn end(&mut self) -> Result<(), String> {
        self.step(Step::Drain)?;
        if let Some(inbox) = self.closing.pop().filter(|_| self.flaw != Flaw::Deaf) {
            self.machine.input(self.now, Input::Inbox(0, inbox, InboxReport::Closed));
        }
        for _ in 0..=QUEUE {
            if let Some(id) = self.running.first().copied() {
                self.finish(id)?;
            }
        }
        self.act()?;
        let over = self.machine.is_drained() && self.waiting.is_empty() && self.running.is_empty();
        over.then_some(()).ok_or("the drain does not end".to_owned())
    }
}

fn run(flaw: Flaw, steps: &[Step]) -> Result<(), String> {
    let mut world = World::new(flaw);
    world.act()?;
    for step in steps {
        world.step(*step)?;
    }
    world.end()
}

proptest! {
    #[test]
    fn whatever_happens(steps in proptest::collection::vec(step(), 0..600)) {
        prop_assert_eq!(run(Flaw::None, &steps), Ok(()));
    }
}

/// Each property fails where what it is there for is taken out.
#[test]
fn each_property_is_needed() {
    let busy: Vec<Step> = (0..10).map(|_| Step::Arrive(1)).collect();
    assert_eq!(run(Flaw::None, &busy), Ok(()));
    assert_eq!(run(Flaw::Wide, &busy), Err("too many run".to_owned()));
    assert!(run(Flaw::Twice, &busy).is_err_and(|why| why.contains("left twice")));
    assert!(run(Flaw::Silent, &busy).is_err_and(|why| why.contains("accounted for")));
    assert_eq!(run(Flaw::Deaf, &busy), Err("the drain does not end".to_owned()));
}

#[test]
fn what_waits_is_bounded_by_number_and_size() {
    let mut world = World::new(Flaw::None);
    world.act().unwrap();
    (0..SLOTS + QUEUE + 5).for_each(|_| world.arrive(1).unwrap());
    assert_eq!((world.running.len(), world.waiting.len(), world.left.len()), (SLOTS, QUEUE, 5));
    let mut world = World::new(Flaw::None);
    world.act().unwrap();
    (0..SLOTS).for_each(|_| world.arrive(1).unwrap());
    world.arrive(2 * QUEUE_BYTES).unwrap();
    assert_eq!(world.left.len(), 0, "alone, whatever its size");
    world.arrive(1).unwrap();
    assert_eq!(world.left.len(), 1);
}

/// What the broker sent before it knew of the drain is in the socket while the process is frozen for a minute.
#[test]
fn what_came_to_a_frozen_process_is_attempted() {
    let mut world = World::new(Flaw::None);
    world.act().unwrap();
    world.step(Step::Drain).unwrap();
    world.step(Step::Tick(60_000)).unwrap();
    world.arrive(1).unwrap();
    assert_eq!(world.running.len(), 1);
    world.end().unwrap();
}

#[test]
fn a_handler_that_is_away_leaves_the_group_and_comes_back() {
    let mut world = World::new(Flaw::None);
    world.act().unwrap();
    assert!(world.inbox.is_some());
    world.step(Step::Handler(Handler::Away)).unwrap();
    assert!(world.inbox.is_none());
    world.step(Step::Handler(Handler::Up)).unwrap();
    assert_eq!((world.inbox, &world.asked[..]), (Some(2), &[1, 2][..]));
}

/// However long it takes.
#[test]
fn events_are_served_when_the_broker_knows_it() {
    let mut world = World::new(Flaw::None);
    world.demand.connected = false;
    world.act().unwrap();
    assert_eq!((world.inbox, &world.asked[..]), (Some(1), &[][..]), "without a connection no one can be asked");
    world.step(Step::Connected(true)).unwrap();
    world.step(Step::Tick(60_000)).unwrap();
    assert_eq!((world.machine.service(), &world.asked[..]), (Service::Opening, &[1][..]));
    world.open(7);
    assert_eq!(world.machine.service(), Service::Opening, "of another inbox");
    world.open(1);
    assert_eq!(world.machine.service(), Service::Serving);
    // The next connection begins without subscriptions.
    world.demand.epoch = 2;
    world.act().unwrap();
    assert_eq!((world.machine.service(), &world.asked[..]), (Service::Opening, &[1, 1][..]));
    world.open(1);
    assert_eq!(world.machine.service(), Service::Serving);
}
