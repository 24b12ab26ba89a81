//! The one-way street from running to drained, seen from everywhere: who asks, who works, who waits.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// A handle to the process's drain. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    finished: CancellationToken,
}

impl Drain {
    /// Asks for the drain. Again and again is the same as once.
    pub fn begin(&self) {
        if !self.begun.is_cancelled() {
            tracing::info!("draining: no more events are pulled, deliveries in flight finish");
            self.begun.cancel();
        }
    }

    /// Whether it was asked for.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until it is asked for.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits until it was asked for so long ago.
    pub async fn begun_for(&self, time: Duration) {
        self.begun().await;
        sleep(time).await;
    }

    /// Says that nothing is in flight any more and everything was told to the broker.
    pub fn finish(&self) {
        if !self.finished.is_cancelled() {
            tracing::info!("drained");
            self.finished.cancel();
        }
    }

    /// Whether it is over.
    pub fn has_finished(&self) -> bool {
        self.finished.is_cancelled()
    }

    /// Waits until it is over.
    pub async fn finished(&self) {
        self.finished.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn everyone_waits_for_the_same_drain() {
        let drain = Drain::default();
        let (first, second) = (drain.clone(), drain.clone());
        assert!(first.begun().now_or_never().is_none());
        first.begin();
        second.begin();
        assert!(drain.has_begun() && drain.begun().now_or_never().is_some());
        assert!(first.finished().now_or_never().is_none() && second.finished().now_or_never().is_none());
        drain.finish();
        assert!(first.finished().now_or_never().is_some() && second.finished().now_or_never().is_some());
    }
}
