//! A full topic, against a real nats-server: room is made, and if there can be none, it is said why.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures::StreamExt as _;
use tidegate_broker_admin::api::StreamInfo;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::release::{Holder, Places, Room};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_crds::topic::WhenFull;
use tidegate_operator::sessions::ingress_reports::Refusing;
use tidegate_operator::topic::room::{self, RoomState};
use tidegate_test_broker::{LIMIT, TestBroker, answer, topic};
use tokio::task::JoinHandle;

const SIZE: usize = 4 << 20;
const EVENT: usize = 16 << 10;

struct World {
    broker: TestBroker,
    js: jetstream::Context,
}

impl World {
    async fn start() -> Self {
        let size = i64::try_from(SIZE).unwrap();
        let broker = TestBroker::start_with(Topic { max_bytes: size, max_message_size: 64 << 10, ..topic() }).await;
        let js = broker.jetstream();
        Self { broker, js }
    }

    async fn handler(&self, name: &str) {
        let handler = consumers::Handler {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 1000,
            types: Vec::new(),
            start: Start::Earliest,
            order: Order::None,
            is_suspended: false,
            is_draining: false,
        };
        self.broker.handler_with(handler).await;
    }

    /// Handles events as they come.
    async fn handling(&self, name: &str, handled: Arc<AtomicU64>) -> JoinHandle<()> {
        let stream = self.js.get_stream(layout::EVENT_STREAM).await.unwrap();
        let consumer: PullConsumer = stream.get_consumer(name).await.unwrap();
        tokio::spawn(async move {
            let mut messages = consumer.messages().await.unwrap();
            while let Some(message) = messages.next().await {
                message.unwrap().ack().await.unwrap();
                handled.fetch_add(1, Ordering::Relaxed);
            }
        })
    }

    async fn publish(&self) -> bool {
        let sent = self.js.publish(layout::event_subject(0, "t"), vec![b'x'; EVENT].into()).await.unwrap();
        sent.await.is_ok()
    }

    async fn info(&self) -> StreamInfo {
        answer(async || self.broker.admin().stream(layout::EVENT_STREAM).await).await
    }

    /// What a reconcile does after a publisher was refused.
    async fn make_room(&self, handlers: &[&str]) -> RoomState {
        let consumers = handlers.iter().map(|&name| name.to_owned()).collect();
        let places = Places { consumers, ..Places::default() };
        room::make(&self.broker.admin(), self.info().await, &places, Some(Refusing::Topic), None).await.unwrap().1
    }
}

/// On f49a93a the topic answered 429 for ever after about its size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_handler_keeps_up_takes_many_times_its_size() {
    let world = World::start().await;
    world.handler("billing").await;
    let handled = Arc::new(AtomicU64::new(0));
    let handling = world.handling("billing", handled.clone()).await;
    let events = u64::try_from(5 * SIZE / EVENT).unwrap();
    let (mut accepted, mut refused) = (0, 0);
    while accepted < events {
        if world.publish().await {
            accepted += 1;
            continue;
        }
        refused += 1;
        let begun = Instant::now();
        while world.make_room(&["billing"]).await.is_full {
            assert!(begun.elapsed() < LIMIT, "full for ever after {accepted} events");
        }
    }
    let begun = Instant::now();
    while handled.load(Ordering::Relaxed) < events {
        assert!(begun.elapsed() < LIMIT, "{handled:?} of {events} were handled");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(refused > 0, "it never was full: the test tries nothing");
    assert!(Room::from(&world.info().await).messages > 0, "some are kept");
    handling.abort();
}

#[tokio::test]
async fn a_topic_that_nothing_can_be_released_from_says_who_needs_it() {
    let world = World::start().await;
    while world.publish().await {}
    let alone = world.make_room(&[]).await;
    assert!(alone.is_full && alone.holder == Some(Holder::NoHandlers), "{alone:?}");
    world.handler("billing").await;
    let held = world.make_room(&["billing"]).await;
    assert!(held.is_full && matches!(&held.holder, Some(Holder::Behind { handler, .. }) if handler == "billing"));
    let found = room::has_room(&held, WhenFull::ReleaseHandled);
    assert!(!found.is_true() && found.message.contains("EventHandler billing"), "{}", found.message);
    let handling = world.handling("billing", Arc::default()).await;
    let begun = Instant::now();
    while world.make_room(&["billing"]).await.is_full {
        assert!(begun.elapsed() < LIMIT, "full for ever");
    }
    assert!(world.publish().await, "room again");
    handling.abort();
}
