//! Whether every copy of every stream has what it should have, and how one that has not is made again.
//!
//! A server finds out only about the end of a stream that something is wrong with its files. A hole further in front it
//! takes for messages that were deleted, calls its copy current, and serves it when it leads. And what a single server finds
//! to be wrong with the end of a stream is gone, and its sequences are used again. So what each server has is
//! counted and compared here: [`look`] asks, [`judge`] decides (pure), [`next`] says what to do about it (pure), and
//! [`HealStep::run`] does that. Nothing is remembered between two looks.

mod heal;
mod judge;
mod look;

#[cfg(test)]
mod judge_tests;

use std::collections::BTreeMap;

pub use self::heal::{HealStep, next};
pub use self::judge::{Acknowledged, Damaged, Elsewhere, Findings, Hole, Tail, elsewhere, judge};
pub use self::look::{look, totals};
use crate::membership::{Counts, Ordinal, StreamId};

/// What the servers are and have, but for their streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// The ids of those that answered. A server has another one after each start.
    pub servers: BTreeMap<Ordinal, String>,
    /// Raft groups of the server that is part of the most: one for each stream and each consumer, and that of the cluster.
    pub groups: usize,
}

/// What the servers have at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// What the servers are.
    pub totals: Totals,
    /// All streams of all topics, those that are retained included.
    pub streams: BTreeMap<StreamId, Copies>,
}

/// The copies of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// How many there are to be.
    pub wanted: usize,
    /// The server that leads the stream.
    pub leader: Option<Ordinal>,
    /// Whether the servers that keep it are about to change.
    pub is_moving: bool,
    /// Whether messages go by their age, which each server sees by its own clock.
    pub expires: bool,
    /// What each server has of it.
    pub counts: BTreeMap<Ordinal, Counts>,
}
