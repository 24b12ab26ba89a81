//! When a batch is worth it. Pure.
//!
//! Where the broker flushes each commit to disk by itself, a publish on its own costs one flush, and an atomic batch as
//! much as eight to twenty of them however many events it has: nats-server keeps it in a store of its own first, and
//! flushes that, too. So a few publishes go one by one, enough to keep the broker busy, and only what waits beyond them
//! becomes a batch. After a batch its publishers come back one after the other, and are waited for while they do, at
//! most for the time that the batch took: a second batch for those that were missed would take as long.
//!
//! One repetition makes the broker refuse a whole batch. The batch is halved until the repetition is among few, which
//! go one by one: a publisher that repeats old events costs its neighbours some batches and not all of them.

use std::time::{Duration, Instant};

use tidegate_broker_client::contract::Flush;

/// Events of a batch at most: nats-server's default (`streamDefaultMaxAtomicBatchSize`).
pub const MAX_BATCH: usize = 1000;
/// Bytes of a batch at most: nats-server holds all of it in memory while it commits.
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// Publishes that go one by one at a time, where a flush each is what they cost. So many publishers never wait for each
/// other in the ingress.
const MAX_SINGLE: usize = 16;
/// From so many on a batch is cheaper than one by one.
const MIN_BATCH: usize = 24;
/// The longest wait for the publishers of the batch before.
const MAX_GATHERING: Duration = Duration::from_millis(50);
/// It is over when none came for an eighth of the time that the batch took, within these bounds.
const GAP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));
/// No batches for so long after one that was refused; twice as long after each further one, up to the second figure.
const REFUSAL_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// No batches for so long on a stream that takes none: the operator may change it meanwhile.
const DISABLED_PAUSE: Duration = Duration::from_secs(30);

/// The rule, and what it remembers of the batches before.
#[derive(Debug)]
pub struct Rule {
    batches: bool,
    /// Publishes on their own at a time.
    max_single: usize,
    /// So many of the publishes that wait, from the first on, were refused because one of them is a repetition.
    suspects: usize,
    /// The pause after the next refusal.
    pause: Duration,
    paused_until: Option<Instant>,
    gathering: Option<Gathering>,
}

/// The wait for the publishers of the batch before.
#[derive(Clone, Copy, Debug)]
struct Gathering {
    /// It is over when so many wait.
    enough: usize,
    /// Or at this time.
    end: Instant,
    /// Or when none came for so long.
    gap: Duration,
    last: Instant,
}

impl Gathering {
    fn until(self) -> Instant {
        self.end.min(self.last + self.gap)
    }
}

/// What there is to decide on.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Publishes that wait.
    pub waiting: usize,
    /// Those in front of them that must go one by one.
    pub alone: usize,
    /// Those in front of them that one batch could hold.
    pub batchable: usize,
    /// Whether these are all that a batch may have.
    pub full: bool,
    /// Publishes on their own that are under way.
    pub single: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send so many as a batch.
    Batch(usize),
    /// Send so many one by one.
    Single(usize),
    /// Nothing until something happens.
    Wait,
}

impl Rule {
    /// The rule for a broker that stores like this.
    pub fn new(flush: Flush) -> Self {
        let batches = flush == Flush::PerCommit;
        Self {
            batches,
            max_single: if batches { MAX_SINGLE } else { usize::MAX },
            suspects: 0,
            pause: REFUSAL_PAUSE.0,
            paused_until: None,
            gathering: None,
        }
    }

    /// Publishes came.
    pub fn submitted(&mut self, now: Instant) {
        if let Some(gathering) = &mut self.gathering {
            gathering.last = now;
        }
    }

    /// What time brings.
    pub fn advance(&mut self, now: Instant) {
        self.gathering = self.gathering.filter(|gathering| now < gathering.until());
        self.paused_until = self.paused_until.filter(|until| now < *until);
    }

