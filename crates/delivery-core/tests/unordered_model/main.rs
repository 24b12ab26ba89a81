//! A model check of the unordered discipline: the real state machine, a broker that lends events and takes them back,
//! a retry shelf, connections and requests that get lost, a broker and a sidecar that are killed, a handler that goes
//! away, a drain at any moment.
//!
//! Nothing is acknowledged before its outcome or settled twice, and nothing is lost; no more attempts run than may, and
//! no more events are asked for; neither source waits for the other; what is here does not go to somebody else; a drain
//! that is over leaves nothing here. And whatever has happened, when it stops happening all events get settled in a
//! bounded time, or the drain ends.

#![allow(clippy::unwrap_used)]

mod attempts;
mod broker;
mod troubles;
mod world;

use attempts::AttemptEnd;
use broker::ACK_WAIT;
use stateright::{Checker as _, HasDiscoveries, Model, Property};
use tidegate_delivery_core::{Discipline as _, Handler, Id, Lane, Moment, SHELF, TOPIC};
use troubles::Troubles;
use world::{Flaw, LONG_WAIT, World};

const INVARIANT: &str = "what must hold";
const PROGRESS: &str = "all are settled";
const EVENTS: u64 = 4;
const NO_TROUBLE: Troubles = Troubles {
    reconnects: 0,
    restarts: 0,
    lost_ends: 0,
    crashes: 0,
    lost_requests: 0,
    refusals: 0,
    retries: 0,
    shelved: 0,
    unconfirmed: 0,
    full: 0,
    outages: 0,
    drains: 0,
};
/// After the last trouble everything is settled within this: two leases, a wait, and what a session takes to notice.
const SETTLED_WITHIN: Moment = 2 * ACK_WAIT + LONG_WAIT + 10_000;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Publish,
    Receive,
    Finish(Id, AttemptEnd),
    Tick,
    Reconnect,
    Restart,
    LoseTheEnd,
    Crash,
    LoseRequest,
    Refuse,
    Turn,
    Drain,
}

struct Sidecar {
    flaw: Flaw,
    trouble: Troubles,
    events: u64,
}

impl Sidecar {
    fn steps(&self, world: &World) -> Vec<Step> {
        let trouble = &world.trouble;
        let mut steps = vec![Step::Tick];
        for id in world.running() {
            for (possible, outcome) in [
                (true, AttemptEnd::Success),
                (trouble.retries > 0, AttemptEnd::Soon),
                (trouble.shelved > 0, AttemptEnd::Later),
                (trouble.unconfirmed > 0, AttemptEnd::Unconfirmed),
                (trouble.full > 0, AttemptEnd::Full),
            ] {
                if possible {
                    steps.push(Step::Finish(id, outcome));
                }
            }
        }
        for (possible, step) in [
            (world.published < self.events, Step::Publish),
            (!world.coming.is_empty(), Step::Receive),
            (trouble.reconnects > 0, Step::Reconnect),
            (trouble.restarts > 0, Step::Restart),
            (trouble.lost_ends > 0 && world.can_lose_the_end(), Step::LoseTheEnd),
            (trouble.crashes > 0, Step::Crash),
            (trouble.lost_requests > 0 && !world.open.is_empty(), Step::LoseRequest),
            (trouble.refusals > 0 && !world.open.is_empty(), Step::Refuse),
            (trouble.outages > 0, Step::Turn),
            (trouble.drains > 0, Step::Drain),
        ] {
            if possible {
                steps.push(step);
            }
        }
        steps
    }
}

fn step(world: &mut World, step: &Step) {
    let trouble = &mut world.trouble;
    match step {
        Step::Publish => world.publish(),
        Step::Receive => world.receive(),
        Step::Tick => world.tick(),
        Step::Finish(id, outcome) => {
            match outcome {
                AttemptEnd::Success => {}
                AttemptEnd::Soon => trouble.retries -= 1,
                AttemptEnd::Later => trouble.shelved -= 1,
                AttemptEnd::Unconfirmed => trouble.unconfirmed -= 1,
                AttemptEnd::Full => trouble.full -= 1,
            }
            world.finish(*id, *outcome);
        }
        Step::Reconnect => {
            trouble.reconnects -= 1;
            world.reconnect();
        }
        Step::Restart => {
            trouble.restarts -= 1;
            world.restart();
        }
        Step::LoseTheEnd => {
            trouble.lost_ends -= 1;
            world.lose_the_end();
        }
        Step::Crash => {
            trouble.crashes -= 1;
            world.crash();
        }
        Step::LoseRequest => {
            trouble.lost_requests -= 1;
            world.lose_request();
        }
        Step::Refuse => {
            trouble.refusals -= 1;
            world.refuse();
        }
        Step::Turn => {
            trouble.outages -= 1;
            world.turn();
        }
        Step::Drain => {
            trouble.drains -= 1;
            world.drain();
        }
    }
}

