//! What was settled lately, of one consumer.
//!
//! A broker that is killed forgets the acknowledgements of the last moments, also those that it has confirmed; and one
//! that was written to a connection just before its loss may never arrive. What comes again for such a reason is known
//! here, and is acknowledged again instead of delivered.
//!
//! How long that takes is the broker's affair: a delivery that it has forgotten comes again at once, one that it
//! remembers when the acknowledgement wait is over. So what was settled in the last moments before a connection was
//! lost is remembered for the acknowledgement wait and longer, the rest for 15 to 30 seconds; time in which nothing is
//! pulled does not count.

use std::collections::BTreeMap;

use crate::event::{Id, Moment};

/// It takes up to twelve seconds to notice that a server is gone (`PING_INTERVAL` of the broker's client).
const AGE: Moment = 15_000;
/// Blocks of a generation, at most: what was settled at 4,000 events a second, and in the worst case (no two neighbours
/// among the sequences) 1,024 events. The lowest are forgotten first.
const MAX_BLOCKS: usize = 1024;
/// Sequences of a block.
const BLOCK: u64 = 64;

/// What is known of the sequences of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Block {
    /// Those that were settled.
    settled: u64,
    /// When the latest of these was stored. A broker that loses the end of a stream with its disk gives the sequences
    /// to other events, which are stored later.
    stored: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Generation(BTreeMap<u64, Block>);

impl Generation {
    fn add(&mut self, block: u64, settled: u64, stored: u64) {
        let known = self.0.entry(block).or_default();
        known.settled |= settled;
        known.stored = known.stored.max(stored);
        if self.0.len() > MAX_BLOCKS {
            self.0.pop_first();
        }
    }

    fn has(&self, id: Id) -> bool {
        let (block, bit) = place(id.sequence);
        self.0.get(&block).is_some_and(|known| known.settled & bit != 0 && id.stored <= known.stored)
    }

    /// Forgets what has this event's sequence or a later one and was stored before it.
    fn forget_lost(&mut self, id: Id) {
        let (block, bit) = place(id.sequence);
        while let Some(last) = self.0.last_entry()
            && *last.key() > block
            && last.get().stored < id.stored
        {
            last.remove();
        }
        if let Some(known) = self.0.get_mut(&block).filter(|known| known.stored < id.stored) {
            known.settled &= bit - 1;
        }
    }
}

/// The block of a sequence, and its bit there.
fn place(sequence: u64) -> (u64, u64) {
    (sequence / BLOCK, 1 << (sequence % BLOCK))
}

/// The sequences that were settled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Memory {
    young: Generation,
    old: Generation,
    /// What was settled before the connection was lost.
    kept: Generation,
    /// When the young ones become old.
    turn_at: Moment,
    kept_until: Moment,
    aged_at: Moment,
}

impl Memory {
    /// One that knows nothing.
    pub fn new(now: Moment) -> Self {
        let (young, old, kept) = Default::default();
        Self { young, old, kept, turn_at: now + AGE, kept_until: now, aged_at: now }
    }

    /// It was settled, and the broker is told so.
    pub fn note(&mut self, id: Id) {
        let (block, bit) = place(id.sequence);
        self.young.add(block, bit, id.stored);
    }

    /// It came. What has its sequence or a later one was stored after it, unless the stream has lost its end: those
    /// events are no more, and others have their sequences. That must be noticed before the first of these others is
    /// settled, because a block only tells when the latest of its events was stored.
    pub fn came(&mut self, id: Id) {
        for generation in [&mut self.young, &mut self.old, &mut self.kept] {
            generation.forget_lost(id);
        }
    }

    /// Whether it is known that this event was settled.
    pub fn has(&self, id: Id) -> bool {
        self.young.has(id) || self.old.has(id) || self.kept.has(id)
    }

    /// Forgets what is old. What was settled can only come again while something is asked for (`pulls`): other time
    /// does not count.
    pub fn age(&mut self, now: Moment, pulls: bool) {
        let passed = now.saturating_sub(std::mem::replace(&mut self.aged_at, now));
        if !pulls {
            self.turn_at += passed;
            self.kept_until += passed;
            return;
        }
        if now >= self.turn_at + AGE {
            self.old = Generation::default();
            self.young = Generation::default();
        } else if now >= self.turn_at {
            self.old = std::mem::take(&mut self.young);
        }
        if now >= self.turn_at {
            self.turn_at = now + AGE;
        }
        if now >= self.kept_until {
            self.kept = Generation::default();
        }
    }

