//! The bytes that the process holds: events that the broker lent to it and answers that it reads, together.
//!
//! Each holder has a [`Share`], and what is held is the sum of the shares that live. So no way out of a function,
//! however it is taken, can forget to count its bytes back.
//!
//! Events have come when their share is taken; whoever asks for more looks at [`ByteBudget::has_room`] before. An
//! answer grows as it arrives ([`Share::grow`]) and waits for room. So that answers of which none is complete cannot
//! wait for each other, one at a time may grow beyond the limit, as far as its own bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// More events are asked for only while less is held. With what the open requests bring, this bounds the memory of
/// events, whatever their size.
const MAX_BEFORE_PULL: usize = 16 << 20;
/// Answers grow only while less is held.
const MAX_BEFORE_GROWTH: usize = 32 << 20;

/// The budget of a process. Clones share it.
#[derive(Clone, Debug)]
pub struct ByteBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    held: AtomicUsize,
    max_before_growth: usize,
    /// Told whenever a share is dropped.
    returned: Notify,
    /// The right to grow beyond the limit.
    reserve: Arc<Semaphore>,
}

impl Default for ByteBudget {
    fn default() -> Self {
        Self::with_limit(MAX_BEFORE_GROWTH)
    }
}

impl ByteBudget {
    fn with_limit(max_before_growth: usize) -> Self {
        Self(Arc::new(Inner {
            held: AtomicUsize::new(0),
            max_before_growth,
            returned: Notify::new(),
            reserve: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Whether more events may be asked for.
    pub fn has_room(&self) -> bool {
        self.held() < MAX_BEFORE_PULL
    }

    /// A share of so many bytes that are here already.
    pub fn share(&self, bytes: usize) -> Share {
        self.0.held.fetch_add(bytes, Ordering::Relaxed);
        Share { budget: self.clone(), bytes, reserve: None }
    }

    /// Waits until an answer may grow.
    pub async fn room(&self) {
        loop {
            let returned = self.0.returned.notified();
            if self.held() < self.0.max_before_growth {
                return;
            }
            returned.await;
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.0.max_before_growth);
        self.0.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// Bytes that somebody holds, until it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: ByteBudget,
    bytes: usize,
    reserve: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it; nothing is left here.
    pub fn take(&mut self) -> Self {
        let budget = self.budget.clone();
        Self { budget, bytes: std::mem::take(&mut self.bytes), reserve: self.reserve.take() }
    }

    /// Takes more, as soon as there is room. Cancelling it takes nothing.
    pub async fn grow(&mut self, bytes: usize) {
        let inner = self.budget.0.clone();
        while self.reserve.is_none() {
            // Listening begins before the look, so that what is returned in between is heard of.
            let returned = inner.returned.notified();
            if self.budget.take(bytes) {
                self.bytes += bytes;
                return;
            }
            tokio::select! {
                () = returned => {}
                reserve = inner.reserve.clone().acquire_owned() => self.reserve = reserve.ok(),
            }
        }
        inner.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }
}

/// Two that hold as much are equal.
impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Share {}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.held.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.0.returned.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use futures::future::join_all;
    use proptest::prelude::*;
    use tokio::time::timeout;

    use super::*;

    const LIMIT: usize = 1000;

    #[tokio::test]
    async fn whoever_grows_waits_for_room() {
        let budget = ByteBudget::with_limit(LIMIT);
        let event = budget.share(900);
        let mut reserved = budget.share(0);
        reserved.grow(200).await;
        assert!(reserved.reserve.is_some(), "one may go beyond the limit");
        let mut other = budget.share(0);
        other.grow(1).now_or_never().ok_or(()).expect_err("there is no room");
        drop(event);
        other.grow(1).now_or_never().expect("there is room");
        assert_eq!(budget.held(), 201);
    }

    #[tokio::test]
    async fn what_is_returned_wakes_whoever_waits() {
        let budget = ByteBudget::with_limit(LIMIT);
        let (event, mut first, mut second) = (budget.share(LIMIT), budget.share(0), budget.share(0));
        first.grow(1).await;
        let wait = tokio::spawn(async move {
            second.grow(500).await;
            second.bytes()
        });
        tokio::task::yield_now().await;
        drop(event);
        assert_eq!(timeout(Duration::from_secs(5), wait).await.expect("it wakes").unwrap(), 500);
    }

    /// Each needs more than its part of the budget, and none gives anything back before it has all of it.
    #[tokio::test]
    async fn answers_do_not_wait_for_each_other() {
        let budget = ByteBudget::with_limit(LIMIT);
        let mut highest = 0;
        let answers = (0..50).map(|_| async {
            let mut share = budget.share(0);
            let mut seen = 0;
            for _ in 0..10 {
                share.grow(LIMIT / 20).await;
                seen = seen.max(budget.held());
                tokio::task::yield_now().await;
            }
            seen
        });
        for seen in timeout(Duration::from_secs(5), join_all(answers)).await.expect("all end") {
            highest = highest.max(seen);
        }
        assert!(highest <= LIMIT + LIMIT / 2, "{highest}: the limit and one answer");
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        #[test]
        fn what_is_held_is_what_lives(steps in proptest::collection::vec((0usize..5, 0usize..400, any::<bool>()), 0..60)) {
            let budget = ByteBudget::with_limit(LIMIT);
            let mut shares: Vec<Option<Share>> = (0..5).map(|_| None).collect();
            for (place, bytes, grows) in steps {
                match (&mut shares[place], grows) {
                    // Not done at once, it is cancelled.
                    (Some(share), true) => share.grow(bytes).now_or_never().unwrap_or_default(),
                    (place, true) => *place = Some(budget.share(bytes)),
                    (place, false) => *place = None,
                }
                prop_assert_eq!(budget.held(), shares.iter().flatten().map(Share::bytes).sum::<usize>());
            }
            drop(shares);
            prop_assert_eq!(budget.held(), 0);
        }
    }
}