impl Model for Sidecar {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.flaw, self.trouble)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.extend(self.steps(world));
    }

    fn next_state(&self, world: &World, chosen: Step) -> Option<World> {
        let mut world = world.clone();
        step(&mut world, &chosen);
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(INVARIANT, |_, world: &World| world.broken.is_none()),
            Property::sometimes(PROGRESS, |sidecar: &Sidecar, world: &World| {
                world.published == sidecar.events && world.is_settled()
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now < 12_000
    }
}

/// What breaks first, if something does among this many states.
fn breaks(flaw: Flaw, trouble: Troubles) -> Option<&'static str> {
    let sidecar = Sidecar { flaw, trouble, events: EVENTS };
    let checker = sidecar.checker().threads(2).target_state_count(150_000).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    checker.discovery(INVARIANT)?.into_states().last()?.broken
}

/// Nothing goes wrong any more. Whether everything is settled in time, or a drain is over.
fn settles(mut world: World) -> Result<(), &'static str> {
    if world.demand.handler == Handler::Away {
        world.turn();
    }
    let end = world.now + SETTLED_WITHIN;
    let is_over = |world: &World| world.is_settled() || (world.machine.is_drained() && world.inboxes.is_empty());
    while !is_over(&world) && world.now < end && world.broken.is_none() {
        while !world.coming.is_empty() {
            world.receive();
        }
        let running: Vec<Id> = world.running().collect();
        running.into_iter().for_each(|id| world.finish(id, AttemptEnd::Success));
        world.tick();
    }
    match world.broken {
        Some(broken) => Err(broken),
        None if is_over(&world) => Ok(()),
        None => Err("something waits for too long"),
    }
}

/// A walk of so many steps by chance, then a world in which nothing goes wrong any more. How it ended.
fn heals(flaw: Flaw, seed: u64) -> Result<(), &'static str> {
    let mut random = fastrand::Rng::with_seed(seed);
    let (drains, crashes) = (random.u8(0..2), random.u8(0..2));
    let trouble = Troubles {
        reconnects: 3,
        restarts: 2,
        lost_ends: 2,
        crashes,
        lost_requests: 3,
        refusals: 3,
        retries: 2,
        shelved: 4,
        unconfirmed: 2,
        full: 2,
        outages: 4,
        drains,
    };
    let sidecar = Sidecar { flaw, trouble, events: 8 };
    let mut world = World::new(flaw, trouble);
    for _ in 0..random.usize(0..120) {
        let steps = sidecar.steps(&world);
        step(&mut world, &steps[random.usize(0..steps.len())]);
    }
    settles(world)
}

#[test]
fn nothing_breaks_near_the_beginning_of_each_trouble() {
    for trouble in [
        NO_TROUBLE,
        Troubles { reconnects: 1, ..NO_TROUBLE },
        Troubles { lost_requests: 1, retries: 1, ..NO_TROUBLE },
        Troubles { refusals: 1, outages: 1, ..NO_TROUBLE },
        Troubles { outages: 2, drains: 1, ..NO_TROUBLE },
        Troubles { drains: 1, retries: 1, ..NO_TROUBLE },
        Troubles { shelved: 2, crashes: 1, ..NO_TROUBLE },
        Troubles { unconfirmed: 1, full: 1, ..NO_TROUBLE },
        Troubles { shelved: 1, restarts: 1, ..NO_TROUBLE },
        Troubles { shelved: 2, drains: 1, ..NO_TROUBLE },
        Troubles { restarts: 1, reconnects: 1, ..NO_TROUBLE },
        Troubles { lost_ends: 1, ..NO_TROUBLE },
        Troubles { lost_ends: 1, retries: 1, ..NO_TROUBLE },
    ] {
        assert_eq!(breaks(Flaw::None, trouble), None, "{trouble:?}");
    }
}

#[test]
fn every_world_heals_in_time() {
    for seed in 0..4000 {
        assert_eq!(heals(Flaw::None, seed), Ok(()), "seed {seed}");
    }
}

/// What breaks while one attempt takes three times as long as the broker waits.
fn breaks_in_a_long_attempt(flaw: Flaw) -> Option<&'static str> {
    let mut world = World::new(flaw, NO_TROUBLE);
    step(&mut world, &Step::Publish);
    step(&mut world, &Step::Receive);
    assert_eq!(world.running().count(), 1);
    while world.now < 90_000 {
        world.tick();
    }
    world.broken
}

#[test]
fn an_event_that_is_worked_on_is_renewed() {
    assert_eq!(breaks_in_a_long_attempt(Flaw::None), None);
    assert_eq!(breaks_in_a_long_attempt(Flaw::Idle), Some("an event that is here went to somebody else"));
}

