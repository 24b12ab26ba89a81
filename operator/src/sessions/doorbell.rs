//! Wakes sleeping handlers by their first event, without waiting for the next poll.
//!
//! For a topic that has a handler without pods, the operator listens to its events, for exactly one message: the
//! server itself ends the subscription after it. So a busy topic costs one message a second at most, and an idle
//! one nothing. The bell only means "ask now": how many pods are needed is decided from the broker's answer.

use std::time::Duration;

use tidegate_broker_client::layout;
use tokio::time::{sleep, timeout};

use crate::sessions::brokers::Broker;

/// The bell rings when the event reaches the server; it counts as pending a little later, once it is stored.
const STORED_AFTER: Duration = Duration::from_millis(20);
/// After this long without an event the broker is asked anyway, and a new subscription made: the connection may have
/// been lost meanwhile.
const LIFETIME: Duration = Duration::from_secs(60);

/// Waits for the topic's next event, for a minute at most.
pub async fn next_event(broker: &Broker) {
    if timeout(LIFETIME, first_message(broker)).await.is_ok() {
        sleep(STORED_AFTER).await;
    }
}

async fn first_message(broker: &Broker) {
    let heard = async {
        let mut events = broker.client().subscribe_once(layout::EVENT_SUBJECTS).ok()?;
        events.next().await
    };
    if heard.await.is_none() {
        // There is no connection to hear it.
        std::future::pending::<()>().await;
    }
}
