//! What is in flight: one entry for each arrival, under a name that no other has. Pure.
//!
//! The sequence and the consumer's number of a delivery are no such name: a broker that was killed may have forgotten
//! its last deliveries, and then hands out the same event under the same number again. An entry that takes another's
//! place would take its end with it: its bytes, its count, its acknowledgement.

use std::collections::BTreeMap;

use super::owner::Id;

/// All entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InFlight<E> {
    entries: BTreeMap<Id, E>,
    arrivals: u64,
}

impl<E> Default for InFlight<E> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), arrivals: 0 }
    }
}

impl<E> InFlight<E> {
    /// Takes in what arrived.
    pub fn insert(&mut self, sequence: u64, delivery: u64, entry: E) -> Id {
        self.arrivals += 1;
        let id = Id { sequence, delivery, arrival: self.arrivals };
        self.entries.insert(id, entry);
        id
    }

    /// Removes what is over.
    pub fn remove(&mut self, id: Id) -> Option<E> {
        self.entries.remove(&id)
    }

    /// The entry of this arrival, unless it was removed.
    pub fn get(&self, id: Id) -> Option<&E> {
        self.entries.get(&id)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut E> {
        self.entries.get_mut(&id)
    }

    /// The names of all, in the order of the stream.
    pub fn ids(&self) -> Vec<Id> {
        self.entries.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ops::budget::{ByteBudget, Share};

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The same few events arrive again and again, under the same few numbers.
        Arrive { sequence: u64, delivery: u64, bytes: usize },
        /// One of those that ever arrived is removed: here or not.
        Remove(usize),
        /// One is looked for.
        Look(usize),
        /// All is dropped, as with the lane.
        Drop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u64..4, 1u64..3, 0usize..1000).prop_map(|(sequence, delivery, bytes)| Step::Arrive { sequence, delivery, bytes }),
            3 => any::<prop::sample::Index>().prop_map(|index| Step::Remove(index.index(1000))),
            1 => any::<prop::sample::Index>().prop_map(|index| Step::Look(index.index(1000))),
            1 => Just(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn what_arrives_is_here_until_it_is_removed_and_so_are_its_bytes(steps in proptest::collection::vec(step(), 0..80)) {
            let budget = ByteBudget::default();
            let mut in_flight: InFlight<Share> = InFlight::default();
            let (mut ever, mut expected) = (Vec::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Arrive { sequence, delivery, bytes } => {
                        let id = in_flight.insert(sequence, delivery, budget.share(bytes));
                        prop_assert!(!ever.contains(&id), "a name is given once");
                        ever.push(id);
                        expected.insert(id, bytes);
                    }
                    Step::Remove(index) if !ever.is_empty() => {
                        let id = ever[index % ever.len()];
                        prop_assert_eq!(in_flight.remove(id).map(|share| share.bytes()), expected.remove(&id));
                    }
                    Step::Look(index) if !ever.is_empty() => {
                        let id = ever[index % ever.len()];
                        prop_assert_eq!(in_flight.get(id).map(Share::bytes), expected.get(&id).copied());
                        prop_assert_eq!(in_flight.get_mut(id).is_some(), expected.contains_key(&id));
                    }
                    Step::Remove(_) | Step::Look(_) => {}
                    Step::Drop => {
                        in_flight = InFlight::default();
                        ever.clear();
                        expected.clear();
                    }
                }
                prop_assert_eq!(in_flight.ids(), expected.keys().copied().collect::<Vec<_>>());
                prop_assert_eq!(budget.held(), expected.values().sum::<usize>());
            }
        }
    }
}
