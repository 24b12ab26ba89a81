//! The end of a broker whose topics are in other namespaces, and of its namespace.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventTopic};

use crate::broker::{broker_gone, condition, until_broker};
use crate::grants::World;
use crate::support::brokers::keys;
use crate::support::operator::turn;
use crate::support::{Space, eventually};
use crate::topic::{gone, until_reason};

async fn delete_broker(space: &Space) {
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
}

async fn delete_topic(space: &Space, name: &str) {
    space.api::<EventTopic>().delete(name, &DeleteParams::default()).await.unwrap();
    gone(space, name).await;
}

#[tokio::test]
async fn a_broker_stays_for_the_topics_that_it_granted_and_for_no_others() {
    let _turn = turn().await;
    let world = World::start("held", json!({"from": "All"})).await;
    let (shop, web) = (&world.shop, &world.web);
    world.far_topic("orders", json!({"deletionPolicy": "Delete"})).await;
    world.until_far_ready("orders").await;
    delete_broker(shop).await;
    let held = until_broker(shop, "default", "InUse", "TopicsOnBroker").await;
    let message = condition(&held, "InUse").unwrap().message;
    assert!(message.contains(&format!("{}/orders", web.name)), "{message}");
    world.far_topic("late", json!({})).await;
    until_reason(web, "late", "Ready", "BrokerDeleting").await;
    // Withdrawn, it still has its events there.
    world.grant(json!({"from": "Same"})).await;
    until_reason(web, "orders", "Ready", "NotAllowedByBroker").await;
    until_broker(shop, "default", "InUse", "TopicsOnBroker").await;
    delete_topic(web, "orders").await;
    broker_gone(shop, "default").await;
    assert!(keys(shop, "default").await.is_none(), "nothing is retained on it");
    // Of another namespace, so it held up nothing.
    until_reason(web, "late", "Ready", "NotAllowedByBroker").await;
    delete_topic(web, "late").await;
    world.operator.stop().await;
}

/// Its volumes go with the namespace in any case.
#[tokio::test]
async fn a_namespace_that_is_deleted_with_its_broker_waits_for_no_topic_elsewhere() {
    let _turn = turn().await;
    let world = World::start("doomed", json!({"from": "All"})).await;
    let (shop, web) = (&world.shop, &world.web);
    world.far_topic("orders", json!({})).await;
    world.until_far_ready("orders").await;
    let namespaces: Api<Namespace> = Api::all(shop.client.clone());
    namespaces.delete(&shop.name, &DeleteParams::default()).await.unwrap();
    // What the namespace controller does.
    delete_broker(shop).await;
    broker_gone(shop, "default").await;
    let topic = until_reason(web, "orders", "Ready", "NotAllowedByBroker").await;
    let message = crate::topic::condition(&topic, "Ready").unwrap().message;
    assert!(message.contains("there is no EventBroker default"), "{message}");
    delete_topic(web, "orders").await;
    world.operator.stop().await;
}

#[tokio::test]
async fn a_namespace_that_is_deleted_with_its_topics_leaves_the_broker_elsewhere_as_it_was() {
    let _turn = turn().await;
    let world = World::start("left", json!({"from": "All"})).await;
    let (shop, web) = (&world.shop, &world.web);
    world.far_topic("orders", json!({"deletionPolicy": "Delete"})).await;
    world.until_far_ready("orders").await;
    let namespaces: Api<Namespace> = Api::all(web.client.clone());
    namespaces.delete(&web.name, &DeleteParams::default()).await.unwrap();
    delete_topic(web, "orders").await;
    let promised = async || Some(shop.api::<EventBroker>().get("default").await.ok()?.status?.storage?.promised_bytes);
    eventually("its room is free", async || (promised().await? == 0).then_some(())).await;
    eventually("the ingresses hear of it", async || world.served().await.is_empty().then_some(())).await;
    delete_broker(shop).await;
    broker_gone(shop, "default").await;
    world.operator.stop().await;
}
