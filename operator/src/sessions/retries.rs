//! How many events of each handler wait for a retry, as its topic's broker said last.

use std::sync::Arc;

use crate::handler::shelf::News;
use crate::sessions::by_handler::{ByHandler, HandlerKey};

/// Events that wait, for each handler.
#[derive(Default)]
pub struct RetryTracker(ByHandler<u64>);

impl RetryTracker {
    /// Events of a handler that wait; `None`: the broker has not said yet.
    pub fn waiting(&self, handler: &HandlerKey) -> Option<u64> {
        self.0.get(handler, |waiting| *waiting)
    }

    /// Takes down how many wait. Whether the handler has to be reconciled for what is new: numbers wait for their time.
    pub(crate) fn record(&self, handler: HandlerKey, waiting: u64, news: News) -> bool {
        self.0.record(handler, |known, is_due| {
            *known = waiting;
            news == News::Urgent || (news == News::Numbers && is_due)
        })
    }

    /// Forgets every handler that no longer exists.
    pub(crate) fn keep(&self, is_alive: impl Fn(&HandlerKey) -> bool) {
        self.0.keep(is_alive);
    }
}

/// Exports them as `tidegate.handler.retries`: a series for each handler there is.
pub fn export(retries: &Arc<RetryTracker>) {
    let retries = Arc::clone(retries);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.handler.retries")
        .with_unit("{event}")
        .with_description("Events of a handler that wait for a retry")
        .with_callback(move |gauge| retries.0.for_each(|attributes, waiting| gauge.observe(*waiting, &attributes)))
        .build();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_wait_for_their_time_and_the_rest_does_not() {
        let retries = RetryTracker::default();
        let key = || ("shop".to_owned(), "billing".to_owned());
        assert_eq!(retries.waiting(&key()), None);
        for (waiting, news, tells) in [
            (0, News::None, false),
            (1, News::Urgent, true),
            (2, News::Numbers, false),
            (0, News::Urgent, true),
            (0, News::None, false),
        ] {
            assert_eq!(retries.record(key(), waiting, news), tells, "{waiting} {news:?}");
            assert_eq!(retries.waiting(&key()), Some(waiting));
        }
        assert!(RetryTracker::default().record(key(), 7, News::Numbers), "the first numbers are due");
        retries.keep(|_| false);
        assert_eq!(retries.waiting(&key()), None);
    }
}
