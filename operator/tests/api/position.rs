//! A handler's position outlives its consumer, through whole reconciles.

use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, consumer::DeliverPolicy};
use futures::StreamExt as _;
use kube::api::Api;
use serde_json::json;
use tidegate_crds::EventHandler;

use crate::handler::{condition, until_reason};
use crate::support::brokers::{Places, account, publish_one, server, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

/// Takes as many events as a sidecar would, acknowledges them and tells their sequences.
async fn take(js: &jetstream::Context, count: usize) -> Vec<u64> {
    let stream = js.get_stream("events").await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("billing").await.unwrap();
    let batch = consumer.fetch().max_messages(count).expires(Duration::from_secs(10));
    let mut messages = batch.messages().await.unwrap();
    let mut sequences = Vec::new();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        sequences.push(message.info().unwrap().stream_sequence);
        message.double_ack().await.unwrap();
    }
    sequences
}

#[tokio::test]
async fn a_consumer_that_is_deleted_behind_the_operator_goes_on_where_it_was() {
    let _turn = turn().await;
    let (space, places) = (Space::new("position").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
    for _ in 0..10 {
        publish_one(&js).await;
    }
    let spec = spec(json!({"replicas": 1, "startFrom": "Earliest"}));
    space.create::<EventHandler>(handler("billing", spec)).await;
    until_reason(&space, "Subscribed", "Subscribed").await;
    assert_eq!(take(&js, 5).await, [1, 2, 3, 4, 5]);
    // A change that is not only one of numbers, so that the record is written now.
    space.merge::<EventHandler>("billing", json!({"spec": {"replicas": 2}})).await;
    let api: Api<EventHandler> = space.api();
    eventually("the position is on record", async || {
        let position = api.get("billing").await.ok()?.status?.position?;
        position.consumers.iter().any(|entry| entry.name == "billing" && entry.acknowledged == 5).then_some(())
    })
    .await;
    let stream = js.get_stream("events").await.unwrap();
    stream.delete_consumer("billing").await.unwrap();
    let info = eventually("it is made again", async || stream.consumer_info("billing").await.ok()).await;
    assert_eq!(info.config.deliver_policy, DeliverPolicy::ByStartSequence { start_sequence: 6 });
    assert_eq!(take(&js, 5).await, [6, 7, 8, 9, 10], "nothing is missed, and nothing acknowledged comes again");
    let said = "the broker had lost consumer billing: deliveries continue after sequence 5";
    let told = eventually("the condition tells of it", async || {
        let handler = api.get("billing").await.ok()?;
        let subscribed = condition(&handler, "Subscribed")?;
        (subscribed.status == "True" && subscribed.message.contains(said)).then_some(handler)
    })
    .await;
    let restored = told.status.unwrap().position.unwrap().restored.unwrap();
    assert!(restored.message.starts_with(said), "{}", restored.message);
    let notes =
        eventually("an Event", async || Some(space.events("PositionRestored").await).filter(|notes| !notes.is_empty()))
            .await;
    assert!(notes.len() == 1 && notes[0].starts_with(said), "{notes:?}");
    operator.stop().await;
}
