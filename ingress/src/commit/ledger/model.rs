//! The ledger against a model of the server, for which everything goes wrong that can.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use tidegate_broker_client::contract::Flush;

use super::*;

pub const TIMEOUT: Duration = Duration::from_secs(5);

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A request with these events.
    Submit(Vec<(u64, usize)>),
    /// The server gets the next message or batch.
    Serve(Fate),
    /// The ledger gets the next answer.
    Answer,
    /// So many milliseconds pass.
    Pass(u64),
    /// The connection is lost, with all that is on its way, or is there again.
    Connected(bool),
    /// The stream has room for so many more, takes batches or not.
    Stream { room: usize, batches: bool },
}

/// What becomes of something that was sent.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    Arrives,
    /// It is stored, and the answer does not come.
    AnswerLost,
    /// It is recognised from now on, and the flush to disk fails: there is no answer, and the store takes nothing more
    /// until the server starts again.
    FlushFails,
    Lost,
    /// The server has a reason of its own (too many batches, no leader, …).
    Refused,
}

/// Something that is on its way to the server.
#[derive(Clone, Debug)]
pub enum Sent {
    Single(Ticket),
    Batch(u64, Vec<Ticket>),
}

type Reply = Result<Acknowledged, Refusal>;

/// A stream of nats-server, and what is on its way to it and from it.
pub struct Server {
    pub stored: HashMap<u64, u64>,
    /// Of these, those that are not on disk.
    unflushed: HashSet<u64>,
    is_broken: bool,
    pub sequence: u64,
    pub room: usize,
    pub batches: bool,
    pub to: VecDeque<Sent>,
    from: VecDeque<(Sent, Reply)>,
}

impl Server {
    fn serve(&mut self, fate: Fate, ids: &HashMap<Ticket, u64>) {
        let Some(sent) = self.to.pop_front() else { return };
        let reply = match fate {
            Fate::Lost => return,
            Fate::Refused => Some(Err(refusal(Failure::Refused))),
            Fate::Arrives | Fate::AnswerLost | Fate::FlushFails => {
                let before = self.sequence;
                let reply = match &sent {
                    Sent::Single(ticket) => self.store(ids[ticket]),
                    Sent::Batch(_, members) => self.store_batch(members, ids),
                };
                if matches!((fate, &sent), (Fate::FlushFails, Sent::Batch(..))) && self.sequence > before {
                    self.is_broken = true;
                    self.unflushed = self.stored.iter().filter(|(_, at)| **at > before).map(|(id, _)| *id).collect();
                }
                reply
            }
        };
        if let (Fate::Arrives | Fate::Refused, Some(reply)) = (fate, reply) {
            self.from.push_back((sent, reply));
        }
    }

    /// It starts again, and knows what is on its disk.
    fn restart(&mut self) {
        self.is_broken = false;
        for id in self.unflushed.drain() {
            self.stored.remove(&id);
        }
        self.to.clear();
        self.from.clear();
    }

    /// `None`: a store that has failed does not answer.
    fn store(&mut self, id: u64) -> Option<Reply> {
        if self.is_broken && !self.stored.contains_key(&id) {
            return None;
        }
        Some(self.store_one(id))
    }

    fn store_one(&mut self, id: u64) -> Reply {
        if let Some(&sequence) = self.stored.get(&id) {
            return Ok(Acknowledged { stored: Stored { sequence, duplicate: true }, batch_size: None });
        }
        if self.room == 0 {
            return Err(refusal(Failure::Full));
        }
        Ok(Acknowledged { stored: Stored { sequence: self.append(id), duplicate: false }, batch_size: None })
    }

    /// All or nothing; a batch with an id that is known, or in it twice, is refused.
    fn store_batch(&mut self, members: &[Ticket], ids: &HashMap<Ticket, u64>) -> Option<Reply> {
        (!self.is_broken).then(|| self.store_all(members, ids))
    }

