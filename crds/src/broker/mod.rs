//! EventBroker: the NATS JetStream servers that topics share.

mod access;
mod status;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::access::{Access, AccessCertificate, AccessStatus, AccessType, NodePorts, TrafficPolicy};
pub use self::status::{
    AuditStatus, AuditedServer, CertificatesStatus, DamagedCopy, EventBrokerStatus, GroupsStatus, LostEvents,
    RolloverStage, RolloverStatus, StorageStatus,
};
use crate::schema;
use crate::{Duration, NamespaceGrant, Size};

/// A broker stores the events of the topics that name it. It becomes a StatefulSet of NATS JetStream servers, each with an
/// ingress beside it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "EventBroker",
    namespaced,
    status = "EventBrokerStatus",
    derive = "PartialEq",
    shortname = "eb",
    category = "tidegate",
    doc = "A broker stores the events of the topics that name it. It becomes a StatefulSet of NATS JetStream servers, each with an ingress beside it. Writing one is optional: the one named default is made for the first topic of a namespace that names none, and is the user's to change afterwards.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name: use at most 40 lower-case letters, digits and '-', beginning with a letter: the names of its pods are made from it"),
    printcolumn(name = "Ready", type_ = "string", description = "Whether it stores events", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Pods", type_ = "integer", description = "Pods that are ready", json_path = ".status.readyReplicas"),
    printcolumn(name = "Of", type_ = "integer", description = "Pods that there should be", json_path = ".spec.replicas"),
    printcolumn(name = "Topics", type_ = "integer", description = "Topics that name it", json_path = ".status.topics"),
    printcolumn(name = "Promised", type_ = "string", description = "Share of its storage that is promised to topics", json_path = ".status.storage.promised"),
    printcolumn(name = "Groups", type_ = "string", description = "Raft groups that there are and may be", json_path = ".status.groups.usage", priority = 1),
    printcolumn(name = "Reason", type_ = "string", description = "Why it is not ready", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EventBrokerSpec {
    /// Number of pods: 1 (the default); 3, so that its topics work and lose nothing while one pod is away; or 5, while two
    /// are. Each pod stores a copy of everything. A change takes effect while events flow, step by step, and restarts no
    /// pod; condition Reconciling (reason ChangingServers) says which step it is at. A change to 1 slows publishers down
    /// for up to a minute under high load: make it in quiet hours.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 5))]
    #[x_kube(validation = Rule::new("self == 1 || self == 3 || self == 5").message("replicas must be 1, 3 or 5: an even number of servers tolerates no more failures than one server less"))]
    pub replicas: i32,
    /// Moment at which an event counts as stored. Fsync (the default): it is on the broker's disk (on most of three)
    /// before the publisher is answered. Relaxed: it is in the operating system's memory and written within two minutes;
    /// faster, but a node's power loss can lose what was acknowledged. A change restarts the pods one by one.
    #[serde(default)]
    pub durability: Durability,
    /// Volume of each pod. The size can grow; the class cannot be changed.
    #[serde(default)]
    #[x_kube(
        validation = Rule::new("quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0").message("storage.size can only grow, because a volume cannot be made smaller: make a second broker with the smaller size and topics on it"),
        validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)").message("storage.className cannot be changed: make a second broker with the other class and topics on it")
    )]
    pub storage: Storage,
    /// Namespaces whose topics may be on the broker; its own always is among them. Default: its own alone. A topic of
    /// another namespace names the broker with spec.broker: {name, namespace}. When a grant is withdrawn, nothing that
    /// is stored is deleted, but the topics of that namespace take and deliver no events until they are granted again.
    #[serde(default, skip_serializing_if = "NamespaceGrant::is_default")]
    pub topics: NamespaceGrant,
    /// Where the pods run, with which resources, and what else they carry.
    #[serde(default, skip_serializing_if = "Pods::is_default")]
    pub pods: Pods,
    /// Ingress container in each pod, which takes events over HTTPS, MQTT and NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// External access: entries by which clients outside of the cluster reach the topics, each with a Service of its own; at
    /// most 8. Any entry opens the ports for HTTPS and MQTT in the broker's NetworkPolicy to every address. An entry with a
    /// certificate that is added, removed or gets another certificate.secretName or other hostnames restarts the pods one by
    /// one; a renewed Secret does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub access: Vec<Access>,
    /// Client certificates that publishers to the topics of this broker may show, over HTTPS and MQTT. Which of them may
    /// publish to a topic, the topic says (spec.publishers). Unset: no client certificate is taken. A change restarts
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ClientCertificates>,
    /// Rollover of the broker's certificate authorities: others take their place while events flow. It begins when the
    /// annotation tidegate.io/rotate gets another value, and by itself a year before an authority ends. Condition RollingOver
    /// says how far it is.
    #[serde(default, skip_serializing_if = "Rollover::is_default")]
    pub rollover: Rollover,
}

