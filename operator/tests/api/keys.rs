//! Keys that are held until a person releases them: the status tells of them, and `spec.release` removes their marks.

use kube::api::Api;
use serde_json::json;
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::held_keys;
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::{EventHandlerStatus, ReleasePhase};

use crate::handler::{condition, until_reason};
use crate::support::brokers::{Places, account, server, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::workloads::roll_out;
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

/// Parks events of a key, as a sidecar does, and holds it.
async fn hold(broker: &Broker, key: &str, events: u64) {
    let digest = layout::key_digest(key);
    for _ in 0..events {
        broker.publish(&layout::parked_subject("billing", 0, digest), None, b"event").await.unwrap();
    }
    let mark = json!({"sequence": 7, "reason": "attempts-used-up", "key": key}).to_string();
    broker.publish(&layout::held_subject("billing", 0, digest), None, mark.as_bytes()).await.unwrap();
}

/// Waits until the status says something, and answers with it.
async fn until(space: &Space, what: &str, is_so: impl Fn(&EventHandlerStatus) -> bool) -> EventHandlerStatus {
    let api: Api<EventHandler> = space.api();
    eventually(what, async || api.get("billing").await.ok()?.status.filter(&is_so)).await
}

#[tokio::test]
async fn held_keys_are_shown_and_released_when_the_handler_has_rolled_out() {
    let _turn = turn().await;
    let (space, places) = (Space::new("keys").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let parking = json!({"delivery": {"order": "Key", "lanes": 2, "retry": {"onExhausted": "Park"}}, "replicas": 1});
    space.create::<EventHandler>(handler("billing", spec(parking))).await;
    let subscribed = until_reason(&space, "Subscribed", "Subscribed").await;
    assert_eq!(subscribed.spec.delivery.retry.on_exhausted, tidegate_crds::handler::OnExhausted::Park);
    until_reason(&space, "KeysHeld", "NoneHeld").await;

    // The next operator sees both at once.
    operator.stop().await;
    let admin = account(&space, &broker, "orders").await.admin;
    hold(&admin, "customer-1", 2).await;
    hold(&admin, "customer-2", 1).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    let told = until_reason(&space, "KeysHeld", "Held").await;
    assert!(condition(&told, "KeysHeld").unwrap().message.contains("spec.release"));
    let retries = told.status.unwrap().retries.unwrap();
    assert_eq!((retries.waiting, retries.parked_keys, retries.held_keys), (3, Some(2), Some(2)));
    let named: Vec<_> = retries.held.iter().map(|held| (held.key.as_deref(), held.sequence)).collect();
    assert_eq!(named, [(Some("customer-1"), Some(7)), (Some("customer-2"), Some(7))]);

    // No controller has looked at its Deployment since it was changed, so there may be pods of an older template.
    let release = json!({"spec": {"release": {"request": "repaired", "keys": ["customer-2"]}}});
    space.merge::<EventHandler>("billing", release).await;
    let waits = |request: &'static str| {
        move |status: &EventHandlerStatus| {
            let waiting = status.release.as_ref().filter(|release| release.message.is_some());
            waiting.is_some_and(|release| release.request == request)
        }
    };
    until(&space, "the release waits", waits("repaired")).await;
    assert_eq!(tidegate_test_broker::answer(async || held_keys::look(&admin, "billing").await).await.held, 2);
    roll_out(&space, "billing").await;
    let is_done = |request: &'static str| {
        move |status: &EventHandlerStatus| {
            let done = status.release.as_ref().filter(|release| release.phase == ReleasePhase::Done);
            done.is_some_and(|release| release.request == request)
        }
    };
    let released = until(&space, "the release is done", is_done("repaired")).await.release.unwrap();
    assert_eq!((released.released, released.message), (1, None));
    assert_eq!(tidegate_test_broker::answer(async || held_keys::look(&admin, "billing").await).await.held, 1);

    space.merge::<EventHandler>("billing", json!({"spec": {"release": {"request": "all", "keys": null}}})).await;
    until(&space, "the second release waits", waits("all")).await;
    roll_out(&space, "billing").await;
    assert_eq!(until(&space, "all are released", is_done("all")).await.release.unwrap().released, 1);
    let status = until_reason(&space, "KeysHeld", "NoneHeld").await.status.unwrap();
    let retries = status.retries.unwrap();
    assert_eq!((retries.waiting, retries.parked_keys, retries.held_keys), (3, Some(2), Some(0)));
    assert!(retries.held.is_empty(), "{retries:?}");
    operator.stop().await;
}
