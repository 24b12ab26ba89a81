//! What waits for a retry is seen, has room or says that it has none, and goes with its handler.

use async_nats::jetstream::Context;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::EventHandlerStatus;

use crate::handler::{condition, until_reason};
use crate::support::brokers::{Places, account, server, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

/// Stores messages of 1 MiB until the stream refuses one.
async fn fill(js: &Context, subject: &str) -> i64 {
    for stored in 0..100 {
        let answer = js.publish(subject.to_owned(), vec![b'x'; 1 << 20].into()).await.unwrap().await;
        if let Err(error) = answer {
            assert!(error.to_string().contains("maximum bytes"), "{error}");
            return stored;
        }
    }
    panic!("there is no end of it");
}

/// Waits until both conditions about room say this, and answers with the status and their messages.
async fn until_room(space: &Space, expected: (&str, &str)) -> (EventHandlerStatus, Vec<String>) {
    let api: Api<EventHandler> = space.api();
    eventually(&format!("{expected:?}"), async || {
        let handler = api.get("billing").await.ok()?;
        let found = ["RetriesFull", "DeadLettersFull"].map(|kind| condition(&handler, kind));
        let mut messages = Vec::new();
        for condition in found {
            let condition = condition?;
            if (condition.status.as_str(), condition.reason.as_str()) != expected {
                return None;
            }
            messages.push(condition.message.clone());
        }
        Some((handler.status?, messages))
    })
    .await
}

#[tokio::test]
async fn what_waits_for_a_retry_is_shown_and_goes_with_its_handler() {
    let _turn = turn().await;
    let (space, places) = (Space::new("retries").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    until_reason(&space, "Subscribed", "Subscribed").await;
    let (status, _) = until_room(&space, ("False", "Room")).await;
    let retries = status.retries.unwrap();
    assert_eq!((retries.waiting, retries.oldest), (0, None));

    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
    let shelf = js.get_stream(layout::retry_stream("billing")).await.unwrap();
    let waiting = fill(&js, &layout::waiting_subject("billing")).await;
    fill(&js, &layout::dead_letter_subject("billing")).await;
    shelf.delete_consumer("billing").await.unwrap();
    let (status, messages) = until_room(&space, ("True", "Full")).await;
    assert!(messages[0].contains("delivery.retry") && messages[1].contains("spec.redrive"), "{messages:?}");
    let retries = status.retries.unwrap();
    assert!(retries.waiting == waiting && retries.oldest.is_some(), "{retries:?}");
    let consumer = eventually("its consumer is made again", async || shelf.consumer_info("billing").await.ok()).await;
    assert_eq!(i64::try_from(consumer.num_pending), Ok(waiting));

    shelf.purge().await.unwrap();
    js.get_stream(layout::dead_letter_stream("billing")).await.unwrap().purge().await.unwrap();
    let (status, _) = until_room(&space, ("False", "Room")).await;
    assert_eq!(status.retries.map(|retries| retries.waiting), Some(0));

    for _ in 0..3 {
        js.publish(layout::waiting_subject("billing"), "waits".into()).await.unwrap().await.unwrap();
    }
    let api: Api<EventHandler> = space.api();
    api.delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", async || api.get_opt("billing").await.ok()?.is_none().then_some(())).await;
    assert!(js.get_stream(layout::retry_stream("billing")).await.is_err());
    let notes =
        eventually("an Event", async || Some(space.events("RetriesDropped").await).filter(|notes| !notes.is_empty()))
            .await;
    assert_eq!(notes, ["3 events that waited for a retry went with the handler"]);
    operator.stop().await;
}
