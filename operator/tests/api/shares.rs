//! Each handler has streams of its own on its topic's broker, from its first subscription to its end.

use async_nats::jetstream::Context;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_broker_client::layout;
use tidegate_crds::{EventHandler, EventTopic};

use crate::support::brokers::{Places, account, server, topic_with, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

async fn max_bytes(js: &Context, stream: String) -> Option<i64> {
    Some(js.get_stream(stream).await.ok()?.cached_info().config.max_bytes)
}

/// Waits until the condition says so, and answers with its message.
async fn until_condition(space: &Space, name: &str, kind: &str, reason: &str) -> String {
    eventually(&format!("{name}: {kind} {reason}"), async || {
        let handler: EventHandler = space.api().get(name).await.ok()?;
        let found = handler.status?.conditions.into_iter().find(|found| found.type_ == kind)?;
        (found.reason == reason).then_some(found.message)
    })
    .await
}

/// Beside 128 MiB of events there is room for the dead letters of eight handlers of events of 1 MiB.
const FIT: usize = 8;

#[tokio::test]
async fn handlers_share_the_room_and_one_too_many_is_told() {
    let _turn = turn().await;
    let (space, places) = (Space::new("shares").await, Places::default());
    let broker = server().await;
    topic_with(&space, &places, &broker, "orders", json!({"retention": {"maxSize": "128Mi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
    let name = |number: usize| format!("h{number}");
    space.create::<EventHandler>(handler(&name(0), spec(json!({"replicas": 1})))).await;
    until_condition(&space, &name(0), "Subscribed", "Subscribed").await;
    let alone = max_bytes(&js, layout::dead_letter_stream(&name(0))).await.unwrap();
    for number in 1..FIT {
        space.create::<EventHandler>(handler(&name(number), spec(json!({"replicas": 1})))).await;
    }
    for number in 1..FIT {
        until_condition(&space, &name(number), "Subscribed", "Subscribed").await;
    }
    for number in 0..FIT {
        let shared = max_bytes(&js, layout::dead_letter_stream(&name(number))).await;
        assert_eq!(shared, Some(alone / i64::try_from(FIT).unwrap()), "{}", name(number));
        assert!(max_bytes(&js, layout::attempt_stream(&name(number))).await.is_some());
    }
    space.create::<EventHandler>(handler("late", spec(json!({"replicas": 1})))).await;
    let why = until_condition(&space, "late", "Stalled", "NoRoomForDeadLetters").await;
    assert!(why.contains("8 handlers") && why.contains("maxEventSize"), "{why}");

    // What a deleted handler leaves are its dead letters, which its topic still counts.
    js.publish(layout::dead_letter_subject("h3"), "kept".into()).await.unwrap().await.unwrap();
    let api: Api<EventHandler> = space.api();
    for gone in ["h3", "h4"] {
        api.delete(gone, &DeleteParams::default()).await.unwrap();
        eventually("it is gone", async || api.get_opt(gone).await.ok()?.is_none().then_some(())).await;
        assert_eq!(max_bytes(&js, layout::attempt_stream(gone)).await, None);
    }
    assert_eq!(max_bytes(&js, layout::dead_letter_stream("h3")).await, Some(1), "it takes no more");
    assert_eq!(max_bytes(&js, layout::dead_letter_stream("h4")).await, None);
    let left = i64::try_from(FIT - 2).unwrap();
    eventually("the topic counts both", async || {
        let status = space.api::<EventTopic>().get("orders").await.ok()?.status?;
        ((status.dead_letters, status.handlers) == (Some(1), Some(left))).then_some(())
    })
    .await;
    operator.stop().await;
}
