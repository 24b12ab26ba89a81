//! Keys that wait for a person to release them.

use stateright::Model as _;
use tidegate_delivery_core::lane::timing::Rules;

use crate::calm::settle_down;
use crate::lane::{Lane, NO_TROUBLE, Trouble};
use crate::model::Step;
use crate::world::State;
use crate::{LONG, TWO, step, walk};

/// A person removes what is parked of a held key, and the owner asks for all of it again, as after a lost connection:
/// the next event of the key waits, until that person releases the key.
#[test]
fn a_held_key_of_which_all_is_removed_waits_to_be_released() {
    let trouble = Trouble { detentions: 1, purges: 1, reconnects: 1, ..NO_TROUBLE };
    let lane = Lane { keys: TWO, ..walk(Rules::default(), true, trouble) };
    let mut state = lane.init_states().remove(0);
    let pass = |state: &mut State, publishes: bool, releases: bool| {
        let wanted = |step: &Step| match step {
            Step::Publish => publishes,
            Step::Release => releases,
            _ => true,
        };
        settle_down(&lane, state, |step| wanted(step) && !matches!(step, Step::Finish(..) if !publishes)).unwrap();
        step(&lane, state, Step::Tick([true, true]));
    };
    step(&lane, &mut state, Step::Publish);
    while state.nodes[0].running.is_empty() {
        pass(&mut state, false, false);
    }
    let failed = *state.nodes[0].running.first().unwrap();
    step(&lane, &mut state, Step::Detain(0, failed));
    while !state.can_purge(&lane) {
        pass(&mut state, false, false);
    }
    step(&lane, &mut state, Step::Purge);
    step(&lane, &mut state, Step::Reconnect(0));
    for _ in 0..3 * LONG {
        pass(&mut state, true, false);
    }
    assert_eq!((state.broken, state.handled.len()), (None, 1), "the second one waits");
    for _ in 0..3 * LONG {
        pass(&mut state, true, true);
    }
    assert_eq!((state.broken, state.handled.len(), state.broker.acknowledged.len()), (None, 2, 2));
}
