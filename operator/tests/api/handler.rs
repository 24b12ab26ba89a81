//! An EventHandler without its topic: it waits, says so, and continues by itself.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use tidegate_crds::EventHandler;

use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

pub fn condition(handler: &EventHandler, kind: &str) -> Option<Condition> {
    handler.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// Waits until the condition of handler `billing` has this reason.
pub async fn until_reason(space: &Space, kind: &str, reason: &str) -> EventHandler {
    let api: Api<EventHandler> = space.api();
    eventually(&format!("{kind} says {reason}"), async || {
        let handler = api.get("billing").await.ok()?;
        (condition(&handler, kind)?.reason == reason).then_some(handler)
    })
    .await
}

#[tokio::test]
async fn a_handler_waits_for_its_topic_and_goes_on_by_itself() {
    let _turn = turn().await;
    let space = Space::new("waiting").await;
    space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    let _operator = Operator::start(space.client.clone());
    let waiting = until_reason(&space, "TopicReady", "TopicNotFound").await;
    let found = condition(&waiting, "TopicReady").unwrap();
    assert_eq!((found.status.as_str(), found.observed_generation), ("False", waiting.metadata.generation));
    assert!(found.message.contains("no EventTopic orders") && found.message.contains("make it"), "{}", found.message);
    assert_eq!(condition(&waiting, "Ready").unwrap().reason, "TopicNotFound");
    assert_eq!(condition(&waiting, "Stalled").unwrap().status, "False", "it recovers by itself");
    space.topic("orders", json!({})).await;
    let waiting = until_reason(&space, "TopicReady", "TopicNotReady").await;
    assert!(condition(&waiting, "TopicReady").unwrap().message.contains("EventTopic orders is not ready yet"));
    let deployments = space.api::<Deployment>().list(&ListParams::default()).await.unwrap();
    assert_eq!(deployments.items, [], "no pods before there is a place for them on the broker");
}

/// It has nothing on any broker yet, so nothing holds it.
#[tokio::test]
async fn a_waiting_handler_can_be_deleted() {
    let _turn = turn().await;
    let space = Space::new("unwanted").await;
    space.topic("orders", json!({})).await;
    space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "TopicReady", "TopicNotReady").await;
    let api: Api<EventHandler> = space.api();
    api.delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("the handler is gone", async || api.get_opt("billing").await.ok()?.is_none().then_some(())).await;
}

/// A filter that is no CEL stops the handler in words, and a right one lets it continue.
#[tokio::test]
async fn an_expression_that_does_not_compile_is_refused_until_it_is_mended() {
    let _turn = turn().await;
    let space = Space::new("expression").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"filter": {"expression": "data.amount >"}})))).await;
    let _operator = Operator::start(space.client.clone());
    let stalled = until_reason(&space, "Stalled", "InvalidFilter").await;
    let found = condition(&stalled, "Stalled").unwrap();
    assert_eq!(found.status, "True", "a person has to do something");
    assert!(found.message.contains("spec.filter.expression"), "{}", found.message);
    let mended = json!({"spec": {"filter": {"expression": "data.amount > 1"}}});
    space.merge::<EventHandler>("billing", mended).await;
    until_reason(&space, "TopicReady", "TopicNotFound").await;
}
