//! One sidecar with all its lanes, and the broker: what is between them, and what each event of the world does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidegate_delivery_core::lane::timing::{LaneTiming, Rules};
use tidegate_delivery_core::{
    Action, Arrival, ByKey, Demand, Discipline as _, Disposition, Handler, Id, InboxReport, Input, Lane, Moment,
    Outcome, ParkedKeys, Trouble,
};

use crate::broker::{ACK_WAIT, Consumer, Sent};

pub const LANES: Lane = 2;
/// Attempts at a time.
const SLOTS: usize = 3;
/// Keys of a lane.
const KEYS: u64 = 2;
/// More rounds than these at one moment are a loop.
const MAX_ROUNDS: usize = 10_000;

/// On its way to the sidecar.
enum Coming {
    Inbox(Lane, u64, Sent),
    Answer(Input),
}

pub struct World {
    pub now: Moment,
    pub machine: ByKey,
    pub demand: Demand,
    pub lanes: Vec<Consumer>,
    coming: VecDeque<Coming>,
    arrivals: u64,
    /// Events here, and whether an attempt runs.
    here: BTreeMap<Id, bool>,
    handled: BTreeSet<(Lane, u64)>,
    pub broken: Option<&'static str>,
}

fn lost(answer: Input) -> Input {
    match answer {
        Input::Acknowledged(id, _) => Input::Acknowledged(id, false),
        Input::Renewed(id, _) => Input::Renewed(id, false),
        Input::State(lane, _) => Input::State(lane, None),
        Input::Waiting(lane, _) => Input::Waiting(lane, None),
        Input::Reclaimed(lane, _) => Input::Reclaimed(lane, false),
        Input::Listed(lane, _) => Input::Listed(lane, None),
        other => other,
    }
}

impl World {
    pub fn new(rules: Rules) -> Self {
        let terms = LaneTiming { rules, ..LaneTiming::of(Duration::from_millis(ACK_WAIT)) };
        let mut world = Self {
            now: 1,
            machine: ByKey::new(SLOTS, terms, 1000),
            demand: Demand { handler: Handler::Up, connected: true, epoch: 1, room: true, turns: usize::MAX },
            lanes: vec![Consumer::default(); usize::from(LANES)],
            coming: VecDeque::new(),
            arrivals: 0,
            here: BTreeMap::new(),
            handled: BTreeSet::new(),
            broken: None,
        };
        world.take(Input::Lanes((0..LANES).collect()));
        world.take(Input::Others(BTreeSet::new()));
        world
    }

    pub fn running(&self) -> Vec<Id> {
        self.here.iter().filter(|(_, runs)| **runs).map(|(id, _)| *id).collect()
    }

    pub fn is_settled(&self) -> bool {
        self.lanes.iter().all(Consumer::is_settled)
    }

    pub fn is_drained(&self) -> bool {
        self.machine.is_drained() && self.here.is_empty()
    }

    pub fn has_coming(&self) -> bool {
        !self.coming.is_empty()
    }

    fn lane(&mut self, lane: Lane) -> &mut Consumer {
        &mut self.lanes[usize::from(lane)]
    }

    pub fn take(&mut self, input: Input) {
        self.machine.input(self.now, input);
        self.act();
    }

    pub fn act(&mut self) {
        for round in 0.. {
            assert!(round < MAX_ROUNDS, "it turns in a circle");
            let mut actions = Vec::new();
            self.machine.actions(self.now, &self.demand, &mut actions);
            if actions.is_empty() {
                break;
            }
            actions.into_iter().for_each(|action| self.perform(action));
        }
        while let Some(id) = self.machine.start(self.now, &self.demand) {
            self.start(id);
        }
        self.deliver();
    }

    fn start(&mut self, id: Id) {
        let Id { lane, sequence, .. } = id;
        let same = |other: &u64| other % KEYS == sequence % KEYS;
        if self.here.insert(id, true) != Some(false) {
            self.broken = Some("what started was not waiting here");
        }
        if self.running().len() > SLOTS {
            self.broken = Some("more attempts run than may");
        }
        if self.handled.contains(&(lane, sequence)) {
            self.broken = Some("it started again where it was handled");
        }
        if (1..sequence).filter(same).any(|other| !self.lanes[usize::from(lane)].acknowledged.contains(&other)) {
            self.broken = Some("it started before an earlier one was settled");
        }
    }

