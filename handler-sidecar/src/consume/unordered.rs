//! Events in any order: each is handled as soon as it is in hand, and settled by a message that nobody waits for.

use std::pin::pin;
use std::sync::Arc;

use tidegate_telemetry::Instrument as _;

use crate::consume::in_hand::InHand;
use crate::consume::process::{Context, Verdict};
use crate::ops::config;
use crate::ops::metrics::{Metrics, Settled};

/// Takes one event to its end.
pub async fn process(context: Arc<Context>, event: InHand) {
    let mut counted = Counted::new(&context.metrics);
    let verdict = {
        // Pinned here: passed on by value it would be in this future twice.
        let handled = pin!(context.handle(&event));
        event.renewed(config::renew_every(&context.config), handled).await
    };
    let span = context.traces.settle(event.headers(), verdict.settled().name());
    let settling = async {
        match verdict {
            Verdict::Acknowledge(_) => event.acknowledge().await,
            Verdict::RetryIn(wait) => event.retry_in(wait).await,
            Verdict::GiveBack(wait) if wait.is_zero() => event.give_back().await,
            Verdict::GiveBack(wait) => event.retry_in(wait).await,
        }
    };
    settling.instrument(span).await;
    counted.how = verdict.settled();
}

/// Counts an event in, and out, however its processing ends.
#[derive(Debug)]
pub struct Counted<'a> {
    metrics: &'a Metrics,
    /// How it ended; given back, unless somebody knows better.
    pub how: Settled,
}

impl<'a> Counted<'a> {
    /// An event came.
    pub fn new(metrics: &'a Metrics) -> Self {
        metrics.came();
        Self { metrics, how: Settled::GivenBack }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.left(self.how);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of<F: Future>(_: impl Fn(Arc<Context>, InHand) -> F) -> usize {
        std::mem::size_of::<F>()
    }

    /// There are up to thousands of them: what does not happen to most events is boxed.
    #[test]
    fn an_event_in_flight_is_small() {
        let size = size_of(process);
        assert!(size <= 4096, "{size} bytes");
    }
}
