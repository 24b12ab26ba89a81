//! What the tests share: a server, a namespace, an operator, and patience with an end.

pub mod brokers;
pub mod counted;
pub mod ingress;
pub mod interrupted;
pub mod meddling;
pub mod operator;
mod pki;
pub mod process;
pub mod programs;
pub mod server;
pub mod servers;
pub mod workloads;

pub use server::{config as server_config, front_proxies, rotated_config, run_nodes, start_audited};

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_crds::{EventBroker, EventTopic};

/// Nothing that a test waits for takes longer, on a machine with other work too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace of its own, and a client.
pub struct Space {
    pub client: Client,
    pub name: String,
}

impl Space {
    /// The same for another task.
    pub fn again(&self) -> Self {
        Self { client: self.client.clone(), name: self.name.clone() }
    }

    pub async fn new(purpose: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let client = server::client().await;
        let name = format!("{purpose}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.clone());
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("namespace");
        Self { client, name }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Makes an object from its JSON.
    pub async fn create<K>(&self, value: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let object: K = serde_json::from_value(value).expect("object");
        self.api().create(&PostParams::default(), &object).await.expect("created")
    }

    /// Makes a topic with this specification.
    pub async fn topic(&self, name: &str, spec: Value) -> EventTopic {
        self.create(json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": name}, "spec": spec})).await
    }

    /// Makes a broker with this specification.
    pub async fn broker(&self, name: &str, spec: Value) -> EventBroker {
        self.create(json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": name}, "spec": spec})).await
    }

    pub async fn merge<K>(&self, name: &str, patch: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        self.api().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched")
    }

    /// The notes of the Events with this reason.
    pub async fn events(&self, reason: &str) -> Vec<String> {
        let events = self.api::<Event>().list(&ListParams::default()).await.expect("events");
        events
            .items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter_map(|event| event.note)
            .collect()
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(answer) = check().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// RFC 7386: what a merge patch makes of a value.
pub fn merged(base: &Value, patch: &Value) -> Value {
    let (Value::Object(base), Value::Object(patch)) = (base, patch) else {
        return patch.clone();
    };
    let mut merged_fields = base.clone();
    for (key, value) in patch {
        if value.is_null() {
            merged_fields.remove(key);
        } else {
            let before = base.get(key).cloned().unwrap_or_else(|| json!({}));
            merged_fields.insert(key.clone(), merged(&before, value));
        }
    }
    Value::Object(merged_fields)
}
