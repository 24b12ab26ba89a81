//! Brokers that are a real nats-server, where the kubelet would have started one, and topics on them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tidegate_broker_admin::server::Server;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::identity::{Identity, Source, file};
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::{TopicId, layout, peer};
use tidegate_operator::identity::keys;
use tidegate_operator::kubernetes::names;
use tidegate_operator::sessions::brokers::{Addresses, BrokerKey, Digests};
use tidegate_test_broker::{TestBroker, TopicHandle};
use tokio_util::task::AbortOnDropHandle;

use super::{Space, eventually, ingress, merged};
use crate::topic::until_reason;

/// The operator's namespace.
pub const OPERATORS: &str = "default";

/// Where the servers of brokers are, and how they are configured; somewhere without any for all others.
#[derive(Clone, Default)]
pub struct Places(Arc<Mutex<HashMap<String, Vec<String>>>>, Arc<Mutex<KnownDigests>>);

/// By broker and number of routes: those of all servers.
type KnownDigests = HashMap<(String, usize), Vec<String>>;

impl Places {
    /// The servers of this broker are here.
    pub fn set(&self, space: &Space, broker: &str, servers: Vec<String>) {
        self.0.lock().expect("lock").insert(format!("{}/{broker}", space.name), servers);
    }

    /// The servers of this broker say these of a configuration with so many routes.
    pub fn set_digests(&self, space: &Space, broker: &str, routes: usize, digests: Vec<String>) {
        self.1.lock().expect("lock").insert((format!("{}/{broker}", space.name), routes), digests);
    }

    /// For an operator: what a server says that has loaded the configuration of this one, as far as it is known.
    pub fn digests(&self) -> Digests {
        let places = self.clone();
        Arc::new(move |broker: &BrokerKey, server: &Server, name: &str| {
            let key = (format!("{}/{}", broker.namespace, broker.name), server.cluster.routes.len());
            let known = places.1.lock().expect("lock");
            let ordinal: usize = name.rsplit('-').next().and_then(|number| number.parse().ok()).expect("a number");
            known.get(&key).and_then(|digests| digests.get(ordinal)).cloned().unwrap_or_default()
        })
    }

    /// Those of all brokers that are known.
    pub fn all(&self) -> HashMap<String, Vec<String>> {
        self.0.lock().expect("lock").clone()
    }

    /// What the servers of all brokers say of a configuration with one route.
    pub fn all_digests(&self) -> HashMap<String, Vec<String>> {
        let known = self.1.lock().expect("lock");
        let of_one = known.iter().filter(|((_, routes), _)| *routes == 1);
        of_one.map(|((broker, _), digests)| (broker.clone(), digests.clone())).collect()
    }

    /// For an operator.
    pub fn addresses(&self) -> Addresses {
        let places = self.clone();
        Arc::new(move |broker: &BrokerKey, _| {
            let places = places.0.lock().expect("lock");
            let place = places.get(&format!("{}/{}", broker.namespace, broker.name));
            place.cloned().unwrap_or_else(|| vec!["tls://127.0.0.1:9".to_owned()])
        })
    }
}

/// A server with room for 1 GiB, and nothing in it.
pub async fn server() -> TestBroker {
    TestBroker::start_empty(1 << 30).await
}

/// Makes a broker with the keys of this server, and takes the place of its kubelet and of its ingress.
pub async fn broker_on(space: &Space, places: &Places, server: &TestBroker, name: &str, spec: Value) {
    keep_keys(space, places, server, name).await;
    space.broker(name, spec).await;
    run_broker_pod(space, name).await;
}

/// The broker of this name, when it is made, is this server: its keys are kept, and its ingress answers.
pub async fn keep_keys(space: &Space, places: &Places, server: &TestBroker, broker: &str) {
    places.set(space, broker, server.servers());
    let keys: HashMap<_, _> = keys::to_data(server.authority()).into_iter().collect();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": names::authority(broker, &space.name)},
        "stringData": keys,
    });
    let secret: Secret = serde_json::from_value(secret).expect("Secret");
    keys_api(space).create(&PostParams::default(), &secret).await.expect("keys");
    ingress::serve(space, server, broker);
}

/// The Secrets of the operator's namespace.
pub fn keys_api(space: &Space) -> Api<Secret> {
    Api::namespaced(space.client.clone(), OPERATORS)
}

/// The Secret with a broker's keys.
pub async fn keys(space: &Space, broker: &str) -> Option<Secret> {
    keys_api(space).get_opt(&names::authority(broker, &space.name)).await.expect("read")
}

/// Makes a topic on a broker of its own, which has its name and is this server.
pub async fn topic_on(space: &Space, places: &Places, server: &TestBroker, name: &str) {
    topic_with(space, places, server, name, json!({})).await;
}

