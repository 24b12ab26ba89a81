//! A model check of the protocol of a lane: two owners and a broker that pins, redelivers, and whose messages get
//! lost or late; owners that pause, crash and leave at any moment.
//!
//! The owners are the real state machine. What the broker of the model does is what nats-server does: it delivers to
//! the pinned client, what waits for redelivery first; it takes acknowledgements from anybody; it keeps no memory of
//! which sidecar has what; killed, it forgets what it had not written to disk, deliveries and acknowledgements. A
//! NAK counts for whatever it waits for, of whichever delivery it speaks (`processNak`), and it takes the NAKs of one
//! member in order. A request is on its way for no longer than the margin of a lease, or it is lost; deliveries and
//! answers may take any time.

#![allow(clippy::unwrap_used)]

mod broker;
mod calm;
mod held;
mod invariants;
mod lane;
mod model;
mod parking;
mod shelf;
mod stroll;
mod world;

use calm::{heals, settle_down};
use lane::{ACK_WAIT, Begin, Flaw, Lane, NO_TROUBLE, Trouble};
use model::{INVARIANT, KEPT, PROGRESS, Step, UNPARKED};
use stateright::{Checker as _, HasDiscoveries, Model as _};
use stroll::Stroll;
use tidegate_delivery_core::lane::MAX_KEYS;
use tidegate_delivery_core::lane::timing::Rules;
use world::State;

/// Two events of one key.
const TWO: &[u64] = &[1, 1];
/// Three of one key.
const THREE: &[u64] = &[1, 1, 1];
/// Several of two keys.
const SEVERAL: &[u64] = &[1, 2, 1, 1, 2];

/// As things are.
fn lane(keys: &'static [u64], trouble: Trouble, end: u64) -> Lane {
    let (rules, flaw, begin) = (Rules::default(), Flaw::None, Begin::Empty);
    Lane { rules, names: true, lone: false, keys, trouble, flaw, begin, known_keys: MAX_KEYS, ack_wait: ACK_WAIT, end }
}

/// The shortest way to a broken invariant, if there is one among this many states.
fn shortest_break(lane: Lane, states: usize) -> Option<String> {
    let checker = lane.checker().threads(2).target_state_count(states).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_bfs().join();
    let path = checker.discovery(INVARIANT).or_else(|| checker.discovery(KEPT))?;
    let steps = path.into_vec().into_iter().filter_map(|(state, step)| Some(format!("{}: {:?}", state.now, step?)));
    Some(steps.collect::<Vec<_>>().join("\n"))
}

/// Whether long walks find a way to break something, whether all gets settled on some, and whether parked events are
/// delivered on some.
fn strolls(lane: Lane, states: usize) -> (bool, bool, bool) {
    let checker = lane.checker().threads(2).target_state_count(states).finish_when(HasDiscoveries::AnyFailures);
    let checker = checker.spawn_simulation(7, Stroll).join();
    let finds = |name| checker.discovery(name).is_some();
    (finds(INVARIANT) || finds(KEPT), finds(PROGRESS), finds(UNPARKED))
}

#[test]
fn every_state_without_trouble() {
    let checker = lane(TWO, NO_TROUBLE, 5).checker().threads(2).spawn_bfs().join();
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
        Trouble { saves: 1, restarts: 1, ..NO_TROUBLE },
        Trouble { restarts: 1, retries: 1, ..NO_TROUBLE },
    ] {
        assert_eq!(shortest_break(lane(TWO, trouble, 9), 500_000), None, "{trouble:?}");
    }
}

/// A broker that was killed hands out the same event under the same number again, while the first is in flight.
#[test]
fn each_arrival_needs_a_name_of_its_own() {
    let trouble = Trouble { restarts: 1, ..NO_TROUBLE };
    let lane = Lane { names: false, ..lane(&TWO[..1], trouble, 8) };
    let found = shortest_break(lane, 2_000_000).expect("without names something breaks");
    assert!(found.contains("Restart"), "{found}");
}

