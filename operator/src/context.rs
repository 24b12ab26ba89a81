//! What every reconcile is given.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::args::{Args, PodUser};
use crate::broker::expiry::{self, Expiries};
use crate::broker::nudge::Unserved;
use crate::broker::rollover::Outdated;
use crate::broker::room::Promises;
use crate::broker::turns::Turns;
use crate::health::Health;
use crate::identity::keys::Authorities;
use crate::identity::token_keys::TokenKeys;
use crate::kubernetes::applied::Applied;
use crate::kubernetes::names::FIELD_MANAGER;
use crate::kubernetes::watches::Stores;
use crate::kubernetes::written::{Key, Written};
use crate::reconcile::changes::Changes;
use crate::reconcile::error::Error;
use crate::reconcile::first_round::{self, FirstRound};
use crate::reconcile::metrics::Metrics;
use crate::reconcile::pace::Pace;
use crate::reconcile::slots::Slots;
use crate::sessions::brokers::{Addresses, BrokerKey, Brokers, Digests};
use crate::sessions::ingress_reports::IngressReports;
use crate::sessions::keys::{self, KeyTracker};
use crate::sessions::lag::{self, LagTracker};
use crate::sessions::letters::LetterCounts;
use crate::sessions::reports::Reports;
use crate::sessions::retries::{self, RetryTracker};
use crate::topic::storage::RestartPolicy;

/// What every reconcile is given. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What the operator was started with.
    pub args: Arc<Args>,
    /// What the operator saw last.
    pub stores: Arc<Stores>,
    /// What it wrote last: brokers, topics and handlers.
    pub written: Arc<Written>,
    /// The same: what they were made into.
    pub applied: Arc<Applied>,
    /// Whether everything has been reconciled since the start.
    pub first_round: Arc<FirstRound>,
    /// Whose turn it is to roll out.
    pub pace: Arc<Pace>,
    /// How many reconciles run at the same time.
    pub slots: Arc<Slots>,
    /// Connections to the brokers.
    pub brokers: Arc<Brokers>,
    /// By what it is seen that a server has loaded its configuration.
    pub digests: Digests,
    /// What was promised of the brokers' room.
    pub promises: Arc<Promises>,
    /// When the brokers' certificates end.
    pub expiries: Arc<Expiries>,
    /// Brokers that have to be looked at because of their topics.
    pub broker_changes: Arc<Changes<BrokerKey>>,
    /// Brokers of which a pod was told to end.
    pub broker_restarts: Arc<Turns>,
    /// Topics and handlers with certificates of a stage of a rollover that is over.
    pub outdated: Arc<Changes<Outdated>>,
    /// Brokers of which a topic waits to be served.
    pub unserved: Arc<Unserved>,
    /// What the brokers said of the handlers' lag.
    pub lag: Arc<LagTracker>,
    /// What the brokers said of events that wait for a retry.
    pub retries: Arc<RetryTracker>,
    /// What the brokers said of keys of which events wait.
    pub keys: Arc<KeyTracker>,
    /// What the sidecars say of themselves.
    pub reports: Arc<Reports>,
    /// What the ingresses could not store.
    pub ingress_reports: Arc<IngressReports>,
    /// The brokers' roots of trust.
    pub authorities: Arc<Authorities>,
    /// The cluster's keys of ServiceAccount tokens.
    pub token_keys: Arc<TokenKeys>,
    /// When dead letters were counted.
    pub letters: Arc<LetterCounts>,
    /// What `/readyz` says.
    pub health: Health,
    /// When a broker pod that does not store is restarted.
    pub restart_policy: RestartPolicy,
    /// Kubernetes Events.
    pub recorder: Recorder,
    /// The operator's own metrics.
    pub metrics: Metrics,
}

impl Context {
    /// For this client and these settings.
    pub fn new(client: Client, args: Args) -> Self {
        let lag: Arc<LagTracker> = Arc::default();
        lag::export(&lag);
        let retries: Arc<RetryTracker> = Arc::default();
        retries::export(&retries);
        let keys: Arc<KeyTracker> = Arc::default();
        keys::export(&keys);
        let expiries: Arc<Expiries> = Arc::default();
        expiry::export(&expiries);
        let first_round: Arc<FirstRound> = Arc::default();
        first_round::export(&first_round);
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: Some(args.pod_name.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            args: Arc::new(args),
            // Nothing is watched yet: run() does.
            stores: Arc::new(Stores::new().0),
            written: Arc::default(),
            first_round,
            pace: Arc::default(),
            slots: Arc::default(),
            applied: Arc::default(),
            brokers: Arc::default(),
            digests: Arc::new(|_, server, name| server.digest(name)),
            promises: Arc::default(),
            broker_changes: Arc::default(),
            broker_restarts: Arc::default(),
            outdated: Arc::default(),
            unserved: Arc::default(),
            lag,
            retries,
            keys,
            expiries,
            reports: Arc::default(),
            ingress_reports: Arc::default(),
            authorities: Arc::default(),
            token_keys: Arc::default(),
            letters: Arc::default(),
            health: Health::default(),
            restart_policy: RestartPolicy::default(),
            metrics: Metrics::default(),
        }
    }

