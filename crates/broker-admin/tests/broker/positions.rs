//! A handler's position outlives its consumers, against a real nats-server.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self};
use futures::TryStreamExt as _;
use tidegate_broker_admin::age;
use tidegate_broker_admin::consumers::{self, Ensured, Handler, Start};
use tidegate_broker_admin::positions::{Position, Restart};
use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_test_broker::{TestBroker, eventually, topic};

const NAME: &str = "billing";

fn handler(start: Start, order: Order) -> Handler {
    Handler {
        name: NAME.into(),
        uid: "uid".into(),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 1000,
        types: Vec::new(),
        start,
        order,
        is_suspended: false,
        is_draining: false,
    }
}

struct World {
    broker: TestBroker,
    js: jetstream::Context,
}

impl World {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let js = broker.jetstream();
        Self { broker, js }
    }

    /// Stores events whose payloads are these numbers.
    async fn publish(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let subject = layout::event_subject(u32::try_from(number).unwrap() % 32, "t");
            self.js.publish(subject, number.to_string().into()).await.unwrap().await.unwrap();
        }
    }

    async fn ensure(&self, handler: &Handler, recorded: &Position) -> Ensured {
        consumers::ensure(&self.broker.admin(), handler, recorded).await.unwrap()
    }

    /// Takes and acknowledges this many events, and what there is besides.
    async fn handle(&self, consumer: &str, count: usize) -> Vec<u64> {
        let consumer: PullConsumer = self.js.get_consumer_from_stream(consumer, layout::EVENT_STREAM).await.unwrap();
        let mut numbers = Vec::new();
        loop {
            let enough = numbers.len() >= count;
            let fetched = consumer.fetch().max_messages(500).messages().await.unwrap();
            let messages: Vec<_> = fetched.try_collect().await.unwrap();
            if messages.is_empty() && enough {
                return numbers;
            }
            for message in messages {
                message.double_ack().await.unwrap();
                numbers.push(String::from_utf8_lossy(&message.payload).parse().unwrap());
            }
        }
    }

    async fn lose(&self, consumer: &str) {
        let stream = self.js.get_stream(layout::EVENT_STREAM).await.unwrap();
        stream.delete_consumer(consumer).await.unwrap();
    }

    async fn begin_again(&self) {
        self.js.delete_stream(layout::EVENT_STREAM).await.unwrap();
        streams::ensure(&self.broker.admin(), &topic()).await.unwrap();
    }
}

fn after(sequence: u64) -> Vec<(String, Restart)> {
    vec![(NAME.to_owned(), Restart::After(sequence))]
}

#[tokio::test]
async fn a_lost_consumer_goes_on_where_it_was() {
    for (start, before) in [(Start::Latest, 0), (Start::Earliest, 5), (Start::Sequence(4), 2)] {
        let world = World::start().await;
        let handler = handler(start, Order::None);
        world.publish(0..5).await;
        let Ensured { position, restarts, .. } = world.ensure(&handler, &Position::default()).await;
        assert_eq!(restarts, [], "a new handler begins where it says");
        // Lost before it handled anything.
        world.lose(NAME).await;
        world.publish(5..50).await;
        let restarted = world.ensure(&handler, &position).await;
        assert_eq!(restarted.restarts, after(5 - before), "{start:?}");
        let count = usize::try_from(45 + before).unwrap();
        assert_eq!(world.handle(NAME, count).await, (5 - before..50).collect::<Vec<_>>());
        let position = world.ensure(&handler, &restarted.position).await.position;
        // Lost between two events.
        world.lose(NAME).await;
        world.publish(50..150).await;
        let restarted = world.ensure(&handler, &position).await;
        assert_eq!(restarted.restarts, after(50), "{start:?}");
        assert_eq!(world.handle(NAME, 100).await, (50..150).collect::<Vec<_>>(), "none is skipped or repeated");
        assert_eq!(world.ensure(&handler, &restarted.position).await.restarts, []);
    }
}

/// Each lane from its own record.
#[tokio::test]
async fn a_lost_lane_goes_on_where_it_was() {
    let world = World::start().await;
    let handler = handler(Start::Latest, Order::Key { lanes: 2 });
    let mut position = world.ensure(&handler, &Position::default()).await.position;
    world.publish(0..20).await;
    position.acknowledged.insert("billing_0".into(), 12);
    world.lose("billing_0").await;
    let restarts = world.ensure(&handler, &position).await.restarts;
    assert_eq!(restarts, [("billing_0".to_owned(), Restart::After(12))]);
    // Even numbers are in lane 0, and sequence 13 is number 12.
    world.broker.until_pending("billing_0", 4).await;
    world.broker.until_pending("billing_1", 10).await;
}

#[tokio::test]
async fn a_handler_begins_with_the_first_event_of_a_stream_that_began_again() {
    for start in [Start::Sequence(50), Start::Latest, Start::Earliest] {
        let world = World::start().await;
        let handler = handler(start, Order::None);
        let position = world.ensure(&handler, &Position::default()).await.position;
        world.publish(0..60).await;
        world.handle(NAME, 11).await;
        let position = world.ensure(&handler, &position).await.position;
        world.begin_again().await;
        world.publish(0..20).await;
        let restarts = world.ensure(&handler, &position).await.restarts;
        assert_eq!(restarts, [(NAME.to_owned(), Restart::NewStream)], "{start:?}");
        assert_eq!(world.handle(NAME, 20).await, (0..20).collect::<Vec<_>>());
    }
}

