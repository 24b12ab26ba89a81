//! What becomes of an EventTopic: its children and those of its broker, its status, and peace when nothing changes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventTopic};

use crate::broker::{broker_gone, until_broker};
use crate::children::{self, OF_BROKER, OF_TOPIC, kinds, versions};
use crate::support::brokers::keys;
use crate::support::interrupted::Interruption;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};

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
    let topic_now = until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    let broker: EventBroker = space.api().get("default").await.unwrap();
    let (of_topic, of_broker) =
        (children::of_topic(&space, "orders").await, children::of_broker(&space, "default").await);
    assert_eq!((kinds(&of_topic), kinds(&of_broker)), (OF_TOPIC.to_vec(), OF_BROKER.to_vec()));
    for (found, uid) in [(&of_topic, &topic.metadata.uid), (&of_broker, &broker.metadata.uid)] {
        for (kind, child) in found {
            let owners = child.owner_references();
            if *kind == "authority" {
                assert_eq!(owners, [], "kept with the volumes");
                continue;
            }
            assert_eq!(owners.len(), 1, "{kind}");
            assert_eq!((Some(&owners[0].uid), owners[0].controller), (uid.as_ref(), Some(true)), "{kind}");
        }
    }
    assert_eq!(topic_now.finalizers(), ["tidegate.io/cleanup"]);
    assert_eq!(broker.finalizers(), ["tidegate.io/cleanup"]);
    let status = topic_now.status.clone().unwrap();
    assert_eq!(status.observed_generation, topic.metadata.generation);
    let address = status.address.unwrap();
    assert_eq!(address.url, format!("https://orders-topic.{}.svc", space.name));
    assert_eq!(address.nats_url, Some(format!("tls://default-broker.{}.svc:4222", space.name)));
    let ca: ConfigMap = space.api().get("orders-ca").await.unwrap();
    assert_eq!(address.ca_certs, Some(ca.data.unwrap()["ca.crt"].clone()));
    assert_eq!(address.audience, Some(format!("tidegate.io/eventtopic/{}/orders", space.name)));
    assert_eq!(condition(&topic_now, "Ready").unwrap().status, "False");
    assert!(condition(&topic_now, "Ready").unwrap().message.contains("0 of 1 broker pods are ready"));
    assert_eq!(condition(&topic_now, "StreamReady").unwrap().reason, "BrokerStarting");
    for found in &status.conditions {
        assert_eq!(found.observed_generation, topic.metadata.generation, "{}", found.type_);
    }
    let broker = until_broker(&space, "default", "Ready", "PodsNotReady").await;
    for found in &broker.status.unwrap().conditions {
        assert_eq!(found.observed_generation, broker.metadata.generation, "{}", found.type_);
    }
}

/// No controller collects garbage here, so the children of the first topic and broker stay: what a real cluster shows
/// for a moment.
#[tokio::test]
async fn topic_and_broker_made_again_wait_for_what_is_left_of_the_first_and_have_their_keys() {
    let _turn = turn().await;
    let space = Space::new("again").await;
    space.topic("orders", json!({})).await;
    let _operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    let first = keys(&space, "default").await.unwrap().data;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    broker_gone(&space, "default").await;
    space.topic("orders", json!({})).await;
    let waiting = until_broker(&space, "default", "Ready", "WaitingForGarbageCollection").await;
    assert_eq!(crate::broker::condition(&waiting, "Stalled").unwrap().status, "False", "it passes by itself");
    let waiting = until_reason(&space, "orders", "Ready", "WaitingForGarbageCollection").await;
    assert_eq!(condition(&waiting, "Stalled").unwrap().status, "False", "it passes by itself");
    collect_garbage(&space).await;
    let topic = until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    // What the operator's watch has not yet shown to be gone is made when it has.
    let (of_topic, of_broker) = eventually("all children", async || {
        let made = (children::of_topic(&space, "orders").await, children::of_broker(&space, "default").await);
        (kinds(&made.0) == OF_TOPIC && kinds(&made.1) == OF_BROKER).then_some(made)
    })
    .await;
    assert_eq!(of_topic["topic-service"].owner_references()[0].uid, topic.metadata.uid.unwrap());
    let broker: EventBroker = space.api().get("default").await.unwrap();
    assert_eq!(of_broker["service"].owner_references()[0].uid, broker.metadata.uid.unwrap());
    assert_eq!(keys(&space, "default").await.unwrap().data, first);
}

