//! A model check of the protocol of a lane: two owners and a broker that pins, redelivers, and whose messages get
//! lost or late; owners that pause, crash and leave at any moment.
//!
//! The owners are the real state machine. What the broker of the model does is what nats-server does: it delivers
//! to the pinned client, what waits for redelivery first; it takes acknowledgements from anybody; it keeps no
//! memory of who has what. A request is on its way for no longer than the margin of a lease, or it is lost;
//! deliveries and answers may take any time.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use stateright::{Checker as _, Chooser, HasDiscoveries, Model, Property};
use tidegate_handler_sidecar::lane::owner::{Action, Id, Input, Owner};
use tidegate_handler_sidecar::lane::pulls::Pin;
use tidegate_handler_sidecar::lane::terms::{Moment, Rules, Terms};

const ACK_WAIT: Moment = 4;
const MARGIN: Moment = 1;

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Trouble {
    lost_deliveries: u8,
    lost_requests: u8,
    lost_pins: u8,
    crashes: u8,
    retries: u8,
    leaves: u8,
}

const NO_TROUBLE: Trouble =
    Trouble { lost_deliveries: 0, lost_requests: 0, lost_pins: 0, crashes: 0, retries: 0, leaves: 0 };

struct Lane {
    rules: Rules,
    /// The keys of the events, in the order of the stream.
    keys: &'static [u64],
    trouble: Trouble,
    end: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: Moment,
    broker: Broker,
    nodes: [Node; 2],
    requests: BTreeSet<Request>,
    trouble: Trouble,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Broker {
    published: u64,
    delivered: u64,
    deliveries: u64,
    pending: BTreeMap<u64, Pending>,
    again: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    pin: Option<Pin>,
    pins: u64,
    pulls: Vec<Pull>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    with: usize,
    until: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pull {
    node: usize,
    number: u64,
    pin: Option<Pin>,
    left: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    owner: Owner,
    running: BTreeSet<Id>,
    inbox: VecDeque<Input>,
    answers: Vec<Input>,
}

/// On its way to the broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Request {
    sent: Moment,
    node: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Acknowledge(Id),
    Renew(Id),
    GiveBack(Id),
    State,
    Unpin,
}

impl What {
    /// What its sender learns if it does not arrive.
    fn unanswered(self) -> Option<Input> {
        match self {
            Self::Acknowledge(id) => Some(Input::Acknowledged(id, false)),
            Self::Renew(id) => Some(Input::Renewed(id, false)),
            Self::GiveBack(_) => None,
            Self::State => Some(Input::NoState),
            Self::Unpin => Some(Input::Unpinned),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Publish,
    /// Time goes on; a node that does not notice is paused.
    Tick([bool; 2]),
    Arrive(Request),
    LoseRequest(Request),
    Receive(usize),
    LoseDelivery(usize),
    Answer(usize, usize),
    Start(usize),
    Finish(usize, Id),
    Fail(usize, Id),
    LosePin,
    Crash(usize),
    Leave(usize),
}

impl Lane {
    fn terms(&self) -> Terms {
        Terms {
            ack_wait: ACK_WAIT,
            margin: MARGIN,
            renew_below: 1,
            pull_every: 2,
            pull_expires: 4,
            batch: 8,
            pause: 1,
            longest_pause: 1,
            rules: self.rules,
        }
    }

    fn node(&self) -> Node {
        Node { owner: Owner::new(self.terms()), running: BTreeSet::new(), inbox: VecDeque::new(), answers: Vec::new() }
    }

    fn key(&self, sequence: u64) -> u64 {
        self.keys[usize::try_from(sequence - 1).unwrap()]
    }
}

impl State {
    /// A node takes something in, and does what follows.
    fn take(&mut self, lane: &Lane, node: usize, input: Option<Input>) {
        let now = self.now;
        if let Some(input) = input {
            self.nodes[node].owner.input(now, input);
        }
        for action in self.nodes[node].owner.actions(now, true) {
            match action {
                Action::Pull { number, pin } => {
                    self.broker.pulls.push(Pull { node, number, pin, left: lane.terms().batch });
                }
                Action::Acknowledge(id) => self.send(node, What::Acknowledge(id)),
                Action::Renew(id) => self.send(node, What::Renew(id)),
                Action::GiveBack(id) => self.send(node, What::GiveBack(id)),
                Action::Ask => self.send(node, What::State),
                Action::Unpin => self.send(node, What::Unpin),
                Action::Drop(id) => {
                    self.nodes[node].running.remove(&id);
                }
                Action::Done(_) => {}
            }
        }
        self.deliver(lane);
    }

    fn send(&mut self, node: usize, what: What) {
        self.requests.insert(Request { sent: self.now, node, what });
    }

    /// The broker delivers what it can.
    fn deliver(&mut self, lane: &Lane) {
        let broker = &mut self.broker;
        loop {
            let again = broker.again.first().copied();
            let new = (broker.delivered < broker.published).then_some(broker.delivered + 1);
            let Some(sequence) = again.or(new) else { return };
            let Some(pull) = serve(broker, &mut self.nodes) else { return };
            broker.again.remove(&sequence);
            broker.delivered = broker.delivered.max(sequence);
            broker.deliveries += 1;
            broker.pending.insert(sequence, Pending { with: pull.node, until: self.now + ACK_WAIT });
            let id = Id { sequence, delivery: broker.deliveries };
            let arrived = Input::Arrived { id, key: lane.key(sequence), pull: pull.number, pin: pull.pin.unwrap() };
            self.nodes[pull.node].inbox.push_back(arrived);
        }
    }

    fn arrive(&mut self, lane: &Lane, request: Request) {
        let Request { node, what, .. } = request;
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
                    pending.until = self.now + ACK_WAIT;
                }
                Some(Input::Renewed(id, true))
            }
            What::GiveBack(id) => {
                if broker.pending.contains_key(&id.sequence) {
                    broker.again.insert(id.sequence);
                }
                None
            }
            What::State => Some(Input::State {
                delivered: broker.deliveries,
                pending: u64::try_from(broker.pending.len()).unwrap(),
            }),
            What::Unpin => {
                broker.pin = None;
                Some(Input::Unpinned)
            }
        };
        self.nodes[node].answers.extend(answer);
        self.deliver(lane);
    }

