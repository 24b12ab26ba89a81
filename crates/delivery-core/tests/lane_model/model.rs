//! The world as a model: which steps there are in a state, where each leads, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stateright::{Model, Property};
use tidegate_delivery_core::{Disposition, Id, InboxReport, Input, Outcome, Trouble};

use crate::broker::{Broker, Pull, Request, What};
use crate::lane::{Begin, Lane};
use crate::shelf::Shelf;
use crate::world::{Node, State};

pub const INVARIANT: &str =
    "an event starts under a lease, after all earlier ones of its key, and once where it was handled";
pub const KEPT: &str = "what is acknowledged is handled, or is parked";
pub const PROGRESS: &str = "all are settled";
pub const UNPARKED: &str = "one that was parked is handled";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Publish,
    /// Time passes; a node that does not notice is paused.
    Tick([bool; 2]),
    Arrive(Request),
    LoseRequest(Request),
    RefuseCopy(Request),
    Receive(usize),
    LoseDelivery(usize),
    Answer(usize, usize),
    LoseAnswer(usize, usize),
    Start(usize),
    Finish(usize, Id),
    Fail(usize, Id),
    /// The next attempt is a long time away.
    FailForLong(usize, Id),
    /// A person has to release the key,
    Detain(usize, Id),
    /// which that does.
    Release,
    /// A person removes what is parked of the held keys.
    Purge,
    LoseRecord,
    ForgetIds,
    LosePin,
    Crash(usize),
    Leave(usize),
    Save,
    Restart,
    Reconnect(usize),
    /// The broker ends this pull, whose rest it names or not.
    Refuse(usize, bool),
    Join,
}

impl Step {
    /// Whether it is what happens when nothing goes wrong, but for time that passes.
    pub fn is_ordinary(&self) -> bool {
        use Step::{Answer, Arrive, Finish, Publish, Receive, Release, Start};
        matches!(self, Publish | Arrive(_) | Receive(_) | Answer(..) | Start(_) | Finish(..) | Release)
    }
}

impl Lane {
    /// The first questions are answered.
    fn acquaint(&self, mut state: State) -> State {
        loop {
            let mut steps = Vec::new();
            self.actions(&state, &mut steps);
            let told = steps.into_iter().find(|step| matches!(step, Step::Arrive(_) | Step::Answer(..)));
            let Some(step) = told else { return state };
            state = self.next_state(&state, step).unwrap();
        }
    }

