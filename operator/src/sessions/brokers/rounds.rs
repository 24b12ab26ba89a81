//! Work that is done once for all who asked for it while it was being done before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Duration, Instant, sleep_until};

use crate::reconcile::error::Error;

/// Rounds of such work: one at a time. What a round does covers whoever had asked before it began, and nobody else.
pub(crate) struct Rounds<T> {
    state: Mutex<State<T>>,
    /// When the next round may begin.
    turn: tokio::sync::Mutex<Option<Instant>>,
    spacing: Duration,
}

/// Whether there was something to do in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The next round waits for its time.
    Changed,
    /// It need not.
    Nothing,
}

struct State<T> {
    /// Requests so far.
    requests: u64,
    /// Those that no round has covered yet or that have not taken its outcome yet, by their number.
    open: BTreeMap<u64, Request<T>>,
}

enum Request<T> {
    Waiting(T),
    /// Covered by a round that ended so.
    Done(Result<(), Arc<Error>>),
}

impl<T: Clone> Rounds<T> {
    /// With so much time from the beginning of a round that changes something to the next one.
    pub(crate) fn spaced(spacing: Duration) -> Self {
        let state = Mutex::new(State { requests: 0, open: BTreeMap::new() });
        Self { state, turn: tokio::sync::Mutex::default(), spacing }
    }

    /// Waits for a round that begins from now on, and runs it unless another who asked does. `work` is given what all
    /// asked for that the round covers.
    ///
    /// # Errors
    /// The round failed: for all whom it covers.
    pub(crate) async fn join<F>(&self, wanted: T, work: impl FnOnce(Vec<T>) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<Effect, Error>>,
    {
        let request = self.open(wanted);
        let mut next = self.turn.lock().await;
        if let Some(outcome) = request.outcome() {
            return outcome.map_err(|error| error.of_another());
        }
        if let Some(next) = *next {
            sleep_until(next).await;
        }
        let (begun, (last, all)) = (Instant::now(), self.begin());
        // A round that is given up covers nobody: the next one who waits runs another.
        let outcome = work(all).await;
        *next = (!matches!(outcome, Ok(Effect::Nothing))).then(|| begun + self.spacing);
        let outcome = outcome.map(drop).map_err(Arc::new);
        self.end(last, &outcome);
        outcome.map_err(|error| error.of_another())
    }

    fn open(&self, wanted: T) -> OpenRequest<'_, T> {
        let mut state = self.lock();
        state.requests += 1;
        let number = state.requests;
        state.open.insert(number, Request::Waiting(wanted));
        OpenRequest { rounds: self, number }
    }

    /// What is asked for now, and the number of the last request.
    fn begin(&self) -> (u64, Vec<T>) {
        let state = self.lock();
        let waiting = state.open.values().filter_map(|request| match request {
            Request::Waiting(wanted) => Some(wanted.clone()),
            Request::Done(_) => None,
        });
        (state.requests, waiting.collect())
    }

    fn end(&self, last: u64, outcome: &Result<(), Arc<Error>>) {
        for (_, request) in self.lock().open.range_mut(..=last) {
            if matches!(request, Request::Waiting(_)) {
                *request = Request::Done(outcome.clone());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request, which is withdrawn when it is given up.
struct OpenRequest<'a, T: Clone> {
    rounds: &'a Rounds<T>,
    number: u64,
}

impl<T: Clone> OpenRequest<'_, T> {
    /// What a round that covers it ended with.
    fn outcome(&self) -> Option<Result<(), Arc<Error>>> {
        match self.rounds.lock().open.get(&self.number) {
            Some(Request::Done(outcome)) => Some(outcome.clone()),
            Some(Request::Waiting(_)) | None => None,
        }
    }
}

impl<T: Clone> Drop for OpenRequest<'_, T> {
    fn drop(&mut self) {
        self.rounds.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of a second, which are written down with when they began, in milliseconds.
    struct Written {
        rounds: Rounds<u32>,
        origin: Instant,
        done: Mutex<Vec<(u128, Vec<u32>)>>,
    }

    impl Written {
        fn spaced(spacing: Duration) -> Self {
            Self { rounds: Rounds::spaced(spacing), origin: Instant::now(), done: Mutex::default() }
        }

        /// Asks at so many milliseconds. A round fails that has the number 0 in it, and one of 9 alone changes nothing.
        async fn ask(&self, millis: u64, number: u32) -> Result<(), Error> {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            let work = |all: Vec<u32>| async {
                let begun = self.origin.elapsed().as_millis();
                if all == [9] {
                    return Ok(Effect::Nothing);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                if all.contains(&0) {
                    return Err(Error::Broker("away".into()));
                }
                self.done.lock().unwrap().push((begun, all));
                Ok(Effect::Changed)
            };
            self.rounds.join(number, work).await
        }

        fn done(&self) -> Vec<(u128, Vec<u32>)> {
            assert!(self.rounds.lock().open.is_empty());
            self.done.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_while_a_round_is_under_way_share_the_next_one() {
        let written = Written::spaced(Duration::ZERO);
        let ask = |millis, number| written.ask(millis, number);
        let all = tokio::join!(ask(0, 1), ask(100, 2), ask(500, 3), ask(999, 4), ask(1500, 5));
        assert!([all.0, all.1, all.2, all.3, all.4].iter().all(Result::is_ok));
        assert_eq!(written.done(), [(0, vec![1]), (1000, vec![2, 3, 4]), (2000, vec![5])]);
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_that_change_something_are_spaced_and_cover_whoever_comes_meanwhile() {
        let written = Written::spaced(Duration::from_secs(3));
        let ask = |millis, number| written.ask(millis, number);
        let all = tokio::join!(ask(0, 9), ask(1, 1), ask(1500, 2), ask(2999, 3));
        assert!([all.0, all.1, all.2, all.3].iter().all(Result::is_ok));
        assert_eq!(written.done(), [(1, vec![1]), (3001, vec![2, 3])]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_fails_fails_for_all_whom_it_covers_and_for_nobody_else() {
        let written = Written::spaced(Duration::ZERO);
        let ask = |millis, number| written.ask(millis, number);
        let all = tokio::join!(ask(0, 1), ask(100, 2), ask(200, 0), ask(1500, 4));
        assert!(all.0.is_ok() && all.3.is_ok());
        for failed in [all.1, all.2] {
            assert_eq!(failed.unwrap_err().to_string(), "broker: away");
        }
        assert_eq!(written.done(), [(0, vec![1]), (2000, vec![4])]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_is_given_up_covers_nobody_and_what_is_given_up_is_not_asked_for() {
        let written = Written::spaced(Duration::ZERO);
        let short = |millis, number| tokio::time::timeout(Duration::from_millis(700), written.ask(millis, number));
        let (first, second, third) = tokio::join!(short(0, 1), short(100, 2), written.ask(200, 3));
        assert!(first.is_err() && second.is_err() && third.is_ok());
        assert_eq!(written.done(), [(700, vec![3])]);
    }
}
