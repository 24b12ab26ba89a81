//! `rateLimit`: so many deliveries in a time, over all sidecars of a handler.
//!
//! Each sidecar takes an equal share of the limit, by the number of them that there are. (No one hands out turns:
//! a sidecar that the others have not heard of yet adds its share for that moment, and one that has little to do
//! does not lend its own.) An event waits here for its turn, in the order of arrival, and no more are pulled
//! than have a turn soon.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidegate_broker_client::contract::Rate;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout_at};

/// Events are pulled as far ahead of their turns.
const AHEAD: Duration = Duration::from_secs(1);
/// What may be made up for after a pause: this share of a second. A timer is late by milliseconds, and without it
/// a limit of thousands would never be reached; with more, the second in which it is made up for has too many.
const CATCH_UP: Duration = Duration::from_millis(50);

/// When the next delivery has its turn: the generic cell rate algorithm, with the time passed in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turns {
    /// When the next one is due, if all keep to the interval.
    due: Option<Instant>,
}

/// One sidecar's share of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Between two deliveries.
    pub interval: Duration,
    /// How much earlier than due one may be.
    pub tolerance: Duration,
}

impl Share {
    /// Of this limit, among so many.
    pub fn of(rate: Rate, members: usize) -> Self {
        let members = u32::try_from(members.max(1)).unwrap_or(u32::MAX);
        let interval = rate.per.saturating_mul(members) / rate.events.max(1);
        Self { interval, tolerance: CATCH_UP.saturating_sub(interval) }
    }

    /// How many have their turn within this time.
    fn within(self, time: Duration) -> usize {
        let turns = time.as_nanos() / self.interval.as_nanos().max(1);
        usize::try_from(turns).unwrap_or(usize::MAX).max(1)
    }
}

impl Turns {
    /// Takes the turn.
    ///
    /// # Errors
    /// It is not until then.
    pub fn take(&mut self, now: Instant, share: Share) -> Result<(), Instant> {
        let due = self.due.map_or(now, |due| due.max(now));
        let earliest = due.checked_sub(share.tolerance).unwrap_or(due);
        if earliest > now {
            return Err(earliest);
        }
        self.due = Some(due + share.interval);
        Ok(())
    }
}

/// The limit, as the sidecar's deliveries meet it.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    members: watch::Receiver<usize>,
    /// The lock is fair: who waits for it waits in line.
    turns: Mutex<Turns>,
    waiting: AtomicUsize,
}

impl Limiter {
    /// Of this limit, shared by as many sidecars as `members` says; while it says 0, no one has a turn.
    pub fn new(rate: Rate, members: watch::Receiver<usize>) -> Self {
        Self { rate, members, turns: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// Waits for a turn and takes it.
    pub async fn turn(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let mut turns = self.turns.lock().await;
        let mut members = self.members.clone();
        loop {
            let count = *members.borrow_and_update();
            let until = match count {
                0 => Instant::now() + AHEAD,
                count => match turns.take(Instant::now(), Share::of(self.rate, count)) {
                    Ok(()) => return,
                    Err(until) => until,
                },
            };
            // The share may change meanwhile. Without a sender it never does.
            if let Ok(Err(_)) = timeout_at(until, members.changed()).await {
                tokio::time::sleep_until(until).await;
            }
        }
    }

    /// How many more events would have their turn soon: as many may be asked for.
    pub fn room(&self) -> usize {
        let share = Share::of(self.rate, *self.members.borrow());
        share.within(AHEAD).saturating_sub(self.waiting.load(Ordering::Relaxed))
    }
}

/// Counts out who waits, however the wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use tokio::time::{advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(events: u32, per: Duration) -> Rate {
        Rate { events, per }
    }

    fn limiter(events: u32, members: usize) -> (Arc<Limiter>, watch::Sender<usize>) {
        let (sender, receiver) = watch::channel(members);
        (Arc::new(Limiter::new(rate(events, SECOND), receiver)), sender)
    }

    #[test]
    fn a_share() {
        let ms = Duration::from_millis;
        let share = |events, per, members| Share::of(rate(events, per), members);
        assert_eq!(share(100, SECOND, 1), Share { interval: ms(10), tolerance: ms(40) });
        assert_eq!(share(100, SECOND, 2), Share { interval: ms(20), tolerance: ms(30) });
        assert_eq!(share(1, SECOND * 60, 3), Share { interval: SECOND * 180, tolerance: ms(0) });
        assert_eq!(share(100, SECOND, 1).within(AHEAD), 100);
        assert_eq!(share(1, SECOND * 60, 3).within(AHEAD), 1);
    }

    proptest! {
        /// Any pattern of arrivals: never more in a window than the limit and what may be caught up on.
        #[test]
        fn no_window_has_too_many(
            events in 1u32..2000,
            members in 1usize..5,
            gaps in proptest::collection::vec(0u64..40_000, 1..400),
        ) {
            let share = Share::of(rate(events, SECOND), members);
            let (mut turns, mut now, mut taken) = (Turns::default(), Instant::now(), Vec::new());
            for gap in gaps {
                now += Duration::from_micros(gap);
                if turns.take(now, share).is_ok() {
                    taken.push(now);
                }
            }
            let most = 1 + usize::try_from((SECOND + share.tolerance).as_nanos() / share.interval.as_nanos()).unwrap();
            for (at, first) in taken.iter().enumerate() {
                let within = taken[at..].iter().filter(|later| **later < *first + SECOND).count();
                prop_assert!(within <= most, "{within} > {most}");
            }
        }

        /// Who comes when told to has a turn.
        #[test]
        fn the_time_that_is_named_is_right(events in 1u32..2000, takes in 1usize..50) {
            let share = Share::of(rate(events, SECOND), 1);
            let (mut turns, mut now) = (Turns::default(), Instant::now());
            for _ in 0..takes {
                while let Err(until) = turns.take(now, share) {
                    prop_assert!(until > now && until <= now + share.interval);
                    now = until;
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_gets_a_turn_in_line() {
        let (limiter, _members) = limiter(10, 1);
        let begun = Instant::now();
        for _ in 0..21 {
            limiter.turn().await;
        }
        let took = begun.elapsed();
        assert!((Duration::from_millis(1990)..Duration::from_millis(2010)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_member_halves_the_share_at_once() {
        let (limiter, members) = limiter(10, 1);
        limiter.turn().await;
        members.send_replace(10);
        let begun = Instant::now();
        limiter.turn().await;
        limiter.turn().await;
        assert!(begun.elapsed() >= Duration::from_millis(1090), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_has_a_turn_before_the_members_are_known() {
        let (limiter, members) = limiter(10, 0);
        let waits = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.turn().await }
        });
        sleep(SECOND * 10).await;
        assert!(!waits.is_finished());
        members.send_replace(1);
        advance(Duration::from_millis(1)).await;
        waits.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_for_what_has_its_turn_soon() {
        let (limiter, _members) = limiter(4, 2);
        assert_eq!(limiter.room(), 2);
        let wait = || {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.turn().await })
        };
        let waiting = [wait(), wait(), wait()];
        tokio::task::yield_now().await;
        assert_eq!(limiter.room(), 0);
        for waits in waiting {
            waits.abort();
            let _ = waits.await;
        }
        assert_eq!(limiter.room(), 2, "who gives up makes room");
    }
}
