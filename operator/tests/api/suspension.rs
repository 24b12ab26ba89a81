//! `suspend: true` on a real broker: nothing is delivered or woken, pods are not replaced, and it ends as it began.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::Api;
use serde_json::{Value, json};
use tidegate_broker_client::layout;
use tidegate_crds::EventHandler;
use tidegate_test_broker::{TestBroker, TopicHandle, consumers};

use crate::handler::condition;
use crate::support::brokers::{Places, account, publish_one, server, topic_on, topic_with, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

/// Waits until a condition of a handler has this status and reason, which are those of the present specification.
async fn until(space: &Space, name: &str, kind: &str, says: (&str, &str)) -> EventHandler {
    let api: Api<EventHandler> = space.api();
    eventually(&format!("{name}: {kind} is {says:?}"), async || {
        let found = api.get(name).await.ok()?;
        let condition = condition(&found, kind)?;
        let is_current = condition.observed_generation == found.metadata.generation;
        (is_current && (condition.status.as_str(), condition.reason.as_str()) == says).then_some(found)
    })
    .await
}

async fn suspend(space: &Space, name: &str, suspend: bool) {
    space.merge::<EventHandler>(name, json!({"spec": {"suspend": suspend}})).await;
}

/// The pods there should be, and the template they are made from.
async fn workload(space: &Space, name: &str) -> (Option<i32>, Value) {
    let deployment: Deployment = space.api().get(&format!("{name}-handler")).await.unwrap();
    let spec = deployment.spec.unwrap();
    (spec.replicas, serde_json::to_value(spec.template).unwrap())
}

/// The names of the consumers of all handlers that are paused.
async fn paused(topic: &TopicHandle) -> Vec<String> {
    let mut found = consumers(&topic.admin).await;
    found.retain(|consumer| consumer.config.pause_until.as_deref() == Some(layout::SUSPENDED_UNTIL));
    found.into_iter().map(|consumer| consumer.name).collect()
}

#[tokio::test]
async fn a_suspended_handler_is_not_woken_and_continues_without_a_rollout() {
    let _turn = turn().await;
    let (space, places) = (Space::new("suspended").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let autoscaling = json!({"minReplicas": 0, "maxReplicas": 4, "idleAfter": "1s"});
    let scaled = spec(json!({"autoscaling": autoscaling, "startFrom": "Earliest", "suspend": true}));
    let fixed = spec(json!({"replicas": 3, "delivery": {"order": "Key", "lanes": 2}}));
    space.create::<EventHandler>(handler("billing", scaled)).await;
    space.create::<EventHandler>(handler("audit", fixed)).await;
    let topic = account(&space, &broker, "orders").await;
    let js = tidegate_test_broker::jetstream(topic.operator.clone());
    for _ in 0..10 {
        publish_one(&js).await;
    }
    until(&space, "billing", "Suspended", ("True", "Suspended")).await;
    until(&space, "billing", "Ready", ("True", "Suspended")).await;
    let api: Api<EventHandler> = space.api();
    let waiting = eventually("its events wait", async || {
        let found = api.get("billing").await.ok()?;
        (found.status.as_ref()?.lag.as_ref()?.pending == 10).then_some(found)
    })
    .await;
    let scaling = waiting.status.unwrap().scaling.unwrap();
    assert_eq!((scaling.desired, scaling.reason.as_str()), (0, "Suspended"));
    let (replicas, template) = workload(&space, "billing").await;
    assert_eq!(replicas, Some(0));
    until(&space, "audit", "Subscribed", ("True", "Subscribed")).await;
    assert_eq!(paused(&topic).await, ["billing"]);
    suspend(&space, "audit", true).await;
    let audit = workload(&space, "audit").await;
    until(&space, "audit", "Suspended", ("True", "Suspended")).await;
    assert_eq!(paused(&topic).await, ["audit_0", "audit_1", "billing"]);
    assert_eq!(workload(&space, "audit").await, audit, "three pods, of the same template");
    suspend(&space, "billing", false).await;
    eventually("it is woken", async || (workload(&space, "billing").await.0 > Some(0)).then_some(())).await;
    assert_eq!(workload(&space, "billing").await.1, template, "no rollout");
    assert_eq!(paused(&topic).await, ["audit_0", "audit_1"]);
    let resumed = until(&space, "billing", "Subscribed", ("True", "Subscribed")).await;
    assert_eq!(condition(&resumed, "Suspended"), None);
    operator.stop().await;
}

/// There the broker delivers to whoever listens.
#[tokio::test]
async fn a_suspended_handler_of_a_direct_topic_has_no_pods() {
    let _turn = turn().await;
    let (space, places) = (Space::new("suspended-direct").await, Places::default());
    let broker = TestBroker::start_direct().await;
    topic_with(&space, &places, &broker, "orders", json!({"routing": "Direct"})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 2})))).await;
    until(&space, "billing", "Subscribed", ("True", "Subscribed")).await;
    assert_eq!(workload(&space, "billing").await.0, Some(2));
    suspend(&space, "billing", true).await;
    until(&space, "billing", "Ready", ("True", "Suspended")).await;
    assert_eq!(workload(&space, "billing").await.0, Some(0));
    suspend(&space, "billing", false).await;
    eventually("it has pods", async || (workload(&space, "billing").await.0 == Some(2)).then_some(())).await;
    operator.stop().await;
}
