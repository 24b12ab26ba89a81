//! The events of a lane that are in flight: their leases, their keys, how far each is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::timing::LaneTiming;
use crate::event::{Id, Key, Moment};
use crate::exchange::Arrival;

/// How far an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// It may start from this moment on, when its key is free.
    Waiting(Moment),
    /// An attempt runs.
    Running,
    /// It is settled here, and the broker is to be told.
    Settled {
        /// Whether a request is under way.
        asked: bool,
    },
    /// It is being copied to the shelf.
    Copying {
        /// Whether a request is under way.
        asked: bool,
        /// Whether a former one may have been heard.
        unsure: bool,
        /// When it would start if it were not.
        from: Moment,
    },
}

/// An event in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// Its name.
    pub id: Id,
    /// Its key.
    pub key: Key,
    /// When the lease ends.
    pub until: Moment,
    /// When the renewal was sent that is under way.
    pub renewing: Option<Moment>,
    /// Whether an earlier delivery of it may be given back after this one, so that the broker takes it from us.
    pub is_unsure: bool,
    /// How far it is.
    pub stage: Stage,
    /// Its size.
    pub bytes: usize,
}

/// All events in flight, by their sequence in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InFlight(BTreeMap<u64, Delivery>);

impl InFlight {
    /// Takes an event under a lease; one that is here already stays as it is, under the longer lease.
    pub fn take(&mut self, arrived: &Arrival, until: Moment) -> &mut Delivery {
        let Arrival { id, key, bytes, .. } = *arrived;
        let stage = Stage::Waiting(0);
        let new = Delivery { id, key, until, renewing: None, is_unsure: false, stage, bytes };
        let held = self.0.entry(id.sequence).or_insert(new);
        held.until = held.until.max(until);
        held
    }

    /// The event, if it is in flight.
    pub fn get_mut(&mut self, sequence: u64) -> Option<&mut Delivery> {
        self.0.get_mut(&sequence)
    }

    /// When the lease of an event ends, if it is in flight.
    pub fn until(&self, sequence: u64) -> Option<Moment> {
        self.0.get(&sequence).map(|held| held.until)
    }

    /// Whether it is in flight.
    pub fn has(&self, sequence: u64) -> bool {
        self.0.contains_key(&sequence)
    }

    /// Lets go of it.
    pub fn remove(&mut self, sequence: u64) -> Option<Delivery> {
        self.0.remove(&sequence)
    }

