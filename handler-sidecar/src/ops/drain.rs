//! The drain of a sidecar: it begins once, it finishes once, and every part can wait for either.

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
    /// Begins the drain, unless it has begun.
    pub fn begin(&self) {
        if !self.begun.is_cancelled() {
            tracing::info!("draining: waiting for the deliveries in flight");
            self.begun.cancel();
        }
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Waits until it began this long ago.
    pub async fn begun_for(&self, time: Duration) {
        self.begun().await;
        sleep(time).await;
    }

    /// Finishes it: nothing is in flight, and the broker knows what became of every event.
    pub fn finish(&self) {
        if !self.finished.is_cancelled() {
            tracing::info!("drained");
            self.finished.cancel();
        }
    }

    /// Whether it has finished.
    pub fn has_finished(&self) -> bool {
        self.finished.is_cancelled()
    }

    /// Waits until it finishes.
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
