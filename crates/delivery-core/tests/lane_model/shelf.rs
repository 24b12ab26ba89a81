//! The shelf of the model: what the stream of retries keeps, and the records of settled heads.

use std::collections::BTreeSet;

use tidegate_delivery_core::{Arrival, FetchResult, Id, ParkResult, Pin};

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shelf {
    /// Copies, in the order in which they came, each by the sequence of its event.
    pub copies: Vec<u64>,
    /// The message ids of all copies that ever came: one that comes again is not stored again.
    known: BTreeSet<u64>,
    /// Outcome heads.
    pub marked: BTreeSet<u64>,
}

impl Shelf {
    pub fn has(&self, sequence: u64) -> bool {
        self.copies.contains(&sequence)
    }

    /// Takes copies: one that is known is stored already, and several of which one is known are refused, without saying
    /// which.
    pub fn park(&mut self, ids: &[Id]) -> ParkResult {
        if ids.len() > 1 && ids.iter().any(|id| self.known.contains(&id.sequence)) {
            return ParkResult::Unknown;
        }
        for id in ids {
            if self.known.insert(id.sequence) {
                self.copies.push(id.sequence);
            }
        }
        ParkResult::Stored
    }

    /// The first copy of a key.
    pub fn fetch(&self, key: u64, key_of: impl Fn(u64) -> u64) -> FetchResult {
        let Some(sequence) = self.copies.iter().copied().find(|sequence| key_of(*sequence) == key) else {
            return FetchResult::Nothing;
        };
        // Named where it arrives.
        let id = Id { lane: 0, sequence, stored: sequence, delivery: 0, arrival: 0 };
        FetchResult::Event(Arrival { id, key, inbox: 0, pin: Pin::from(""), bytes: 1, again: true })
    }

    /// Removes a copy.
    pub fn unpark(&mut self, sequence: u64) {
        self.copies.retain(|copy| *copy != sequence);
    }
}
