//! One reconcile, shut off from all others: it ends in time, and a panic is its own.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::timeout;

use crate::reconcile::error::Error;

/// The longest a reconcile takes. Each request in it has a shorter limit of its own; this is for many of them.
pub const RECONCILE_LIMIT: Duration = Duration::from_secs(60);

/// Does this work within `limit`. What it holds when it panics is dropped with it; what others hold is behind locks
/// that outlive a panic.
///
/// # Errors
/// The work's own, or that it took too long or panicked.
pub async fn guarded<T>(limit: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => Err(Error::Panicked(text(panic.as_ref()))),
        Err(_) => Err(Error::TimedOut(limit)),
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn neither_a_panic_nor_a_wait_without_end_goes_further() {
        let panicked = guarded::<()>(RECONCILE_LIMIT, async { panic!("range end index {} out of range", 7) }).await;
        let error = panicked.unwrap_err();
        assert_eq!(error.reason(), "InternalError");
        assert!(error.to_string().contains("range end index 7"), "{error}");
        let hung = guarded::<()>(Duration::from_millis(20), std::future::pending()).await.unwrap_err();
        assert_eq!(hung.reason(), "TimedOut");
        assert!(guarded(RECONCILE_LIMIT, async { Ok(1) }).await.is_ok_and(|one| one == 1));
        let own = guarded::<()>(RECONCILE_LIMIT, async { Err(Error::Broker("away".into())) }).await.unwrap_err();
        assert_eq!(own.reason(), "BrokerError");
    }
}
