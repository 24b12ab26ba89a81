//! A stream and its consumer, as the broker has them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_delivery_core::{Lane, Moment};

pub const ACK_WAIT: Moment = 30_000;
/// A broker that is killed forgets no more than what it was told in the last moments.
const FORGETS: Moment = 10_000;

/// A stream with one consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// Stored and not delivered yet.
    queue: VecDeque<u64>,
    /// What the consumer waits for, and when it gives it to somebody again.
    pub pending: BTreeMap<u64, Moment>,
    /// Of what is pending: what is due again.
    pub again: BTreeSet<u64>,
    pub acknowledged: BTreeSet<u64>,
    /// What it was told last that it may forget, and when.
    last: Option<(u64, Moment)>,
    /// The consumer delivers nothing new while it waits for so many.
    max_pending: usize,
}

impl Stream {
    pub fn new(max_pending: usize) -> Self {
        Self {
            queue: VecDeque::new(),
            pending: BTreeMap::new(),
            again: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            last: None,
            max_pending,
        }
    }

    pub fn store(&mut self, sequence: u64) {
        self.queue.push_back(sequence);
    }

    /// Whether it is stored and not acknowledged.
    pub fn keeps(&self, sequence: u64) -> bool {
        self.pending.contains_key(&sequence) || self.queue.contains(&sequence)
    }

    pub fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.queue.is_empty()
    }

    /// The next that is delivered.
    pub fn next(&mut self, now: Moment) -> Option<u64> {
        let sequence = match self.again.pop_first() {
            Some(sequence) => sequence,
            None if self.pending.len() < self.max_pending => self.queue.pop_front()?,
            None => return None,
        };
        self.pending.insert(sequence, now + ACK_WAIT);
        Some(sequence)
    }

    pub fn acknowledge(&mut self, now: Moment, sequence: u64) {
        // Of one that it has not delivered it takes none.
        if self.queue.contains(&sequence) {
            return;
        }
        self.last = Some((sequence, now));
        self.pending.remove(&sequence);
        self.again.remove(&sequence);
        self.acknowledged.insert(sequence);
    }

    /// It comes again after so many milliseconds.
    pub fn give_back(&mut self, now: Moment, sequence: u64, wait: Moment) {
        if let Some(until) = self.pending.get_mut(&sequence) {
            *until = now + wait;
            if wait == 0 {
                self.again.insert(sequence);
            } else {
                self.again.remove(&sequence);
            }
        }
    }

    pub fn renew(&mut self, now: Moment, sequence: u64) {
        if let Some(until) = self.pending.get_mut(&sequence) {
            *until = now + ACK_WAIT;
        }
    }

    /// What it gives to somebody again from now on.
    pub fn late(&mut self, now: Moment) -> Vec<u64> {
        let late = self.pending.iter().filter(|(_, until)| **until <= now).map(|(sequence, _)| *sequence);
        let late: Vec<u64> = late.filter(|sequence| !self.again.contains(sequence)).collect();
        self.again.extend(&late);
        late
    }

    /// Its disk has lost the latest event, and all that is known of it.
    pub fn lose(&mut self, sequence: u64) {
        self.queue.retain(|queued| *queued != sequence);
        self.pending.remove(&sequence);
        self.again.remove(&sequence);
        self.acknowledged.remove(&sequence);
        self.last = self.last.filter(|(last, _)| *last != sequence);
    }

    /// A broker that was killed does not know of the last acknowledgement.
    pub fn forget_one(&mut self, now: Moment) {
        if let Some((sequence, at)) = self.last.take()
            && now < at + FORGETS
        {
            self.acknowledged.remove(&sequence);
            self.pending.insert(sequence, 0);
            self.again.insert(sequence);
        }
    }
}

/// A request at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Open {
    pub lane: Lane,
    pub inbox: u64,
    pub left: usize,
}