    fn perform(&mut self, action: Action) {
        let (now, connected) = (self.now, self.demand.connected);
        match action {
            Action::Pull(pull) if connected => self.lane(pull.lane).pull(now, &pull),
            Action::Pull(pull) => {
                self.machine.input(now, Input::Inbox(pull.lane, pull.inbox, InboxReport::Lost(Trouble::Congested)));
            }
            Action::Close(lane, inbox, _) => {
                self.lane(lane).close(Some(inbox));
                let is_of = |coming: &Coming| matches!(coming, Coming::Inbox(l, i, _) if (*l, *i) == (lane, inbox));
                let (late, other) = std::mem::take(&mut self.coming).into_iter().partition::<VecDeque<_>, _>(is_of);
                self.coming = other;
                late.into_iter().for_each(|coming| self.hear(coming));
            }
            Action::Acknowledge { id, confirm } => {
                if connected {
                    self.lane(id.lane).acknowledge(id.sequence);
                }
                self.answer(Input::Acknowledged(id, true));
                if !confirm {
                    self.here.remove(&id);
                }
            }
            Action::Renew { id, .. } => {
                if connected {
                    self.lane(id.lane).renew(now, id.sequence);
                }
                self.answer(Input::Renewed(id, true));
            }
            Action::Hold { id, .. } => {
                if connected {
                    self.lane(id.lane).hold(now, id.sequence);
                }
                self.answer(Input::Renewed(id, true));
            }
            Action::GiveBack { id, wait } => {
                if connected {
                    self.lane(id.lane).give_back(now, id.sequence, wait);
                }
                self.here.remove(&id);
            }
            Action::Reclaim { lane, sequences, .. } => {
                sequences.into_iter().for_each(|sequence| self.lane(lane).give_back(now, sequence, 0));
                self.answer(Input::Reclaimed(lane, true));
            }
            Action::Drop(id) => {
                if self.here.remove(&id) == Some(true) {
                    self.answer(Input::Attempted(id, None));
                }
            }
            Action::Ask(lane) => {
                let state = self.lane(lane).state();
                self.answer(Input::State(lane, Some(state)));
            }
            Action::Count(lane) => {
                let waiting = self.lane(lane).waiting();
                self.answer(Input::Waiting(lane, Some(waiting)));
            }
            Action::Unpin(lane) => {
                self.lane(lane).unpin();
                self.answer(Input::Unpinned(lane));
            }
            // Too few events wait for any to be parked.
            Action::List(lane, _) => {
                self.answer(Input::Listed(lane, Some(ParkedKeys { keys: vec![], are_all: true, count: 0 })))
            }
            Action::Announce(_) => {}
            _ => self.broken = Some("lanes do not want this"),
        }
    }

    fn answer(&mut self, input: Input) {
        let is_heard = self.demand.connected || matches!(input, Input::Attempted(..));
        self.coming.push_back(Coming::Answer(if is_heard { input } else { lost(input) }));
    }

    /// The broker sends what it can.
    fn deliver(&mut self) {
        for lane in 0..LANES {
            let now = self.now;
            while let Some((inbox, sent)) = self.lane(lane).serve(now) {
                self.coming.push_back(Coming::Inbox(lane, inbox, sent));
            }
        }
    }

    /// The sidecar takes in what came first.
    pub fn receive(&mut self) {
        if let Some(coming) = self.coming.pop_front() {
            self.hear(coming);
            self.act();
        }
    }

    fn hear(&mut self, coming: Coming) {
        let input = match coming {
            Coming::Answer(input) => input,
            Coming::Inbox(lane, inbox, Sent::InboxReport(heard)) => Input::Inbox(lane, inbox, heard),
            Coming::Inbox(lane, inbox, Sent::Event { sequence, delivery, pin }) => {
                self.arrivals += 1;
                let id = Id { lane, sequence, stored: 0, delivery, arrival: self.arrivals };
                self.here.insert(id, false);
                Input::Arrival(Arrival { id, key: sequence % KEYS, inbox, pin, bytes: 1, is_settled: false })
            }
        };
        self.machine.input(self.now, input);
    }

    pub fn publish(&mut self, lane: Lane) {
        self.lane(lane).published += 1;
        self.deliver();
    }

    /// An attempt ends.
    pub fn finish(&mut self, id: Id, disposition: Disposition) {
        if matches!(disposition, Disposition::Over(Outcome::Acknowledged)) {
            self.handled.insert((id.lane, id.sequence));
        }
        self.here.insert(id, false);
        self.take(Input::Attempted(id, Some(disposition)));
    }

    /// Time passes, to when the machine wants to look at it again, or by half a second.
    pub fn tick(&mut self) {
        let wake = self.machine.wake_at(self.now).unwrap_or(Moment::MAX);
        self.now = wake.clamp(self.now + 1, self.now + 500);
        for lane in 0..LANES {
            let now = self.now;
            let ended = self.lane(lane).tick(now);
            self.coming
                .extend(ended.into_iter().map(|(inbox, heard)| Coming::Inbox(lane, inbox, Sent::InboxReport(heard))));
        }
        self.act();
    }

    /// What the broker sent last is lost.
    pub fn lose(&mut self) {
        match self.coming.pop_back() {
            Some(Coming::Answer(input)) => self.coming.push_back(Coming::Answer(lost(input))),
            Some(Coming::Inbox(..)) | None => {}
        }
    }

    /// The connection is lost, with what was on its way, and made again.
    pub fn reconnect(&mut self) {
        for (lane, consumer) in (0..).zip(&mut self.lanes) {
            consumer.close(None);
            self.coming.retain(|coming| !matches!(coming, Coming::Inbox(other, ..) if *other == lane));
        }
        for coming in &mut self.coming {
            if let Coming::Answer(input) = coming {
                *input = lost(input.clone());
            }
        }
        self.demand.epoch += 1;
        self.act();
    }

    pub fn restart(&mut self, is_killed: bool) {
        self.lanes.iter_mut().for_each(|lane| lane.restart(is_killed));
        self.reconnect();
    }

    pub fn refuse(&mut self, lane: Lane, heard: InboxReport) {
        if let Some(inbox) = self.lane(lane).refuse() {
            self.coming.push_back(Coming::Inbox(lane, inbox, Sent::InboxReport(heard)));
        }
    }

    pub fn turn(&mut self, handler: Handler) {
        self.demand.handler = handler;
        self.act();
    }

    pub fn drain(&mut self) {
        self.machine.drain(self.now);
        self.act();
    }
}
