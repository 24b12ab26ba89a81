//! Topics whose broker is a real nats-server, where the kubelet would have started one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_client::layout;
use tidegate_operator::authority;
use tidegate_operator::brokers::{Addresses, TopicKey};
use tidegate_test_broker::TestBroker;
use tokio_util::task::AbortOnDropHandle;

use super::{Space, eventually};
use crate::topic::until_reason;

/// Where the brokers of topics are; somewhere without any for all others.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Places {
    /// The brokers of this topic are here.
    pub fn set(&self, space: &Space, topic: &str, servers: Vec<String>) {
        self.0.lock().expect("lock").insert(format!("{}/{topic}", space.name), servers);
    }

    /// For an operator.
    pub fn addresses(&self) -> Addresses {
        let places = self.clone();
        Arc::new(move |topic: &TopicKey, _| {
            let places = places.0.lock().expect("lock");
            let place = places.get(&format!("{}/{}", topic.namespace, topic.name));
            place.cloned().unwrap_or_else(|| vec!["tls://127.0.0.1:9".to_owned()])
        })
    }
}

/// Makes a topic with the keys of this broker, and says in the kubelet's place that its pod runs.
pub async fn topic_on(space: &Space, places: &Places, broker: &TestBroker, name: &str) {
    topic_with(space, places, broker, name, json!({"broker": {"storage": {"size": "1Gi"}}})).await;
}

/// The same with this specification. A test's server has room for 1 GiB.
pub async fn topic_with(space: &Space, places: &Places, broker: &TestBroker, name: &str, spec: Value) {
    places.set(space, name, broker.servers());
    let keys: HashMap<_, _> = authority::to_data(broker.authority()).into_iter().collect();
    space
        .create::<Secret>(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("{name}-authority")},
            "stringData": keys,
        }))
        .await;
    space.topic(name, spec).await;
    run_broker_pod(space, name).await;
}

/// Makes the topic's first broker pod, and says that it runs.
pub async fn run_broker_pod(space: &Space, topic: &str) {
    let labels = json!({
        "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": "broker", "tidegate.io/topic": topic,
    });
    let pod = format!("{topic}-broker-0");
    space
        .create::<Pod>(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "labels": labels},
            "spec": {"containers": [{"name": "nats", "image": "i"}]},
        }))
        .await;
    let running = json!([{
        "name": "nats", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "started": true,
        "state": {"running": {}},
    }]);
    status::<Pod>(space, &pod, json!({"phase": "Running", "containerStatuses": running})).await;
}

/// Waits until the operator has made the topic, and says that its pod is ready.
pub async fn until_ready(space: &Space, name: &str) {
    until_reason(space, name, "StreamReady", "Configured").await;
    let counts = json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": 1});
    status::<StatefulSet>(space, &format!("{name}-broker"), counts).await;
    until_reason(space, name, "Ready", "Ready").await;
}

/// Writes a status in a controller's place.
pub async fn status<K>(space: &Space, name: &str, status: Value)
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = space.api();
    let patch = Patch::Merge(json!({"status": status}));
    eventually(name, async || api.patch_status(name, &PatchParams::default(), &patch).await.ok()).await;
}

/// Events at this rate until it is dropped.
pub fn publish(broker: &TestBroker, per_second: u32) -> AbortOnDropHandle<()> {
    let js = broker.jetstream();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
        loop {
            ticks.tick().await;
            publish_one(&js).await;
        }
    }))
}

/// One event.
pub async fn publish_one(js: &jetstream::Context) {
    let subject = layout::event_subject(0, "order.new");
    js.publish(subject, "{}".into()).await.expect("sent").await.expect("stored");
}