    /// With brokers elsewhere than in the cluster.
    #[must_use]
    pub fn with_broker_addresses(self, addresses: Addresses) -> Self {
        Self { brokers: Arc::new(Brokers::new(addresses)), ..self }
    }

    /// With servers that are configured in another way than those in the cluster.
    #[must_use]
    pub fn with_server_digests(self, digests: Digests) -> Self {
        Self { digests, ..self }
    }

    /// With other times for the restart of a broker pod.
    #[must_use]
    pub fn with_restart_policy(self, restart_policy: RestartPolicy) -> Self {
        Self { restart_policy, ..self }
    }

    /// With another time between two looks at the cluster's keys.
    #[must_use]
    pub fn with_token_keys(self, token_keys: TokenKeys) -> Self {
        Self { token_keys: Arc::new(token_keys), ..self }
    }

    /// The resource as it is now: the controller's copy, unless that is older than the operator's own last write.
    /// `None`: it is gone.
    ///
    /// # Errors
    /// The API server is away.
    pub async fn current<K>(&self, copy: Arc<K>, owner: &Owner) -> Result<Option<Arc<K>>, Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
    {
        self.stores.ready().await;
        if self.written.is_current(&owner.key::<K>(), copy.meta()) {
            return Ok(Some(copy));
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &owner.namespace);
        Ok(api.get_opt(&owner.name).await?.map(Arc::new))
    }
}

/// Name, namespace and owner of the resource that is being reconciled.
#[derive(Clone, Debug)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The reference that its children carry.
    pub reference: OwnerReference,
}

impl Owner {
    /// Of a resource that came from the API server, and so has all of this.
    pub fn of<K: kube::Resource<DynamicType = ()>>(resource: &K) -> Option<Self> {
        Some(Self {
            name: resource.meta().name.clone()?,
            namespace: resource.meta().namespace.clone()?,
            reference: resource.controller_owner_ref(&())?,
        })
    }

    /// Where the resource is.
    pub(crate) fn key<K: Resource<DynamicType = ()>>(&self) -> Key {
        (K::kind(&()).into_owned(), self.namespace.clone(), self.name.clone())
    }

    /// The metadata of a child.
    pub fn metadata(&self, name: &str, labels: &BTreeMap<String, String>) -> Value {
        json!({
            "name": name, "namespace": self.namespace, "labels": labels,
            "ownerReferences": [self.reference],
        })
    }
}

/// The environment that every container of ours gets: configuration, where it is, where telemetry goes.
pub fn environment(args: &Args, config: &str) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let mut environment = vec![
        json!({"name": tidegate_broker_client::contract::VARIABLE, "value": config}),
        field("K8S_NAMESPACE_NAME", "metadata.namespace"),
        field("K8S_POD_NAME", "metadata.name"),
        field("K8S_NODE_NAME", "spec.nodeName"),
    ];
    if let Some(endpoint) = &args.otlp_endpoint {
        environment.push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}));
    }
    if let Some(exporters) = &args.metrics_exporter {
        environment.push(json!({"name": "OTEL_METRICS_EXPORTER", "value": exporters}));
    }
    environment
}

/// The security context of every container of ours: Pod Security "restricted".
pub fn restricted(user: PodUser) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if let PodUser::Fixed(user) = user {
        context["runAsUser"] = json!(user);
        context["runAsGroup"] = json!(user);
    }
    context
}

/// The installation's pull secrets, as in a pod; `None`: it has none.
pub fn pull_secrets(args: &Args) -> Option<Value> {
    let names = args.pod_pull_secrets.iter().filter(|name| !name.is_empty());
    let secrets: Vec<Value> = names.map(|name| json!({"name": name})).collect();
    (!secrets.is_empty()).then(|| secrets.into())
}
