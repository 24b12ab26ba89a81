//! What an event waits for before it is sent: each wait has an end.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Context, REDELIVERY_DELAY};
use crate::deliver::availability::{State, Turn};

/// An event waits here this long for a handler that is not available, which covers an ordinary restart of a
/// container; then somebody else may have it.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// What goes to another sidecar comes to it after this: by then no open pull of this one asks for it any more.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(100);

impl Context {
    /// Waits for the right to send while not everybody may; `patience` ends some time after the first wait began. Where
    /// the container takes no connections and another sidecar's does, that one may have the event.
    pub(super) async fn turn(&self, patience: &mut Option<Instant>) -> Result<Turn, Duration> {
        let end = *patience.get_or_insert_with(|| Instant::now() + WAIT_TIMEOUT);
        tokio::select! {
            turn = timeout_at(end, self.availability.turn()) => turn.map_err(|_| REDELIVERY_DELAY),
            () = self.drain.begun() => Err(Duration::ZERO),
            () = self.another_could() => Err(HAND_OVER_TIMEOUT),
        }
    }

    /// Waits until another sidecar could deliver what this one cannot.
    async fn another_could(&self) {
        let (mut state, mut another_is_able) = (self.availability.subscribe(), self.another_is_able.clone());
        loop {
            let unreachable = matches!(*state.borrow_and_update(), State::Unreachable(_));
            if unreachable && *another_is_able.borrow_and_update() {
                return;
            }
            // Both senders live as long as the process.
            tokio::select! {
                _ = state.changed() => {}
                _ = another_is_able.changed() => {}
            }
        }
    }

    /// Waits for the turn that the handler's rate allows.
    ///
    /// # Errors
    /// The sidecar ends first.
    pub(super) async fn paced(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.options.limiter else { return Ok(()) };
        tokio::select! {
            // Who has its turn takes it, drain or not.
            biased;
            () = limiter.turn() => Ok(()),
            () = self.drain.begun() => Err(Duration::ZERO),
        }
    }

    /// Waits until there is room for a reply: those that are kept because their topic is away may take all of it.
    ///
    /// # Errors
    /// The sidecar ends first.
    pub(super) async fn room(&self) -> Result<(), Duration> {
        tokio::select! {
            biased;
            () = self.budget.room() => Ok(()),
            () = self.drain.begun() => Err(Duration::ZERO),
        }
    }
}
