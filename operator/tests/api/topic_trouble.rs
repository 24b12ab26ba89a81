//! What a person has to mend of a topic or its broker: a name that is taken, keys that are gone.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_operator::kubernetes::names;

use crate::broker::{condition as broker_condition, until_broker};
use crate::support::brokers::{keys, keys_api};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{condition, until_reason};

/// The volume that the StatefulSet controller would make.
pub fn volume(broker: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": format!("data-{broker}-broker-0"),
            "labels": {"app.kubernetes.io/component": "broker", "tidegate.io/broker": broker},
        },
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    })
}

/// A resource that nothing will happen to until a person does something says so in all the places.
fn assert_stalled(conditions: &[Condition], reason: &str) {
    for (kind, status) in [("Ready", "False"), ("Stalled", "True"), ("Reconciling", "False")] {
        let found = conditions.iter().find(|condition| condition.type_ == kind).unwrap();
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, reason), "{kind}");
    }
}

fn foreign(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}},
    })
}

#[tokio::test]
async fn a_foreign_object_of_that_name_is_left_alone() {
    let _turn = turn().await;
    let space = Space::new("taken").await;
    let foreign: Service = space.create(foreign("orders-topic")).await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "Ready", "NameTaken").await;
    assert_stalled(&topic.status.as_ref().unwrap().conditions, "NameTaken");
    let message = condition(&topic, "Ready").unwrap().message;
    assert!(message.contains("Service orders-topic") && message.contains("rename or delete it"), "{message}");
    let note = eventually("an Event", async || space.events("NameTaken").await.pop()).await;
    assert!(note.contains("Service orders-topic"), "{note}");
    let after: Service = space.api().get("orders-topic").await.unwrap();
    assert_eq!(after.resource_version(), foreign.resource_version());
    // Made room for, and the topic touched: it continues.
    space.api::<Service>().delete("orders-topic", &DeleteParams::default()).await.unwrap();
    space.merge::<EventTopic>("orders", json!({"spec": {"retention": {"maxAge": "1h"}}})).await;
    let topic = until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
}

#[tokio::test]
async fn a_foreign_object_of_a_brokers_name_is_left_alone() {
    let _turn = turn().await;
    let space = Space::new("taken-broker").await;
    let foreign: Service = space.create(foreign("default-broker")).await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let broker = until_broker(&space, "default", "Ready", "NameTaken").await;
    assert_stalled(&broker.status.as_ref().unwrap().conditions, "NameTaken");
    let topic = until_reason(&space, "orders", "Ready", "NameTaken").await;
    assert_stalled(&topic.status.as_ref().unwrap().conditions, "NameTaken");
    let message = condition(&topic, "Ready").unwrap().message;
    assert!(message.contains("EventBroker default") && message.contains("Service default-broker"), "{message}");
    let after: Service = space.api().get("default-broker").await.unwrap();
    assert_eq!(after.resource_version(), foreign.resource_version());
    // Made room for, and the broker touched: both continue.
    space.api::<Service>().delete("default-broker", &DeleteParams::default()).await.unwrap();
    space.merge::<EventBroker>("default", json!({"metadata": {"annotations": {"mended": "yes"}}})).await;
    let topic = until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    assert_eq!(condition(&topic, "Stalled").unwrap().status, "False");
}

#[tokio::test]
async fn lost_keys_are_not_replaced_while_there_are_volumes() {
    let _turn = turn().await;
    let space = Space::new("keys").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
    let backup = keys(&space, "default").await.unwrap();
    keys_api(&space).delete(&backup.name_any(), &DeleteParams::default()).await.unwrap();
    space.create::<PersistentVolumeClaim>(volume("default")).await;
    let _operator = Operator::start(space.client.clone());
    let broker = until_broker(&space, "default", "Ready", "AuthorityMissing").await;
    assert_stalled(&broker.status.as_ref().unwrap().conditions, "AuthorityMissing");
    let message = broker_condition(&broker, "Ready").unwrap().message;
    assert!(message.contains("data-default-broker-0") && message.contains("restore it from a backup"), "{message}");
    assert!(message.contains(&format!("{} of namespace default", backup.name_any())), "{message}");
    eventually("an Event", async || space.events("AuthorityMissing").await.pop()).await;
    assert!(keys(&space, "default").await.is_none(), "no new keys");
    let topic = until_reason(&space, "orders", "Ready", "AuthorityMissing").await;
    assert_stalled(&topic.status.as_ref().unwrap().conditions, "AuthorityMissing");
    // Restored as any backup would, without version and owner.
    let data = serde_json::to_value(&backup).unwrap()["data"].clone();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": backup.name_any()}, "data": data});
    let secret: Secret = serde_json::from_value(secret).unwrap();
    keys_api(&space).create(&PostParams::default(), &secret).await.unwrap();
    space.merge::<EventBroker>("default", json!({"metadata": {"annotations": {"mended": "yes"}}})).await;
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    assert_eq!(keys(&space, "default").await.unwrap().data, backup.data);
}

#[tokio::test]
async fn damaged_keys_are_not_replaced() {
    let _turn = turn().await;
    let space = Space::new("damaged").await;
    let name = names::authority("default", &space.name);
    let damaged =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"root.key": "no"}});
    let damaged: Secret = serde_json::from_value(damaged).unwrap();
    let damaged = keys_api(&space).create(&PostParams::default(), &damaged).await.unwrap();
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let broker = until_broker(&space, "default", "Ready", "AuthorityDamaged").await;
    assert_stalled(&broker.status.as_ref().unwrap().conditions, "AuthorityDamaged");
    let topic = until_reason(&space, "orders", "Ready", "AuthorityDamaged").await;
    assert_stalled(&topic.status.as_ref().unwrap().conditions, "AuthorityDamaged");
    assert_eq!(keys(&space, "default").await.unwrap().resource_version(), damaged.resource_version());
}

/// What only the API server can judge: a pod specification that is none.
#[tokio::test]
async fn what_the_api_server_refuses_is_told_in_its_words() {
    let _turn = turn().await;
    let space = Space::new("refused").await;
    space.broker("default", json!({"pods": {"resources": {"limits": {"memory": "much"}}}})).await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let broker = until_broker(&space, "default", "Ready", "InvalidTemplate").await;
    assert_stalled(&broker.status.as_ref().unwrap().conditions, "InvalidTemplate");
    let message = broker_condition(&broker, "Ready").unwrap().message;
    assert!(message.contains("StatefulSet") && message.contains("quantit"), "{message}");
    let topic = until_reason(&space, "orders", "Ready", "InvalidTemplate").await;
    assert_stalled(&topic.status.as_ref().unwrap().conditions, "InvalidTemplate");
}
