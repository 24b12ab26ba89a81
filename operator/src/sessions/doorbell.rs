//! Wakes sleeping handlers by their first event, without waiting for the next poll.
//!
//! For a topic that has a handler without pods, the operator listens to what the ingresses write, in their account and so
//! over one connection for all topics of a broker, for exactly one message: the server itself ends the subscription after
//! it. So a busy topic costs one message a second at most, and an idle one nothing. The bell only means "ask now": how many
//! pods are needed is decided from the broker's answer.

use std::time::Duration;

use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_wire::nats::Client;
use tokio::time::{sleep, timeout};

/// The bell rings when the event reaches the server; it counts as pending a little later, once it is stored.
const STORED_AFTER: Duration = Duration::from_millis(20);
/// After this long without an event the broker is asked anyway, and listened to again.
const LIFETIME: Duration = Duration::from_secs(600);
/// Without a connection to listen on, another try is made after this long.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// Listens from now on. What it returns ends when an event of the topic came, or when it is time to ask anyway.
pub fn hang(ingresses: &Client, topic: &TopicId) -> impl Future<Output = ()> + use<> {
    let events = ingresses.subscribe_once(&TopicSubjects::new(topic, Routing::Queued).events()).ok();
    async move {
        let first = async {
            let mut events = events?;
            events.next().await
        };
        match timeout(LIFETIME, first).await {
            Ok(Some(_)) => sleep(STORED_AFTER).await,
            Ok(None) => sleep(RETRY_PERIOD).await,
            Err(_) => {}
        }
    }
}
