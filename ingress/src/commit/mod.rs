//! Group commit, as far as it decides: which publishes are sent when, and what an answer means for each.

pub mod ledger;
mod recent;
pub mod rule;
