//! A handler with order by key whose container fails the events of certain keys.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use futures::TryStreamExt as _;
use futures::future::join_all;
use serde_json::json;
use tidegate_broker_admin::consumers;
use tidegate_broker_admin::positions::Position;
use tidegate_broker_client::contract::{Order, Retry, Sidecar};
use tidegate_broker_client::{layout, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tokio::time::{Instant, sleep};

use crate::support::{Container, HANDLER, all_settled_by, config, consumers_of, free_port};

const LIMIT: Duration = Duration::from_secs(120);
/// What waits for a failing key takes of the shelf, at most.
const BYTES_OF_A_KEY: u64 = 4096;

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
    pub handler: consumers::Handler,
    container: Container,
    fails: Arc<AtomicBool>,
    takes: Arc<AtomicU64>,
    limit: Duration,
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
        let handler = consumers_of(order, ack_wait);
        let identity = broker.handler_with(handler.clone()).await;
        let mut config = config(&broker, identity, container.port, ack_wait);
        config.delivery.order = order;
        let Patience { wait, attempts: max_attempts } = patience;
        config.delivery.retry =
            Retry { max_attempts, initial: wait, max: wait, factor: 1.0, jitter: 0.0, ..config.delivery.retry };
        Self { broker, config, handler, container, fails, takes, limit: LIMIT }
    }

    /// So many keys will fail: their events have room on the shelf, and what is waited for may take as long as they do.
    pub async fn expect_keys(&mut self, keys: u64) {
        self.limit = LIMIT.max(Duration::from_millis(keys * 12));
        self.limit_shelf(i64::try_from(keys * BYTES_OF_A_KEY).unwrap().max(64 << 20)).await;
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
            assert!(begun.elapsed() < self.limit, "not within {:?}: {what}; {}", self.limit, self.broker.log());
            sleep(self.limit / 1000).await;
        }
    }

    /// Waits until so many requests were answered well.
    pub async fn until_handled(&self, count: usize) {
        let handled = || self.container.of_each(|received| (received.status == 204).then_some(())).len();
        self.until("all are handled", async || handled() >= count).await;
    }

    /// The configuration of another sidecar beside the first one.
    pub fn another(&self) -> Sidecar {
        Sidecar { admin_port: free_port(), ..self.config.clone() }
    }

    /// Stores events of a key, each named by its number.
    pub async fn publish(&self, key: &str, numbers: RangeInclusive<u64>) {
        self.publish_all(numbers.map(|number| (key.to_owned(), number)).collect()).await;
    }

    /// Stores events in this order, each named by its key and its number.
    pub async fn publish_all(&self, events: Vec<(String, u64)>) {
        let context = self.broker.jetstream();
        for chunk in events.chunks(200) {
            let mut stored = Vec::new();
            for (key, number) in chunk {
                let id = format!("{key}-{number}");
                let event = Event::builder(&id, "/order", "step").attribute("partitionkey", key);
                let (headers, payload) = peer::encode(&event.data("{}").build().unwrap());
                let subject = layout::event_subject(layout::partition(key), "step");
                stored.push(context.publish_with_headers(subject, headers, payload).await.unwrap().into_future());
            }
            join_all(stored).await.into_iter().for_each(|stored| drop(stored.unwrap()));
        }
    }

    /// Waits until the only lane has nothing left, nor the shelf. In this order: what leaves a lane is on the shelf
    /// before.
    pub async fn until_empty(&self) {
        all_settled_by(&self.broker, &layout::lane_consumer(HANDLER, 0)).await;
        self.until("the shelf is empty", async || self.parked().await == 0).await;
    }

    /// Events on the shelf.
    pub async fn parked(&self) -> usize {
        self.subjects(&layout::parked_subjects(HANDLER, None)).await.iter().map(|(_, count)| count).sum()
    }

    /// The marks of keys that are held.
    pub async fn held(&self) -> Vec<String> {
        self.subjects(&layout::held_subjects(HANDLER, None)).await.into_iter().map(|(subject, _)| subject).collect()
    }

    /// Releases all keys, as the operator does.
    pub async fn release(&self) {
        self.shelf().await.purge().filter(layout::held_subjects(HANDLER, None)).await.unwrap();
    }

    /// Releases one key of the only lane, as the operator does.
    pub async fn release_key(&self, key: &str) {
        let mark = layout::held_subject(HANDLER, 0, layout::key_digest(key));
        self.shelf().await.purge().filter(mark).await.unwrap();
    }

    /// Puts something of each of these keys of the only lane on the shelf, and marks them as held.
    pub async fn hold_all(&self, keys: impl Iterator<Item = u64>) {
        let context = self.broker.jetstream();
        let subjects = |key| [layout::parked_subject(HANDLER, 0, key), layout::held_subject(HANDLER, 0, key)];
        for chunk in keys.flat_map(subjects).collect::<Vec<_>>().chunks(500) {
            let mut stored = Vec::new();
            for subject in chunk {
                stored.push(context.publish(subject.clone(), "{}".into()).await.unwrap().into_future());
            }
            join_all(stored).await.into_iter().for_each(|stored| drop(stored.unwrap()));
        }
    }

    async fn subjects(&self, filter: &str) -> Vec<(String, usize)> {
        self.shelf().await.info_with_subjects(filter).await.unwrap().try_collect().await.unwrap()
    }

    async fn shelf(&self) -> jetstream::stream::Stream {
        self.broker.jetstream().get_stream(layout::retry_stream(HANDLER)).await.unwrap()
    }

    /// Puts on record that so many attempts of an event were begun, of which none ended.
    pub async fn record_begun(&self, sequence: u64, deliveries: u32) {
        let record = json!({"handler": self.config.handler_uid, "deliveries": deliveries, "attempts": 0, "failed": []});
        let subject = layout::attempt_subject(HANDLER, &sequence.to_string());
        let context = self.broker.jetstream();
        context.publish(subject, record.to_string().into()).await.unwrap().await.unwrap();
    }

    /// What is on record of events.
    pub async fn records(&self) -> Vec<serde_json::Value> {
        let stream = self.attempts().await;
        let mut records = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            if let Ok(message) = stream.get_raw_message(sequence).await
                && !message.subject.contains(".lease-")
            {
                records.push(serde_json::from_slice(&message.payload).unwrap());
            }
        }
        records
    }

    /// Whether the lease of the shelf of a lane is free, as its last owner says.
    pub async fn is_shelf_free(&self, lane: u16) -> bool {
        let record = self.attempts().await.get_last_raw_message_by_subject(&layout::lease_subject(HANDLER, lane)).await;
        let record: serde_json::Value = serde_json::from_slice(&record.unwrap().payload).unwrap();
        record["free"] == true
    }

    /// Frees the lease of the shelf of a lane, whose owner is gone.
    pub async fn free_shelf(&self, lane: u16) {
        let record = json!({"owner": "gone", "free": true}).to_string();
        let context = self.broker.jetstream();
        context.publish(layout::lease_subject(HANDLER, lane), record.into()).await.unwrap().await.unwrap();
    }

    async fn attempts(&self) -> jetstream::stream::Stream {
        self.broker.jetstream().get_stream(layout::attempt_stream(HANDLER)).await.unwrap()
    }

    /// Gives the shelf room for so many bytes.
    pub async fn limit_shelf(&self, bytes: i64) {
        let mut settings = self.shelf().await.cached_info().config.clone();
        settings.max_bytes = bytes;
        self.broker.jetstream().update_stream(settings).await.unwrap();
    }

    /// Parks an event as another pod would that failed at it once. Its next attempt is to be `wait` later, which is so
    /// many milliseconds from now by the clock of that pod.
    pub async fn park(&self, key: &str, number: u64, wait: Duration, left: i64) {
        let now = jiff::Timestamp::now();
        let event = Event::builder(&format!("{key}-{number}"), "/order", "step").attribute("partitionkey", key);
        let (mut headers, payload) = peer::encode(&event.data("{}").build().unwrap());
        let record = json!({
            "handler": self.config.handler_uid, "deliveries": 1, "attempts": 1, "untried": 0, "failed": [],
            "notBefore": now.as_millisecond() + left, "wait": u64::try_from(wait.as_millis()).unwrap(),
        });
        headers.insert("Tidegate-Sequence", number.to_string());
        headers.insert("Tidegate-Published-At", now.as_nanosecond().to_string());
        headers.insert("Tidegate-Record", record.to_string());
        let subject = layout::parked_subject(HANDLER, 0, layout::key_digest(key));
        let stored = self.broker.jetstream().publish_with_headers(subject, headers, payload).await;
        stored.unwrap().await.unwrap();
    }

    /// Removes all that is parked, and no mark.
    pub async fn purge_parked(&self) {
        self.shelf().await.purge().filter(layout::parked_subjects(HANDLER, None)).await.unwrap();
    }

    /// Removes all events of the topic.
    pub async fn purge_topic(&self) {
        let stream = self.broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
        stream.purge().await.unwrap();
    }

    /// How far the handler is, as the operator puts it on record.
    pub async fn position(&self) -> Position {
        consumers::ensure(&self.broker.admin(), &self.handler, &Position::default()).await.unwrap().position
    }

    /// The consumer of the only lane is lost, and made again at this position.
    pub async fn lose_consumer(&self, position: &Position) {
        let stream = self.broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
        stream.delete_consumer(&layout::lane_consumer(HANDLER, 0)).await.unwrap();
        consumers::ensure(&self.broker.admin(), &self.handler, position).await.unwrap();
    }
}
