//! The lane of a model: its events, what may go wrong with it and how often, and the times of its owners.

use std::collections::{BTreeSet, VecDeque};

use tidegate_delivery_core::Moment;
use tidegate_delivery_core::lane::owner::Owner;
use tidegate_delivery_core::lane::timing::{LaneTiming, Rules};

use crate::world::Node;

/// In the models that go through all states.
pub const ACK_WAIT: Moment = 4;
pub const MARGIN: Moment = 1;
/// Events delivered and not acknowledged, at most.
pub const WINDOW: usize = 3;

/// What may go wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trouble {
    pub lost_deliveries: u8,
    pub lost_requests: u8,
    pub lost_pins: u8,
    pub crashes: u8,
    pub retries: u8,
    pub leaves: u8,
    pub saves: u8,
    pub restarts: u8,
    pub reconnects: u8,
    pub refusals: u8,
    /// Whether the second node is there later, if at all.
    pub joins: u8,
    /// Copies that the shelf has no room for.
    pub refused_copies: u8,
    /// Answers about the shelf.
    pub lost_answers: u8,
    /// Failures after which a person has to release the key.
    pub detentions: u8,
    /// Keys of which a person removes what is parked.
    pub purges: u8,
    /// The records of leases of the shelf that make room for others, and how often copies are not known any more.
    pub lost_records: u8,
    pub forgotten_ids: u8,
}

pub const NO_TROUBLE: Trouble = Trouble {
    lost_deliveries: 0,
    lost_requests: 0,
    lost_pins: 0,
    crashes: 0,
    retries: 0,
    leaves: 0,
    saves: 0,
    restarts: 0,
    reconnects: 0,
    refusals: 0,
    joins: 0,
    refused_copies: 0,
    lost_answers: 0,
    detentions: 0,
    purges: 0,
    lost_records: 0,
    forgotten_ids: 0,
};

/// What is wrong with the driver of the owners, to show that it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    None,
    /// Copies are taken for stored that are not known to be.
    CopiesUnconfirmed,
    /// The lease of the shelf is taken for ours when it is another's.
    LeaseOfAnother,
}

/// Where the walks begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Nothing is published, and nothing known.
    Cold,
    /// Nothing is published, and that nothing is parked is known.
    Empty,
    /// One node has everything, and the attempt of the first event has failed.
    Failed,
    /// And what is behind that is parked.
    Parked,
}

pub struct Lane {
    pub rules: Rules,
    /// Whether each arrival has a name of its own. It does, but where the model shows why.
    pub names: bool,
    /// Whether there is one node at first.
    pub lone: bool,
    /// The keys of the events, in the order of the stream.
    pub keys: &'static [u64],
    pub trouble: Trouble,
    pub ack_wait: Moment,
    pub flaw: Flaw,
    pub begin: Begin,
    /// Parked keys that are known at a time.
    pub known_keys: usize,
    pub end: Moment,
}

impl Lane {
    pub fn terms(&self) -> LaneTiming {
        LaneTiming {
            ack_wait: self.ack_wait,
            margin: MARGIN,
            renew_below: 1,
            pull_every: 2,
            pull_expires: 4,
            batch: 8,
            pause: 1,
            longest_pause: 1,
            at_work: 8,
            park_wait: 1,
            park_above: 0,
            shelved_after: 2,
            kept_for: 2,
            shelf_lease: self.ack_wait * 3 / 4,
            release_noticed_within: 2,
            // One by one there are more that are under way beside something else.
            copies: if self.rules.reads_alone { 2 } else { 1 },
            known_keys: self.known_keys,
            rules: self.rules,
        }
    }

    pub fn node(&self) -> Node {
        Node {
            owner: Owner::new(0, self.terms()),
            here: BTreeSet::new(),
            arrivals: 0,
            life: 0,
            running: BTreeSet::new(),
            handled: BTreeSet::new(),
            inbox: VecDeque::new(),
            answers: Vec::new(),
            is_there: true,
        }
    }

    pub fn key(&self, sequence: u64) -> u64 {
        self.keys[usize::try_from(sequence - 1).unwrap()]
    }
}