    /// What is to be sent next, while no batch is under way.
    pub fn turn(&mut self, load: Load, now: Instant) -> Turn {
        self.advance(now);
        let batches = self.has_batches(now);
        let gathering = self.gathering.is_some_and(|gathering| load.waiting < gathering.enough);
        let max_batch = self.max_batch();
        let full = load.full || load.batchable >= max_batch;
        if batches && gathering && !full && load.batchable == load.waiting {
            return Turn::Wait;
        }
        self.gathering = None;
        if batches && load.batchable >= MIN_BATCH {
            return Turn::Batch(load.batchable.min(max_batch));
        }
        // What must go one by one does not take with it what could be a batch behind it.
        let some = if batches && load.alone > 0 { load.alone } else { load.waiting };
        match some.min(self.max_single.saturating_sub(load.single)) {
            0 => Turn::Wait,
            some => Turn::Single(some),
        }
    }

    /// Whether it is worth while to see what a batch could hold.
    pub fn has_batches(&self, now: Instant) -> bool {
        self.batches && self.paused_until.is_none_or(|until| now >= until)
    }

    /// When to call [`Rule::advance`], as [`Rule::turn`] may then say something else though nothing happens.
    pub fn wake_at(&self) -> Option<Instant> {
        [self.gathering.map(Gathering::until), self.paused_until].into_iter().flatten().min()
    }

    /// A batch was stored; it took so long, had so many members, and so many others waited when it was over.
    pub fn stored(&mut self, took: Duration, members: usize, waiting: usize, now: Instant) {
        self.pause = REFUSAL_PAUSE.0;
        self.suspects = self.suspects.saturating_sub(members);
        self.gathering = Some(Gathering {
            enough: (members + waiting) * 9 / 10,
            end: now + took.min(MAX_GATHERING),
            gap: (took / 8).clamp(GAP.0, GAP.1),
            last: now,
        });
    }

    /// A batch of so many was refused because one of them was stored before. Whether a half of it is worth a try.
    pub fn splits(&mut self, members: usize) -> bool {
        self.suspects = if members / 2 >= MIN_BATCH { members } else { 0 };
        self.suspects > 0
    }

    fn max_batch(&self) -> usize {
        match self.suspects {
            0 => MAX_BATCH,
            suspects => (suspects / 2).max(MIN_BATCH),
        }
    }

    /// A batch was not stored, for a reason that may be another one next time.
    pub fn refused(&mut self, now: Instant) {
        self.paused_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(REFUSAL_PAUSE.1);
        self.gathering = None;
    }