/// What breaks where a broker is killed and hands out again what was acknowledged, and confirmed, to the same owner.
fn repetition(rules: Rules) -> Option<&'static str> {
    let trouble = Trouble { saves: 1, restarts: 1, ..NO_TROUBLE };
    let lane = Lane { keys: &TWO[..1], ..walk(rules, true, trouble) };
    let mut state = lane.init_states().remove(0);
    step(&lane, &mut state, Step::Publish);
    step(&lane, &mut state, Step::Save);
    while state.broker.acknowledged.is_empty() {
        settle_down(&lane, &mut state, |_| true).unwrap();
        step(&lane, &mut state, Step::Tick([true, true]));
    }
    settle_down(&lane, &mut state, |_| true).unwrap();
    assert_eq!((state.broken, state.nodes[0].owner.in_hand()), (None, 0), "it is confirmed");
    step(&lane, &mut state, Step::Restart);
    assert!(!state.broker.pending.is_empty(), "the broker has forgotten it");
    while !state.broker.pending.is_empty() && state.broken.is_none() && state.now < 5 * LONG {
        settle_down(&lane, &mut state, |_| true).unwrap();
        step(&lane, &mut state, Step::Tick([true, true]));
    }
    assert!(state.broken.is_some() || state.broker.pending.is_empty(), "it is acknowledged again");
    state.broken
}

#[test]
fn what_was_settled_needs_to_be_remembered() {
    let without = Rules { memory: false, ..Rules::default() };
    assert_eq!(repetition(without), Some("it started again where it was handled"));
    assert_eq!(repetition(Rules::default()), None);
    let trouble = Trouble { saves: 1, restarts: 1, ..NO_TROUBLE };
    for lone in [true, false] {
        let lane = |rules| Lane { rules, lone, ..lane(&TWO[..1], trouble, 12) };
        assert_eq!(shortest_break(lane(Rules::default()), 500_000), None);
    }
}

/// A lease that is long beside the life of a pull, as it is.
const LONG: u64 = 12;

/// All troubles, of a lane that one has for itself for a while.
const LONE: Trouble = Trouble {
    lost_deliveries: 2,
    lost_requests: 2,
    lost_pins: 2,
    retries: 2,
    saves: 1,
    restarts: 1,
    reconnects: 2,
    refusals: 2,
    joins: 1,
    leaves: 1,
    refused_copies: 1,
    lost_answers: 1,
    detentions: 1,
    purges: 1,
    ..NO_TROUBLE
};

fn walk(rules: Rules, lone: bool, trouble: Trouble) -> Lane {
    Lane { rules, lone, ack_wait: LONG, begin: Begin::Cold, ..lane(SEVERAL, trouble, 200) }
}

/// The lane goes one step on.
fn step(lane: &Lane, state: &mut State, step: Step) {
    *state = lane.next_state(state, step).unwrap();
}

/// Of these worlds each walk has to end well: one owner, whose broker forgets; one that is joined by another; two that
/// crash.
fn worlds() -> [(bool, Trouble); 3] {
    let alone = Trouble { joins: 0, leaves: 0, ..LONE };
    let joined = Trouble { restarts: 0, ..LONE };
    let crowded = Trouble { crashes: 1, joins: 0, restarts: 0, ..LONE };
    [(true, alone), (true, joined), (false, crowded)]
}

#[test]
fn every_world_heals_soon() {
    // The last ones are those that once did not.
    for seed in (0..8000).chain([11_004, 18_524, 21_317, 37_643, 150_119]) {
        for (lone, trouble) in worlds() {
            assert_eq!(heals(&walk(Rules::default(), lone, trouble), seed), Ok(()), "seed {seed}, {trouble:?}");
        }
    }
}

/// A broker that has forgotten what it lent to whom lends the same to two: order may break, but nothing stands still.
#[test]
fn nothing_stands_still_where_two_have_what_a_broker_has_forgotten() {
    // Copies of what one owner parked and the other has handled may be left: nothing is parked here.
    let joined = Trouble { retries: 0, ..LONE };
    let crowded = Trouble { crashes: 1, joins: 0, ..joined };
    for seed in 0..5000 {
        for (lone, trouble) in [(true, joined), (false, crowded)] {
            let end = heals(&walk(Rules::default(), lone, trouble), seed);
            assert!(!end.as_ref().is_err_and(|error| error.starts_with("not settled")), "seed {seed}: {end:?}");
        }
    }
}