    /// Everything goes well until an attempt has failed, and further until what is behind it is parked.
    fn advance(&self, mut state: State) -> State {
        let mut has_failed = false;
        loop {
            let mut steps = Vec::new();
            self.actions(&state, &mut steps);
            let ordinary = |step: &&Step| match step {
                Step::Publish | Step::Arrive(_) | Step::Answer(..) | Step::Receive(_) => true,
                Step::Start(_) => !has_failed,
                _ => false,
            };
            let failure = steps.iter().find(|step| matches!(step, Step::Fail(..)) && !has_failed);
            let step = failure.or_else(|| steps.iter().find(ordinary)).cloned();
            match (step, has_failed) {
                (None, true) => return state,
                (Some(step), _) => {
                    has_failed |= matches!(step, Step::Fail(..));
                    state = self.next_state(&state, step).unwrap();
                }
                (None, false) => state = self.next_state(&state, Step::Tick([true, true])).unwrap(),
            }
            if has_failed && self.begin == Begin::Failed {
                return state;
            }
        }
    }
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
            shelf: Shelf::default(),
            handled: BTreeSet::new(),
            latest: BTreeMap::new(),
            trouble: self.trouble,
            broken: None,
        };
        state.nodes[1].is_there = !self.lone;
        state.take(self, 0, None);
        state.take(self, 1, None);
        if self.begin != Begin::Cold {
            state = self.acquaint(state);
        }
        if matches!(self.begin, Begin::Failed | Begin::Parked) {
            state = self.advance(state);
        }
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
            if trouble.refused_copies > 0 && matches!(request.what, What::Park(_)) {
                steps.push(Step::RefuseCopy(request.clone()));
            }
        }
        if trouble.joins > 0 && !state.nodes[1].is_there {
            steps.push(Step::Join);
        }
        if trouble.refusals > 0 {
            steps.extend(
                (0..state.broker.pulls.len()).flat_map(|pull| [Step::Refuse(pull, true), Step::Refuse(pull, false)]),
            );
        }
        for (index, node) in state.nodes.iter().enumerate() {
            if !node.is_there {
                continue;
            }
            if trouble.reconnects > 0 {
                steps.push(Step::Reconnect(index));
            }
            if !node.inbox.is_empty() {
                steps.push(Step::Receive(index));
                if trouble.lost_deliveries > 0 {
                    steps.push(Step::LoseDelivery(index));
                }
            }
            for (answer, input) in node.answers.iter().enumerate() {
                steps.push(Step::Answer(index, answer));
                if trouble.lost_answers > 0 && What::unheard(input).is_some() {
                    steps.push(Step::LoseAnswer(index, answer));
                }
            }
            if node.owner.can_start(state.now) {
                steps.push(Step::Start(index));
            }
            for id in &node.running {
                steps.push(Step::Finish(index, *id));
                if trouble.retries > 0 {
                    steps.push(Step::Fail(index, *id));
                    steps.push(Step::FailForLong(index, *id));
                }
                if trouble.detentions > 0 {
                    steps.push(Step::Detain(index, *id));
                }
            }
            if trouble.crashes > 0 {
                steps.push(Step::Crash(index));
            }
            if trouble.leaves > 0 {
                steps.push(Step::Leave(index));
            }
        }
        if !state.shelf.held.is_empty() {
            steps.push(Step::Release);
        }
        if trouble.purges > 0 && state.can_purge(self) {
            steps.push(Step::Purge);
        }
        if trouble.lost_records > 0 && state.shelf.tenant().is_some() {
            steps.push(Step::LoseRecord);
        }
        if trouble.forgotten_ids > 0 {
            steps.push(Step::ForgetIds);
        }
        if trouble.saves > 0 {
            steps.push(Step::Save);
        }
        if trouble.restarts > 0 {
            steps.push(Step::Restart);
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
            Step::Receive(node) => state.receive(self, node),
            Step::LoseDelivery(node) => {
                state.trouble.lost_deliveries -= 1;
                state.nodes[node].inbox.pop_front();
            }
            Step::Answer(node, answer) => {
                state.answer(self, node, answer);
            }
            Step::LoseAnswer(node, answer) => {
                state.trouble.lost_answers -= 1;
                state.lose_answer(node, answer);
            }
            Step::RefuseCopy(request) => {
                state.trouble.refused_copies -= 1;
                state.refuse(&request);
            }
            Step::Start(node) => state.start(self, node),
            Step::Finish(node, id) => {
                state.nodes[node].running.remove(&id);
                state.nodes[node].handled.insert(id.sequence);
                state.handled.insert(id.sequence);
                state.take(self, node, Some(Input::Attempted(id, Some(Disposition::Over(Outcome::Acknowledged)))));
            }
            Step::Fail(node, id) => {
                state.trouble.retries -= 1;
                state.fail(self, node, id, Disposition::RetryIn(Duration::from_millis(1)));
            }
            Step::FailForLong(node, id) => {
                state.trouble.retries -= 1;
                state.fail(self, node, id, Disposition::RetryIn(Duration::from_millis(2)));
            }
            Step::Detain(node, id) => {
                state.trouble.detentions -= 1;
                state.fail(self, node, id, Disposition::Detain);
            }
            Step::Release => state.shelf.held.clear(),
            Step::Purge => {
                state.trouble.purges -= 1;
                let removed = state.shelf.purge_held(|sequence| self.key(sequence));
                state.handled.extend(removed);
            }
            Step::LoseRecord => {
                state.trouble.lost_records -= 1;
                state.shelf.lose_record();
            }
            Step::ForgetIds => {
                state.trouble.forgotten_ids -= 1;
                state.shelf.forget_ids();
            }
            Step::LosePin => {
                state.trouble.lost_pins -= 1;
                state.broker.pin = None;
                state.deliver(self);
            }
            Step::Save => {
                state.trouble.saves -= 1;
                state.broker.save();
            }
            Step::Restart => {
                state.trouble.restarts -= 1;
                state.restart(self);
            }
            Step::Reconnect(node) => {
                state.trouble.reconnects -= 1;
                state.reconnect(self, node);
            }
            Step::Refuse(pull, is_ended) => {
                state.trouble.refusals -= 1;
                let Pull { node, number, left, .. } = state.broker.pulls.remove(pull);
                let heard = if is_ended { InboxReport::Ended(left) } else { InboxReport::Lost(Trouble::Moved) };
                state.nodes[node].inbox.push_back(Input::Inbox(0, number, heard));
            }
            Step::Join => {
                state.trouble.joins -= 1;
                state.nodes[1] = Node { life: state.nodes[1].life + 1, ..self.node() };
                state.take(self, 0, None);
                state.take(self, 1, None);
            }
            Step::Crash(node) => {
                state.trouble.crashes -= 1;
                // What its former life asked for is answered to no one.
                let Node { arrivals, life, .. } = state.nodes[node];
                state.nodes[node] = Node { arrivals, life: life + 1, ..self.node() };
                state.broker.pulls.retain(|pull| pull.node != node);
                state.take(self, node, None);
            }
            Step::Leave(node) => {
                state.trouble.leaves -= 1;
                state.nodes[node].owner.leave();
                state.take(self, node, None);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(INVARIANT, |_, state: &State| state.broken.is_none()),
            Property::always(KEPT, |_, state: &State| !state.has_lost()),
            Property::sometimes(PROGRESS, |lane: &Lane, state: &State| {
                state.broker.acknowledged.len() == lane.keys.len() && state.shelf.copies.is_empty()
            }),
            Property::sometimes(UNPARKED, |_, state: &State| state.shelf.has_delivered),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now <= self.end
    }
}
