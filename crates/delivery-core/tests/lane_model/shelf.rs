//! The shelf of the model: what the stream of retries keeps, and the record of its lease.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_delivery_core::lane::Section;
use tidegate_delivery_core::{Arrival, FetchResult, Id, Key, ParkResult, ParkedKeys, Pin, Tenancy};

/// A node's life: which node, and how often it has begun.
pub type Life = (usize, u8);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shelf {
    /// Copies, in the order in which they came, each by the sequence of its event.
    pub copies: Vec<u64>,
    /// The message ids of all copies that came: one that comes again is not stored again.
    known: BTreeSet<u64>,
    /// Keys that wait for a person.
    pub held: BTreeSet<Key>,
    /// The record of the lease: its sequence, and its tenant, if it is not free.
    record: Option<(u64, Option<Life>)>,
    records: u64,
    /// Whether a copy was removed that was there.
    pub has_delivered: bool,
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

    /// The time is over in which a copy that comes again is known.
    pub fn forget_ids(&mut self) {
        self.known.clear();
    }

    fn of(&self, key: Key, key_of: impl Fn(u64) -> Key) -> impl DoubleEndedIterator<Item = u64> {
        self.copies.iter().copied().filter(move |sequence| key_of(*sequence) == key)
    }

    /// The first copy of a key.
    pub fn fetch(&self, key: Key, key_of: impl Fn(u64) -> Key) -> FetchResult {
        let Some(sequence) = self.of(key, key_of).next() else { return FetchResult::Nothing };
        // Named where it arrives.
        let id = Id { lane: 0, sequence, stored: sequence, delivery: 0, arrival: 0 };
        FetchResult::Event(Arrival { id, key, inbox: 0, pin: Pin::from(""), bytes: 1, is_settled: false })
    }

    /// The sequence of the last copy of a key.
    pub fn last(&self, key: Key, key_of: impl Fn(u64) -> Key) -> u64 {
        self.of(key, key_of).next_back().unwrap_or(0)
    }

    /// A person removes what is parked of the keys that are held.
    pub fn purge_held(&mut self, key_of: impl Fn(u64) -> Key) -> Vec<u64> {
        self.copies.extract_if(.., |sequence| self.held.contains(&key_of(*sequence))).collect()
    }

    /// The keys of all copies in a section, if they are no more than `max`; of more the last ones, or none.
    pub fn list(&self, section: Section, max: usize, key_of: impl Fn(u64) -> Key) -> ParkedKeys {
        let parked = self.copies.iter().map(|sequence| key_of(*sequence));
        let all: BTreeSet<Key> = parked.chain(self.held.clone()).filter(|key| section.has(*key)).collect();
        let (count, are_all) = (all.len() as u64, all.len() <= max);
        let told = if are_all || section != Section::ALL { max } else { 0 };
        let keys = all.into_iter().rev().take(told).map(|key| (key, self.held.contains(&key)));
        let keys: BTreeMap<Key, bool> = keys.collect();
        ParkedKeys { keys: keys.into_iter().collect(), are_all, count }
    }

    /// Removes a copy: the first of its event.
    pub fn unpark(&mut self, sequence: u64) {
        if let Some(place) = self.copies.iter().position(|copy| *copy == sequence) {
            self.copies.remove(place);
            self.has_delivered = true;
        }
    }

    /// Whose the lease is.
    pub fn tenant(&self) -> Option<Life> {
        self.record.and_then(|(_, tenant)| tenant)
    }

    /// Replaces the record of the lease, if it is this one.
    pub fn take(&mut self, over: u64, tenant: Option<Life>) -> Tenancy {
        let (sequence, last) = self.record.unwrap_or_default();
        if sequence != over {
            return Tenancy::Other { sequence, is_free: sequence > 0 && (last.is_none() || last == tenant) };
        }
        self.records += 1;
        self.record = Some((self.records, tenant));
        Tenancy::Ours(self.records)
    }

    /// The record makes room for others.
    pub fn lose_record(&mut self) {
        self.record = None;
    }
}