/// What is given back may come to the broker after it has lent the same again.
#[test]
fn what_comes_again_has_to_be_held() {
    let (lone, trouble) = worlds()[0];
    let without = Rules { holding: false, ..Rules::default() };
    let ends = (0..8000).map(|seed| heals(&walk(without, lone, trouble), seed));
    let broken = ends.filter_map(Result::err).find(|error| error.starts_with("it started without a lease"));
    assert!(broken.is_some(), "without holding nothing breaks");
}

/// After how many ticks everything is settled, if an event is lost on its way to the only owner.
fn settled_after_a_loss(rules: Rules) -> u64 {
    let lane = Lane { keys: &SEVERAL[..3], ..walk(rules, true, Trouble { lost_deliveries: 1, ..NO_TROUBLE }) };
    let mut state = lane.init_states().remove(0);
    step(&lane, &mut state, Step::Publish);
    settle_down(&lane, &mut state, |next| !matches!(next, Step::Publish)).unwrap();
    while state.broker.acknowledged.is_empty() {
        step(&lane, &mut state, Step::Tick([true, true]));
        settle_down(&lane, &mut state, |next| !matches!(next, Step::Publish)).unwrap();
    }
    step(&lane, &mut state, Step::Publish);
    step(&lane, &mut state, Step::LoseDelivery(0));
    let lost = state.now;
    while state.broker.acknowledged.len() < lane.keys.len() && state.now < lost + 3 * LONG {
        settle_down(&lane, &mut state, |_| true).unwrap();
        step(&lane, &mut state, Step::Tick([true, true]));
    }
    state.now - lost
}

#[test]
fn what_is_lost_is_asked_for() {
    assert!(settled_after_a_loss(Rules::default()) <= 6);
    assert!(settled_after_a_loss(Rules { reclaiming: false, ..Rules::default() }) >= LONG);
}

/// What breaks while an attempt runs at an owner that has lost the pin.
fn overlap(rules: Rules) -> Option<&'static str> {
    let lane = walk(rules, false, Trouble { lost_pins: 1, ..NO_TROUBLE });
    let mut state = lane.init_states().remove(0);
    let goes_on = |next: &Step| !matches!(next, Step::Publish | Step::Finish(0, _));
    step(&lane, &mut state, Step::Publish);
    while state.nodes[0].running.is_empty() {
        settle_down(&lane, &mut state, goes_on).unwrap();
        step(&lane, &mut state, Step::Tick([true, true]));
    }
    step(&lane, &mut state, Step::LosePin);
    step(&lane, &mut state, Step::Publish);
    for _ in 0..3 * LONG {
        settle_down(&lane, &mut state, goes_on).unwrap();
        step(&lane, &mut state, Step::Tick([true, true]));
    }
    assert_eq!(state.nodes[0].running.len(), 1);
    state.broken
}

/// What is with another member is not asked for.
#[test]
fn only_what_is_with_nobody_is_reclaimed() {
    assert_eq!(overlap(Rules { caution: false, ..Rules::default() }), Some("it started while another had it"));
    assert_eq!(overlap(Rules::default()), None);
    for trouble in [
        Trouble { lost_deliveries: 1, lost_pins: 1, joins: 1, ..NO_TROUBLE },
        Trouble { reconnects: 1, joins: 1, ..NO_TROUBLE },
        Trouble { restarts: 1, lost_deliveries: 1, ..NO_TROUBLE },
    ] {
        let lane = Lane { lone: true, ..lane(TWO, trouble, 9) };
        assert_eq!(shortest_break(lane, 500_000), None, "{trouble:?}");
    }
}

#[test]
fn long_walks_through_all_troubles_at_once() {
    let trouble = Trouble {
        lost_deliveries: 2,
        lost_requests: 3,
        lost_pins: 3,
        crashes: 1,
        retries: 2,
        leaves: 1,
        refused_copies: 1,
        lost_answers: 1,
        ..NO_TROUBLE
    };
    let all = Rules::default();
    let (breaks, settles, _) = strolls(lane(SEVERAL, trouble, 60), 500_000);
    assert_eq!((breaks, settles), (false, true));
    let (breaks, ..) = strolls(Lane { rules: Rules { barrier: false, ..all }, ..lane(SEVERAL, trouble, 60) }, 500_000);
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
        let found = shortest_break(Lane { rules, ..lane(keys, trouble, 8) }, 2_000_000);
        assert!(found.is_some(), "{what}: nothing breaks");
    }
}