    fn tick(&mut self, lane: &Lane, awake: [bool; 2]) {
        self.now += 1;
        let now = self.now;
        let late: Vec<Request> = self.requests.iter().filter(|r| r.sent + MARGIN < now).cloned().collect();
        for request in late {
            self.lose(&request);
        }
        let broker = &mut self.broker;
        broker.again.extend(broker.pending.iter().filter(|(_, p)| p.until <= now).map(|(sequence, _)| *sequence));
        self.deliver(lane);
        for (node, awake) in awake.into_iter().enumerate() {
            if awake {
                self.take(lane, node, None);
            }
        }
    }

    fn lose(&mut self, request: &Request) {
        self.requests.remove(request);
        self.nodes[request.node].answers.extend(request.what.unanswered());
    }

    /// A node starts an attempt, if its owner has one: here the invariant is checked.
    fn start(&mut self, lane: &Lane, node: usize) {
        let Some(id) = self.nodes[node].owner.start(self.now) else { return };
        self.nodes[node].running.insert(id);
        let broker = &self.broker;
        let lent = broker.pending.get(&id.sequence).is_some_and(|pending| pending.with == node);
        if !lent || broker.again.contains(&id.sequence) {
            self.broken = Some("it started without a lease");
        }
        let key = lane.key(id.sequence);
        let mut earlier = (1..id.sequence).filter(|sequence| lane.key(*sequence) == key);
        if !earlier.all(|sequence| broker.acknowledged.contains(&sequence)) {
            self.broken = Some("it started before an earlier one was settled");
        }
    }
}

/// The pull by which the next event goes, as nats-server chooses it; wrong pins are told on the way.
fn serve(broker: &mut Broker, nodes: &mut [Node; 2]) -> Option<Pull> {
    let mut index = 0;
    while let Some(pull) = broker.pulls.get_mut(index) {
        if broker.pin.is_none() && pull.pin.is_none() {
            broker.pins += 1;
            broker.pin = Some(format!("{}", broker.pins).into());
            pull.pin = broker.pin.clone();
        }
        if pull.pin.is_some() && pull.pin == broker.pin {
            pull.left -= 1;
            let served = pull.clone();
            broker.pulls.retain(|pull| pull.left > 0);
            return Some(served);
        }
        if pull.pin.is_some() {
            let wrong = broker.pulls.remove(index);
            nodes[wrong.node].inbox.push_back(Input::WrongPin(wrong.number));
        } else {
            index += 1;
        }
    }
    None
}

