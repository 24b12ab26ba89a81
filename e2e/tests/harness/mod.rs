//! A namespace for each test, what the tests put into it, and a dump of it when a test fails.
//!
//! The tests only talk to the API server (KUBECONFIG); what must reach pods runs as pods.

mod dump;
pub mod objects;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::Scope;
use kube::{Client, Resource, discovery};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tokio::sync::RwLock;

/// The namespace of the chart.
pub const OPERATOR_NAMESPACE: &str = "tidegate-system";
const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// The waits name the seconds that are plenty on a quiet machine. A busy one gets so many times as much: what matters is
/// that there is an end.
const BUSY: u64 = 3;

/// One test's namespace.
#[derive(Clone)]
pub struct World {
    pub client: Client,
    pub namespace: String,
}

/// What the ledger knows.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Report {
    pub accepted: u64,
    pub received: u64,
    pub repeated: u64,
    pub missing: u64,
    pub unknown: u64,
    /// Events that a handler received, accepted or not (yet).
    pub seen: u64,
    /// First receipts of an event after a later one of the same key.
    pub disordered: u64,
    /// For each handler that tells its name (`--name`), how many receipts it had of each publisher's events.
    pub received_by: BTreeMap<String, BTreeMap<String, u64>>,
}

/// Tests run beside each other, but for those that end what all need.
static CLUSTER: RwLock<()> = RwLock::const_new(());

/// Runs a test in a namespace of its own. It is dumped if the test fails, and deleted unless E2E_KEEP is set.
pub async fn world(name: &str, test: impl AsyncFnOnce(World)) {
    let _shared = CLUSTER.read().await;
    in_namespace(name, test).await;
}

/// The same, while no other test runs: for one that ends the operator, or measures what a user waits.
pub async fn world_alone(name: &str, test: impl AsyncFnOnce(World)) {
    let _alone = CLUSTER.write().await;
    in_namespace(name, test).await;
}

async fn in_namespace(name: &str, test: impl AsyncFnOnce(World)) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default().await.expect("KUBECONFIG names a cluster");
    let namespace = format!("e2e-{name}-{}", std::process::id());
    let world = World { client, namespace };
    world.create_namespace().await;
    let outcome = AssertUnwindSafe(test(world.clone())).catch_unwind().await;
    if outcome.is_err() {
        dump::namespace(&world).await;
    }
    if std::env::var_os("E2E_KEEP").is_none() {
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        match namespaces.delete(&world.namespace, &DeleteParams::default()).await {
            // A test may be about that.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted.expect("delete namespace")),
        }
    }
    if let Err(failure) = outcome {
        std::panic::resume_unwind(failure);
    }
}

impl World {
    async fn create_namespace(&self) {
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": self.namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))
        .unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.create(&PostParams::default(), &namespace).await.expect("create namespace");
        // Pods are refused until the namespace has its ServiceAccount.
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> = self.api();
        self.until("the ServiceAccount default", 30, async || accounts.get_opt("default").await.unwrap()).await;
    }

    /// Objects of one type in the test's namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// `kubectl apply`, server side.
    pub async fn apply(&self, object: Value) -> Result<DynamicObject, kube::Error> {
        self.patch(object, PatchParams::apply("e2e").force()).await
    }

    /// What the API server would say to it, stored or not.
    pub async fn refusal(&self, object: Value) -> Option<String> {
        self.patch(object, PatchParams::apply("e2e").force().dry_run()).await.err().map(|error| error.to_string())
    }

    async fn patch(&self, object: Value, params: PatchParams) -> Result<DynamicObject, kube::Error> {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let gvk = kube::core::GroupVersionKind::try_from(&types).unwrap();
        let (resource, capabilities) = discovery::pinned_kind(&self.client, &gvk).await?;
        assert!(capabilities.scope == Scope::Namespaced);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let name = object.metadata.name.clone().unwrap();
        api.patch(&name, &params, &Patch::Apply(&object)).await
    }

    /// Applies what must be accepted.
    pub async fn accept(&self, object: Value) {
        self.apply(object).await.expect("accepted");
    }

    /// Waits until `look` finds something, and returns it. Says what it waits for when it gives up.
    pub async fn until<T, F: AsyncFnMut() -> Option<T>>(&self, what: &str, seconds: u64, mut look: F) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look().await {
                return found;
            }
            let seconds = seconds * BUSY;
            assert!(began.elapsed() < Duration::from_secs(seconds), "waited {seconds} s for {what}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a condition of a resource has this status; returns its reason and message.
    pub async fn condition<K>(&self, name: &str, kind: &str, status: &str, seconds: u64) -> (String, String)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        let api: Api<K> = self.api();
        self.until(&format!("{} {name} {kind}={status}", K::kind(&())), seconds, async || {
            let found = serde_json::to_value(api.get_opt(name).await.unwrap()?).unwrap();
            let conditions = found["status"]["conditions"].as_array()?.clone();
            let condition =
                conditions.iter().find(|condition| condition["type"] == kind && condition["status"] == status)?;
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            (condition["observedGeneration"] == found["metadata"]["generation"])
                .then(|| (text("reason"), text("message")))
        })
        .await
    }

