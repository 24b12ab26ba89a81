//! What others do to our objects is noticed and undone; where the operator is asked to keep its hands off, it does.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::broker::{condition as broker_condition, until_broker};
use crate::support::brokers::{Places, account, server, topic_on, topic_with, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{condition, until_reason};
use crate::validation_handler::{handler, spec};

#[tokio::test]
async fn deleted_leaf_secrets_are_made_again_at_once() {
    let _turn = turn().await;
    let (space, places) = (Space::new("leaves").await, Places::default());
    let broker = server().await;
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
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    let broker: EventBroker = space.api().get("default").await.unwrap();
    let orphan = json!({"metadata": {"ownerReferences": null}});
    space.merge::<Service>("orders-topic", orphan.clone()).await;
    space.merge::<ConfigMap>("orders-ca", orphan.clone()).await;
    space.merge::<Service>("default-broker", orphan.clone()).await;
    space.merge::<Secret>("default-ingress", orphan.clone()).await;
    space.merge::<StatefulSet>("default-broker", orphan).await;
    eventually("all have their owner again", async || {
        let of_topic = [
            space.api::<Service>().get("orders-topic").await.ok()?.owner_references().to_vec(),
            space.api::<ConfigMap>().get("orders-ca").await.ok()?.owner_references().to_vec(),
        ];
        let of_broker = [
            space.api::<Service>().get("default-broker").await.ok()?.owner_references().to_vec(),
            space.api::<Secret>().get("default-ingress").await.ok()?.owner_references().to_vec(),
            space.api::<StatefulSet>().get("default-broker").await.ok()?.owner_references().to_vec(),
        ];
        let is_of = |owners: &Vec<OwnerReference>, uid: &Option<String>| {
            owners.iter().any(|owner| Some(&owner.uid) == uid.as_ref())
        };
        (of_topic.iter().all(|owners| is_of(owners, &topic.metadata.uid))
            && of_broker.iter().all(|owners| is_of(owners, &broker.metadata.uid)))
        .then_some(())
    })
    .await;
    let topic: EventTopic = space.api().get("orders").await.unwrap();
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
    operator.stop().await;
}

/// The reference alone can be taken away by anybody who may edit the object; who it was made for is in an annotation, too.
#[tokio::test]
async fn what_lost_its_owner_while_no_operator_looked_has_it_again() {
    let _turn = turn().await;
    let (space, places) = (Space::new("orphaned-unseen").await, Places::default());
    let broker = server().await;
    topic_with(&space, &places, &broker, "orders", json!({"publishers": [{"nats": "web"}]})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let secrets: Api<Secret> = space.api();
    for name in ["orders-publisher-web", "billing-identity"] {
        eventually(name, async || secrets.get_opt(name).await.ok()?).await;
    }
    operator.stop().await;
    let orphan = json!({"metadata": {"ownerReferences": null, "annotations": {"any": "change"}}});
    for name in ["orders-broker", "orders-topic"] {
        space.merge::<Service>(name, orphan.clone()).await;
    }
    space.merge::<StatefulSet>("orders-broker", orphan.clone()).await;
    for name in ["orders-publisher-web", "billing-identity"] {
        space.merge::<Secret>(name, orphan.clone()).await;
    }
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    eventually("all have their owner again", async || {
        let owners = [
            space.api::<Service>().get("orders-broker").await.ok()?.owner_references().len(),
            space.api::<Service>().get("orders-topic").await.ok()?.owner_references().len(),
            space.api::<StatefulSet>().get("orders-broker").await.ok()?.owner_references().len(),
            secrets.get("orders-publisher-web").await.ok()?.owner_references().len(),
            secrets.get("billing-identity").await.ok()?.owner_references().len(),
        ];
        (owners == [1; 5]).then_some(())
    })
    .await;
    let topic: EventTopic = space.api().get("orders").await.unwrap();
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
    // A publisher's Secret goes with it even without an owner reference.
    operator.stop().await;
    space.merge::<Secret>("orders-publisher-web", orphan).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": null}})).await;
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
    let looks = |name: &str, component: &str, label: &str, of: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "labels": {
                "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": component, label: of,
            }},
            "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}},
        })
    };
    let of_topic: Service = space.create(looks("orders-topic", "topic", "tidegate.io/topic", "orders")).await;
    let of_broker: Service = space.create(looks("taken-broker", "broker", "tidegate.io/broker", "taken")).await;
    space.broker("taken", json!({})).await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "NameTaken").await;
    until_broker(&space, "taken", "Ready", "NameTaken").await;
    for foreign in [of_topic, of_broker] {
        let after: Service = space.api().get(&foreign.name_any()).await.unwrap();
        assert_eq!(after.resource_version(), foreign.resource_version());
    }
    operator.stop().await;
}

#[tokio::test]
async fn a_paused_broker_is_left_as_it_is_and_says_so() {
    let _turn = turn().await;
    let space = Space::new("paused-broker").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    let before: StatefulSet = space.api().get("default-broker").await.unwrap();
    let change = json!({
        "metadata": {"annotations": {"tidegate.io/paused": "true"}},
        "spec": {"pods": {"resources": {"requests": {"memory": "1Gi"}}}},
    });
    let changed: EventBroker = space.merge("default", change).await;
    let broker = until_broker(&space, "default", "Paused", "Paused").await;
    let found = broker_condition(&broker, "Paused").unwrap();
    assert_eq!((found.status.as_str(), found.observed_generation), ("True", changed.metadata.generation));
    let after: StatefulSet = space.api().get("default-broker").await.unwrap();
    assert_eq!(after.resource_version(), before.resource_version());
    space.merge::<EventBroker>("default", json!({"metadata": {"annotations": {"tidegate.io/paused": null}}})).await;
    eventually("the change is made", async || {
        let broker: EventBroker = space.api().get("default").await.ok()?;
        let now: StatefulSet = space.api().get("default-broker").await.ok()?;
        (broker_condition(&broker, "Paused").is_none() && now.resource_version() != before.resource_version())
            .then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn a_paused_topic_is_left_as_it_is_and_says_so() {
    let _turn = turn().await;
    let (space, places) = (Space::new("paused").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let change = json!({
        "metadata": {"annotations": {"tidegate.io/paused": "true"}},
        "spec": {"retention": {"maxSize": "128Mi"}},
    });
    let changed: EventTopic = space.merge("orders", change).await;
    let topic = until_reason(&space, "orders", "Paused", "Paused").await;
    let found = condition(&topic, "Paused").unwrap();
    assert_eq!((found.status.as_str(), found.observed_generation), ("True", changed.metadata.generation));
    let admin = account(&space, &broker, "orders").await.admin;
    let size = async || tidegate_test_broker::answer(async || admin.stream("events").await).await.config.max_bytes;
    assert_eq!(size().await, 256 << 20);
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {"tidegate.io/paused": null}}})).await;
    eventually("the change is made", async || {
        let topic: EventTopic = space.api().get("orders").await.ok()?;
        (condition(&topic, "Paused").is_none() && size().await == 128 << 20).then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn a_handler_does_not_wait_for_a_broker_that_is_away() {
    let _turn = turn().await;
    let (space, places) = (Space::new("let-go").await, Places::default());
    let mut broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
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