impl Model for Lane {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            now: 1,
            broker: Broker::default(),
            nodes: [self.node(), self.node()],
            requests: BTreeSet::new(),
            trouble: self.trouble,
            broken: None,
        };
        state.take(self, 0, None);
        state.take(self, 1, None);
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let trouble = &state.trouble;
        if state.broker.published < u64::try_from(self.keys.len()).unwrap() {
            steps.push(Step::Publish);
        }
        for request in &state.requests {
            steps.push(Step::Arrive(request.clone()));
            if trouble.lost_requests > 0 {
                steps.push(Step::LoseRequest(request.clone()));
            }
        }
        for (index, node) in state.nodes.iter().enumerate() {
            if !node.inbox.is_empty() {
                steps.push(Step::Receive(index));
                if trouble.lost_deliveries > 0 {
                    steps.push(Step::LoseDelivery(index));
                }
            }
            steps.extend((0..node.answers.len()).map(|answer| Step::Answer(index, answer)));
            if node.owner.can_start(state.now) {
                steps.push(Step::Start(index));
            }
            for id in &node.running {
                steps.push(Step::Finish(index, *id));
                if trouble.retries > 0 {
                    steps.push(Step::Fail(index, *id));
                }
            }
            if trouble.crashes > 0 {
                steps.push(Step::Crash(index));
            }
            if trouble.leaves > 0 {
                steps.push(Step::Leave(index));
            }
        }
        if trouble.lost_pins > 0 && state.broker.pin.is_some() {
            steps.push(Step::LosePin);
        }
        // Whether one with empty hands sleeps makes no difference.
        let busy = [0, 1].map(|node: usize| state.nodes[node].owner.in_hand() > 0);
        steps.push(Step::Tick([true, true]));
        if busy[0] {
            steps.push(Step::Tick([false, true]));
        }
        if busy[1] {
            steps.push(Step::Tick([true, false]));
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Publish => {
                state.broker.published += 1;
                state.deliver(self);
            }
            Step::Tick(awake) => state.tick(self, awake),
            Step::Arrive(request) => {
                state.requests.remove(&request);
                state.arrive(self, request);
            }
            Step::LoseRequest(request) => {
                state.trouble.lost_requests -= 1;
                state.lose(&request);
            }
            Step::Receive(node) => {
                let input = state.nodes[node].inbox.pop_front();
                state.take(self, node, input);
            }
            Step::LoseDelivery(node) => {
                state.trouble.lost_deliveries -= 1;
                state.nodes[node].inbox.pop_front();
            }
            Step::Answer(node, answer) => {
                let input = state.nodes[node].answers.remove(answer);
                state.take(self, node, Some(input));
            }
            Step::Start(node) => state.start(self, node),
            Step::Finish(node, id) => {
                state.nodes[node].running.remove(&id);
                state.take(self, node, Some(Input::Settled(id)));
            }
            Step::Fail(node, id) => {
                state.trouble.retries -= 1;
                state.nodes[node].running.remove(&id);
                let from = state.now + 1;
                state.take(self, node, Some(Input::Again(id, from)));
            }
            Step::LosePin => {
                state.trouble.lost_pins -= 1;
                state.broker.pin = None;
                state.deliver(self);
            }
            Step::Crash(node) => {
                state.trouble.crashes -= 1;
                state.nodes[node] = self.node();
                state.broker.pulls.retain(|pull| pull.node != node);
                state.take(self, node, None);
            }
            Step::Leave(node) => {
                state.trouble.leaves -= 1;
                state.take(self, node, Some(Input::Leave));
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(INVARIANT, |_, state: &State| state.broken.is_none()),
            Property::sometimes(PROGRESS, |lane: &Lane, state: &State| {
                state.broker.acknowledged.len() == lane.keys.len()
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now <= self.end
    }
}

const INVARIANT: &str = "an event starts under a lease and after all earlier ones of its key";
const PROGRESS: &str = "all are settled";

/// Two events of one key.
const TWO: &[u64] = &[1, 1];
/// Several of two keys.
const SEVERAL: &[u64] = &[1, 2, 1, 1, 2];

/// The shortest way to a broken invariant, if there is one among this many states.
fn shortest_break(lane: Lane, states: usize) -> Option<String> {
    let checker = lane.checker().threads(2).target_state_count(states).finish_when(HasDiscoveries::AnyFailures);
    let path = checker.spawn_bfs().join().discovery(INVARIANT)?;
    let steps = path.into_vec().into_iter().filter_map(|(state, step)| Some(format!("{}: {:?}", state.now, step?)));
    Some(steps.collect::<Vec<_>>().join("\n"))
}

/// Walks on which time does not run away: most steps are something that happens.
#[derive(Clone)]
struct Stroll;

impl Chooser<Lane> for Stroll {
    type State = fastrand::Rng;

    fn new_state(&self, seed: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(seed)
    }

    fn choose_initial_state(&self, _: &mut fastrand::Rng, _: &[State]) -> usize {
        0
    }

    fn choose_action(&self, random: &mut fastrand::Rng, _: &State, steps: &[Step]) -> usize {
        let ordinary = |step: &Step| {
            use Step::{Answer, Arrive, Finish, Publish, Receive, Start};
            matches!(step, Publish | Arrive(_) | Receive(_) | Answer(..) | Start(_) | Finish(..))
        };
        let wanted = random.u8(0..8) > 0;
        let fitting: Vec<usize> = (0..steps.len()).filter(|index| ordinary(&steps[*index]) == wanted).collect();
        // Time can always go on, so there is something that is not ordinary.
        random.choice(fitting).unwrap_or(steps.len() - 1)
    }
}

/// Whether long walks through all troubles find a way to break the invariant, and whether all gets settled on some.
fn strolls(rules: Rules) -> (bool, bool) {
    let trouble = Trouble { lost_deliveries: 2, lost_requests: 3, lost_pins: 3, crashes: 1, retries: 2, leaves: 1 };
    let lane = Lane { rules, keys: SEVERAL, trouble, end: 60 };
    let checker = lane.checker().threads(2).target_state_count(500_000).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_simulation(7, Stroll).join();
    (checker.discovery(INVARIANT).is_some(), checker.discovery(PROGRESS).is_some())
}

#[test]
fn every_state_without_trouble() {
    let lane = Lane { rules: Rules::default(), keys: TWO, trouble: NO_TROUBLE, end: 5 };
    let checker = lane.checker().threads(2).spawn_bfs().join();
    checker.assert_no_discovery(INVARIANT);
    checker.assert_any_discovery(PROGRESS);
    assert!(checker.is_done());
}

#[test]
fn every_state_near_the_beginning_of_each_trouble() {
    for trouble in [
        Trouble { crashes: 1, ..NO_TROUBLE },
        Trouble { lost_pins: 1, ..NO_TROUBLE },
        Trouble { lost_deliveries: 1, ..NO_TROUBLE },
        Trouble { lost_requests: 1, retries: 1, ..NO_TROUBLE },
        Trouble { lost_pins: 1, leaves: 1, ..NO_TROUBLE },
    ] {
        let lane = Lane { rules: Rules::default(), keys: TWO, trouble, end: 9 };
        assert_eq!(shortest_break(lane, 500_000), None, "{trouble:?}");
    }
}

#[test]
fn long_walks_through_all_troubles_at_once() {
    assert_eq!(strolls(Rules::default()), (false, true));
    let (breaks, _) = strolls(Rules { barrier: false, ..Rules::default() });
    assert!(breaks, "without the barrier nothing breaks");
}

#[test]
fn each_rule_is_needed() {
    let all = Rules::default();
    let crash = Trouble { crashes: 1, ..NO_TROUBLE };
    let lost_pin = Trouble { lost_pins: 1, ..NO_TROUBLE };
    let lost_delivery = Trouble { lost_deliveries: 1, ..NO_TROUBLE };
    for (what, rules, keys, trouble) in [
        ("no barrier, a crash", Rules { barrier: false, ..all }, TWO, crash),
        ("no barrier, a lost pin", Rules { barrier: false, ..all }, TWO, lost_pin),
        ("no barrier, a lost delivery", Rules { barrier: false, ..all }, TWO, lost_delivery),
        ("no leases, a lost pin", Rules { leases: false, ..all }, &TWO[..1], lost_pin),
        ("no confirmation", Rules { confirmation: false, ..all }, TWO, NO_TROUBLE),
    ] {
        let found = shortest_break(Lane { rules, keys, trouble, end: 8 }, 2_000_000);
        assert!(found.is_some(), "{what}: nothing breaks");
    }
}
