//! Waits for the thing itself. Their deadlines are generous: what is slow on a busy machine is not wrong.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::ContextBuilder;
use tidegate_broker_admin::api::{ApiError, Broker, ConsumerInfo};
use tidegate_broker_admin::consumers::{self, ConsumersFailure};
use tidegate_broker_client::layout;
use tokio::time::{Instant, sleep, timeout};

use crate::TestBroker;

/// Nothing that a test waits for takes longer, on a machine with other work too.
pub const LIMIT: Duration = Duration::from_secs(60);
/// For an answer of JetStream, instead of the client's own 5 s. Half of [`LIMIT`], so that [`eventually`] looks once more
/// where an answer was lost with its broker.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(20);

/// Waits until something holds.
///
/// # Panics
/// It does not hold within [`LIMIT`].
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        sleep(PERIOD).await;
    }
}

/// What a broker answers, asked again while it cannot answer. Where somebody else makes streams and consumers at the same
/// time, one that has no leader yet makes a whole list unavailable.
///
/// # Panics
/// It refuses, or cannot answer within [`LIMIT`].
pub async fn answer<T>(ask: impl AsyncFn() -> Result<T, ApiError>) -> T {
    let begun = Instant::now();
    loop {
        match ask().await {
            Err(ApiError::Unavailable(_)) if begun.elapsed() < LIMIT => sleep(PERIOD).await,
            answered => return answered.expect("the broker answers"),
        }
    }
}

/// The consumers of a topic's stream of events, as [`answer`] waits for them.
pub async fn consumers(admin: &Broker) -> Vec<ConsumerInfo> {
    let list = async || match consumers::list(admin).await {
        Err(ConsumersFailure::List(error)) => Err(error),
        found => Ok(found.expect("only the list can fail")),
    };
    answer(list).await
}

/// JetStream by this client.
pub fn jetstream(client: async_nats::Client) -> Context {
    ContextBuilder::new().timeout(JETSTREAM_TIMEOUT).build(client)
}

impl TestBroker {
    /// JetStream by [`Self::operator`].
    pub fn jetstream(&self) -> Context {
        jetstream(self.operator())
    }

    /// Waits until the operator's client reaches the stream of events again, as after a restart.
    pub async fn until_back(&self) {
        let context = self.jetstream();
        eventually("the broker is back", async || {
            let stream = timeout(Duration::from_secs(2), context.get_stream(layout::EVENT_STREAM)).await;
            stream.is_ok_and(|stream| stream.is_ok())
        })
        .await;
    }

    /// Waits until this many events wait for a consumer: it hears of an event a moment after its publisher.
    pub async fn until_pending(&self, consumer: &str, count: u64) {
        let admin = self.admin();
        eventually(&format!("{count} events wait for {consumer}"), async || {
            let info = admin.consumer(layout::EVENT_STREAM, consumer).await;
            info.is_ok_and(|info| info.num_pending == count)
        })
        .await;
    }
}
