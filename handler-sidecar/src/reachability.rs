//! Whether the handler's container takes connections at all.
//!
//! While it does not (it is not up yet, or is down), nothing is pulled and no event uses up an attempt. A probe
//! is a TCP connect, closed at once: nothing is sent to a handler that did not ask for it.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::backoff::Backoff;

const PROBE_LIMIT: Duration = Duration::from_secs(1);
const PROBES: Backoff =
    Backoff { initial: Duration::from_millis(100), max: Duration::from_secs(1), factor: 1.5, jitter: 0.0 };

/// What is known of the handler's listener; at first that it does not answer.
#[derive(Debug)]
pub struct Reachability {
    port: u16,
    reachable: watch::Sender<bool>,
}

impl Reachability {
    /// Of the listener at this port on loopback.
    pub fn new(port: u16) -> Self {
        Self { port, reachable: watch::Sender::new(false) }
    }

    /// A connection could not be made, so nothing was sent.
    pub fn lost(&self, why: &str) {
        if self.reachable.send_replace(false) {
            tracing::warn!(port = self.port, why, "the handler is not reachable: nothing is pulled until it is");
        }
    }

    /// The state, and every change of it.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.reachable.subscribe()
    }

    /// Waits until it is reachable.
    pub async fn reachable(&self) {
        // The sender lives as long as `self`: there is no error.
        let _ = self.subscribe().wait_for(|reachable| *reachable).await;
    }

    /// Probes while it is not reachable. Never returns.
    pub async fn watch(&self) {
        let mut state = self.subscribe();
        loop {
            let _ = state.wait_for(|reachable| !reachable).await;
            let mut failures = 0;
            while !self.probe().await {
                failures += 1;
                sleep(PROBES.wait(failures, 0.5)).await;
            }
            tracing::info!(port = self.port, "the handler is reachable");
            self.reachable.send_replace(true);
        }
    }

    async fn probe(&self) -> bool {
        matches!(timeout(PROBE_LIMIT, TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))).await, Ok(Ok(_)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn it_follows_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let handler = std::sync::Arc::new(Reachability::new(port));
        let watcher = tokio::spawn({
            let handler = handler.clone();
            async move { handler.watch().await }
        });
        assert!(timeout(Duration::from_millis(250), handler.reachable()).await.is_err());
        let _listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        timeout(Duration::from_secs(5), handler.reachable()).await.unwrap();
        handler.lost("test");
        assert!(!*handler.subscribe().borrow());
        timeout(Duration::from_secs(5), handler.reachable()).await.unwrap();
        watcher.abort();
    }
}
