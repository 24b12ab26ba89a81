//! Events that are parked, and the lease of the shelf.

use stateright::Model as _;
use tidegate_delivery_core::lane::timing::Rules;

use crate::calm::{heals, settle_down};
use crate::lane::{Begin, Flaw, Lane, NO_TROUBLE, Trouble};
use crate::model::Step;
use crate::{LONG, SEVERAL, THREE, lane, shortest_break, step, strolls, walk};

/// Of four keys in different sections.
const MANY: &[u64] = &[1, 5 << 60, 9 << 60, 1, 15 << 60, 5 << 60, 9 << 60, 15 << 60];

/// With a head that failed at the beginning.
fn parking(begin: Begin, keys: &'static [u64], trouble: Trouble) -> Lane {
    let trouble = Trouble { retries: trouble.retries + 1, ..trouble };
    Lane { begin, ..lane(keys, trouble, 30) }
}

#[test]
fn every_state_near_the_beginning_of_each_trouble_with_parked_events() {
    for trouble in [
        Trouble { crashes: 1, lost_pins: 1, ..NO_TROUBLE },
        Trouble { lost_answers: 1, lost_requests: 1, ..NO_TROUBLE },
        Trouble { refused_copies: 1, ..NO_TROUBLE },
        Trouble { leaves: 1, ..NO_TROUBLE },
    ] {
        for begin in [Begin::Failed, Begin::Parked] {
            assert_eq!(shortest_break(parking(begin, THREE, trouble), 100_000), None, "{begin:?} {trouble:?}");
        }
    }
}

/// More keys fail than one owner can know.
fn crowd(rules: Rules, known_keys: usize) -> Lane {
    let trouble = Trouble { retries: 4, detentions: 2, purges: 1, crashes: 1, leaves: 1, lost_pins: 1, ..NO_TROUBLE };
    Lane { keys: MANY, known_keys, ..walk(rules, false, trouble) }
}

#[test]
fn where_more_are_parked_than_can_be_known_all_are_found() {
    for known_keys in [1, 2] {
        for seed in 0..3000 {
            if let Err(error) = heals(&crowd(Rules::default(), known_keys), seed) {
                panic!("seed {seed}, {known_keys} known: {error}");
            }
        }
    }
    let ends = |rules: Rules| (0..3000).filter_map(move |seed| heals(&crowd(rules, 1), seed).err());
    assert!(ends(Rules { rounds: false, ..Rules::default() }).any(|error| error.starts_with("not settled")));
    assert!(
        ends(Rules { marks: false, ..Rules::default() })
            .any(|error| error.starts_with("it started while its key was held"))
    );
}

#[test]
fn long_walks_with_parked_events() {
    let crash = Trouble { crashes: 1, lost_pins: 1, retries: 1, ..NO_TROUBLE };
    for trouble in [
        NO_TROUBLE,
        crash,
        Trouble { lost_answers: 2, lost_requests: 2, ..crash },
        Trouble { lost_pins: 2, lost_deliveries: 1, ..crash },
        Trouble { refused_copies: 2, leaves: 1, ..crash },
        Trouble { detentions: 1, leaves: 1, ..crash },
        Trouble { detentions: 1, purges: 1, reconnects: 1, ..crash },
        Trouble { forgotten_ids: 1, lost_records: 1, ..crash },
        Trouble { restarts: 1, saves: 1, retries: 1, ..NO_TROUBLE },
    ] {
        for (begin, keys) in [(Begin::Failed, SEVERAL), (Begin::Parked, THREE)] {
            // What a killed broker has forgotten only the same owner knows.
            let lane = Lane { lone: trouble.restarts > 0, ..parking(begin, keys, trouble) };
            assert_eq!(strolls(lane, 100_000), (false, true, true), "{begin:?} {trouble:?}");
        }
    }
}

#[test]
fn each_rule_of_parking_is_needed() {
    let all = Rules::default();
    let crash = Trouble { crashes: 1, lost_pins: 1, ..NO_TROUBLE };
    let lost_requests = Trouble { lost_requests: 2, ..NO_TROUBLE };
    let twice = Trouble { lost_requests: 2, ..crash };
    for (what, rules, flaw, begin, trouble) in [
        ("an unconfirmed copy", all, Flaw::CopiesUnconfirmed, Begin::Failed, lost_requests),
        ("a new owner that does not ask", Rules { inventory: false, ..all }, Flaw::None, Begin::Failed, crash),
        ("a lease that is another's", all, Flaw::LeaseOfAnother, Begin::Parked, crash),
        ("a read beside a copy", Rules { reads_alone: false, ..all }, Flaw::None, Begin::Failed, lost_requests),
        ("an event in flight and on the shelf", Rules { twins: false, ..all }, Flaw::None, Begin::Failed, twice),
    ] {
        let (breaks, ..) = strolls(Lane { rules, flaw, ..parking(begin, THREE, trouble) }, 3_000_000);
        assert!(breaks, "{what}: nothing breaks");
    }
}

/// What breaks where an owner dies after copies are on the shelf and before they are acknowledged, and when the next one
/// has them, the broker does not know their ids any more.
fn second_copies(rules: Rules) -> Option<&'static str> {
    let trouble = Trouble { crashes: 1, forgotten_ids: 1, ..NO_TROUBLE };
    let lane = Lane { rules, ack_wait: LONG, ..parking(Begin::Failed, THREE, trouble) };
    let mut state = lane.init_states().remove(0);
    while state.shelf.copies.is_empty() {
        let mut steps = Vec::new();
        lane.actions(&state, &mut steps);
        let ordinary = steps.into_iter().find(Step::is_ordinary).unwrap_or(Step::Tick([true, true]));
        step(&lane, &mut state, ordinary);
    }
    step(&lane, &mut state, Step::Crash(0));
    step(&lane, &mut state, Step::ForgetIds);
    let end = state.now + 3 * LONG;
    while state.broken.is_none() && state.now < end {
        settle_down(&lane, &mut state, |_| true).unwrap();
        step(&lane, &mut state, Step::Tick([true, true]));
        state.expire_pin(&lane);
    }
    assert!(state.broken.is_some() || (state.broker.acknowledged.len() == 3 && state.shelf.copies.is_empty()));
    state.broken
}

#[test]
fn up_to_where_a_key_is_copied_needs_to_be_known() {
    assert_eq!(second_copies(Rules::default()), None);
    assert!(second_copies(Rules { ends: false, ..Rules::default() }).is_some());
}

/// Where the record of the lease of the shelf is lost, a former owner may still have it.
#[test]
fn a_lease_without_a_record_has_to_be_waited_for() {
    let trouble = Trouble { crashes: 1, lost_pins: 2, retries: 2, lost_records: 1, forgotten_ids: 1, ..NO_TROUBLE };
    let ends = |patience: bool| {
        let rules = Rules { patience, ..Rules::default() };
        (0..8000).filter_map(move |seed| heals(&walk(rules, false, trouble), seed).err())
    };
    // It may take one wait more than without this loss.
    assert_eq!(ends(true).find(|error| !error.starts_with("not settled")), None);
    assert!(ends(false).any(|error| error.starts_with("it started while another had the shelf")));
}
