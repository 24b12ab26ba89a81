//! Waiting for one thing without holding up others.

use std::pin::pin;

use futures::{Stream, StreamExt as _};

/// Waits for `one`, drives `others` meanwhile, and gives their outputs to `done`.
///
/// What is in flight holds shares of the bounds and gives them back only when it is polled, so a task that waits for a
/// share must not stop polling.
pub async fn meanwhile<F: Future, S: Stream + Unpin>(
    one: F,
    others: &mut S,
    mut done: impl FnMut(S::Item),
) -> F::Output {
    let mut one = pin!(one);
    loop {
        tokio::select! {
            biased;
            output = &mut one => return output,
            Some(item) = others.next() => done(item),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::stream::FuturesUnordered;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn a_task_that_waits_for_a_share_gets_that_of_what_is_in_flight() {
        let shares = Arc::new(Semaphore::new(1));
        let mut in_flight = FuturesUnordered::new();
        let taken = Arc::clone(&shares).acquire_owned().await;
        in_flight.push(async move { drop(taken) });
        let mut done = 0;
        assert!(meanwhile(shares.acquire(), &mut in_flight, |()| done += 1).await.is_ok());
        assert_eq!(done, 1);
    }
}
