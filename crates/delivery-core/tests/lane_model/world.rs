//! Two owners, the broker, what is on its way between them, and what each event of the world does to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_delivery_core::lane::owner::Owner;
use tidegate_delivery_core::{
    Action, Arrival, Disposition, FetchResult, Id, Input, Kind, Moment, ParkResult, State as Told, Tenancy,
};

use crate::broker::{Broker, Pending, Pull, Request, What, serve};
use crate::lane::{Flaw, Lane, MARGIN, Trouble, WINDOW};
use crate::shelf::Shelf;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub now: Moment,
    pub broker: Broker,
    pub nodes: [Node; 2],
    pub requests: BTreeSet<Request>,
    pub shelf: Shelf,
    /// What the handler has handled.
    pub handled: BTreeSet<u64>,
    /// The latest event of each key that ever started.
    pub latest: BTreeMap<u64, u64>,
    pub trouble: Trouble,
    pub broken: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub owner: Owner,
    /// What its driver has.
    pub here: BTreeSet<Id>,
    pub arrivals: u64,
    /// How often it has begun.
    pub life: u8,
    pub running: BTreeSet<Id>,
    /// What it has handled since it lives.
    pub handled: BTreeSet<u64>,
    pub inbox: VecDeque<Input>,
    pub answers: Vec<Input>,
    /// Whether it has to do with the lane, and says so to the other.
    pub is_there: bool,
}

/// What is learnt if an answer does not come.
fn lost_answer(answer: Input) -> Input {
    match answer {
        Input::Acknowledged(id, _) => Input::Acknowledged(id, false),
        Input::Renewed(id, _) => Input::Renewed(id, false),
        Input::State(lane, _) => Input::State(lane, None),
        Input::Reclaimed(lane, _) => Input::Reclaimed(lane, false),
        other => What::unheard(&other).unwrap_or(other),
    }
}

impl State {
    /// A node takes something in, and does what follows.
    pub fn take(&mut self, lane: &Lane, node: usize, input: Option<Input>) {
        let now = self.now;
        let alone = !self.nodes[1 - node].is_there;
        if !self.nodes[node].is_there {
            return;
        }
        self.nodes[node].owner.set_alone(now, alone);
        if let Some(input) = input {
            self.nodes[node].owner.input(now, input);
        }
        let mut actions = Vec::new();
        self.nodes[node].owner.actions(now, lane.terms().batch, &mut actions);
        for action in actions {
            match action {
                Action::Pull(pull) => {
                    let Kind::Pinned(pin) = pull.kind else { panic!("a lane is pulled under a pin") };
                    let until = now + pull.expires;
                    self.broker.pulls.push(Pull { node, number: pull.inbox, pin, left: pull.batch, until });
                }
                Action::Acknowledge { id, confirm } => {
                    if !confirm {
                        self.nodes[node].here.remove(&id);
                    }
                    self.send(node, What::Acknowledge(id));
                }
                Action::Renew { id, .. } => self.send(node, What::Renew(id)),
                Action::Hold { id, .. } => self.send(node, What::Hold(id)),
                Action::GiveBack { id, .. } => {
                    self.nodes[node].here.remove(&id);
                    self.send(node, What::GiveBack(id));
                }
                Action::Ask(_) => self.send(node, What::State),
                Action::Reclaim { sequences, .. } => {
                    self.send(node, What::Reclaim(sequences.iter().fold(0, |bits, sequence| bits | 1 << sequence)));
                }
                Action::Unpin(_) => self.send(node, What::Unpin),
                Action::Park { events } => {
                    self.send(node, What::Park(events.into_iter().map(|(id, _)| id).collect()));
                }
                Action::Fetch { key, .. } => self.send(node, What::Fetch(key)),
                Action::Unpark { id } => self.send(node, What::Unpark(id)),
                Action::List(_, section) => self.send(node, What::List(section)),
                Action::FindMark { key, .. } => self.send(node, What::FindMark(key)),
                Action::FindLast { key, .. } => self.send(node, What::FindLast(key)),
                Action::TakeLease { over, .. } => self.send(node, What::TakeLease(over)),
                Action::FreeLease { over, .. } => self.send(node, What::FreeLease(over)),
                Action::Detain { key, .. } => self.send(node, What::Detain(key)),
                Action::Drop(id) => {
                    self.nodes[node].here.remove(&id);
                    self.nodes[node].running.remove(&id);
                }
                other => panic!("an owner does not want this: {other:?}"),
            }
        }
        if self.nodes[node].here.len() != self.nodes[node].owner.in_hand() {
            self.broken = Some("what is here is not what is in hand");
        }
        self.deliver(lane);
    }

