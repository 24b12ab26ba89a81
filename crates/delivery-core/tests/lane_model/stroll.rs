//! Long walks through the model, each step chosen at random.

use stateright::Chooser;

use crate::lane::Lane;
use crate::model::Step;
use crate::world::State;

/// Walks on which time does not run away: most steps are something that happens.
#[derive(Clone)]
pub struct Stroll;

impl Chooser<Lane> for Stroll {
    type State = fastrand::Rng;

    fn new_state(&self, seed: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(seed)
    }

    fn choose_initial_state(&self, _: &mut fastrand::Rng, _: &[State]) -> usize {
        0
    }

    fn choose_action(&self, random: &mut fastrand::Rng, _: &State, steps: &[Step]) -> usize {
        let wanted = random.u8(0..8) > 0;
        let fitting: Vec<usize> = (0..steps.len()).filter(|index| steps[*index].is_ordinary() == wanted).collect();
        // Time can always pass, so there is something that is not ordinary.
        random.choice(fitting).unwrap_or(steps.len() - 1)
    }
}
