//! What becomes of a broker's data when it, its topics, or what was made from it, is deleted; without its servers.
//! (With them: `broker_end`.)

use futures::FutureExt as _;
use http::Method;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_operator::kubernetes::names;

use crate::broker::{broker_gone, until_broker};
use crate::support::brokers::{keys, keys_api};
use crate::support::meddling::before_first;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{gone, until_reason};
use crate::topic_trouble::volume;

async fn policy(space: &Space) -> Option<String> {
    let statefulset: StatefulSet = space.api().get("default-broker").await.unwrap();
    statefulset.spec?.persistent_volume_claim_retention_policy?.when_deleted
}

/// The topic first, while its broker is to go, too: nothing of it runs, and nobody has to wait for that.
async fn delete_both(space: &Space) {
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(space, "orders").await;
    broker_gone(space, "default").await;
}

#[tokio::test]
async fn with_delete_everything_goes_with_topic_and_broker() {
    let _turn = turn().await;
    let space = Space::new("delete").await;
    space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    space.create::<PersistentVolumeClaim>(volume("default")).await;
    delete_both(&space).await;
    assert!(
        space.api::<StatefulSet>().get_opt("default-broker").await.unwrap().is_none(),
        "it would make volumes again"
    );
    assert!(keys(&space, "default").await.is_none());
    // Without the controller that waits for the pods it only says that it goes.
    let volume = space.api::<PersistentVolumeClaim>().get_opt("data-default-broker-0").await.unwrap();
    assert!(volume.is_none_or(|volume| volume.metadata.deletion_timestamp.is_some()));
    assert_eq!(space.events("StorageRetained").await, [] as [String; 0]);
    operator.stop().await;
}

#[tokio::test]
async fn with_retain_deleted_topic_and_broker_say_what_is_kept() {
    let _turn = turn().await;
    let space = Space::new("retain").await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    space.create::<PersistentVolumeClaim>(volume("default")).await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    let note = eventually("an Event of the topic", async || space.events("EventsRetained").await.pop()).await;
    assert!(note.contains("kept on EventBroker default"), "{note}");
    until_broker(&space, "default", "Ready", "PodsNotReady").await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    broker_gone(&space, "default").await;
    let note =
        eventually("an Event that says what is kept", async || space.events("StorageRetained").await.pop()).await;
    let secret = format!("Secret {}", names::authority("default", &space.name));
    assert!(note.contains("(orders)") && note.contains("data-default-broker-0") && note.contains(&secret), "{note}");
    assert!(keys(&space, "default").await.is_some());
    let volume: PersistentVolumeClaim = space.api().get("data-default-broker-0").await.unwrap();
    assert_eq!(volume.metadata.deletion_timestamp, None);
}

/// Deleting the StatefulSet of a broker that lives takes no volume, whatever its topics say of their own end.
#[tokio::test]
async fn nothing_of_a_living_brokers_data_has_an_owner() {
    let _turn = turn().await;
    let space = Space::new("alive").await;
    space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    assert_eq!(policy(&space).await.as_deref(), Some("Retain"));
    assert_eq!(keys(&space, "default").await.unwrap().owner_references(), []);
    operator.stop().await;
}

/// Somebody changed whose claim and StatefulSet they are: what is retained does not go with either.
#[tokio::test]
async fn the_policy_in_force_is_the_topics_when_it_is_deleted() {
    let _turn = turn().await;
    let space = Space::new("changed").await;
    space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
    let other = json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}});
    let statefulset: StatefulSet = space.merge("default-broker", other).await;
    let mut claim = volume("default");
    claim["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "default-broker", "uid": statefulset.uid(),
        "controller": false,
    }]);
    space.create::<PersistentVolumeClaim>(claim).await;
    // While the operator is away.
    space.merge::<EventTopic>("orders", json!({"spec": {"deletionPolicy": "Retain"}})).await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    let operator = Operator::start(space.client.clone());
    gone(&space, "orders").await;
    broker_gone(&space, "default").await;
    assert_eq!(policy(&space).await.as_deref(), Some("Retain"));
    let claim: PersistentVolumeClaim = space.api().get("data-default-broker-0").await.unwrap();
    assert_eq!((claim.owner_references(), claim.metadata.deletion_timestamp.clone()), (&[][..], None));
    assert_eq!(keys(&space, "default").await.unwrap().owner_references(), []);
    let note = eventually("an Event", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("data-default-broker-0") && note.contains("are kept"), "{note}");
    operator.stop().await;
}

/// What somebody else took is not said to be kept.
#[tokio::test]
async fn the_event_says_what_is_really_there() {
    let _turn = turn().await;
    let space = Space::new("taken-away").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    broker_gone(&space, "default").await;
    let note = eventually("an Event", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("volumes (none)"), "{note}");
    operator.stop().await;
}

/// Without the keys nothing opens the volumes: they are no reason to keep anything, and nobody is told that they were.
#[tokio::test]
async fn a_broker_whose_keys_are_gone_keeps_nothing() {
    let _turn = turn().await;
    let space = Space::new("no-keys").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
    space.create::<PersistentVolumeClaim>(volume("default")).await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    let name = names::authority("default", &space.name);
    keys_api(&space).delete(&name, &DeleteParams::default()).await.unwrap();
    let operator = Operator::start(space.client.clone());
    gone(&space, "orders").await;
    broker_gone(&space, "default").await;
    assert_eq!(space.events("StorageRetained").await, [] as [String; 0]);
    assert!(space.api::<Secret>().get_opt(&name).await.unwrap().is_none());
    operator.stop().await;
}

/// That a topic's events are retained may be written down after the operator has read that none are.
#[tokio::test]
async fn what_is_retained_while_the_broker_goes_is_not_passed_over() {
    let _turn = turn().await;
    let space = Space::new("retained-late").await;
    space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
    space.create::<PersistentVolumeClaim>(volume("default")).await;
    let (secrets, name) = (keys_api(&space), names::authority("default", &space.name));
    let note = move || {
        let (secrets, name) = (secrets.clone(), name.clone());
        let retained = Patch::Merge(json!({"metadata": {"annotations": {"retained-topic.tidegate.io/late": "1"}}}));
        async move { _ = secrets.patch(&name, &PatchParams::default(), &retained).await.unwrap() }.boxed()
    };
    let operator = Operator::start(before_first(Method::DELETE, space.name.clone(), note));
    delete_both(&space).await;
    let note = eventually("an Event", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("(late)") && keys(&space, "default").await.is_some(), "{note}");
    let volume: PersistentVolumeClaim = space.api().get("data-default-broker-0").await.unwrap();
    assert_eq!(volume.metadata.deletion_timestamp, None);
    operator.stop().await;
}