    fn store_all(&mut self, members: &[Ticket], ids: &HashMap<Ticket, u64>) -> Reply {
        if !self.batches {
            return Err(Refusal { of_batch: Some(BatchRefusal::Disabled), ..refusal(Failure::Refused) });
        }
        let different: HashSet<u64> = members.iter().map(|ticket| ids[ticket]).collect();
        if different.len() < members.len() || different.iter().any(|id| self.stored.contains_key(id)) {
            return Err(Refusal { of_batch: Some(BatchRefusal::Repetition), ..refusal(Failure::Refused) });
        }
        if self.room < members.len() {
            return Err(refusal(Failure::Full));
        }
        let last = members.iter().map(|ticket| self.append(ids[ticket])).last().unwrap();
        let batch_size = Some(members.len() as u64);
        Ok(Acknowledged { stored: Stored { sequence: last, duplicate: false }, batch_size })
    }

    fn append(&mut self, id: u64) -> u64 {
        self.sequence += 1;
        self.room -= 1;
        self.stored.insert(id, self.sequence);
        self.sequence
    }
}

fn refusal(failure: Failure) -> Refusal {
    Refusal::of_client(failure)
}

/// A ledger with its server, and what was seen of both.
pub struct World {
    pub ledger: Ledger,
    pub server: Server,
    pub now: Instant,
    connected: bool,
    ids: HashMap<Ticket, u64>,
    sizes: HashMap<Ticket, usize>,
    pub requests: Vec<Vec<Ticket>>,
    pub outcomes: HashMap<Ticket, Outcome>,
    single: HashSet<Ticket>,
    batch: Option<u64>,
}

