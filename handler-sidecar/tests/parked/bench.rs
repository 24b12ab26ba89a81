//! A handler with order by key whose container fails the events of certain keys.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use futures::future::join_all;
use serde_json::json;
use tidegate_broker_client::contract::{Order, Retry, Sidecar};
use tidegate_broker_client::{layout, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep};

use crate::support::{Container, HANDLER, config, consumers_of};

const LIMIT: Duration = Duration::from_secs(120);

/// A number from the environment.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(default)
}

/// How often a failing event is tried, and how long it waits in between.
pub struct Patience {
    pub wait: Duration,
    pub attempts: u32,
}

impl Patience {
    pub fn of(wait: Duration) -> Self {
        Self { wait, attempts: 1000 }
    }
}

/// All of it.
pub struct Bench {
    pub broker: TestBroker,
    pub config: Sidecar,
    container: Container,
    fails: Arc<AtomicBool>,
    takes: Arc<AtomicU64>,
}

impl Bench {
    /// With so many lanes; no sidecar yet.
    pub async fn start(lanes: u16, ack_wait: Duration, patience: Patience) -> Self {
        let broker = TestBroker::start().await;
        let (fails, takes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let script = (fails.clone(), takes.clone());
        let container = Container::answering(move |received| {
            let fails = script.0.load(Ordering::SeqCst) && received.id().starts_with("fails");
            (if fails { 500 } else { 204 }, Duration::from_millis(script.1.load(Ordering::SeqCst)))
        })
        .await;
        let order = Order::Key { lanes };
        let identity = broker.handler_with(consumers_of(order, ack_wait)).await;
        let mut config = config(&broker, identity, container.port, ack_wait);
        config.delivery.order = order;
        let Patience { wait, attempts: max_attempts } = patience;
        config.delivery.retry =
            Retry { max_attempts, initial: wait, max: wait, factor: 1.0, jitter: 0.0, ..config.delivery.retry };
        Self { broker, config, container, fails, takes }
    }

    /// Whether events of keys that begin with `fails` fail.
    pub fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// How long the handler takes for each.
    pub fn take(&self, time: Duration) {
        self.takes.store(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Requests so far.
    pub fn count(&self) -> usize {
        self.container.count()
    }

    /// The ids of all that was handled, in order.
    pub fn handled(&self) -> Vec<String> {
        self.container.of_each(|received| (received.status == 204).then(|| received.id()))
    }

    /// Waits until something holds. Long, because all tests of the machine may run beside it.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; {}", self.broker.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many requests were answered well.
    pub async fn until_handled(&self, count: usize) {
        self.until("all are handled", async || self.handled().len() >= count).await;
    }

    /// Stores events of a key, each named by its number.
    pub async fn publish(&self, key: &str, numbers: RangeInclusive<u64>) {
        let context = jetstream::new(self.broker.operator());
        let numbers: Vec<u64> = numbers.collect();
        for chunk in numbers.chunks(200) {
            let mut stored = Vec::new();
            for number in chunk {
                let id = format!("{key}-{number}");
                let event = Event::builder(&id, "/order", "step").attribute("partitionkey", key);
                let (headers, payload) = peer::encode(&event.data("{}").build().unwrap());
                let subject = layout::event_subject(layout::partition(key), "step");
                stored.push(context.publish_with_headers(subject, headers, payload).await.unwrap().into_future());
            }
            join_all(stored).await.into_iter().for_each(|stored| drop(stored.unwrap()));
        }
    }

    /// Events on the shelf.
    pub async fn parked(&self) -> usize {
        let mut stream = self.shelf().await;
        usize::try_from(stream.info().await.unwrap().state.messages).unwrap()
    }

    async fn shelf(&self) -> jetstream::stream::Stream {
        jetstream::new(self.broker.operator()).get_stream(layout::retry_stream(HANDLER)).await.unwrap()
    }

    /// Puts on record that so many attempts of an event were begun, of which none ended.
    pub async fn record_begun(&self, sequence: u64, deliveries: u32) {
        let record = json!({"handler": self.config.handler_uid, "deliveries": deliveries, "attempts": 0, "failed": []});
        let subject = layout::attempt_subject(HANDLER, &sequence.to_string());
        let context = jetstream::new(self.broker.operator());
        context.publish(subject, record.to_string().into()).await.unwrap().await.unwrap();
    }

    /// What is on record of events.
    pub async fn records(&self) -> Vec<serde_json::Value> {
        let context = jetstream::new(self.broker.operator());
        let stream = context.get_stream(layout::attempt_stream(HANDLER)).await.unwrap();
        let mut records = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await {
                records.push(serde_json::from_slice(&message.payload).unwrap());
            }
        }
        records
    }

    /// Gives the shelf room for so many bytes.
    pub async fn limit_shelf(&self, bytes: i64) {
        let mut settings = self.shelf().await.cached_info().config.clone();
        settings.max_bytes = bytes;
        jetstream::new(self.broker.operator()).update_stream(settings).await.unwrap();
    }

    /// Removes all events of the topic.
    pub async fn purge_topic(&self) {
        let stream = jetstream::new(self.broker.operator()).get_stream(layout::EVENT_STREAM).await.unwrap();
        stream.purge().await.unwrap();
    }

    /// The consumer of a lane.
    pub fn lane(&self, lane: u16) -> String {
        layout::lane_consumer(HANDLER, lane)
    }
}
