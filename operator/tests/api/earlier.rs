//! A topic of version 0.1, which had a broker for each topic, is refused and left as it is until a person has moved it.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt as _;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_operator::kubernetes::names;

use crate::support::brokers::status;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{condition, gone, until_reason};
use crate::{handler, topic_trouble};

/// What was stored of a topic that was Ready.
fn stored() -> Value {
    let text = include_str!("../../../crds/tests/stored-by-0.1/eventtopic.json");
    let stored: Value = serde_json::from_str(text).unwrap();
    stored["status"].clone()
}

/// A workload that version 0.1 made for a topic or a handler.
fn made(kind: &str, name: &str, (component, label): (&str, (&str, &str)), owner: Value) -> Value {
    let labels = json!({
        "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/name": "tidegate",
        "app.kubernetes.io/component": component, "app.kubernetes.io/instance": label.1, label.0: label.1,
    });
    json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "serviceName": "orders-broker-headless", "selector": {"matchLabels": {label.0: label.1}},
            "template": {
                "metadata": {"labels": {label.0: label.1}},
                "spec": {"containers": [{"name": "nats", "image": "nats:0.1"}]},
            },
        },
    })
}

fn owner<K: kube::Resource<DynamicType = ()>>(object: &K) -> Value {
    serde_json::to_value(object.controller_owner_ref(&()).unwrap()).unwrap()
}

#[tokio::test]
async fn a_topic_of_version_0_1_is_refused_and_left_as_it_is() {
    let _turn = turn().await;
    let space = Space::new("earlier").await;
    let topic = space.topic("orders", json!({"deletionPolicy": "Delete"})).await;
    status::<EventTopic>(&space, "orders", stored()).await;
    let label = ("broker", (names::TOPIC_LABEL, "orders"));
    let set: StatefulSet = space.create(made("StatefulSet", "orders-broker", label, owner(&topic))).await;
    space.create::<PersistentVolumeClaim>(topic_trouble::volume("orders")).await;
    let handler: EventHandler = space
        .create(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": "billing"},
            "spec": {"topic": "orders", "template": {"spec": {"containers": [{"name": "app", "image": "app:1", "ports": [{"containerPort": 8080}]}]}}},
        }))
        .await;
    let label = ("handler", (names::HANDLER_LABEL, "billing"));
    let name = names::handler("billing");
    let deployment: Deployment = space.create(made("Deployment", &name, label, owner(&handler))).await;
    space.topic("invoices", json!({})).await;

    let _operator = Operator::start(space.client.clone());
    let refused = until_reason(&space, "orders", "Ready", "MadeByEarlierVersion").await;
    let message = condition(&refused, "Ready").unwrap().message;
    assert!(message.contains("StatefulSet orders-broker") && message.contains("To move"), "{message}");
    assert_eq!(condition(&refused, "Stalled").unwrap().status, "True");
    let waiting = eventually("the handler waits for its topic", async || {
        let handler: EventHandler = space.api().get("billing").await.unwrap();
        handler::condition(&handler, "Ready").filter(|ready| ready.status == "False")
    })
    .await;
    assert!(waiting.message.contains("orders"), "{}", waiting.message);
    // Others are served beside it.
    until_reason(&space, "invoices", "Ready", "PodsNotReady").await;
    let after: StatefulSet = space.api().get("orders-broker").await.unwrap();
    assert_eq!(after.resource_version(), set.resource_version());
    let after: Deployment = space.api().get(&name).await.unwrap();
    assert_eq!(after.resource_version(), deployment.resource_version());

    // The way that the message names ends with the deletion of both; what was stored stays.
    space.api::<EventHandler>().delete("billing", &DeleteParams::default()).await.unwrap();
    eventually("the handler goes", async || {
        space.api::<EventHandler>().get_opt("billing").await.unwrap().is_none().then_some(())
    })
    .await;
    space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&space, "orders").await;
    space.api::<PersistentVolumeClaim>().get("data-orders-broker-0").await.unwrap();
}