    /// The stream takes no batches.
    pub fn disabled(&mut self, now: Instant) {
        self.paused_until = Some(now + DISABLED_PAUSE);
        self.gathering = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(waiting: usize, single: usize) -> Load {
        Load { waiting, alone: 0, batchable: waiting, full: false, single }
    }

    #[test]
    fn few_go_one_by_one_and_many_as_a_batch() {
        let now = Instant::now();
        let table = [
            (load(1, 0), Turn::Single(1)),
            (load(16, 0), Turn::Single(16)),
            (load(16, 16), Turn::Wait),
            (load(20, 10), Turn::Single(6)),
            (load(23, 16), Turn::Wait),
            (load(24, 16), Turn::Batch(24)),
            (load(500, 0), Turn::Batch(500)),
            (load(0, 0), Turn::Wait),
            // A repetition in front of the others, or among them.
            (Load { alone: 1, batchable: 0, ..load(100, 0) }, Turn::Single(1)),
            (Load { batchable: 3, ..load(100, 14) }, Turn::Single(2)),
        ];
        for (load, turn) in table {
            assert_eq!(Rule::new(Flush::PerCommit).turn(load, now), turn, "{load:?}");
        }
    }

    #[test]
    fn where_flushes_are_shared_nothing_waits_and_there_are_no_batches() {
        let mut rule = Rule::new(Flush::Shared);
        assert_eq!(rule.turn(load(4000, 4000), Instant::now()), Turn::Single(4000));
    }

    /// Today's speed with up to 16 publishers: none ever waits for another.
    #[test]
    fn up_to_sixteen_publishers_never_wait() {
        let now = Instant::now();
        for single in 0..16 {
            assert_eq!(Rule::new(Flush::PerCommit).turn(load(16 - single, single), now), Turn::Single(16 - single));
        }
    }

    #[test]
    fn after_a_batch_its_publishers_are_waited_for_and_not_for_long() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut rule = Rule::new(Flush::PerCommit);
        rule.stored(Duration::from_millis(8), 64, 0, begin);
        assert_eq!(rule.turn(load(30, 0), begin), Turn::Wait);
        assert_eq!(rule.wake_at(), Some(after(1)));
        assert_eq!(rule.turn(load(57, 0), begin), Turn::Batch(57), "most are there");

        rule.stored(Duration::from_millis(8), 64, 0, begin);
        for millis in 1..8 {
            rule.submitted(begin + Duration::from_micros(millis * 1000 - 1));
            assert_eq!(rule.turn(load(30, 0), after(millis)), Turn::Wait, "they still come");
        }
        rule.submitted(after(8));
        assert_eq!(rule.turn(load(30, 0), after(8)), Turn::Batch(30), "that took long enough");

        rule.stored(Duration::from_millis(8), 64, 0, begin);
        assert_eq!(rule.turn(load(3, 0), after(1)), Turn::Single(3), "they do not come");
        assert_eq!(rule.wake_at(), None, "and are not waited for again");

        rule.stored(Duration::from_secs(3), 64, 0, begin);
        assert_eq!(rule.wake_at(), Some(after(5)));
    }

    #[test]
    fn a_full_batch_waits_for_nobody() {
        let now = Instant::now();
        let mut rule = Rule::new(Flush::PerCommit);
        rule.stored(Duration::from_millis(8), MAX_BATCH, 4000, now);
        let load = Load { batchable: MAX_BATCH, full: true, ..load(2000, 0) };
        assert_eq!(rule.turn(load, now), Turn::Batch(MAX_BATCH));
    }

    #[test]
    fn a_repetition_is_looked_for_by_halves() {
        let now = Instant::now();
        let mut rule = Rule::new(Flush::PerCommit);
        assert!(rule.splits(1000));
        assert_eq!(rule.turn(load(2000, 0), now), Turn::Batch(500));
        rule.stored(Duration::ZERO, 500, 1500, now);
        assert_eq!(rule.turn(load(1500, 0), now), Turn::Batch(250), "it is in the other half");
        for (members, half) in [(250, 125), (125, 62), (62, 31)] {
            assert!(rule.splits(members));
            assert_eq!(rule.turn(load(1500, 0), now), Turn::Batch(half));
        }
        assert!(!rule.splits(31), "so few go one by one");
        assert_eq!(rule.turn(load(1500, 0), now), Turn::Batch(MAX_BATCH));
    }

    #[test]
    fn refusals_pause_batches_longer_each_time() {
        let mut now = Instant::now();
        let mut rule = Rule::new(Flush::PerCommit);
        for pause in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            rule.refused(now);
            let almost = now + Duration::from_millis(pause - 1);
            assert_eq!(rule.turn(load(100, 0), almost), Turn::Single(16));
            now += Duration::from_millis(pause);
            assert_eq!(rule.turn(load(100, 0), now), Turn::Batch(100));
        }
        rule.stored(Duration::ZERO, 100, 0, now);
        rule.refused(now);
        assert_eq!(rule.turn(load(100, 0), now + Duration::from_millis(100)), Turn::Batch(100));
        rule.disabled(now);
        assert_eq!(rule.turn(load(100, 0), now + Duration::from_secs(29)), Turn::Single(16));
        assert_eq!(rule.turn(load(100, 0), now + Duration::from_secs(30)), Turn::Batch(100));
    }
}
