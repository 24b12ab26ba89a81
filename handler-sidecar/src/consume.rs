//! How events are taken, when each may start, and one event's way to its verdict.

pub mod direct;
pub mod in_hand;
pub mod lane;
pub mod pipeline;
pub mod process;
pub mod rate;
pub mod unordered;
pub mod workload;
