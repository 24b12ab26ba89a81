//! When everything that there was at the start has been reconciled once: until then, the operator may not have noticed what
//! happened while it was away.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kubernetes::written::Key;

/// How far the first round is.
pub struct FirstRound {
    began: Instant,
    state: Mutex<State>,
}

enum State {
    /// It is not known yet what there is. What has been reconciled all the same.
    Listing(HashSet<Key>),
    /// What has not been reconciled, how much there is in all, and how many reconciles failed.
    Reconciling { left: HashSet<Key>, resources: usize, failed: usize },
    /// How long it took.
    Over(Duration),
}

impl Default for FirstRound {
    fn default() -> Self {
        Self { began: Instant::now(), state: Mutex::new(State::Listing(HashSet::new())) }
    }
}

impl FirstRound {
    /// These are all the resources that there are.
    pub(crate) fn begin(&self, all: HashSet<Key>) {
        let mut state = self.lock();
        let State::Listing(known) = &*state else { return };
        let resources = all.len();
        let left = all.into_iter().filter(|key| !known.contains(key)).collect();
        *state = State::Reconciling { left, resources, failed: 0 };
        self.end_if_over(&mut state);
    }

    /// A resource has been reconciled, in vain or not.
    pub(crate) fn note(&self, key: &Key, succeeded: bool) {
        let mut state = self.lock();
        match &mut *state {
            State::Listing(known) => {
                known.insert(key.clone());
            }
            State::Reconciling { left, failed, .. } => *failed += usize::from(left.remove(key) && !succeeded),
            State::Over(_) => {}
        }
        self.end_if_over(&mut state);
    }

    /// Forgets what is gone.
    pub(crate) fn keep(&self, is_alive: impl Fn(&Key) -> bool) {
        let mut state = self.lock();
        if let State::Reconciling { left, .. } = &mut *state {
            left.retain(is_alive);
        }
        self.end_if_over(&mut state);
    }

    /// How long it took; `None`: it is not over.
    pub fn duration(&self) -> Option<Duration> {
        match *self.lock() {
            State::Over(duration) => Some(duration),
            State::Listing(_) | State::Reconciling { .. } => None,
        }
    }

    fn end_if_over(&self, state: &mut State) {
        let State::Reconciling { left, resources, failed } = state else { return };
        if left.is_empty() {
            let took = self.began.elapsed();
            let (resources, failed, seconds) = (*resources, *failed, took.as_secs_f64());
            tracing::info!(resources, failed, seconds, "every resource has been reconciled since the start");
            *state = State::Over(took);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exports it as `tidegate.operator.first_round.duration`.
pub fn export(round: &Arc<FirstRound>) {
    let round = Arc::clone(round);
    opentelemetry::global::meter("tidegate-operator")
        .f64_observable_gauge("tidegate.operator.first_round.duration")
        .with_unit("s")
        .with_description("Time from the operator's start until every resource had been reconciled once")
        .with_callback(move |gauge| round.duration().iter().for_each(|took| gauge.observe(took.as_secs_f64(), &[])))
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("EventTopic".into(), "shop".into(), name.into())
    }

    fn keys(names: &[&str]) -> HashSet<Key> {
        names.iter().map(|name| key(name)).collect()
    }

    #[test]
    fn it_is_over_when_all_that_is_left_has_been_reconciled() {
        let round = FirstRound::default();
        round.note(&key("early"), true);
        round.begin(keys(&["early", "a", "b", "deleted"]));
        round.note(&key("a"), true);
        round.note(&key("a"), true);
        round.note(&key("new"), true);
        round.keep(|(_, _, name)| name != "deleted");
        assert_eq!(round.duration(), None, "b is left");
        round.note(&key("b"), false);
        assert!(round.duration().is_some());
        let took = round.duration();
        round.begin(keys(&["c"]));
        round.note(&key("c"), true);
        assert_eq!(round.duration(), took, "there is one");
    }

    #[test]
    fn without_any_resource_it_is_over_at_once() {
        let round = FirstRound::default();
        round.begin(HashSet::new());
        assert!(round.duration().is_some());
    }
}
