//! What becomes of an EventTopic: its children, its status, and peace when nothing changes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tidegate_crds::EventTopic;

use crate::support::interrupted::Interruption;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic_children::{CHILDREN, children, versions};

/// The topic's condition of this type.
pub fn condition(topic: &EventTopic, kind: &str) -> Option<Condition> {
    topic.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// Waits until the topic's condition has this reason.
pub async fn until_reason(space: &Space, name: &str, kind: &str, reason: &str) -> EventTopic {
    let api: Api<EventTopic> = space.api();
    let mut last = None;
    eventually(&format!("{kind} of {name} says {reason}"), async || {
        let topic = api.get(name).await.ok()?;
        let found = condition(&topic, kind)?;
        let says = found.reason == reason;
        if last.as_ref() != Some(&found) {
            eprintln!("{name} in {}: {} because {}: {}", space.name, found.status, found.reason, found.message);
            last = Some(found);
        }
        says.then_some(topic)
    })
    .await
}

#[tokio::test]
async fn a_topic_gets_its_children_and_says_what_it_waits_for() {
    let _turn = turn().await;
    let space = Space::new("children").await;
    let topic = space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    let topic_now = until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    let made = children(&space, "orders").await;
    assert_eq!(made.keys().copied().collect::<Vec<_>>(), CHILDREN);
    for (kind, child) in &made {
        let owners = child.owner_references();
        if *kind == "authority" {
            assert_eq!(owners, [], "kept with the volumes");
            continue;
        }
        assert_eq!(owners.len(), 1, "{kind}");
        assert_eq!((Some(&owners[0].uid), owners[0].controller), (topic.metadata.uid.as_ref(), Some(true)), "{kind}");
    }
    assert_eq!(topic_now.finalizers(), ["tidegate.io/cleanup"]);
    let status = topic_now.status.clone().unwrap();
    assert_eq!(status.observed_generation, topic.metadata.generation);
    let address = status.address.unwrap();
    assert_eq!(address.url, format!("https://orders-broker.{}.svc", space.name));
    assert_eq!(address.ca_config_map, "orders-ca");
    assert_eq!(condition(&topic_now, "Ready").unwrap().status, "False");
    assert_eq!(condition(&topic_now, "Ready").unwrap().reason, "PodsNotReady");
    assert!(condition(&topic_now, "Ready").unwrap().message.contains("0 of 1 broker pods are ready"));
    for found in &status.conditions {
        assert_eq!(found.observed_generation, topic.metadata.generation, "{}", found.type_);
    }
}

#[tokio::test]
async fn with_delete_everything_goes_with_the_topic() {
    let _turn = turn().await;
    let space = Space::new("delete").await;
    let topic = space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    for (kind, child) in children(&space, "orders").await.iter().filter(|(kind, _)| **kind != "authority") {
        assert_eq!(child.owner_references()[0].uid, topic.metadata.uid.clone().unwrap(), "{kind}");
    }
    space.create::<PersistentVolumeClaim>(crate::topic_trouble::volume("orders")).await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    assert!(
        space.api::<StatefulSet>().get_opt("orders-broker").await.unwrap().is_none(),
        "it would make volumes again"
    );
    assert!(space.api::<Secret>().get_opt("orders-authority").await.unwrap().is_none());
    // Without the controller that waits for the pods it only says that it goes.
    let volume = space.api::<PersistentVolumeClaim>().get_opt("data-orders-broker-0").await.unwrap();
    assert!(volume.is_none_or(|volume| volume.metadata.deletion_timestamp.is_some()));
    assert_eq!(space.events("StorageRetained").await, [] as [String; 0]);
    operator.stop().await;
}

#[tokio::test]
async fn with_retain_the_deleted_topic_says_what_is_kept() {
    let _turn = turn().await;
    let space = Space::new("retain").await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    space.create::<PersistentVolumeClaim>(crate::topic_trouble::volume("orders")).await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    let note =
        eventually("an Event that says what is kept", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("data-orders-broker-0") && note.contains("Secret orders-authority"), "{note}");
}

/// No controller collects garbage here, so the children of the first topic stay: what a real cluster shows
/// for a moment.
#[tokio::test]
async fn a_topic_made_again_waits_for_what_is_left_of_the_first_and_has_its_keys() {
    let _turn = turn().await;
    let space = Space::new("again").await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    let keys = space.api::<Secret>().get("orders-authority").await.unwrap().data;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    space.topic("orders", json!({})).await;
    let waiting = until_reason(&space, "orders", "Ready", "WaitingForGarbageCollection").await;
    assert_eq!(condition(&waiting, "Stalled").unwrap().status, "False", "it passes by itself");
    collect_garbage(&space).await;
    let topic = until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    // What the operator's watch has not yet shown to be gone is made when it has.
    let made = eventually("all children", async || {
        let made = children(&space, "orders").await;
        (made.keys().copied().collect::<Vec<_>>() == CHILDREN).then_some(made)
    })
    .await;
    assert_eq!(made["service"].owner_references()[0].uid, topic.metadata.uid.unwrap());
    assert_eq!(space.api::<Secret>().get("orders-authority").await.unwrap().data, keys);
}

/// What the garbage collector does with the children of a topic that is gone.
async fn collect_garbage(space: &Space) {
    for (kind, child) in children(space, "orders").await {
        if kind != "authority" {
            crate::topic_children::api(space, kind).delete(&child.name_any(), &DeleteParams::default()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() {
    let _turn = turn().await;
    let space = Space::new("quiet").await;
    let counter = Interruption::never(&space.name);
    // The API server writes these quantities in other words.
    let resources = json!({"requests": {"cpu": "1000m"}, "limits": {"memory": "1024Mi"}});
    space.topic("orders", json!({"broker": {"replicas": 3, "resources": resources}})).await;
    let operator = Operator::start(counter.client());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    // The StatefulSet controller's part: the counts change, and with them the topic's status, once.
    let status = Patch::Merge(json!({"status": {"replicas": 3, "readyReplicas": 1, "observedGeneration": 1}}));
    space.api::<StatefulSet>().patch_status("orders-broker", &PatchParams::default(), &status).await.unwrap();
    eventually("the status follows the pods", async || {
        let topic = space.api::<EventTopic>().get("orders").await.ok()?;
        topic.status?.broker.filter(|broker| broker.ready_replicas == 1)
    })
    .await;
    let before = (versions(&space, "orders").await, counter.writes());
    // Looked at again at least twice, because it is not ready.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!((versions(&space, "orders").await, counter.writes()), before, "while it runs");
    operator.stop().await;
    let next = Operator::start(counter.client());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((versions(&space, "orders").await, counter.writes()), before, "by the next operator");
    next.stop().await;
}

#[tokio::test]
async fn drift_is_repaired() {
    let _turn = turn().await;
    let space = Space::new("drift").await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "StreamReady", "BrokerStarting").await;
    space.merge::<Service>("orders-broker", json!({"spec": {"ports": [{"name": "https", "port": 444}]}})).await;
    space.merge::<StatefulSet>("orders-broker", json!({"spec": {"replicas": 2}})).await;
    space
        .merge::<ConfigMap>(
            "orders-broker",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}, "data": {"nats.conf": ""}}),
        )
        .await;
    space.api::<ConfigMap>().delete("orders-ca", &DeleteParams::default()).await.unwrap();
    eventually("everything is as it was", async || {
        let service: Service = space.api().get("orders-broker").await.ok()?;
        let statefulset: StatefulSet = space.api().get("orders-broker").await.ok()?;
        let config: ConfigMap = space.api().get("orders-broker").await.ok()?;
        let ca: ConfigMap = space.api().get("orders-ca").await.ok()?;
        let ports: Vec<i32> = service.spec?.ports?.iter().map(|port| port.port).collect();
        let labels: &BTreeMap<String, String> = config.labels();
        (ports == [443, 4222, 8883]
            && statefulset.spec?.replicas == Some(1)
            && labels.get("app.kubernetes.io/managed-by").map(String::as_str) == Some("tidegate")
            && config.data?.get("nats.conf")?.contains("jetstream")
            && ca.data?.contains_key("ca.crt"))
        .then_some(())
    })
    .await;
}

pub async fn gone(space: &Space, name: &str) {
    eventually("the topic is gone", async || {
        space.api::<EventTopic>().get_opt(name).await.ok()?.is_none().then_some(())
    })
    .await;
}
