//! What a person has to mend: a name that is taken, keys that are gone.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tidegate_crds::EventTopic;

use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{condition, until_reason};
use crate::topic_children::children;

/// The volume that the StatefulSet controller would make.
pub fn volume(topic: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": format!("data-{topic}-broker-0"),
            "labels": {"app.kubernetes.io/component": "broker", "tidegate.io/topic": topic},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    })
}

/// A topic that nothing will happen to until a person does something says so in all the places.
fn assert_stalled(topic: &EventTopic, reason: &str) {
    for (kind, status) in [("Ready", "False"), ("Stalled", "True"), ("Reconciling", "False")] {
        let found = condition(topic, kind).unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, reason), "{kind}");
    }
}

#[tokio::test]
async fn a_foreign_object_of_that_name_is_left_alone() {
    let _turn = turn().await;
    let space = Space::new("taken").await;
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "orders-broker"},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}},
    });
    let foreign: Service = space.create(foreign).await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "NameTaken").await;
    assert_stalled(&topic, "NameTaken");
    let message = condition(&topic, "Ready").unwrap().message;
    assert!(message.contains("Service orders-broker") && message.contains("rename or delete it"), "{message}");
    let note = eventually("an Event", async || space.events("NameTaken").await.pop()).await;
    assert!(note.contains("Service orders-broker"), "{note}");
    let after: Service = space.api().get("orders-broker").await.unwrap();
    assert_eq!(after.resource_version(), foreign.resource_version());
    // Made room for, and the topic touched: it continues.
    space.api::<Service>().delete("orders-broker", &DeleteParams::default()).await.unwrap();
    space.merge::<EventTopic>("orders", json!({"spec": {"retention": {"maxAge": "1h"}}})).await;
    let topic = until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
}

#[tokio::test]
async fn lost_keys_are_not_replaced_while_there_are_volumes() {
    let _turn = turn().await;
    let space = Space::new("keys").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    operator.stop().await;
    let backup = space.api::<Secret>().get("orders-authority").await.unwrap();
    space.api::<Secret>().delete("orders-authority", &DeleteParams::default()).await.unwrap();
    space.create::<PersistentVolumeClaim>(volume("orders")).await;
    let _operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "AuthorityMissing").await;
    assert_stalled(&topic, "AuthorityMissing");
    let message = condition(&topic, "Ready").unwrap().message;
    assert!(message.contains("data-orders-broker-0") && message.contains("restore it from a backup"), "{message}");
    eventually("an Event", async || space.events("AuthorityMissing").await.pop()).await;
    assert!(!children(&space, "orders").await.contains_key("authority"), "no new keys");
    // Restored as any backup would, without version and owner.
    let data = serde_json::to_value(&backup).unwrap()["data"].clone();
    space
        .create::<Secret>(
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-authority"}, "data": data}),
        )
        .await;
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {"mended": "yes"}}})).await;
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    assert_eq!(space.api::<Secret>().get("orders-authority").await.unwrap().data, backup.data);
}

#[tokio::test]
async fn damaged_keys_are_not_replaced() {
    let _turn = turn().await;
    let space = Space::new("damaged").await;
    let damaged = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "orders-authority"}, "stringData": {"root.key": "no"}});
    let damaged: Secret = space.create(damaged).await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "AuthorityDamaged").await;
    assert_stalled(&topic, "AuthorityDamaged");
    assert_eq!(
        space.api::<Secret>().get("orders-authority").await.unwrap().resource_version(),
        damaged.resource_version()
    );
}

/// What only the API server can judge: a pod specification that is none.
#[tokio::test]
async fn what_the_api_server_refuses_is_told_in_its_words() {
    let _turn = turn().await;
    let space = Space::new("refused").await;
    space.topic("orders", json!({"broker": {"resources": {"limits": {"memory": "much"}}}})).await;
    let _operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "InvalidTemplate").await;
    assert_stalled(&topic, "InvalidTemplate");
    let message = condition(&topic, "Ready").unwrap().message;
    assert!(message.contains("StatefulSet") && message.contains("quantit"), "{message}");
}