    pub async fn topic_ready(&self, name: &str) {
        self.condition::<EventTopic>(name, "Ready", "True", 180).await;
    }

    pub async fn broker_ready(&self, name: &str) {
        self.condition::<EventBroker>(name, "Ready", "True", 180).await;
    }

    /// Waits until a resource that was deleted is gone.
    pub async fn gone<K>(&self, name: &str, seconds: u64)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = self.api();
        let what = format!("{} {name} to be gone", K::kind(&()));
        self.until(&what, seconds, async || api.get_opt(name).await.unwrap().is_none().then_some(())).await;
    }

    pub async fn handler_ready(&self, name: &str) {
        self.condition::<EventHandler>(name, "Ready", "True", 120).await;
    }

    pub async fn handler(&self, name: &str) -> EventHandler {
        self.api().get(name).await.expect("handler")
    }

    pub async fn topic(&self, name: &str) -> EventTopic {
        self.api().get(name).await.expect("topic")
    }

    /// What the ledger says; `None` while it cannot be asked.
    pub async fn report(&self) -> Option<Report> {
        let path = format!("/api/v1/namespaces/{}/services/ledger:8080/proxy/report", self.namespace);
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        self.client.request(request).await.ok()
    }

    /// What the aggregated API answers to this user (`admin`: who installed the chart) of the test's namespace.
    pub async fn stored(&self, user: &str, path: &str) -> Result<Value, kube::Error> {
        let path = format!("/apis/subresources.tidegate.io/v1alpha1/namespaces/{}/{path}", self.namespace);
        let mut request = http::Request::get(path);
        if user != "admin" {
            request = request.header("impersonate-user", user);
        }
        self.client.request(request.body(Vec::new()).unwrap()).await
    }

    /// Binds a user to a ClusterRole in the test's namespace.
    pub async fn bind(&self, user: &str, role: &str) {
        const GROUP: &str = "rbac.authorization.k8s.io";
        self.accept(json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding",
            "metadata": {"name": format!("{user}-{role}")},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": GROUP, "kind": "User", "name": user}],
        }))
        .await;
    }

    /// Waits until so many events were accepted and none of them is missing.
    pub async fn all_received(&self, accepted: u64, seconds: u64) -> Report {
        let mut last = None;
        let what = format!("{accepted} events accepted and received");
        let began = Instant::now();
        loop {
            if let Some(report) = self.report().await {
                if report.accepted == accepted && report.missing == 0 {
                    return report;
                }
                last = Some(report);
            }
            let seconds = seconds * BUSY;
            assert!(began.elapsed() < Duration::from_secs(seconds), "waited {seconds} s for {what}: {last:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Names of pods with these labels that are not on their way out.
    pub async fn pods(&self, labels: &str) -> Vec<String> {
        pods(&self.client, &self.namespace, labels).await
    }

    /// Deletes a pod as `kubectl delete pod` does.
    pub async fn delete_pod(&self, name: &str) {
        self.api::<Pod>().delete(name, &DeleteParams::default()).await.expect("delete pod");
    }

    /// Kills a pod without a grace period, as a crash of its node would.
    pub async fn kill_pod(&self, name: &str) {
        self.api::<Pod>().delete(name, &DeleteParams::default().grace_period(0)).await.expect("kill pod");
    }

    /// Kills the operator without a grace period, as a crash would. Returns the names of its pods.
    pub async fn kill_operator(&self) -> Vec<String> {
        let pods = pods(&self.client, OPERATOR_NAMESPACE, OPERATOR).await;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        assert!(!pods.is_empty(), "an operator runs");
        for pod in &pods {
            api.delete(pod, &DeleteParams::default().grace_period(0)).await.expect("kill operator");
        }
        pods
    }

    /// Waits until an operator that is none of those killed leads.
    pub async fn operator_leads_again(&self, killed: &[String]) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        self.until("another operator to lead", 60, async || {
            let holder = leases.get_opt("tidegate-operator").await.unwrap()?.spec?.holder_identity?;
            let alive = pods(&self.client, OPERATOR_NAMESPACE, OPERATOR).await;
            (alive.contains(&holder) && !killed.contains(&holder)).then_some(())
        })
        .await;
    }

    /// Waits until all pods of the broker `default` are ready, as the StatefulSet's own controller says.
    pub async fn brokers_ready(&self, replicas: i32) {
        let statefulsets: Api<StatefulSet> = self.api();
        self.until("all broker pods", 120, async || {
            let status = statefulsets.get("default-broker").await.unwrap().status?;
            (status.ready_replicas == Some(replicas)).then_some(())
        })
        .await;
    }
}

async fn pods(client: &Client, namespace: &str, labels: &str) -> Vec<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default().labels(labels)).await.expect("list pods");
    let alive = list.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    alive.filter_map(|pod| pod.metadata.name).collect()
}