/// It has no position yet, and is not ahead of its stream either.
#[tokio::test]
async fn a_handler_waits_for_a_sequence_that_is_still_to_come() {
    let world = World::start().await;
    let handler = handler(Start::Sequence(10), Order::None);
    world.publish(0..3).await;
    let mut position = Position::default();
    for _ in 0..2 {
        let Ensured { position: seen, restarts, .. } = world.ensure(&handler, &position).await;
        assert_eq!((restarts, seen.acknowledged.len()), (vec![], 0));
        position = seen;
    }
    world.lose(NAME).await;
    world.ensure(&handler, &position).await;
    world.publish(3..12).await;
    assert_eq!(world.handle(NAME, 3).await, [9, 10, 11], "sequences 10 to 12");
}

/// A handler that is made again under its name is another, and begins where it says.
#[tokio::test]
async fn another_handler_of_the_name_has_no_position() {
    let world = World::start().await;
    world.ensure(&handler(Start::Earliest, Order::None), &Position::default()).await;
    world.publish(0..5).await;
    let second = Handler { uid: "uid-2".into(), ..handler(Start::Earliest, Order::None) };
    assert_eq!(world.ensure(&second, &Position::default()).await.restarts, []);
    assert_eq!(world.handle(NAME, 5).await, (0..5).collect::<Vec<_>>());
}

/// Of the events that its consumer reads, whatever else there is before and after.
#[tokio::test]
async fn the_oldest_unacknowledged_event_is_found() {
    let world = World::start().await;
    let wanted = Handler { types: vec!["a".into(), "b.*".into()], ..handler(Start::Earliest, Order::None) };
    let publish = async |event_type: &str| {
        let subject = layout::event_subject(3, event_type);
        world.js.publish(subject, "0".into()).await.unwrap().await.unwrap().sequence
    };
    publish("other").await;
    assert_eq!(world.ensure(&wanted, &Position::default()).await.backlog, None);
    publish("a").await;
    world.handle(NAME, 1).await;
    publish("other").await;
    let oldest = publish("b.c").await;
    publish("a").await;
    world.broker.until_pending(NAME, 2).await;
    let backlog = world.ensure(&wanted, &Position::default()).await.backlog.unwrap();
    let stream = world.js.get_stream(layout::EVENT_STREAM).await.unwrap();
    let stored = stream.get_raw_message(oldest).await.unwrap().time;
    assert_eq!(age::oldest(&world.broker.admin(), &backlog).await.unwrap(), Some(stored));
    stream.purge().await.unwrap();
    assert_eq!(age::oldest(&world.broker.admin(), &backlog).await.unwrap(), None, "retention was faster");
}

/// What the record is for.
#[tokio::test]
async fn without_a_record_a_lost_consumer_skips_or_repeats() {
    for (start, expected) in [(Start::Latest, vec![]), (Start::Earliest, (0..20).collect::<Vec<_>>())] {
        let world = World::start().await;
        let handler = handler(start, Order::None);
        world.ensure(&handler, &Position::default()).await;
        world.publish(0..10).await;
        world.handle(NAME, 10).await;
        world.lose(NAME).await;
        world.publish(10..20).await;
        world.ensure(&handler, &Position::default()).await;
        assert_eq!(world.handle(NAME, expected.len()).await, expected, "{start:?}");
    }
}

/// What a consumer of three copies says of itself when it is made is as good.
#[tokio::test]
async fn a_lost_consumer_of_three_servers_goes_on_where_it_was() {
    let broker = TestBroker::start_cluster().await;
    let world = World { js: broker.jetstream(), broker };
    let handler = handler(Start::Latest, Order::None);
    world.publish(0..5).await;
    let position = world.ensure(&handler, &Position::default()).await.position;
    assert_eq!(position.acknowledged.get(NAME), Some(&5));
    world.lose(NAME).await;
    world.publish(5..10).await;
    assert_eq!(world.ensure(&handler, &position).await.restarts, after(5));
    assert_eq!(world.handle(NAME, 5).await, (5..10).collect::<Vec<_>>());
}

/// A server that cannot read a consumer's progress does not serve it any more, and gives its name to no other.
#[tokio::test]
async fn a_consumer_whose_file_is_damaged_goes_on_where_it_was() {
    let mut world = World::start().await;
    let handler = handler(Start::Earliest, Order::None);
    world.ensure(&handler, &Position::default()).await;
    world.publish(0..20).await;
    world.handle(NAME, 20).await;
    let position = world.ensure(&handler, &Position::default()).await.position;
    world.broker.stop();
    world.broker.damage_consumer(0, NAME);
    world.broker.restart().await;
    world.publish(20..30).await;
    let mut restarts = Vec::new();
    eventually("the consumer is made again", async || {
        let ensured = consumers::ensure(&world.broker.admin(), &handler, &position).await;
        ensured.is_ok_and(|ensured| {
            restarts = ensured.restarts;
            true
        })
    })
    .await;
    assert_eq!(restarts, after(20));
    assert_eq!(world.handle(NAME, 10).await, (20..30).collect::<Vec<_>>());
}
