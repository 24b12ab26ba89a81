//! `order: Key`: all lanes of this process, one owner's state machine for each ([`crate::lane`]).
//!
//! They share the right to start attempts and the memory of what pulls bring. A lane that goes to another member is
//! left first: what runs finishes, the rest goes back. The other one may pull already; the broker serves it as soon as
//! this one has given up the pin.

mod one;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use self::one::One;
use crate::Discipline;
use crate::event::{Id, Lane, Moment};
use crate::exchange::{Action, Demand, FetchResult, Handler, Input, Service};
use crate::lane::MAX_READS;
use crate::lane::timing::LaneTiming;
use crate::memory::Memory;
use crate::sizes::Sizes;

/// Each lane is looked at at least this often.
const TICK: Moment = 1000;

/// The discipline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ByKey {
    terms: LaneTiming,
    slots: usize,
    /// Attempts that run, also those that are about to end because their event was dropped.
    running: usize,
    sizes: Sizes,
    lanes: BTreeMap<Lane, One>,
    /// What was settled in lanes that were here before: they may come back, with a broker that has forgotten it.
    left: BTreeMap<Lane, Memory>,
    /// Those that are ours; one that is still being left comes back when that is done.
    wanted: BTreeSet<Lane>,
    /// The lanes of which another member may have events, if it is known.
    others: Option<BTreeSet<Lane>>,
    /// The lanes of which the others know that there may be events here.
    announced: BTreeSet<Lane>,
    /// The conditions under which the lanes were looked at last.
    demand: Option<Demand>,
    /// The lane that started an attempt last.
    turn: Lane,
    draining: bool,
    out: Vec<Action>,
}

impl ByKey {
    /// So many attempts at a time, and events of at most so many bytes. Without lanes, until [`Input::Lanes`] names
    /// some.
    pub fn new(slots: usize, terms: LaneTiming, largest: usize) -> Self {
        Self {
            terms,
            slots,
            running: 0,
            sizes: Sizes::new(largest),
            lanes: BTreeMap::new(),
            left: BTreeMap::new(),
            wanted: BTreeSet::new(),
            others: None,
            announced: BTreeSet::new(),
            demand: None,
            turn: 0,
            draining: false,
            out: Vec::new(),
        }
    }

    /// Takes up and leaves lanes.
    fn share(&mut self, now: Moment, wanted: BTreeSet<Lane>) {
        self.wanted = if self.draining { BTreeSet::new() } else { wanted };
        for (lane, one) in &mut self.lanes {
            if !self.wanted.contains(lane) {
                one.leave();
            }
        }
        for lane in self.wanted.clone() {
            self.take_up(now, lane);
        }
    }

    fn take_up(&mut self, now: Moment, lane: Lane) {
        if !self.lanes.contains_key(&lane) {
            let mut memory = self.left.remove(&lane).unwrap_or_else(|| Memory::new(now));
            memory.age(now, false);
            let mut one = One::new(now, lane, self.terms.clone(), memory);
            if let Some(others) = &self.others {
                one.set_alone(now, !others.contains(&lane));
            }
            self.lanes.insert(lane, one);
        }
    }

    /// What other members may have.
    fn know(&mut self, now: Moment, others: BTreeSet<Lane>) {
        for (lane, one) in &mut self.lanes {
            one.set_alone(now, !others.contains(lane));
        }
        self.others = Some(others);
    }

    /// Lets the others know what may be here.
    fn announce(&mut self, out: &mut Vec<Action>) {
        if !self.lanes.keys().eq(&self.announced) {
            self.announced = self.lanes.keys().copied().collect();
            out.push(Action::Announce(self.announced.clone()));
        }
    }

    /// How many events a pull of a lane may bring. None while there is no memory; but a lane that can start nothing
    /// before it has what the broker waits for asks for one now and then, because what is held may be its own.
    fn batch(&self, now: Moment, demand: &Demand, one: &One) -> u32 {
        let wanted = match demand.handler {
            Handler::Up => true,
            Handler::Trying => one.in_hand() == 0,
            Handler::Away => false,
        };
        match (wanted && demand.connected, demand.room) {
            (true, true) => self.sizes.batch(self.terms.batch, self.lanes.len()),
            (true, false) if one.asks_for_one(now) => 1,
            _ => 0,
        }
    }

    /// Looks at one lane.
    fn look(&mut self, now: Moment, demand: &Demand, lane: Lane, out: &mut Vec<Action>) {
        let Some(one) = self.lanes.get(&lane) else { return };
        let batch = self.batch(now, demand, one);
        let reads = if demand.room { self.sizes.batch(MAX_READS, self.lanes.len()) } else { 1 };
        let works = demand.handler != Handler::Up || !demand.connected || self.running > 0;
        let Some(one) = self.lanes.get_mut(&lane) else { return };
        one.age(now, batch > 0);
        one.set_reads(reads);
        one.actions(now, batch, out);
        one.watch(now, works, out);
        one.looked(now, now + TICK, batch > 0);
        if one.is_gone(now) {
            one.close(out);
            if let Some(one) = self.lanes.remove(&lane) {
                self.left.insert(lane, one.into_memory());
            }
            if self.wanted.contains(&lane) {
                self.take_up(now, lane);
            }
        }
    }

