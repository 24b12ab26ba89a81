//! The ledger against a model of the server, for which everything goes wrong that can.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use tidegate_broker_client::contract::Flush;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(5);

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
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
enum Fate {
    Arrives,
    /// It is stored, and nobody hears of it.
    AnswerLost,
    Lost,
    /// The server has a reason of its own (too many batches, no leader, …).
    Refused,
}

/// Something that is on its way to the server.
#[derive(Clone, Debug)]
enum Sent {
    Single(Ticket),
    Batch(u64, Vec<Ticket>),
}

type Reply = Result<Acknowledged, Refusal>;

/// A stream of nats-server, and what is on its way to it and from it.
struct Server {
    stored: HashMap<u64, u64>,
    sequence: u64,
    room: usize,
    batches: bool,
    to: VecDeque<Sent>,
    from: VecDeque<(Sent, Reply)>,
}

impl Server {
    fn serve(&mut self, fate: Fate, ids: &HashMap<Ticket, u64>) {
        let Some(sent) = self.to.pop_front() else { return };
        let reply = match fate {
            Fate::Lost => return,
            Fate::Refused => Err(refusal(Failure::Refused)),
            Fate::Arrives | Fate::AnswerLost => match &sent {
                Sent::Single(ticket) => self.store(ids[ticket]),
                Sent::Batch(_, members) => self.store_batch(members, ids),
            },
        };
        if !matches!(fate, Fate::AnswerLost) {
            self.from.push_back((sent, reply));
        }
    }

    fn store(&mut self, id: u64) -> Reply {
        if let Some(&sequence) = self.stored.get(&id) {
            return Ok(Acknowledged { stored: Stored { sequence, duplicate: true }, batch_size: None });
        }
        if self.room == 0 {
            return Err(refusal(Failure::Full));
        }
        Ok(Acknowledged { stored: Stored { sequence: self.append(id), duplicate: false }, batch_size: None })
    }