    /// Who has left closes its inboxes after a while, and then has nothing to do with the lane.
    fn go(&mut self, node: usize) {
        let here = &self.nodes[node];
        let asks = self.requests.iter().any(|request| request.node == node) || !here.answers.is_empty();
        if here.owner.has_left() && here.inbox.is_empty() && !asks {
            self.broker.close_inboxes(node);
            self.nodes[node].is_there = false;
        }
    }

    pub fn send(&mut self, node: usize, what: What) {
        let life = self.nodes[node].life;
        self.requests.insert(Request { sent: self.now, node, life, what });
    }

    /// The broker delivers what it can.
    pub fn deliver(&mut self, lane: &Lane) {
        let broker = &mut self.broker;
        loop {
            let again = broker.again.first().copied();
            let full = broker.pending.len() >= WINDOW;
            let new = (broker.delivered < broker.published && !full).then_some(broker.delivered + 1);
            let Some(sequence) = again.or(new) else { return };
            let Some(pull) = serve(broker, &mut self.nodes) else { return };
            broker.again.remove(&sequence);
            broker.delivered = broker.delivered.max(sequence);
            broker.deliveries += 1;
            let deliveries = broker.pending.get(&sequence).map_or(0, |pending| pending.deliveries) + 1;
            broker.pending.insert(sequence, Pending { with: pull.node, until: self.now + lane.ack_wait, deliveries });
            // Named where it arrives.
            let id = Id { lane: 0, sequence, stored: sequence, delivery: broker.deliveries, arrival: 0 };
            let (key, pin) = (lane.key(sequence), pull.pin.unwrap());
            let arrived = Arrival { id, key, inbox: pull.number, pin, bytes: 1, is_settled: false };
            self.nodes[pull.node].inbox.push_back(Input::Arrival(arrived));
        }
    }

    /// A node takes what the broker sent.
    pub fn receive(&mut self, lane: &Lane, node: usize) {
        let input = self.nodes[node].inbox.pop_front();
        self.come(lane, node, input);
    }

    /// A node is answered.
    pub fn answer(&mut self, lane: &Lane, node: usize, answer: usize) {
        let mut input = self.nodes[node].answers.remove(answer);
        match (lane.flaw, &mut input) {
            (Flaw::CopiesUnconfirmed, Input::Parked(_, result)) => *result = ParkResult::Stored,
            (Flaw::LeaseOfAnother, Input::Leased(_, answer)) => {
                if let Tenancy::Other { sequence, .. } = *answer {
                    *answer = Tenancy::Ours(sequence);
                }
            }
            _ => {}
        }
        self.come(lane, node, Some(input));
    }

    fn come(&mut self, lane: &Lane, node: usize, mut input: Option<Input>) {
        let here = &mut self.nodes[node];
        let arrived = match &mut input {
            Some(Input::Arrival(arrived) | Input::Fetched(_, _, FetchResult::Event(arrived))) => Some(arrived),
            _ => None,
        };
        if let Some(Arrival { id, .. }) = arrived {
            if lane.names {
                here.arrivals += 1;
                id.arrival = here.arrivals;
            }
            here.here.insert(*id);
        }
        self.take(lane, node, input);
    }

    /// The answer does not arrive: its sender learns as much as if it had not been asked.
    pub fn lose_answer(&mut self, node: usize, answer: usize) {
        let answer = &mut self.nodes[node].answers[answer];
        *answer = What::unheard(answer).unwrap();
    }

    /// An attempt fails.
    pub fn fail(&mut self, lane: &Lane, node: usize, id: Id, disposition: Disposition) {
        self.nodes[node].running.remove(&id);
        self.take(lane, node, Some(Input::Attempted(id, Some(disposition))));
    }

    /// The shelf has no room for a copy.
    pub fn refuse(&mut self, request: &Request) {
        self.requests.remove(request);
        let What::Park(ids) = &request.what else { panic!("only copies are refused") };
        self.tell(request.node, request.life, Some(Input::Parked(ids.clone(), ParkResult::Refused)));
    }

    /// The broker is killed and comes back. What was on its way to it is lost; what it sent may still arrive.
    pub fn restart(&mut self, lane: &Lane) {
        for request in std::mem::take(&mut self.requests) {
            self.lose(&request);
        }
        self.broker.restart();
        for node in 0..self.nodes.len() {
            let now = self.now;
            self.nodes[node].owner.reconnected(now);
            self.take(lane, node, None);
        }
    }

