//! The broker, and what it stores for those that are measured.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use async_nats::jetstream;
use async_nats::jetstream::consumer::Info;
use futures::future::try_join_all;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

use crate::LIMIT;
use crate::events::{self, Shape};

/// As in production.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Publishes in flight while a backlog is made.
const WINDOW: usize = 512;

/// When an event is acknowledged to its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk: the product's default.
    Fsync,
    /// When the server has it.
    Relaxed,
}

/// A broker with one topic.
pub struct Broker {
    /// The servers.
    pub server: TestBroker,
    /// The operator's JetStream.
    pub stream: jetstream::Context,
}

impl Broker {
    /// Starts so many servers.
    pub async fn start(durability: Durability, replicas: usize) -> Self {
        // Small events, so that many handlers have room for their dead letters and retries, beside the events in 1 GiB.
        let base = tidegate_test_broker::topic();
        let topic = Topic { replicas, max_bytes: 860 << 20, max_message_size: 256 << 10, ..base };
        let server = match durability {
            Durability::Fsync => TestBroker::start_fsync(topic).await,
            Durability::Relaxed => TestBroker::start_with(topic).await,
        };
        Self { stream: server.jetstream(), server }
    }

    /// One server with the product's defaults.
    pub async fn default() -> Self {
        Self::start(Durability::Fsync, 1).await
    }

    /// The servers' processes.
    pub fn pids(&self) -> Vec<u32> {
        (0..self.server.servers().len()).filter_map(|server| self.server.pid_of(server)).collect()
    }

    /// Stores so many new events, and returns their numbers.
    ///
    /// # Errors
    /// The broker refuses one.
    pub async fn publish(&self, count: u64, shape: Shape) -> anyhow::Result<std::ops::Range<u64>> {
        let numbers = events::numbers(count);
        let all: Vec<u64> = numbers.clone().collect();
        for some in all.chunks(WINDOW) {
            let mut stored = Vec::with_capacity(some.len());
            for number in some {
                let events::Message { subject, headers, payload } = events::message(*number, shape)?;
                stored.push(self.stream.publish_with_headers(subject, headers, payload).await?.into_future());
            }
            try_join_all(stored).await?;
        }
        Ok(numbers)
    }

    /// A handler's consumer, account and identity. It has what is published from now on.
    pub async fn handler(&self, name: &str) -> PathBuf {
        self.handler_of(name, Vec::new(), Order::None).await
    }

    /// The same for a handler that asks for these types in this order.
    pub async fn handler_of(&self, name: &str, types: Vec<String>, order: Order) -> PathBuf {
        let settings = consumers::Handler {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ack_wait: ACK_WAIT,
            max_ack_pending: 10_000,
            types,
            start: Start::Latest,
            order,
            is_suspended: false,
            is_draining: false,
        };
        self.server.handler_with(settings).await
    }

    /// Waits until a handler's last acknowledgement is with the broker, so that nothing of it comes in a later round.
    ///
    /// # Errors
    /// It does not come.
    pub async fn settled(&self, handler: &str, order: Order) -> anyhow::Result<()> {
        let all_acknowledged = |info: &Info| info.num_pending == 0 && info.num_ack_pending == 0;
        self.until(handler, order, "has unacknowledged events", all_acknowledged).await
    }

    /// Waits until the broker has seen that a handler's program is gone. It would give the next events to it.
    ///
    /// # Errors
    /// It does not see it.
    pub async fn left(&self, handler: &str, order: Order) -> anyhow::Result<()> {
        self.until(handler, order, "is still waited at", |info| info.num_waiting == 0).await
    }

    async fn until(
        &self,
        handler: &str,
        order: Order,
        otherwise: &str,
        holds: impl Fn(&Info) -> bool,
    ) -> anyhow::Result<()> {
        let consumers = match order {
            Order::None => vec![handler.to_owned()],
            Order::Key { lanes } => (0..lanes).map(|lane| layout::lane_consumer(handler, lane)).collect(),
        };
        let events = self.stream.get_stream(layout::EVENT_STREAM).await?;
        let begun = Instant::now();
        for consumer in consumers {
            while !holds(&events.consumer_info(&consumer).await?) {
                ensure!(begun.elapsed() < LIMIT, "after {LIMIT:?}, {consumer} {otherwise}");
                sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// Lets a handler's consumer begin with what is published from now on.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn skip(&self, handler: &str) -> anyhow::Result<()> {
        let events = self.stream.get_stream(layout::EVENT_STREAM).await?;
        events.purge().await?;
        self.settled(handler, Order::None).await
    }
}