    /// All or nothing; a batch with an id that is known, or in it twice, is refused.
    fn store_batch(&mut self, members: &[Ticket], ids: &HashMap<Ticket, u64>) -> Reply {
        if !self.batches {
            return Err(Refusal { batches_disabled: true, ..refusal(Failure::Refused) });
        }
        let different: HashSet<u64> = members.iter().map(|ticket| ids[ticket]).collect();
        if different.len() < members.len() || different.iter().any(|id| self.stored.contains_key(id)) {
            return Err(refusal(Failure::Refused));
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
struct World {
    ledger: Ledger,
    server: Server,
    now: Instant,
    connected: bool,
    ids: HashMap<Ticket, u64>,
    sizes: HashMap<Ticket, usize>,
    requests: Vec<Vec<Ticket>>,
    outcomes: HashMap<Ticket, Outcome>,
    single: HashSet<Ticket>,
    batch: Option<u64>,
}

impl World {
    fn new(flush: Flush) -> Self {
        Self {
            ledger: Ledger::new(Rule::new(flush), TIMEOUT),
            server: Server {
                stored: HashMap::new(),
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

    fn step(&mut self, step: Step) {
        match step {
            Step::Submit(events) => self.submit(&events),
            Step::Serve(fate) => self.server.serve(fate, &self.ids),
            Step::Answer => self.answer(),
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
            Step::Connected(connected) => {
                self.connected = connected;
                self.server.to.clear();
                self.server.from.clear();
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
                        assert_eq!(self.server.stored.get(&self.ids[&ticket]), Some(&sequence), "{ticket}");
                    }
                }
            }
        }
    }

    /// Lets everything end, and looks at all of it.
    fn end(mut self) {
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
        40 => Just(Fate::Arrives), 1 => Just(Fate::AnswerLost), 1 => Just(Fate::Lost), 1 => Just(Fate::Refused)
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

fn events(count: u64) -> Vec<(u64, usize)> {
    (0..count).map(|id| (id, 300)).collect()
}

fn sent(world: &World) -> Vec<usize> {
    world.server.to.iter().map(|sent| if let Sent::Batch(_, members) = sent { members.len() } else { 1 }).collect()
}

#[test]
fn a_request_with_many_events_is_one_batch_and_each_is_told_its_own_sequence() {
    let mut world = World::new(Flush::PerCommit);
    world.server.sequence = 41;
    world.step(Step::Submit(events(1000)));
    assert_eq!(sent(&world), [1000]);
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    for ticket in 0..1000 {
        let stored = Stored { sequence: 42 + ticket, duplicate: false };
        assert_eq!(world.outcomes[&ticket], Outcome::Stored(stored));
    }
}

#[test]
fn what_waits_while_a_batch_is_under_way_is_the_next() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(50)));
    for id in 100..200 {
        world.step(Step::Submit(vec![(id, 300)]));
    }
    assert_eq!(sent(&world), [50], "nothing beside it");
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    world.step(Step::Pass(50));
    assert_eq!(sent(&world), [100]);
}

#[test]
fn a_known_id_costs_its_neighbours_nothing_but_a_second_try() {
    let mut world = World::new(Flush::PerCommit);
    world.server.stored.insert(7, 3);
    world.server.sequence = 10;
    world.step(Step::Submit(events(30)));
    assert_eq!(sent(&world), [30], "this ingress has not seen it before");
    for _ in 0..31 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert_eq!(world.outcomes[&7], Outcome::Stored(Stored { sequence: 3, duplicate: true }));
    assert_eq!(world.outcomes[&29], Outcome::Stored(Stored { sequence: 39, duplicate: false }));
    // From now on it is known here, too, and goes alone: the others are a batch again as soon as that is tried.
    world.step(Step::Pass(100));
    world.step(Step::Submit((0..30).map(|id| (if id == 0 { 7 } else { 100 + id }, 300)).collect()));
    assert_eq!(sent(&world), [1, 29]);
}

/// They would be refused again and again.
#[test]
fn what_was_refused_as_a_batch_is_never_in_one_again() {
    let mut world = World::new(Flush::PerCommit);
    world.server.stored.insert(99, 3);
    world.step(Step::Submit(events(100)));
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    world.step(Step::Pass(1000));
    for _ in 0..100 {
        assert!(sent(&world).iter().all(|size| *size == 1));
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert_eq!(world.outcomes.len(), 100);
}

#[test]
fn a_stream_that_takes_no_batches_is_not_asked_again_at_once() {
    let mut world = World::new(Flush::PerCommit);
    world.server.batches = false;
    world.step(Step::Submit(events(30)));
    for _ in 0..31 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert_eq!(world.outcomes.len(), 30);
    let next = |from: u64| Step::Submit((from..from + 30).map(|id| (id, 300)).collect());
    world.step(Step::Pass(29_000));
    world.step(next(100));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Pass(1000));
    world.step(next(200));
    assert_eq!(sent(&world), [[1; 16].as_slice(), &[44]].concat());
}

/// It must not keep its places until its time is over: with all of them taken nothing would be sent for that long.
#[test]
fn what_is_lost_with_its_connection_ends_with_it() {
    let mut world = World::new(Flush::PerCommit);
    for id in 0..16 {
        world.step(Step::Submit(vec![(id, 300)]));
    }
    world.step(Step::Connected(false));
    assert_eq!(world.outcomes.len(), 16);
    assert!(world.outcomes.values().all(|outcome| *outcome == Outcome::Failed(Failure::Unavailable)));
    world.step(Step::Connected(true));
    world.step(Step::Submit(vec![(100, 300)]));
    assert_eq!(sent(&world), [1]);
    world.end();
}

#[test]
fn a_refused_batch_has_nothing_more_of_a_request_that_has_failed() {
    let mut world = World::new(Flush::PerCommit);
    // No batch just now, so that the request begins one by one.
    world.server.stored.insert(999, 1);
    world.step(Step::Submit((990..1020).map(|id| (id, 300)).collect()));
    world.step(Step::Serve(Fate::Arrives));
    world.step(Step::Answer);
    (0..30).for_each(|_| {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    });
    world.server.stored.insert(59, 2);
    world.step(Step::Submit(events(60)));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Pass(100));
    assert_eq!(sent(&world).last(), Some(&44), "the pause is over");
    world.step(Step::Serve(Fate::Refused));
    world.step(Step::Answer);
    (0..16).for_each(|_| {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    });
    let first = world.requests[1][0];
    assert!(matches!(world.outcomes[&first], Outcome::Failed(_)));
    assert!((16..60).all(|event| world.outcomes[&(first + event)] == Outcome::Skipped));
}

#[test]
fn a_full_stream_takes_what_fits_and_the_rest_is_not_sent() {
    let mut world = World::new(Flush::PerCommit);
    world.server.room = 10;
    world.step(Step::Submit(events(60)));
    for _ in 0..30 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    let stored = world.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Stored(_))).count();
    let skipped = world.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Skipped)).count();
    assert_eq!((stored, world.outcomes[&10]), (10, Outcome::Failed(Failure::Full)));
    assert!(skipped >= 30, "{skipped}");
    world.end();
}

