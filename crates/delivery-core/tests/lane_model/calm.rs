//! What becomes of the world when trouble has ended: everything is settled, and soon.

use stateright::{Chooser as _, Model as _};

use crate::lane::Lane;
use crate::model::Step;
use crate::stroll::Stroll;
use crate::world::State;

/// More steps than these without time going on are a loop.
const MAX_STEPS: usize = 2000;

/// Walks at random, each way another one; then nothing goes wrong any more. Everything is settled within two leases:
/// one is that of an owner that died, in the other the next one finds out about it.
pub fn heals(lane: &Lane, seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut state = lane.init_states().remove(0);
    let mut way = Vec::new();
    for _ in 0..random.usize(0..120) {
        let mut steps = Vec::new();
        lane.actions(&state, &mut steps);
        let step = steps.swap_remove(Stroll.choose_action(&mut random, &state, &steps));
        way.push(format!("{}: {step:?}", state.now));
        state = lane.next_state(&state, step).ok_or("no next state")?;
    }
    let end = state.now + 2 * lane.ack_wait;
    loop {
        settle_down(lane, &mut state, |_| true)?;
        if let Some(broken) = state.broken {
            return Err(format!("{broken} after {way:#?}"));
        }
        if state.has_lost() {
            return Err(format!("something is lost after {way:#?}: {state:#?}"));
        }
        let gone = state.nodes.iter().all(|node| !node.is_there || node.owner.is_leaving());
        let is_settled = state.broker.acknowledged.len() == lane.keys.len() && state.shelf.copies.is_empty();
        if gone || is_settled {
            return Ok(());
        }
        if state.now >= end {
            return Err(format!("not settled after {way:#?}: {state:#?}"));
        }
        state = lane.next_state(&state, Step::Tick([true, true])).ok_or("time stands still")?;
        state.expire_pin(lane);
    }
}

/// Everything that can happen at this moment happens, of what is wanted.
pub fn settle_down(lane: &Lane, state: &mut State, wanted: impl Fn(&Step) -> bool) -> Result<(), String> {
    for _ in 0..MAX_STEPS {
        let mut steps = Vec::new();
        lane.actions(state, &mut steps);
        let ordinary = steps.into_iter().find(|step| step.is_ordinary() && wanted(step));
        let Some(step) = ordinary else { return Ok(()) };
        *state = lane.next_state(state, step).ok_or("no next state")?;
    }
    Err("it turns in a circle".to_owned())
}
