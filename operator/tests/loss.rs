//! Stored events that are gone, on a real nats-server: each way in which they go is noticed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::path::PathBuf;

use async_nats::jetstream;
use tidegate_broker_admin::{release, streams};
use tidegate_crds::topic::StreamRecord;
use tidegate_operator::sessions::ingress_reports::StreamEnd;
use tidegate_operator::topic::loss;
use tidegate_test_broker::{LIMIT, TestBroker, topic};

struct World {
    broker: TestBroker,
    js: jetstream::Context,
}

impl World {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let js = broker.jetstream();
        let world = Self { broker, js };
        for number in 0..200 {
            let payload = format!("{number} {}", "x".repeat(1000));
            world.js.publish("events.0.t", payload.into()).await.unwrap().await.unwrap();
        }
        world
    }

    /// What the operator sees, which makes the streams as they should be.
    async fn look(&self, released: Option<i64>) -> StreamRecord {
        let begun = std::time::Instant::now();
        loop {
            match streams::ensure(&self.broker.admin(), &topic()).await {
                Ok(streams) => return loss::record(&streams.events, released, false),
                Err(error) => assert!(begun.elapsed() < LIMIT, "{error}\n{}", self.broker.log()),
            }
        }
    }

    /// What happens to the server's files while it is away.
    async fn while_away(&mut self, happens: impl FnOnce(PathBuf)) {
        self.broker.stop();
        happens(self.broker.data());
        self.broker.restart().await;
    }
}

fn block(data: &std::path::Path) -> PathBuf {
    let mut found = Vec::new();
    let mut folders = vec![data.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().contains("/streams/events/msgs/")
                && path.extension().is_some_and(|ext| ext == "blk")
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found.remove(0)
}

#[tokio::test]
async fn an_ordinary_life_loses_nothing() {
    let mut world = World::start().await;
    let before = world.look(None).await;
    assert_eq!((before.first_sequence, before.last_sequence, before.missing), (1, 200, 0));
    world.while_away(|_| ()).await;
    let after = world.look(None).await;
    assert_eq!(loss::between(&before, &after, &StreamEnd::default()), None);
    // A release is on record before it is done.
    release::execute(&world.broker.admin(), 50).await.unwrap();
    let released = world.look(Some(50)).await;
    assert_eq!(loss::between(&StreamRecord { released: Some(50), ..after }, &released, &StreamEnd::default()), None);
}

#[tokio::test]
async fn a_lost_volume_is_noticed() {
    let mut world = World::start().await;
    let before = world.look(None).await;
    // Streams are made in whole seconds, as far as the record says.
    while jiff::Timestamp::now().as_second() <= before.created.parse::<jiff::Timestamp>().unwrap().as_second() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.broker.stop();
    std::fs::remove_dir_all(world.broker.data().join("jetstream")).unwrap();
    // A person has said that it may begin without them: else a server that lost its volume waits for ever.
    world.broker.seed().unwrap();
    world.broker.restart().await;
    let lost = loss::between(&before, &world.look(None).await, &StreamEnd::default()).expect("noticed").message;
    assert!(lost.contains("events 1 to 200 are gone"), "{lost}");
}

#[tokio::test]
async fn a_purge_by_somebody_else_is_noticed() {
    let world = World::start().await;
    let before = world.look(None).await;
    world.js.get_stream("events").await.unwrap().purge().await.unwrap();
    let lost = loss::between(&before, &world.look(None).await, &StreamEnd::default()).expect("noticed").message;
    assert!(lost.contains("events 1 to 200 were removed from the stream by somebody else"), "{lost}");
}

#[tokio::test]
async fn a_damaged_block_is_noticed() {
    let mut world = World::start().await;
    let before = world.look(None).await;
    let damage = |data: PathBuf| {
        let block = block(&data);
        let mut bytes = std::fs::read(&block).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 16].fill(0xff);
        std::fs::write(block, bytes).unwrap();
    };
    world.while_away(damage).await;
    let now = world.look(None).await;
    let lost = loss::between(&before, &now, &StreamEnd::default())
        .unwrap_or_else(|| panic!("not noticed: {before:?}, {now:?}"))
        .message;
    assert!(lost.contains("went back") || lost.contains("are gone"), "{lost}");
}

#[tokio::test]
async fn an_event_that_was_deleted_singly_is_noticed() {
    let world = World::start().await;
    let before = world.look(None).await;
    world.js.get_stream("events").await.unwrap().delete_message(100).await.unwrap();
    let lost = loss::between(&before, &world.look(None).await, &StreamEnd::default()).expect("noticed").message;
    assert!(lost.contains("1 events between number 1 and 200"), "{lost}");
}