/// The answer is lost: those that were stored are recognised, and the others still have half of their time.
#[test]
fn a_batch_without_an_answer_is_repeated_one_by_one() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(30)));
    world.step(Step::Serve(Fate::AnswerLost));
    world.step(Step::Pass(2499));
    assert_eq!(sent(&world).len(), 0);
    world.step(Step::Pass(1));
    assert_eq!(sent(&world), [1; 16]);
    for _ in 0..30 {
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    for ticket in 0..30 {
        assert_eq!(world.outcomes[&ticket], Outcome::Stored(Stored { sequence: ticket + 1, duplicate: true }));
    }
}

/// An acknowledgement that does not count all of a batch is none.
#[test]
fn an_acknowledgement_of_something_else_stores_nothing() {
    let acknowledged =
        |sequence, duplicate, batch_size| Acknowledged { stored: Stored { sequence, duplicate }, batch_size };
    assert_eq!(first_sequence(acknowledged(30, false, Some(30)), 30), Some(1));
    for other in [
        acknowledged(30, false, Some(29)),
        acknowledged(30, false, Some(31)),
        acknowledged(30, false, None),
        acknowledged(30, true, Some(30)),
        acknowledged(29, false, Some(30)),
    ] {
        assert_eq!(first_sequence(other, 30), None, "{other:?}");
    }
}

#[test]
fn without_a_connection_only_what_may_be_stored_waits_for_one() {
    let mut world = World::new(Flush::PerCommit);
    world.step(Step::Submit(events(30)));
    world.step(Step::Submit(vec![(100, 300)]));
    world.step(Step::Connected(false));
    assert_eq!(world.outcomes.get(&30), Some(&Outcome::Failed(Failure::Unavailable)));
    assert_eq!(world.outcomes.len(), 1);
    world.step(Step::Connected(true));
    assert_eq!(sent(&world), [1; 16]);
    world.step(Step::Pass(5000));
    assert!(world.outcomes.values().all(|outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Skipped)));
    world.end();
}

/// Each success of a request gives the rest of it its time again: a slow disk does not fail the last of a thousand.
#[test]
fn a_request_that_gets_on_has_time() {
    let mut world = World::new(Flush::Shared);
    world.step(Step::Submit(events(10)));
    for _ in 0..10 {
        world.step(Step::Pass(4000));
        world.step(Step::Serve(Fate::Arrives));
        world.step(Step::Answer);
    }
    assert!(world.outcomes.values().all(|outcome| matches!(outcome, Outcome::Stored(_))));
    assert_eq!(world.outcomes.len(), 10);
}
