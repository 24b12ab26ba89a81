//! The broker, and the programs that use it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use futures::future::try_join_all;
use tempfile::TempDir;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_admin::{LeafRequest, Usage};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::identity::{self, file};
use tidegate_broker_client::{connect, layout};
use tidegate_test_broker::TestBroker;
use time::OffsetDateTime;

use crate::events;

/// As in production.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Publishes in flight while a backlog is made.
const WINDOW: usize = 512;

/// A broker with one topic.
pub struct Broker {
    /// The server.
    pub server: TestBroker,
    /// The operator's JetStream.
    pub stream: jetstream::Context,
    operator: TempDir,
}

/// What a client on another thread or in another process needs to be the operator.
#[derive(Clone)]
pub struct Operator {
    /// Addresses of the broker.
    pub servers: Vec<String>,
    /// Folder of the identity.
    pub identity: PathBuf,
}

impl Broker {
    /// Starts it.
    ///
    /// # Errors
    /// The operator's identity cannot be made or written.
    pub async fn start() -> anyhow::Result<Self> {
        // Small events, so that many handlers have room for their dead letters.
        let topic = Topic { max_bytes: 900 << 20, max_message_size: 256 << 10, ..tidegate_test_broker::topic() };
        let server = TestBroker::start_with(topic).await;
        let operator = TempDir::new()?;
        write_operator(&server, operator.path())?;
        Ok(Self { stream: jetstream::new(server.operator()), server, operator })
    }

    /// For clients of their own.
    pub fn as_operator(&self) -> Operator {
        Operator { servers: self.server.servers(), identity: self.operator.path().to_owned() }
    }

    /// Stores so many new events.
    ///
    /// # Errors
    /// The broker refuses one.
    pub async fn publish(&self, count: u64) -> anyhow::Result<Range<u64>> {
        let numbers = events::numbers(count);
        let all: Vec<u64> = numbers.clone().collect();
        for some in all.chunks(WINDOW) {
            let mut stored = Vec::with_capacity(some.len());
            for number in some {
                let events::Message { subject, headers, payload } = events::message(*number)?;
                stored.push(self.stream.publish_with_headers(subject, headers, payload).await?.into_future());
            }
            try_join_all(stored).await?;
        }
        Ok(numbers)
    }

    /// A consumer like a handler's, for the operator. It has what is published from now on.
    ///
    /// # Errors
    /// The broker refuses it.
    pub async fn consumer(&self, name: &str) -> anyhow::Result<()> {
        consumers::ensure(&self.stream, &settings(name), &Position::default()).await?;
        Ok(())
    }

    /// A handler's consumer, account and identity. It has what is published from now on.
    pub async fn handler(&self, name: &str) -> PathBuf {
        self.server.handler_with(settings(name)).await
    }

    /// The same for a handler that asks for these types in this order.
    pub async fn handler_of(&self, name: &str, types: Vec<String>, order: Order) -> PathBuf {
        self.server.handler_with(consumers::Handler { types, order, ..settings(name) }).await
    }
}

impl Operator {
    /// Connects on this thread's runtime.
    ///
    /// # Errors
    /// The broker is not there.
    pub async fn connect(&self) -> anyhow::Result<jetstream::Context> {
        let source = identity::folder(&self.identity);
        Ok(jetstream::new(connect::connect("bench", &self.servers, source).await?))
    }

    /// Connects, and takes a consumer.
    ///
    /// # Errors
    /// The broker is not there, or has no such consumer.
    pub async fn consumer(&self, name: &str) -> anyhow::Result<(async_nats::Client, PullConsumer)> {
        let stream = self.connect().await?;
        let consumer = stream.get_consumer_from_stream(name, layout::EVENT_STREAM).await?;
        Ok((stream.client(), consumer))
    }
}

fn settings(name: &str) -> consumers::Handler {
    consumers::Handler {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        replicas: 1,
        ack_wait: ACK_WAIT,
        max_ack_pending: 10_000,
        types: Vec::new(),
        start: Start::Latest,
        order: Order::None,
    }
}

fn write_operator(server: &TestBroker, folder: &Path) -> anyhow::Result<()> {
    let now = OffsetDateTime::now_utc();
    let user = server.authority().operator_user(now)?;
    let request = LeafRequest { name: "bench operator".into(), hosts: Vec::new(), usage: Usage::Client };
    let leaf = server.authority().leaf(&request, now)?;
    for (name, content) in [
        (file::CA, &server.authority().ca_certificate),
        (file::CERTIFICATE, &leaf.certificate),
        (file::KEY, &leaf.key),
        (file::USER_JWT, &user.jwt),
        (file::USER_SEED, &user.seed),
    ] {
        std::fs::write(folder.join(name), content)?;
    }
    Ok(())
}