/// Rollover of the broker's certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollover {
    /// Time that publishers are given to take over what a rollover changes for them, because the operator cannot see whether
    /// they have: certificates in the ConfigMap of their topic, and then, over NATS, those in their Secret. Each of the two
    /// stages takes at least this long; publishers that take longer are refused, or refuse, afterwards. Default: 168h.
    /// Example: 24h, where all publishers run in the cluster and read mounted files again.
    #[serde(default = "default_publisher_grace")]
    pub publisher_grace: Duration,
}

impl Default for Rollover {
    fn default() -> Self {
        Self { publisher_grace: default_publisher_grace() }
    }
}

impl Rollover {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn default_publisher_grace() -> Duration {
    Duration::new("168h")
}

/// Client certificates that publishers may show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientCertificates {
    /// ConfigMap of this namespace with the certificate authorities that sign them. It is read again every minute. Content
    /// that is of no use changes nothing, and condition CertificatesAccepted says what is wrong with it.
    pub ca_config_map: CaConfigMap,
}

/// ConfigMap with certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaConfigMap {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key whose value has one or more certificates, as PEM, of at most 64 KiB together. Default: ca.crt.
    #[serde(default = "default_ca_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Where the pods run, and with which resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pods {
    /// Requests and limits of the broker container, as in a pod. Default: 50m CPU and 128Mi memory requested, no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub resources: Option<Value>,
    /// Labels of the nodes that the pods may run on, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the pods tolerate, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_objects")]
    pub tolerations: Option<Value>,
    /// Affinity of the pods, as in a pod. Default: the pods of a broker avoid sharing a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub affinity: Option<Value>,
    /// Spread of the pods over zones or other domains, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_objects")]
    pub topology_spread_constraints: Option<Value>,
    /// Name of the pods' PriorityClass, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Secrets of the broker's namespace with which its nodes pull the images, as in a pod: [{name: ...}]. Default: those
    /// of the installation (pods.pullSecrets of the chart), and where that has none, those of the ServiceAccount default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_objects")]
    pub image_pull_secrets: Option<Value>,
    /// Labels of the pods, beside Tidegate's own, which they cannot replace; keys of the domain tidegate.io are refused. A
    /// change restarts the pods one by one, as does one of annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::pod_labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the pods, for example for a service mesh or a log collector. Tidegate's own cannot be replaced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

impl Pods {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Ingress container in each pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Requests and limits of the ingress container, as in a pod. Default: those of the installation
    /// (ingress.resources of the chart; 20m CPU and 16Mi memory requested, no limits). It holds up to maxRequestMemory of
    /// events, and up to 64 MiB of requests over NATS that wait for their turn, besides its own few MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub resources: Option<Value>,
    /// Maximum number of connections to each pod, counted separately for HTTPS and MQTT; 16 to 60000, at most half
    /// of them from one address. Default: 1024. Further connections are answered with 503, or over MQTT with CONNACK
    /// "Server busy". A change restarts the pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 60000))]
    pub max_connections: Option<i32>,
    /// Maximum memory for the requests in progress in each pod. A size such as 128Mi, from 16Mi to 4Gi; the ingress
    /// takes at least what eight of the largest events need, and gives one address at most half. Default: 64Mi. Further
    /// requests are answered with 503. A change restarts the pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('16Mi')) >= 0 && quantity(self).compareTo(quantity('4Gi')) <= 0").message("ingress.maxRequestMemory must be between 16Mi and 4Gi"))]
    pub max_request_memory: Option<Size>,
}

/// Moment at which an event counts as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// On disk.
    #[default]
    Fsync,
    /// On its way to the disk.
    Relaxed,
}

/// Volume of each pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, such as 20Gi; at least 64Mi. Default: 10Gi. 85 % of it can be promised to topics. It can grow,
    /// if the StorageClass allows that (allowVolumeExpansion): the volumes are enlarged, and the servers use the new size
    /// without a restart. Condition Resizing says how far that is.
    #[serde(default = "default_storage_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('64Mi')) >= 0").message("storage.size must be at least 64Mi"))]
    pub size: Size,
    /// Name of the StorageClass. Default: the cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: default_storage_size(), class_name: None }
    }
}

fn default_storage_size() -> Size {
    Size::new("10Gi")
}

fn default_ca_key() -> String {
    "ca.crt".to_owned()
}

fn default_replicas() -> i32 {
    1
}