    fn lane(input: &Input) -> Option<Lane> {
        match input {
            Input::Arrival(arrived) => Some(arrived.id.lane),
            Input::Attempted(id, _) | Input::Acknowledged(id, _) | Input::Renewed(id, _) => Some(id.lane),
            Input::Unparked(id, _) => Some(id.lane),
            Input::Parked(ids, _) => ids.first().map(|id| id.lane),
            Input::Fetched(lane, ..) | Input::Inbox(lane, ..) | Input::Detained(lane, ..) => Some(*lane),
            Input::Listed(lane, _)
            | Input::LastParked(lane, ..)
            | Input::MarkFound(lane, ..)
            | Input::Leased(lane, _) => Some(*lane),
            Input::State(lane, _) | Input::Waiting(lane, _) | Input::Unpinned(lane) => Some(*lane),
            Input::Reclaimed(lane, _) => Some(*lane),
            Input::Lanes(_) | Input::Others(_) => None,
        }
    }
}

impl Discipline for ByKey {
    fn input(&mut self, now: Moment, input: Input) {
        match &input {
            Input::Arrival(arrived) => self.sizes.came(arrived.bytes),
            Input::Attempted(..) => self.running = self.running.saturating_sub(1),
            _ => {}
        }
        match (Self::lane(&input), input) {
            (None, Input::Lanes(wanted)) => self.share(now, wanted),
            (None, Input::Others(lanes)) => self.know(now, lanes),
            (Some(lane), input) => match (self.lanes.get_mut(&lane), input) {
                (Some(one), input) => one.input(now, input),
                // Without a lane there is no lease, and so nothing to give back.
                (None, Input::Arrival(arrived) | Input::Fetched(_, _, FetchResult::Event(arrived))) => {
                    self.out.push(Action::Drop(arrived.id));
                }
                (None, _) => {}
            },
            (None, _) => {}
        }
    }

    fn actions(&mut self, now: Moment, demand: &Demand, out: &mut Vec<Action>) {
        out.append(&mut self.out);
        self.announce(out);
        // Of how many turns the rate allows these know nothing: a pull keeps the pin.
        let demand = Demand { turns: 0, ..*demand };
        let last = self.demand.replace(demand);
        if last.is_some_and(|last| last.epoch != demand.epoch) {
            self.lanes.values_mut().for_each(|one| one.reconnected(now));
            self.left.values_mut().for_each(|memory| memory.keep(now, self.terms.ack_wait));
        }
        let changed = last != Some(demand);
        let due = |one: &One| changed || one.wake_at() <= now;
        let lanes: Vec<Lane> = self.lanes.iter().filter(|(_, one)| due(one)).map(|(lane, _)| *lane).collect();
        for lane in lanes {
            self.look(now, &demand, lane, out);
        }
    }

    /// Without a connection none starts: the broker may be another one when it is back, which has lent the event to
    /// somebody else.
    fn start(&mut self, now: Moment, demand: &Demand) -> Option<Id> {
        if self.running >= self.slots || !demand.connected {
            return None;
        }
        let mut first_of =
            |lanes| self.lanes.range_mut::<Lane, (Bound<Lane>, Bound<Lane>)>(lanes).find_map(|(_, one)| one.start(now));
        let after = first_of((Bound::Excluded(self.turn), Bound::Unbounded));
        let id = after.or_else(|| first_of((Bound::Unbounded, Bound::Included(self.turn))))?;
        (self.running, self.turn) = (self.running + 1, id.lane);
        Some(id)
    }

    fn wake_at(&self, _now: Moment) -> Option<Moment> {
        self.lanes.values().map(One::wake_at).min()
    }

    fn drain(&mut self, now: Moment) {
        self.draining = true;
        self.share(now, BTreeSet::new());
    }

    fn is_drained(&self) -> bool {
        self.draining && self.lanes.is_empty() && self.out.is_empty()
    }

    fn service(&self) -> Service<'_> {
        let trouble = self.lanes.iter().find_map(|(lane, one)| Some((*lane, one.trouble()?)));
        trouble.map_or(Service::Serving, |(lane, trouble)| Service::Troubled(lane, trouble))
    }

    fn is_stalled(&self, now: Moment) -> bool {
        !self.draining && self.lanes.values().any(|one| one.is_stalled(now))
    }

    fn abandon(&mut self, out: &mut Vec<Action>) {
        out.append(&mut self.out);
        for one in self.lanes.values_mut() {
            one.abandon(out);
        }
        self.lanes.clear();
    }
}