/// The same with this specification.
pub async fn topic_with(space: &Space, places: &Places, server: &TestBroker, name: &str, spec: Value) {
    broker_on(space, places, server, name, json!({"storage": {"size": "1Gi"}})).await;
    topic_at(space, name, name, spec).await;
}

/// Makes a topic on a broker that there is. It has 256 MiB for its events, where that is not said.
pub async fn topic_at(space: &Space, broker: &str, name: &str, spec: Value) {
    let small = match spec["routing"].as_str() {
        Some("Direct") => json!({"broker": {"name": broker}}),
        _ => json!({"broker": {"name": broker}, "retention": {"maxSize": "256Mi"}}),
    };
    space.topic(name, merged(&small, &spec)).await;
}

/// A topic's account, as the operator sees it. The operator has made it.
pub async fn account(space: &Space, server: &TestBroker, topic: &str) -> TopicHandle {
    server.open_topic(&id(space, topic)).await
}

/// The topic's name on its broker.
pub fn id(space: &Space, topic: &str) -> TopicId {
    TopicId::new(space.name.clone(), topic).expect("two labels")
}

/// Makes the broker's first pod, and says that it runs.
pub async fn run_broker_pod(space: &Space, broker: &str) {
    let labels = json!({
        "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": "broker",
        "tidegate.io/broker": broker,
    });
    let pod = format!("{broker}-broker-0");
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

/// What the StatefulSet controller and the kubelet do: each pod that is not there is made from the present template, and is
/// ready. Returns those that were made.
pub async fn run_missing_pods(space: &Space, broker: &str) -> Vec<String> {
    let set: StatefulSet = space.api().get(&names::broker(broker)).await.expect("StatefulSet");
    let spec = set.spec.expect("spec");
    let template = spec.template.metadata.expect("metadata");
    let pods: Api<Pod> = space.api();
    let mut made = Vec::new();
    for ordinal in 0..spec.replicas.unwrap_or(1) {
        let name = format!("{}-{ordinal}", names::broker(broker));
        if pods.get_opt(&name).await.expect("read").is_some() {
            continue;
        }
        let metadata = json!({"name": name, "labels": template.labels, "annotations": template.annotations});
        let spec = json!({"containers": [{"name": "nats", "image": "i"}]});
        space.create::<Pod>(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
        let running = json!([{
            "name": "nats", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "started": true,
            "state": {"running": {}},
        }]);
        let ready = json!([{"type": "Ready", "status": "True"}]);
        let status = json!({"phase": "Running", "containerStatuses": running, "conditions": ready});
        let patch = Patch::Merge(json!({"status": status}));
        pods.patch_status(&name, &PatchParams::default(), &patch).await.expect("status");
        made.push(name);
    }
    made
}

/// Waits until the operator has made the topic, and says that its broker's pod is ready.
pub async fn until_ready(space: &Space, name: &str) {
    let topic = until_reason(space, name, "StreamReady", "Configured").await;
    pods_are_ready(space, &topic.spec.broker.name).await;
    until_reason(space, name, "Ready", "Ready").await;
}

/// Says that the broker's pod is ready.
pub async fn pods_are_ready(space: &Space, broker: &str) {
    let counts = json!({"replicas": 1, "readyReplicas": 1, "observedGeneration": 1});
    status::<StatefulSet>(space, &format!("{broker}-broker"), counts).await;
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

/// What the ingresses of its broker say of a topic.
pub fn as_ingress(space: &Space, topic: &str) -> TopicSubjects {
    TopicSubjects::new(&id(space, topic), Routing::Queued)
}

/// One event, as an ingress stores it.
pub async fn publish_as_ingress(space: &Space, server: &TestBroker, topic: &str) {
    let subject = as_ingress(space, topic).event(&layout::event_subject(0, "order.new"));
    let answer = server.ingress().await.request(subject, "{}".into()).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert!(answer["seq"].is_u64(), "stored: {answer}");
}

/// A client with the identity of a handler's sidecars.
pub async fn sidecar_client(space: &Space, server: &TestBroker, handler: &str) -> async_nats::Client {
    let secrets: Api<Secret> = space.api();
    let name = format!("{handler}-identity");
    let secret = eventually("an identity", async || secrets.get_opt(&name).await.ok()?).await;
    let data = secret.data.expect("data");
    let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("text");
    let identity = Identity {
        ca: text(file::CA),
        certificate: text(file::CERTIFICATE),
        key: text(file::KEY),
        user_jwt: text(file::USER_JWT),
        user_seed: text(file::USER_SEED),
    };
    let source: Source = Arc::new(move || Ok(identity.clone()));
    peer::connect("sidecar", &server.servers(), source).await.expect("connected")
}

/// Events at this rate until it is dropped.
pub fn publish(topic: &TopicHandle, per_second: u32) -> AbortOnDropHandle<()> {
    let js = tidegate_test_broker::jetstream(topic.operator.clone());
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
