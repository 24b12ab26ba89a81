//! A broker whose `storage.size` grows.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;
use tidegate_broker_admin::Authority;
use tidegate_crds::EventBroker;
use tidegate_operator::kubernetes::names;
use time::OffsetDateTime;

use crate::broker::{condition, until_broker};
use crate::support::brokers::{keys_api, status};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic_trouble::volume;

const CLAIM: &str = "data-default-broker-0";

/// A broker with a bound volume of 10Gi, of a class that can grow or not.
async fn broker_of(space: &Space, can_grow: bool) -> Api<StorageClass> {
    let classes: Api<StorageClass> = Api::all(space.client.clone());
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": space.name},
        "provisioner": "example.com/disks", "allowVolumeExpansion": can_grow,
    });
    classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    let mut claim = volume("default");
    claim["spec"]["storageClassName"] = json!(space.name);
    space.create::<PersistentVolumeClaim>(claim).await;
    let capacity = json!({"phase": "Bound", "capacity": {"storage": "10Gi"}});
    status::<PersistentVolumeClaim>(space, CLAIM, capacity).await;
    let authority = Authority::generate("default", OffsetDateTime::now_utc()).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": names::authority("default", &space.name)},
        "stringData": tidegate_operator::identity::keys::to_data(&authority),
    });
    keys_api(space).create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    space.broker("default", json!({"storage": {"size": "10Gi", "className": space.name}})).await;
    classes
}

fn requested(claim: &PersistentVolumeClaim) -> String {
    claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()["storage"].0.clone()
}

/// The size in the StatefulSet's template, which can never change.
async fn template(space: &Space) -> Option<String> {
    let set: StatefulSet = space.api().get_opt("default-broker").await.unwrap()?;
    let claim = set.spec?.volume_claim_templates?.remove(0).spec?;
    Some(claim.resources?.requests?["storage"].0.clone())
}

async fn file_store(space: &Space) -> u64 {
    let config: ConfigMap = space.api().get("default-broker").await.unwrap();
    let text = config.data.unwrap().remove("nats.conf").unwrap();
    let (_, rest) = text.split_once("\"max_file_store\":").unwrap();
    rest.split([',', '\n', '}']).next().unwrap().trim().parse().unwrap()
}

async fn usable(space: &Space) -> i64 {
    let broker: EventBroker = space.api().get("default").await.unwrap();
    broker.status.and_then(|status| status.storage).map_or(0, |storage| storage.usable_bytes)
}

async fn grow(space: &Space, size: &str) {
    space.merge::<EventBroker>("default", json!({"spec": {"storage": {"size": size}}})).await;
}

#[tokio::test]
async fn a_larger_size_enlarges_the_volumes_and_then_what_is_stored_there() {
    let _turn = turn().await;
    let space = Space::new("grows").await;
    let classes = broker_of(&space, true).await;
    let _operator = Operator::start(space.client.clone());
    eventually("a StatefulSet", async || template(&space).await).await;
    let before = eventually("a status", async || Some(usable(&space).await).filter(|bytes| *bytes > 0)).await;
    let store = file_store(&space).await;
    grow(&space, "20Gi").await;
    let broker = until_broker(&space, "default", "Resizing", "WaitingForVolumes").await;
    let message = condition(&broker, "Resizing").unwrap().message;
    assert!(message.contains(CLAIM) && message.contains("10737418240 bytes"), "{message}");
    let claim: PersistentVolumeClaim = space.api().get(CLAIM).await.unwrap();
    assert_eq!(requested(&claim), "20Gi");
    // It is not larger yet, so nothing more is stored or promised.
    assert_eq!((usable(&space).await, file_store(&space).await), (before, store));
    let message = json!([{
        "type": "FileSystemResizePending", "status": "True", "message": "waiting for the node",
        "lastTransitionTime": null, "lastProbeTime": null,
    }]);
    status::<PersistentVolumeClaim>(&space, CLAIM, json!({"conditions": message})).await;
    eventually("what the storage says", async || {
        let broker: EventBroker = space.api().get("default").await.unwrap();
        condition(&broker, "Resizing").filter(|found| found.message.contains("waiting for the node"))
    })
    .await;
    status::<PersistentVolumeClaim>(&space, CLAIM, json!({"capacity": {"storage": "20Gi"}, "conditions": []})).await;
    eventually("twice as much", async || (usable(&space).await == 2 * before).then_some(())).await;
    assert_eq!(file_store(&space).await, 2 * store);
    let broker: EventBroker = space.api().get("default").await.unwrap();
    assert!(condition(&broker, "Resizing").is_none());
    assert_eq!(template(&space).await.as_deref(), Some("10Gi"), "it cannot be changed");
    classes.delete(&space.name, &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_class_that_cannot_grow_is_said_and_the_broker_works_on() {
    let _turn = turn().await;
    let space = Space::new("fixed").await;
    let classes = broker_of(&space, false).await;
    let _operator = Operator::start(space.client.clone());
    let before = eventually("a status", async || Some(usable(&space).await).filter(|bytes| *bytes > 0)).await;
    grow(&space, "20Gi").await;
    let broker = until_broker(&space, "default", "Resizing", "VolumesRefused").await;
    let message = condition(&broker, "Resizing").unwrap().message;
    assert!(message.contains(CLAIM) && message.contains("allowVolumeExpansion"), "{message}");
    assert_eq!(condition(&broker, "Ready").unwrap().reason, "PodsNotReady", "that is all that it waits for");
    assert_eq!(usable(&space).await, before);
    // Its class can grow from now on.
    let patch = json!({"allowVolumeExpansion": true});
    classes.patch(&space.name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(patch)).await.unwrap();
    eventually("a larger claim", async || {
        let claim: PersistentVolumeClaim = space.api().get(CLAIM).await.unwrap();
        (requested(&claim) == "20Gi").then_some(())
    })
    .await;
    classes.delete(&space.name, &DeleteParams::default()).await.unwrap();
}
