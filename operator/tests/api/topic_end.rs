//! What becomes of a topic's data when it, or what was made from it, is deleted.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tidegate_crds::EventTopic;

use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{gone, until_reason};
use crate::topic_trouble::volume;

fn owner(kind: &str, api_version: &str, name: &str, uid: Option<String>) -> Value {
    json!([{"apiVersion": api_version, "kind": kind, "name": name, "uid": uid, "controller": false}])
}

async fn policy(space: &Space) -> Option<String> {
    let statefulset: StatefulSet = space.api().get("orders-broker").await.unwrap();
    statefulset.spec?.persistent_volume_claim_retention_policy?.when_deleted
}

/// Deleting the StatefulSet of a topic that lives takes no volume, whatever the topic says of its own end.
#[tokio::test]
async fn nothing_of_a_living_topics_data_has_an_owner() {
    let _turn = turn().await;
    let space = Space::new("alive").await;
    space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    assert_eq!(policy(&space).await.as_deref(), Some("Retain"));
    let keys: Secret = space.api().get("orders-authority").await.unwrap();
    assert_eq!(keys.owner_references(), []);
    operator.stop().await;
}

/// As an operator of version 0.1 left it for a topic that was made with Delete: claim and keys have owners.
#[tokio::test]
async fn the_policy_in_force_is_the_topics_when_it_is_deleted() {
    let _turn = turn().await;
    let space = Space::new("changed").await;
    space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    let topic = until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    operator.stop().await;
    let old = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}});
    let statefulset: StatefulSet = space.merge("orders-broker", old).await;
    let mut claim = volume("orders");
    claim["metadata"]["ownerReferences"] = owner("StatefulSet", "apps/v1", "orders-broker", statefulset.uid());
    space.create::<PersistentVolumeClaim>(claim).await;
    let keys = owner("EventTopic", "tidegate.io/v1alpha1", "orders", topic.uid());
    space.merge::<Secret>("orders-authority", json!({"metadata": {"ownerReferences": keys}})).await;
    // While the operator is away.
    space.merge::<EventTopic>("orders", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    let operator = Operator::start(space.client.clone());
    gone(&space, "orders").await;
    assert_eq!(policy(&space).await.as_deref(), Some("Retain"));
    let claim: PersistentVolumeClaim = space.api().get("data-orders-broker-0").await.unwrap();
    assert_eq!((claim.owner_references(), claim.metadata.deletion_timestamp.clone()), (&[][..], None));
    let keys: Secret = space.api().get("orders-authority").await.unwrap();
    assert_eq!(keys.owner_references(), []);
    let note = eventually("an Event", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("data-orders-broker-0") && note.contains("orders-authority is kept"), "{note}");
    operator.stop().await;
}

/// What somebody else took is not said to be kept.
#[tokio::test]
async fn the_event_says_what_is_really_there() {
    let _turn = turn().await;
    let space = Space::new("taken-away").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    operator.stop().await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    space.api::<Secret>().delete("orders-authority", &DeleteParams::default()).await.unwrap();
    let operator = Operator::start(space.client.clone());
    gone(&space, "orders").await;
    let note = eventually("an Event", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("volumes (none)") && note.contains("orders-authority was gone before"), "{note}");
    operator.stop().await;
}