impl World {
    pub fn new(flush: Flush) -> Self {
        Self {
            ledger: Ledger::new(Rule::new(flush), TIMEOUT),
            server: Server {
                stored: HashMap::new(),
                unflushed: HashSet::new(),
                is_broken: false,
                sequence: 0,
                room: usize::MAX,
                batches: true,
                to: VecDeque::new(),
                from: VecDeque::new(),
            },
            now: Instant::now(),
            connected: true,
            ids: HashMap::new(),
            sizes: HashMap::new(),
            requests: Vec::new(),
            outcomes: HashMap::new(),
            single: HashSet::new(),
            batch: None,
        }
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Submit(events) => self.submit(&events),
            Step::Serve(fate) => self.server.serve(fate, &self.ids),
            Step::Answer => self.answer(),
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
            Step::Connected(connected) => {
                self.connected = connected;
                self.server.restart();
            }
            Step::Stream { room, batches } => (self.server.room, self.server.batches) = (room, batches),
        }
        self.advance();
    }

    fn submit(&mut self, events: &[(u64, usize)]) {
        let publishes: Vec<Publish> = events.iter().map(|&(id, size)| Publish { id, size }).collect();
        let first = self.ledger.submit(&publishes, self.now + TIMEOUT, self.now);
        let tickets: Vec<Ticket> = (first..).take(events.len()).collect();
        for (ticket, (id, size)) in tickets.iter().zip(events) {
            self.ids.insert(*ticket, *id);
            self.sizes.insert(*ticket, *size);
        }
        self.requests.push(tickets);
    }

    fn answer(&mut self) {
        let Some((sent, reply)) = self.server.from.pop_front() else { return };
        let actions = match sent {
            Sent::Single(ticket) => {
                self.single.remove(&ticket);
                self.ledger.answered(ticket, reply, self.now)
            }
            Sent::Batch(number, _) => {
                self.batch = self.batch.filter(|batch| *batch != number);
                self.ledger.batch_answered(number, reply, self.now)
            }
        };
        self.perform(actions);
    }

    fn advance(&mut self) {
        // What the ledger has given up is not under way any more.
        let actions = self.ledger.advance(self.now, self.connected, true);
        if self.ledger.batch.is_none() {
            self.batch = None;
        }
        self.perform(actions);
        assert!(self.ledger.wake_at().is_none_or(|at| at > self.now), "a loop without a pause");
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(ticket) => {
                    assert!(self.connected && self.batch.is_none(), "beside a batch");
                    assert!(!self.outcomes.contains_key(&ticket), "after its end");
                    self.single.insert(ticket);
                    self.server.to.push_back(Sent::Single(ticket));
                }
                Action::SendBatch(number, members) => {
                    assert!(self.connected && self.batch.replace(number).is_none(), "beside a batch");
                    assert!(members.len() <= MAX_BATCH && members.len() > 1);
                    assert!(members.iter().map(|ticket| self.sizes[ticket]).sum::<usize>() <= MAX_BATCH_BYTES);
                    let different: HashSet<u64> = members.iter().map(|ticket| self.ids[ticket]).collect();
                    assert_eq!(different.len(), members.len(), "an id twice");
                    self.server.to.push_back(Sent::Batch(number, members));
                }
                Action::Settle(ticket, outcome) => {
                    self.single.remove(&ticket);
                    assert_eq!(self.outcomes.insert(ticket, outcome), None, "a second outcome");
                    if let Outcome::Stored(Stored { sequence, .. }) = outcome {
                        assert!(!self.server.unflushed.contains(&self.ids[&ticket]), "{ticket} is not on disk");
                        assert_eq!(self.server.stored.get(&self.ids[&ticket]), Some(&sequence), "{ticket}");
                    }
                }
            }
        }
    }

    /// Lets everything end, and looks at all of it.
    pub fn end(mut self) {
        self.connected = true;
        for _ in 0..10_000 {
            if self.ledger.is_empty() {
                break;
            }
            self.step(Step::Serve(Fate::Arrives));
            self.step(Step::Answer);
            if self.server.to.is_empty() && self.server.from.is_empty() {
                self.step(Step::Pass(500));
            }
        }
        assert!(self.ledger.is_empty() && self.ledger.requests.is_empty() && self.ledger.waiting.is_empty());
        assert_eq!((self.ledger.single, self.ledger.wake_at()), (0, None));
        assert_eq!(self.outcomes.len(), self.ids.len(), "each has an outcome");
        self.check_order();
        self.check_requests();
    }

    /// What is stored once, under an id that came once, is in the order in which it was submitted.
    fn check_order(&self) {
        let mut times: HashMap<u64, usize> = HashMap::new();
        self.ids.values().for_each(|id| *times.entry(*id).or_default() += 1);
        let mut tickets: Vec<Ticket> =
            self.ids.keys().copied().filter(|ticket| times[&self.ids[ticket]] == 1).collect();
        tickets.sort_unstable();
        let stored = |ticket: Ticket| match self.outcomes[&ticket] {
            Outcome::Stored(Stored { sequence, .. }) => Some(sequence),
            Outcome::Failed(_) | Outcome::Skipped => None,
        };
        let sequences: Vec<u64> = tickets.into_iter().filter_map(stored).collect();
        assert!(sequences.is_sorted(), "{sequences:?}");
    }

    /// None is skipped but in a request of which another failed.
    fn check_requests(&self) {
        for request in &self.requests {
            let is = |wanted: fn(&Outcome) -> bool| request.iter().any(|ticket| wanted(&self.outcomes[ticket]));
            if is(|outcome| matches!(outcome, Outcome::Skipped)) {
                assert!(is(|outcome| matches!(outcome, Outcome::Failed(_))));
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![20 => Just(300_usize), 1 => Just(5 << 20)];
    let fresh = (0_u64..1 << 60, size).prop_map(|(id, size)| (id + 100, size));
    let known = (0_u64..20).prop_map(|id| (id, 300));
    let event = prop_oneof![60 => fresh, 1 => known];
    let request = prop_oneof![
        8 => proptest::collection::vec(event.clone(), 1),
        4 => proptest::collection::vec(event.clone(), 2..40),
        1 => proptest::collection::vec(event, 900..1000),
    ];
    let fate = prop_oneof![
        40 => Just(Fate::Arrives), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::Lost), 1 => Just(Fate::Refused),
        1 => Just(Fate::FlushFails)
    ];
    let step = prop_oneof![
        30 => request.prop_map(Step::Submit),
        40 => fate.prop_map(Step::Serve),
        40 => Just(Step::Answer),
        20 => prop_oneof![9 => 0_u64..20, 1 => 1000_u64..3000].prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Connected),
        1 => (0_usize..200, any::<bool>()).prop_map(|(room, batches)| Step::Stream { room, batches }),
        2 => Just(Step::Stream { room: usize::MAX, batches: true }),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each publish has one outcome; none is said to be stored that is not, with this sequence; order and bounds are
    /// kept, whatever the server does.
    #[test]
    fn every_publish_ends_once_and_truly(steps in steps(), flushes in any::<bool>()) {
        let mut world = World::new(if flushes { Flush::PerCommit } else { Flush::Shared });
        steps.into_iter().for_each(|step| world.step(step));
        world.end();
    }
}
