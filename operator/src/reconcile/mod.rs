//! What all reconcilers have in common: errors, turns, conditions, and what came of each.

pub(crate) mod changes;
pub mod error;
pub mod figures;
pub mod first_round;
pub mod grants;
pub(crate) mod guard;
pub mod metrics;
pub mod pace;
pub mod report;
pub mod slots;
pub mod status;
