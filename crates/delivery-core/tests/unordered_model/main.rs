//! A model check of the unordered discipline: the real state machine, a broker that lends events and takes them back,
//! connections and requests that get lost, a handler that goes away, a drain at any moment.
//!
//! Nothing is acknowledged before its outcome or settled twice; no more attempts run than may, and no more events are
//! asked for; what is here does not go to somebody else; a drain that is over leaves nothing here. And whatever has
//! happened, when it stops happening all events get settled, or the drain ends.

#![allow(clippy::unwrap_used)]

mod world;

use stateright::{Checker as _, HasDiscoveries, Model, Property};
use tidegate_delivery_core::{Discipline as _, Handler, Id};
use world::{Flaw, Troubles, World};

const INVARIANT: &str = "what must hold";
const PROGRESS: &str = "all are settled";
const EVENTS: u64 = 4;
const NO_TROUBLE: Troubles =
    Troubles { reconnects: 0, lost_requests: 0, refusals: 0, retries: 0, outages: 0, drains: 0 };

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Publish,
    Receive,
    Finish(Id),
    Fail(Id),
    Tick,
    Reconnect,
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
            steps.push(Step::Finish(id));
            if trouble.retries > 0 {
                steps.push(Step::Fail(id));
            }
        }
        for (possible, step) in [
            (world.published < self.events, Step::Publish),
            (!world.coming.is_empty(), Step::Receive),
            (trouble.reconnects > 0, Step::Reconnect),
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
    match step {
        Step::Publish => {
            world.published += 1;
            world.deliver();
        }
        Step::Receive => world.receive(),
        Step::Finish(id) => world.finish(*id, true),
        Step::Fail(id) => {
            world.trouble.retries -= 1;
            world.finish(*id, false);
        }
        Step::Tick => world.tick(),
        Step::Reconnect => {
            world.trouble.reconnects -= 1;
            world.reconnect();
        }
        Step::LoseRequest => {
            world.trouble.lost_requests -= 1;
            world.lose_request();
        }
        Step::Refuse => {
            world.trouble.refusals -= 1;
            world.refuse();
        }
        Step::Turn => {
            world.trouble.outages -= 1;
            world.turn();
        }
        Step::Drain => {
            world.trouble.drains -= 1;
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
                u64::try_from(world.acknowledged.len()).unwrap() == sidecar.events
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

/// A walk of so many steps by chance, then a world in which nothing goes wrong any more. How it ended.
fn heals(flaw: Flaw, seed: u64) -> Result<(), &'static str> {
    let mut random = fastrand::Rng::with_seed(seed);
    let drains = random.u8(0..2);
    let trouble = Troubles { reconnects: 3, lost_requests: 3, refusals: 3, retries: 2, outages: 4, drains };
    let sidecar = Sidecar { flaw, trouble, events: 8 };
    let mut world = World::new(flaw, trouble);
    for _ in 0..random.usize(0..120) {
        let steps = sidecar.steps(&world);
        step(&mut world, &steps[random.usize(0..steps.len())]);
    }
    if world.demand.handler == Handler::Away {
        world.turn();
    }
    for _ in 0..400 {
        while !world.coming.is_empty() {
            world.receive();
        }
        let running: Vec<Id> = world.running().collect();
        running.into_iter().for_each(|id| world.finish(id, true));
        world.tick();
    }
    if let Some(broken) = world.broken {
        return Err(broken);
    }
    let drained = world.machine.is_drained() && world.inboxes.is_empty();
    let settled = u64::try_from(world.acknowledged.len()).unwrap() == world.published;
    if drained || settled { Ok(()) } else { Err("something waits for ever") }
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
    ] {
        assert_eq!(breaks(Flaw::None, trouble), None, "{trouble:?}");
    }
}

#[test]
fn every_world_heals() {
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

/// The same machine with a rule taken out: the invariant that is there for it breaks.
#[test]
fn each_rule_is_needed() {
    for (flaw, trouble, expected) in [
        (Flaw::Early, NO_TROUBLE, "an event was acknowledged before its outcome"),
        (Flaw::Mute, NO_TROUBLE, "what is here is not what the machine holds"),
        (Flaw::Wide, NO_TROUBLE, "more events were asked for than may run"),
        (Flaw::Eager, NO_TROUBLE, "more attempts run than may"),
    ] {
        assert_eq!(breaks(flaw, trouble), Some(expected), "{flaw:?}");
    }
    let ends = |flaw| (0..4000).find_map(|seed| heals(flaw, seed).err());
    assert_eq!(ends(Flaw::Deaf), Some("something waits for ever"), "a session in doubt has to be replaced");
}