    /// Lets go of an event that waits, if this is a delivery of it with a lower number: by a broker that has forgotten
    /// the one that is here, and takes no NAK with its number.
    pub fn forget(&mut self, id: Id) -> Option<Id> {
        let is_forgotten = |held: &Delivery| held.id.delivery > id.delivery && matches!(held.stage, Stage::Waiting(_));
        let forgotten = self.0.get(&id.sequence).is_some_and(is_forgotten);
        forgotten.then(|| self.remove(id.sequence)).flatten().map(|held| held.id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Delivery> {
        self.0.values()
    }

    /// All, oldest first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.0.values_mut()
    }

    /// Lets go of all, and returns them.
    pub fn take_all(&mut self) -> impl Iterator<Item = Delivery> {
        std::mem::take(&mut self.0).into_values()
    }

    /// Lets go of those whose lease is over, and returns them.
    pub fn lapse(&mut self, now: Moment) -> Vec<Id> {
        self.let_go(|held| held.until <= now)
    }

    /// Lets go of those that wait, and returns them, oldest first.
    pub fn give_up(&mut self) -> Vec<Id> {
        self.let_go(|held| match held.stage {
            Stage::Waiting(_) | Stage::Copying { asked: false, .. } => true,
            Stage::Running | Stage::Settled { .. } | Stage::Copying { asked: true, .. } => false,
        })
    }

    /// Lets go of those that wait beyond this sequence, and returns them.
    pub fn cut(&mut self, highest: u64) -> Vec<Id> {
        self.let_go(|held| held.id.sequence > highest && matches!(held.stage, Stage::Waiting(_)))
    }

    /// Whether none is under way.
    pub fn all_wait(&self) -> bool {
        self.0.values().all(|held| matches!(held.stage, Stage::Waiting(_)))
    }

    /// The highest sequence.
    pub fn highest(&self) -> Option<u64> {
        self.0.keys().next_back().copied()
    }

    fn let_go(&mut self, which: impl Fn(&Delivery) -> bool) -> Vec<Id> {
        let gone = self.0.extract_if(.., |_, held| which(held));
        gone.map(|(_, held)| held.id).collect()
    }

    /// Whether an attempt runs, or one waits for its time.
    pub fn has_plans(&self, now: Moment) -> bool {
        self.0.values().any(|held| match held.stage {
            Stage::Waiting(from) => from > now,
            Stage::Running | Stage::Settled { .. } | Stage::Copying { .. } => true,
        })
    }

    /// Whether one waits until this moment or longer.
    pub fn has_waits(&self, until: Moment) -> bool {
        self.0.values().any(|held| matches!(held.stage, Stage::Waiting(from) if from >= until))
    }

    /// Whether so many are at work: all but those that wait for another attempt, and what goes to the shelf, or will in
    /// a moment.
    pub fn is_full(&self, at_work: usize, is_parked: impl Fn(Key) -> bool) -> bool {
        let rests = |held: &&Delivery| match held.stage {
            Stage::Waiting(1..) | Stage::Copying { .. } => true,
            Stage::Waiting(0) => is_parked(held.key),
            Stage::Running | Stage::Settled { .. } => false,
        };
        self.len() >= at_work && self.len() - self.0.values().filter(rests).count() >= at_work
    }

    /// Whether one of this key is on its way to the shelf, or may be there or not.
    pub fn has_copies(&self, key: Key) -> bool {
        self.0.values().any(|held| held.key == key && matches!(held.stage, Stage::Copying { .. }))
    }

    /// Whether one of this key is in flight.
    pub fn has_key(&self, key: Key) -> bool {
        self.0.values().any(|held| held.key == key)
    }

    /// Whether an acknowledgement is under way, so that no one knows what the broker still waits for; or it may take
    /// something from us.
    pub fn is_unclear(&self) -> bool {
        self.0.values().any(|held| held.is_unsure || held.stage == Stage::Settled { asked: true })
    }

    /// The oldest event that may start: the first of its key, which is not parked, and none of its key under way.
    pub fn next(&self, now: Moment, is_parked: impl Fn(Key) -> bool) -> Option<u64> {
        let under_way = self.0.values().filter(|held| !matches!(held.stage, Stage::Waiting(_)));
        let mut taken: BTreeSet<Key> = under_way.map(|held| held.key).collect();
        let free = self.0.iter().find(|(_, held)| {
            let first = taken.insert(held.key);
            first && matches!(held.stage, Stage::Waiting(from) if from <= now) && !is_parked(held.key)
        });
        free.map(|(sequence, _)| *sequence)
    }

    /// When the next lease ends or is to be renewed, or the next backoff is over.
    pub fn wake_at(&self, terms: &LaneTiming, now: Moment) -> Option<Moment> {
        let of = |held: &Delivery| {
            let renew = held.renewing.is_none().then(|| held.until.saturating_sub(terms.renew_below));
            let backoff = match held.stage {
                Stage::Waiting(from) => Some(from),
                _ => None,
            };
            [Some(held.until), renew, backoff].into_iter().flatten().filter(|at| *at > now).min()
        };
        self.0.values().filter_map(of).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hand(events: &[(u64, Key, Stage)]) -> InFlight {
        let held = |(sequence, key, stage): &(u64, Key, Stage)| {
            let id = Id { lane: 0, sequence: *sequence, stored: 0, delivery: 1, arrival: 1 };
            (
                *sequence,
                Delivery { id, key: *key, until: 100, renewing: None, is_unsure: false, stage: *stage, bytes: 1 },
            )
        };
        InFlight(events.iter().map(held).collect())
    }

    #[test]
    fn the_first_of_a_free_key_is_next() {
        use Stage::{Running, Settled, Waiting};
        for (what, events, expected) in [
            ("nothing", vec![], None),
            ("the oldest", vec![(5, 1, Waiting(0)), (3, 1, Waiting(0))], Some(3)),
            ("not beside one that runs", vec![(3, 1, Running), (4, 1, Waiting(0))], None),
            ("not even an older one", vec![(3, 1, Waiting(0)), (4, 1, Running)], None),
            ("not before the confirmation", vec![(3, 1, Settled { asked: true }), (4, 1, Waiting(0))], None),
            ("other keys go on", vec![(3, 1, Running), (4, 1, Waiting(0)), (5, 2, Waiting(0))], Some(5)),
            ("a backoff holds up its key", vec![(3, 1, Waiting(50)), (4, 1, Waiting(0)), (5, 2, Waiting(9))], Some(5)),
            ("until it is over", vec![(3, 1, Waiting(10)), (4, 1, Waiting(0))], Some(3)),
        ] {
            assert_eq!(hand(&events).next(10, |_| false), expected, "{what}");
        }
    }

    #[test]
    fn what_goes_to_the_shelf_leaves_room() {
        let copying = Stage::Copying { asked: true, unsure: false, from: 0 };
        let hand =
            hand(&[(1, 1, Stage::Waiting(9)), (2, 1, copying), (3, 1, Stage::Waiting(0)), (4, 2, Stage::Running)]);
        assert!(hand.is_full(1, |_| true) && !hand.is_full(2, |_| true));
        assert!(hand.is_full(2, |_| false), "without room on the shelf the third stays");
    }

    #[test]
    fn only_what_waits_is_given_up() {
        let mut hand = hand(&[(7, 1, Stage::Waiting(9)), (3, 2, Stage::Running), (5, 3, Stage::Waiting(0))]);
        assert_eq!(hand.give_up().iter().map(|id| id.sequence).collect::<Vec<_>>(), [5, 7]);
        assert_eq!(hand.len(), 1);
        assert_eq!(hand.lapse(99), []);
        assert_eq!(hand.lapse(100).len(), 1);
    }

    proptest! {
        #[test]
        fn never_two_of_a_key_and_never_past_an_older_one(
            events in proptest::collection::btree_map(0u64..40, (0u64..5, 0u8..4, 0u64..20), 0..20),
        ) {
            let stage = |kind: u8, from: u64| match kind {
                0 => Stage::Running,
                1 => Stage::Settled { asked: false },
                _ => Stage::Waiting(from),
            };
            let events: Vec<_> = events.into_iter().map(|(s, (key, kind, from))| (s, key, stage(kind, from))).collect();
            let next = hand(&events).next(10, |_| false);
            if let Some(next) = next {
                let key = events.iter().find(|event| event.0 == next).map(|event| event.1).unwrap();
                let same = events.iter().filter(|event| event.1 == key);
                for (sequence, _, stage) in same {
                    prop_assert!(matches!(stage, Stage::Waiting(_)) && *sequence >= next);
                }
            }
        }
    }
}
