//! How many dead letters of a handler its topic's broker keeps.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidegate_broker_admin::api::Broker;
use tidegate_broker_client::layout;

use crate::sessions::by_handler::HandlerKey;

/// Somewhat shorter than the time between two changes of a status by numbers alone.
const PERIOD: Duration = Duration::from_secs(50);

/// When each handler's letters were counted last.
#[derive(Default)]
pub struct LetterCounts(Mutex<HashMap<HandlerKey, Instant>>);

impl LetterCounts {
    /// Asks the broker, unless that was done a moment ago; `None`: what is known stays. `known_as`: the handler's name in
    /// its topic's account.
    pub async fn count(&self, handler: &HandlerKey, known_as: &str, broker: &Broker) -> Option<u64> {
        let is_known = |at: &Instant| at.elapsed() < PERIOD;
        {
            let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.get(handler).is_some_and(is_known) {
                return None;
            }
            asked.retain(|_, at| is_known(at));
            asked.insert(handler.clone(), Instant::now());
        }
        match count(broker, known_as).await {
            Ok(letters) => Some(letters),
            Err(error) => {
                tracing::debug!(namespace = handler.0, handler = handler.1, error, "dead letters are not counted");
                None
            }
        }
    }

    /// The next count asks in any case.
    pub fn expire(&self, handler: &HandlerKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(handler);
    }
}

async fn count(broker: &Broker, handler: &str) -> Result<u64, String> {
    let stream = broker.stream(&layout::dead_letter_stream(handler)).await.map_err(|error| error.to_string())?;
    Ok(stream.state.messages)
}

#[cfg(test)]
mod tests {
    use tidegate_broker_admin::handler_streams;
    use tidegate_test_broker::TestBroker;

    use super::*;

    #[tokio::test]
    async fn each_handler_has_its_own_letters() {
        let broker = TestBroker::start().await;
        let api = broker.admin();
        for (handler, letters) in [("billing", 3), ("shipping", 2), ("other", 0)] {
            handler_streams::ensure(&api, handler, "u").await.unwrap();
            for _ in 0..letters {
                api.publish(&layout::dead_letter_subject(handler), None, b"").await.unwrap();
            }
        }
        let counts = LetterCounts::default();
        let key = |name: &str| ("shop".to_owned(), name.to_owned());
        for (handler, expected) in [("billing", 3), ("shipping", 2), ("other", 0)] {
            assert_eq!(counts.count(&key(handler), handler, &api).await, Some(expected), "{handler}");
        }
        assert_eq!(counts.count(&key("billing"), "billing", &api).await, None, "a moment later");
        counts.expire(&key("billing"));
        assert_eq!(counts.count(&key("billing"), "billing", &api).await, Some(3));
    }

    #[tokio::test]
    async fn a_broker_without_the_stream_changes_nothing() {
        let broker = TestBroker::start_direct().await;
        let api = Broker::new(broker.admin_client(), Duration::from_millis(300));
        assert_eq!(LetterCounts::default().count(&("shop".into(), "billing".into()), "billing", &api).await, None);
    }
}
