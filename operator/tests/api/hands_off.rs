//! What others do to our objects is noticed and undone; where the operator is asked to keep its hands off, it does.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_test_broker::TestBroker;

use crate::support::brokers::{Places, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{condition, until_reason};
use crate::validation_handler::{handler, spec};

#[tokio::test]
async fn deleted_leaf_secrets_are_made_again_at_once() {
    let _turn = turn().await;
    let (space, places) = (Space::new("leaves").await, Places::default());
    let broker = TestBroker::start().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let secrets: Api<Secret> = space.api();
    for name in ["orders-broker", "orders-ingress", "billing-identity"] {
        let before = eventually(name, async || secrets.get_opt(name).await.ok()?).await;
        secrets.delete(name, &DeleteParams::default()).await.unwrap();
        eventually(&format!("{name} is there again"), async || {
            let now = secrets.get_opt(name).await.ok()??;
            (now.uid() != before.uid()).then_some(())
        })
        .await;
    }
    operator.stop().await;
}

#[tokio::test]
async fn an_owner_reference_that_was_taken_away_comes_back() {
    let _turn = turn().await;
    let space = Space::new("orphaned").await;
    let topic = space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    let orphan = json!({"metadata": {"ownerReferences": null}});
    space.merge::<Service>("orders-broker", orphan.clone()).await;
    space.merge::<ConfigMap>("orders-ca", orphan.clone()).await;
    space.merge::<Secret>("orders-ingress", orphan.clone()).await;
    space.merge::<StatefulSet>("orders-broker", orphan).await;
    eventually("all have their owner again", async || {
        let owners = [
            space.api::<Service>().get("orders-broker").await.ok()?.owner_references().to_vec(),
            space.api::<ConfigMap>().get("orders-ca").await.ok()?.owner_references().to_vec(),
            space.api::<Secret>().get("orders-ingress").await.ok()?.owner_references().to_vec(),
            space.api::<StatefulSet>().get("orders-broker").await.ok()?.owner_references().to_vec(),
        ];
        owners
            .iter()
            .all(|owners| owners.iter().any(|owner| Some(&owner.uid) == topic.metadata.uid.as_ref()))
            .then_some(())
    })
    .await;
    let topic: EventTopic = space.api().get("orders").await.unwrap();
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
    operator.stop().await;
}

/// Version 0.1 did not write the owner anywhere else.
#[tokio::test]
async fn children_of_the_first_version_that_lost_their_owner_are_adopted() {
    let _turn = turn().await;
    let (space, places) = (Space::new("first-version").await, Places::default());
    let broker = TestBroker::start().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.merge::<EventTopic>("orders", json!({"spec": {"natsPublishers": ["web"]}})).await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let secrets: Api<Secret> = space.api();
    for name in ["orders-publisher-web", "billing-identity"] {
        eventually(name, async || secrets.get_opt(name).await.ok()?).await;
    }
    operator.stop().await;
    let orphan =
        json!({"metadata": {"ownerReferences": null, "annotations": {"tidegate.io/owner": null, "any": "change"}}});
    space.merge::<Service>("orders-broker", orphan.clone()).await;
    space.merge::<StatefulSet>("orders-broker", orphan.clone()).await;
    for name in ["orders-publisher-web", "billing-identity"] {
        space.merge::<Secret>(name, orphan.clone()).await;
    }
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    eventually("all have their owner again", async || {
        let owners = [
            space.api::<Service>().get("orders-broker").await.ok()?.owner_references().len(),
            space.api::<StatefulSet>().get("orders-broker").await.ok()?.owner_references().len(),
            secrets.get("orders-publisher-web").await.ok()?.owner_references().len(),
            secrets.get("billing-identity").await.ok()?.owner_references().len(),
        ];
        (owners == [1; 4]).then_some(())
    })
    .await;
    let topic: EventTopic = space.api().get("orders").await.unwrap();
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
    // A publisher's Secret goes with it even without an owner reference.
    operator.stop().await;
    space.merge::<Secret>("orders-publisher-web", orphan).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    space.merge::<EventTopic>("orders", json!({"spec": {"natsPublishers": []}})).await;
    eventually("the credentials are gone", async || {
        secrets.get_opt("orders-publisher-web").await.ok()?.is_none().then_some(())
    })
    .await;
    operator.stop().await;
}

/// Labels are easily copied, and are no proof.
#[tokio::test]
async fn an_object_that_only_looks_like_ours_is_left_alone() {
    let _turn = turn().await;
    let space = Space::new("looks-like-ours").await;
    let labels = json!({
        "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": "broker",
        "tidegate.io/topic": "orders",
    });
    let foreign: Service = space
        .create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-broker", "labels": labels},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}},
        }))
        .await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "NameTaken").await;
    let after: Service = space.api().get("orders-broker").await.unwrap();
    assert_eq!(after.resource_version(), foreign.resource_version());
    operator.stop().await;
}

#[tokio::test]
async fn a_paused_topic_is_left_as_it_is_and_says_so() {
    let _turn = turn().await;
    let space = Space::new("paused").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    let before: StatefulSet = space.api().get("orders-broker").await.unwrap();
    let change = json!({
        "metadata": {"annotations": {"tidegate.io/paused": "true"}},
        "spec": {"broker": {"resources": {"requests": {"memory": "1Gi"}}}},
    });
    let changed: EventTopic = space.merge("orders", change).await;
    let topic = until_reason(&space, "orders", "Paused", "Paused").await;
    let found = condition(&topic, "Paused").unwrap();
    assert_eq!((found.status.as_str(), found.observed_generation), ("True", changed.metadata.generation));
    let after: StatefulSet = space.api().get("orders-broker").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version());
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {"tidegate.io/paused": null}}})).await;
    eventually("the change is made", async || {
        let topic: EventTopic = space.api().get("orders").await.ok()?;
        let now: StatefulSet = space.api().get("orders-broker").await.ok()?;
        (condition(&topic, "Paused").is_none() && now.resource_version() != before.resource_version()).then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn a_handler_does_not_wait_for_a_broker_that_is_away() {
    let _turn = turn().await;
    let (space, places) = (Space::new("let-go").await, Places::default());
    let mut broker = TestBroker::start().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let js = broker.jetstream();
    let consumer = async || js.get_stream("events").await.ok()?.consumer_info("billing").await.ok();
    eventually("it is subscribed", consumer).await;
    let handlers: Api<EventHandler> = space.api();
    eventually("it has its finalizer", async || {
        (!handlers.get("billing").await.ok()?.finalizers().is_empty()).then_some(())
    })
    .await;
    broker.stop();
    handlers.delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("it is gone", async || handlers.get_opt("billing").await.ok()?.is_none().then_some(())).await;
    let left = |topic: &EventTopic| topic.annotations().keys().any(|key| key.starts_with("left-by-handler."));
    assert!(left(&space.api::<EventTopic>().get("orders").await.unwrap()));
    broker.restart().await;
    eventually("what it left is gone too", async || {
        let topic: EventTopic = space.api().get("orders").await.ok()?;
        let stream = js.get_stream("events").await.ok()?;
        (!left(&topic) && stream.consumer_info("billing").await.is_err()).then_some(())
    })
    .await;
    operator.stop().await;
}