    /// The connection of a node is lost, with all that is on its way to it and from it, and made again.
    pub fn reconnect(&mut self, lane: &Lane, node: usize) {
        self.broker.close_inboxes(node);
        self.nodes[node].inbox.clear();
        let (mine, others) = std::mem::take(&mut self.requests).into_iter().partition(|request| request.node == node);
        self.requests = others;
        let unanswered = |request: &Request| request.what.unanswered();
        let mut lost: Vec<Input> = BTreeSet::iter(&mine).filter_map(unanswered).collect();
        lost.extend(std::mem::take(&mut self.nodes[node].answers).into_iter().map(lost_answer));
        let now = self.now;
        lost.into_iter().for_each(|input| self.nodes[node].owner.input(now, input));
        self.nodes[node].owner.reconnected(now);
        self.take(lane, node, None);
    }

    pub fn arrive(&mut self, lane: &Lane, request: Request) {
        let Request { sent, node, life, what } = request;
        let broker = &mut self.broker;
        let answer = match what {
            What::Acknowledge(id) => {
                broker.pending.remove(&id.sequence);
                broker.again.remove(&id.sequence);
                broker.acknowledged.insert(id.sequence);
                Some(Input::Acknowledged(id, true))
            }
            What::Renew(id) => {
                if let Some(pending) = broker.pending.get_mut(&id.sequence) {
                    pending.until = self.now + lane.ack_wait;
                }
                Some(Input::Renewed(id, true))
            }
            What::Hold(id) => {
                // It comes after all that the same sender gave back before.
                let is_before =
                    |request: &Request| request.node == node && request.sent <= sent && request.what.gives_back();
                for request in self.requests.extract_if(.., |request| is_before(request)) {
                    let answer = broker.take_back(request.what);
                    if self.nodes[node].life == request.life {
                        self.nodes[node].answers.extend(answer);
                    }
                }
                broker.hold(id, self.now + lane.ack_wait);
                Some(Input::Renewed(id, true))
            }
            What::GiveBack(_) | What::Reclaim(_) => broker.take_back(what),
            What::State => {
                let pending = u64::try_from(broker.pending.len()).unwrap();
                let (floor, highest) = (broker.floor(), broker.delivered);
                let told = Told { delivered: broker.deliveries, pending, floor, highest, pin: broker.pin.clone() };
                Some(Input::State(0, Some(told)))
            }
            What::Unpin => {
                broker.pin = None;
                Some(Input::Unpinned(0))
            }
            What::Park(ids) => {
                let result = self.shelf.park(&ids);
                Some(Input::Parked(ids, result))
            }
            What::Fetch(key) => Some(Input::Fetched(0, key, self.shelf.fetch(key, |sequence| lane.key(sequence)))),
            What::Unpark(id) => {
                self.shelf.unpark(id.sequence);
                Some(Input::Unparked(id, true))
            }
            What::List(section) => {
                let told = self.shelf.list(section, lane.known_keys, |sequence| lane.key(sequence));
                Some(Input::Listed(0, Some(told)))
            }
            What::FindMark(key) => Some(Input::MarkFound(0, key, Some(self.shelf.held.contains(&key)))),
            What::FindLast(key) => {
                Some(Input::LastParked(0, key, Some(self.shelf.last(key, |sequence| lane.key(sequence)))))
            }
            What::TakeLease(over) => Some(Input::Leased(0, self.shelf.take(over, Some((node, life))))),
            What::FreeLease(over) => {
                self.shelf.take(over, None);
                None
            }
            What::Detain(key) => {
                self.shelf.held.insert(key);
                Some(Input::Detained(0, key, true))
            }
        };
        self.tell(node, life, answer);
        self.deliver(lane);
    }

    pub fn tick(&mut self, lane: &Lane, awake: [bool; 2]) {
        self.now += 1;
        let now = self.now;
        let late: Vec<Request> = self.requests.iter().filter(|r| r.sent + MARGIN < now).cloned().collect();
        for request in late {
            self.lose(&request);
        }
        let broker = &mut self.broker;
        // That it is over may be said to no one.
        broker.pulls.retain(|pull| now < pull.until);
        broker.again.extend(broker.pending.iter().filter(|(_, p)| p.until <= now).map(|(sequence, _)| *sequence));
        self.deliver(lane);
        for (node, awake) in awake.into_iter().enumerate() {
            if awake {
                self.take(lane, node, None);
                self.go(node);
            }
        }
    }

    /// The broker takes the pin of an owner that does not pull.
    pub fn expire_pin(&mut self, lane: &Lane) {
        if !self.broker.pulls.iter().any(|pull| pull.pin.is_some() && pull.pin == self.broker.pin) {
            self.broker.pin = None;
            self.deliver(lane);
        }
    }

    pub fn lose(&mut self, request: &Request) {
        self.requests.remove(request);
        self.tell(request.node, request.life, request.what.unanswered());
    }

    /// A node is answered, unless it was a former life of it that asked.
    fn tell(&mut self, node: usize, life: u8, answer: Option<Input>) {
        if self.nodes[node].life == life {
            self.nodes[node].answers.extend(answer);
        }
    }
}