/// What the garbage collector does with the children of a topic and a broker that are gone.
async fn collect_garbage(space: &Space) {
    let of_topic = children::of_topic(space, "orders").await;
    for (kind, child) in children::of_broker(space, "default").await.into_iter().chain(of_topic) {
        if kind != "authority" {
            children::api(space, kind).delete(&child.name_any(), &DeleteParams::default()).await.unwrap();
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
    space.broker("default", json!({"replicas": 3, "pods": {"resources": resources}})).await;
    for name in ["orders", "invoices"] {
        space.topic(name, json!({})).await;
    }
    let operator = Operator::start(counter.client());
    for name in ["orders", "invoices"] {
        until_reason(&space, name, "Ready", "PodsNotReady").await;
    }
    // The StatefulSet controller's part: the counts change, and with them the statuses, once.
    let status = Patch::Merge(json!({"status": {"replicas": 3, "readyReplicas": 1, "observedGeneration": 1}}));
    space.api::<StatefulSet>().patch_status("default-broker", &PatchParams::default(), &status).await.unwrap();
    eventually("the statuses follow the pods", async || {
        let broker = space.api::<EventBroker>().get("default").await.ok()?.status?;
        for name in ["orders", "invoices"] {
            let topic = space.api::<EventTopic>().get(name).await.ok()?;
            condition(&topic, "Ready")?.message.contains("1 of 3 broker pods").then_some(())?;
        }
        (broker.ready_replicas == 1 && broker.topics == 2).then_some(())
    })
    .await;
    let before = (versions(&space).await, counter.writes());
    // Looked at again at least twice, because it is not ready.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!((versions(&space).await, counter.writes()), before, "while it runs");
    operator.stop().await;
    let next = Operator::start(counter.client());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!((versions(&space).await, counter.writes()), before, "by the next operator");
    next.stop().await;
}

#[tokio::test]
async fn drift_is_repaired_while_an_operator_runs_and_by_the_next_one() {
    let _turn = turn().await;
    let space = Space::new("drift").await;
    space.topic("orders", json!({})).await;
    let operator = Operator::start(space.client.clone());
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    drift(&space).await;
    until_repaired(&space).await;
    operator.stop().await;
    drift(&space).await;
    let _next = Operator::start(space.client.clone());
    until_repaired(&space).await;
}

/// Somebody changes, takes away and deletes.
async fn drift(space: &Space) {
    space.merge::<Service>("default-broker", json!({"spec": {"ports": [{"name": "https", "port": 444}]}})).await;
    space.merge::<Service>("orders-topic", json!({"spec": {"ports": [{"name": "https", "port": 444}]}})).await;
    let rolling = json!({"spec": {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    space.merge::<StatefulSet>("default-broker", rolling).await;
    space
        .merge::<ConfigMap>(
            "default-broker",
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}, "data": {"nats.conf": ""}}),
        )
        .await;
    space.merge::<NetworkPolicy>("default-broker", json!({"spec": {"ingress": []}})).await;
    space.merge::<Secret>("default-ingress", json!({"metadata": {"ownerReferences": null}})).await;
    space.api::<ConfigMap>().delete("orders-ca", &DeleteParams::default()).await.unwrap();
}

async fn until_repaired(space: &Space) {
    eventually("everything is as it was", async || {
        let ports = async |name: &str| -> Option<Vec<i32>> {
            let service: Service = space.api().get(name).await.ok()?;
            Some(service.spec?.ports?.iter().map(|port| port.port).collect())
        };
        let statefulset: StatefulSet = space.api().get("default-broker").await.ok()?;
        let config: ConfigMap = space.api().get("default-broker").await.ok()?;
        let ca: ConfigMap = space.api().get("orders-ca").await.ok()?;
        let policy: NetworkPolicy = space.api().get("default-broker").await.ok()?;
        let secret: Secret = space.api().get("default-ingress").await.ok()?;
        let labels: &BTreeMap<String, String> = config.labels();
        (ports("default-broker").await? == [443, 4222, 8883]
            && ports("orders-topic").await? == [443, 8883]
            && statefulset.spec?.update_strategy?.type_.as_deref() == Some("OnDelete")
            && labels.get("app.kubernetes.io/managed-by").map(String::as_str) == Some("tidegate")
            && config.data?.get("nats.conf")?.contains("jetstream")
            && !policy.spec?.ingress?.is_empty()
            && !secret.owner_references().is_empty()
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