/// An event that fails in a drain would otherwise come back by the request that is still open.
#[test]
fn what_a_drain_gives_back_goes_to_others() {
    let mut world = World::new(Flaw::None, NO_TROUBLE);
    step(&mut world, &Step::Publish);
    step(&mut world, &Step::Receive);
    step(&mut world, &Step::Drain);
    assert!(world.machine.outstanding() > 0, "a request is open");
    let id = world.running().next().unwrap();
    world.finish(id, AttemptEnd::Soon);
    while !world.coming.is_empty() {
        world.receive();
    }
    assert_eq!((world.running().count(), world.broken), (0, None));
    assert_eq!(world.waits_for_others(), [id.sequence], "it waits for another one");
}

/// The process is frozen for a minute, with events in its socket, after a drain has closed the session. When it runs again
/// it looks at the clock before it reads.
#[test]
fn what_came_to_a_frozen_process_is_given_back() {
    let mut world = World::new(Flaw::None, NO_TROUBLE);
    (0..2).for_each(|_| world.publish());
    world.turn();
    world.drain();
    world.now += 60_000;
    world.act();
    assert_eq!(world.broken, None);
    while !world.coming.is_empty() {
        world.receive();
    }
    assert!(world.machine.is_drained());
    assert_eq!(world.waits_for_others(), [1, 2], "they go to others soon");
}

/// How many of the events behind some that fail for long are handled before those are tried again.
fn handled_meanwhile(flaw: Flaw) -> usize {
    let mut world = World::new(flaw, NO_TROUBLE);
    (0..8).for_each(|_| world.publish());
    while world.now < LONG_WAIT {
        while !world.coming.is_empty() {
            world.receive();
        }
        let running: Vec<Id> = world.running().collect();
        for id in running {
            let fails = id.sequence <= 4 && id.lane == TOPIC;
            world.finish(id, if fails { AttemptEnd::Later } else { AttemptEnd::Success });
        }
        world.tick();
    }
    assert_eq!(world.broken, None);
    world.handled.len()
}

#[test]
fn what_fails_for_long_does_not_take_the_window() {
    assert_eq!(handled_meanwhile(Flaw::None), 4);
    assert_eq!(handled_meanwhile(Flaw::Shelfless), 0, "without a shelf they wait in the window");
}

/// Both sources have events that wait: neither waits for more than two attempts of the other. (That they alternate
/// where both have one here is an invariant.)
#[test]
fn sources_take_turns() {
    let mut world = World::new(Flaw::None, NO_TROUBLE);
    (0..12).for_each(|_| world.publish());
    let mut order = Vec::new();
    while world.shelf.acknowledged.len() < 4 && order.len() < 100 {
        while !world.coming.is_empty() {
            world.receive();
        }
        // Whatever is on the shelf is due.
        world.records.clear();
        let Some(id) = world.running().min_by_key(|id| id.arrival) else { break };
        let fails = id.sequence <= 4 && id.lane == TOPIC;
        world.finish(id, if fails { AttemptEnd::Later } else { AttemptEnd::Success });
        order.push(id.lane);
    }
    assert_eq!(world.broken, None);
    let first = order.iter().position(|lane| *lane == SHELF).unwrap();
    let both = |lanes: &[Lane]| lanes.contains(&TOPIC) && lanes.contains(&SHELF);
    assert!(order[first..].windows(3).all(both), "{order:?}");
}

/// The same machine with a rule taken out: the invariant that is there for it breaks.
#[test]
fn each_rule_is_needed() {
    let shelved = Troubles { shelved: 1, full: 1, ..NO_TROUBLE };
    for (flaw, trouble, expected) in [
        (Flaw::Early, NO_TROUBLE, "an event was acknowledged before its outcome"),
        (Flaw::Mute, NO_TROUBLE, "what is here is not what the machine holds"),
        (Flaw::Wide, NO_TROUBLE, "more events were asked for than may run"),
        (Flaw::Eager, NO_TROUBLE, "more attempts run than may"),
        (Flaw::Hasty, shelved, "an event was acknowledged before its outcome"),
        (Flaw::Forgetful, Troubles { restarts: 1, ..NO_TROUBLE }, "what was settled here starts again"),
    ] {
        assert_eq!(breaks(flaw, trouble), Some(expected), "{flaw:?}");
    }
    let nameless = breaks(Flaw::Nameless, Troubles { lost_ends: 1, ..NO_TROUBLE });
    let lost = [Some("an event is lost"), Some("an event was acknowledged before its outcome")];
    assert!(lost.contains(&nameless), "{nameless:?}: a walk of two threads finds the one or the other");
    let ends = |flaw| (0..4000).find_map(|seed| heals(flaw, seed).err());
    assert_eq!(ends(Flaw::Deaf), Some("something waits for too long"), "a session in doubt has to be replaced");
    assert_eq!(ends(Flaw::Blind), Some("something waits for too long"), "the shelf has to be read");
}
