//! How much may wait in the stream `later`. Pure.
//!
//! The stream drops its oldest messages when it is full, so it must not become full. What it has is asked for, and what
//! this ingress has stored since is counted. Up to three ingresses (one for each broker) do that at the same time, and
//! none sees what the others do: each stores at most a sixteenth of the stream beyond what it has seen. So with half of
//! it as the bound there are never more than eleven sixteenths; the rest is for what the broker writes by itself.

use std::time::Duration;

use tokio::time::Instant;

/// What was seen counts for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Events that may wait: the broker keeps some hundred bytes in memory for each.
pub const MAX_EVENTS: u64 = 100_000;
const BOUND: u64 = 2;
const UNSEEN: u64 = 16;

/// What the stream says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How far ahead a time may be.
    pub max_delay: Duration,
    /// Bytes that it may have.
    pub max_bytes: u64,
    /// Bytes that it has.
    pub bytes: u64,
    /// Messages that it has.
    pub messages: u64,
}

/// An amount of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    bytes: u64,
    events: u64,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.events = self.events.saturating_add(other.events);
    }

    fn subtract(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_sub(other.bytes);
        self.events = self.events.saturating_sub(other.events);
    }
}

/// Why there is no room for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The topic takes no delayed events.
    NotTaken,
    /// It is larger than a delayed event can be, in bytes.
    TooLarge(u64),
    /// Too much waits already.
    Full,
    /// What was seen is too old, or too much was stored since.
    Stale,
}

/// What is known of the room.
#[derive(Debug, Default)]
pub struct Room {
    /// When it was asked for, and what was said; `None`: no such events are taken.
    seen: Option<(Instant, Option<Seen>)>,
    /// Under way to the broker.
    in_flight: Load,
    /// Answered since the stream was asked.
    since: Load,
}

/// What was answered before the stream was asked.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    at: Instant,
    before: Load,
}

impl Room {
    /// The stream is about to be asked.
    pub fn ask(&self, now: Instant) -> Asked {
        Asked { at: now, before: self.since }
    }

    /// It has answered; `None`: it takes no delayed events.
    pub fn answered(&mut self, asked: Asked, seen: Option<Seen>) {
        self.since.subtract(asked.before);
        self.seen = Some((asked.at, seen));
    }

    /// What the stream said, if that is not too old.
    pub fn fresh(&self, now: Instant) -> Option<Option<Seen>> {
        self.seen.filter(|(at, _)| now.duration_since(*at) < FRESH).map(|(_, seen)| seen)
    }

    /// Takes room for an event of this size.
    ///
    /// # Errors
    /// There is none.
    pub fn take(&mut self, now: Instant, bytes: u64) -> Result<(), NoRoom> {
        let seen = self.fresh(now).ok_or(NoRoom::Stale)?.ok_or(NoRoom::NotTaken)?;
        let largest = seen.max_bytes / UNSEEN;
        if bytes > largest {
            return Err(NoRoom::TooLarge(largest));
        }
        let mut unseen = Load { bytes, events: 1 };
        unseen.add(self.in_flight);
        unseen.add(self.since);
        let is_full = seen.bytes.saturating_add(unseen.bytes) > seen.max_bytes / BOUND
            || seen.messages.saturating_add(unseen.events) > MAX_EVENTS;
        if is_full {
            // What was stored since may be in what would be seen, too.
            return Err(if self.since == Load::default() { NoRoom::Full } else { NoRoom::Stale });
        }
        if unseen.bytes > largest {
            return Err(NoRoom::Stale);
        }
        self.in_flight.add(Load { bytes, events: 1 });
        Ok(())
    }

    /// The broker has answered, or will not.
    pub fn done(&mut self, bytes: u64) {
        let load = Load { bytes, events: 1 };
        self.in_flight.subtract(load);
        self.since.add(load);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX_BYTES: u64 = 1600;

    fn seen(bytes: u64, messages: u64) -> Seen {
        Seen { max_delay: Duration::from_secs(1), max_bytes: MAX_BYTES, bytes, messages }
    }

    fn room(seen: Option<Seen>, now: Instant) -> Room {
        let mut room = Room::default();
        room.answered(room.ask(now), seen);
        room
    }

    #[test]
    fn bounds() {
        let now = Instant::now();
        for (found, bytes, expected) in [
            (Some(seen(0, 0)), 100, Ok(())),
            (Some(seen(0, 0)), 101, Err(NoRoom::TooLarge(100))),
            (Some(seen(700, 7)), 100, Ok(())),
            (Some(seen(701, 7)), 100, Err(NoRoom::Full)),
            (Some(seen(0, MAX_EVENTS - 1)), 1, Ok(())),
            (Some(seen(0, MAX_EVENTS)), 1, Err(NoRoom::Full)),
            (None, 1, Err(NoRoom::NotTaken)),
        ] {
            assert_eq!(room(found, now).take(now, bytes), expected, "{found:?} {bytes}");
        }
        assert_eq!(Room::default().take(now, 1), Err(NoRoom::Stale));
        assert_eq!(room(Some(seen(0, 0)), now).take(now + FRESH, 1), Err(NoRoom::Stale));
    }

    #[test]
    fn what_was_stored_since_counts_until_it_is_seen() {
        let now = Instant::now();
        let mut room = room(Some(seen(0, 0)), now);
        assert_eq!(room.take(now, 60), Ok(()));
        assert_eq!(room.take(now, 60), Err(NoRoom::Stale), "under way");
        room.done(60);
        assert_eq!(room.take(now, 60), Err(NoRoom::Stale), "answered");
        let asked = room.ask(now);
        assert_eq!(room.take(now, 30), Ok(()), "while it is asked");
        room.answered(asked, Some(seen(60, 1)));
        assert_eq!(room.take(now, 71), Err(NoRoom::Stale));
        assert_eq!(room.take(now, 70), Ok(()));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask(usize),
        Hear(usize),
        Take(usize, u64),
        Done(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3_usize).prop_map(Step::Ask),
            (0..3_usize).prop_map(Step::Hear),
            (0..3_usize, 1..=100_u64).prop_map(|(who, bytes)| Step::Take(who, bytes)),
            (0..3_usize).prop_map(Step::Done),
        ]
    }

    proptest! {
        /// Three ingresses, and a stream that stores at any time between request and answer: here at once.
        #[test]
        fn the_stream_is_never_full(steps in proptest::collection::vec(step(), 1..400)) {
            let now = Instant::now();
            let mut stored = 0;
            let mut rooms: [Room; 3] = Default::default();
            let mut asked: [Option<(Asked, Seen)>; 3] = [None; 3];
            let mut under_way: [Vec<u64>; 3] = Default::default();
            for step in steps {
                match step {
                    Step::Ask(who) => asked[who] = Some((rooms[who].ask(now), seen(stored, 0))),
                    Step::Hear(who) => {
                        if let Some((asked, seen)) = asked[who].take() {
                            rooms[who].answered(asked, Some(seen));
                        }
                    }
                    Step::Take(who, bytes) => {
                        if rooms[who].take(now, bytes).is_ok() {
                            stored += bytes;
                            under_way[who].push(bytes);
                        }
                    }
                    Step::Done(who) => {
                        if let Some(bytes) = under_way[who].pop() {
                            rooms[who].done(bytes);
                        }
                    }
                }
                prop_assert!(stored <= MAX_BYTES / 16 * 11, "{stored}");
            }
        }
    }
}