    /// There is a new connection: what is known now is kept until the broker has given again what it still waits for.
    pub fn keep(&mut self, now: Moment, ack_wait: Moment) {
        for generation in [std::mem::take(&mut self.old), std::mem::take(&mut self.young)] {
            for (block, known) in generation.0 {
                self.kept.add(block, known.settled, known.stored);
            }
        }
        self.turn_at = now + AGE;
        self.kept_until = now + ack_wait + AGE;
        self.aged_at = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(sequence: u64, stored: u64) -> Id {
        Id { lane: 0, sequence, stored, delivery: 1, arrival: 1 }
    }

    #[test]
    fn it_lasts_for_a_while_and_longer_after_a_loss() {
        let mut memory = Memory::new(0);
        memory.note(id(7, 1));
        memory.age(AGE, true);
        assert!(memory.has(id(7, 1)));
        memory.age(2 * AGE, true);
        assert!(!memory.has(id(7, 1)));
        memory.note(id(8, 1));
        memory.keep(3 * AGE, 30_000);
        memory.age(4 * AGE, true);
        memory.age(3 * AGE + 30_000, true);
        assert!(memory.has(id(8, 1)));
        memory.age(4 * AGE + 30_000, true);
        assert!(memory.is_empty());
    }

    #[test]
    fn a_long_pause_is_long_enough() {
        let mut memory = Memory::new(0);
        memory.note(id(7, 1));
        memory.age(100 * AGE, true);
        assert!(!memory.has(id(7, 1)));
    }

    #[test]
    fn time_without_pulls_does_not_count() {
        let mut memory = Memory::new(0);
        memory.note(id(7, 1));
        memory.keep(0, 30_000);
        memory.note(id(8, 1));
        memory.age(100 * AGE, false);
        memory.age(101 * AGE - 1, true);
        assert!(memory.has(id(7, 1)) && memory.has(id(8, 1)));
        memory.age(104 * AGE, true);
        assert!(memory.is_empty());
    }

    #[test]
    fn another_event_of_the_same_sequence_is_another() {
        let mut memory = Memory::new(0);
        memory.note(id(7, 100));
        assert!(memory.has(id(7, 100)));
        assert!(!memory.has(id(7, 101)), "stored after the end of the stream was lost");
        assert!(!memory.has(id(8, 100)), "a neighbour");
    }

    /// Events 60 to 70 were settled, and the stream lost all from 64 on. The new 64 fails and comes again after the new
    /// 65 was settled.
    #[test]
    fn what_has_the_sequence_of_a_lost_event_is_not_taken_for_it_later() {
        for is_kept in [false, true] {
            let mut memory = Memory::new(0);
            (60..=70).for_each(|sequence| memory.note(id(sequence, sequence)));
            memory.note(id(200, 200));
            if is_kept {
                memory.keep(0, 30_000);
            }
            for sequence in 64..=65 {
                memory.came(id(sequence, 1000 + sequence));
            }
            memory.note(id(65, 1065));
            assert!(!memory.has(id(64, 1064)), "it would be acknowledged, and was never handled");
            memory.note(id(201, 1201));
            assert!(!memory.has(id(66, 1066)) && !memory.has(id(200, 1200)), "further ones");
            assert!((60..64).all(|sequence| memory.has(id(sequence, sequence))), "what is there still");
            assert!(memory.has(id(65, 1065)));
        }
    }

    impl Memory {
        fn is_empty(&self) -> bool {
            [&self.young, &self.old, &self.kept].iter().all(|generation| generation.0.is_empty())
        }
    }

    proptest! {
        /// It knows what was noted in the last while and nothing else, however it is used.
        #[test]
        fn it_knows_what_was_noted_lately(
            notes in proptest::collection::vec((0u64..500, 0u64..2000, any::<bool>()), 1..100),
        ) {
            let (mut memory, mut now, mut noted) = (Memory::new(0), 0, BTreeMap::new());
            for (sequence, wait, lost) in notes {
                now += wait;
                memory.age(now, true);
                if lost {
                    memory.keep(now, 30_000);
                }
                memory.came(id(sequence, sequence));
                memory.note(id(sequence, sequence));
                noted.insert(sequence, now);
                for (sequence, at) in &noted {
                    prop_assert!(memory.has(id(*sequence, *sequence)) || now >= at + AGE, "{sequence}");
                }
            }
            prop_assert!((0..500).all(|s| noted.contains_key(&s) || !memory.has(id(s, s))));
        }

        /// It never grows beyond its bound, and what came last is there.
        #[test]
        fn it_is_bounded(step in 1u64..1000, count in 1u64..5000) {
            let mut memory = Memory::new(0);
            for number in 0..count {
                memory.note(id(number * step, 0));
                if number % 999 == 0 {
                    memory.keep(0, 0);
                }
            }
            prop_assert!(memory.young.0.len() <= MAX_BLOCKS && memory.kept.0.len() <= MAX_BLOCKS);
            prop_assert!(memory.has(id((count - 1) * step, 0)));
        }
    }
}
