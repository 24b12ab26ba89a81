//! EventTopic: a durable stream of CloudEvents on a broker of its own.

mod delayed;
mod schedule;
mod status;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::delayed::DelayedEvents;
pub use self::schedule::{Schedule, ScheduledEvent};
pub use self::status::{Address, BrokerStatus, DataLoss, EventTopicStatus, StreamRecord};
use crate::schema;
use crate::{Duration, Size};

/// A topic keeps the events that are published to it until its handlers have had them, and as long as its
/// retention says. It becomes a NATS JetStream broker (a StatefulSet), with an HTTPS address to publish
/// CloudEvents to (see status.address.url).
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "EventTopic",
    namespaced,
    status = "EventTopicStatus",
    derive = "PartialEq",
    shortname = "et",
    category = "tidegate",
    doc = "A topic keeps the events that are published to it until its handlers have had them, and as long as its retention says. It becomes a NATS JetStream broker (a StatefulSet) with an HTTPS address to publish CloudEvents to (see status.address.url).",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name: use at most 40 lower-case letters, digits and '-', beginning with a letter: the broker's names are made from it"),
    printcolumn(name = "Ready", type_ = "string", description = "Can events be published?", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Brokers", type_ = "integer", description = "Broker pods that are ready", json_path = ".status.broker.readyReplicas"),
    printcolumn(name = "Events", type_ = "integer", description = "Events kept", json_path = ".status.events"),
    printcolumn(name = "Fill", type_ = "string", description = "Share of retention.maxSize that is in use", json_path = ".status.fill"),
    printcolumn(name = "Dead", type_ = "integer", description = "Dead letters kept", json_path = ".status.deadLetters"),
    printcolumn(name = "Handlers", type_ = "integer", description = "Handlers with a consumer", json_path = ".status.handlers"),
    printcolumn(name = "URL", type_ = "string", description = "Where to publish", json_path = ".status.address.url", priority = 1),
    printcolumn(name = "Reason", type_ = "string", description = "Why it is not ready", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retention.maxSize) || quantity(self.retention.maxSize).asApproximateFloat() <= 0.85 * quantity(self.broker.storage.size).asApproximateFloat()").message("retention.maxSize must be at most 85 % of broker.storage.size: the volume also holds dead letters, retries, attempts and the broker's own files, and its last 10 % stays free").field_path(".retention.maxSize"))]
#[x_kube(validation = Rule::new("!has(self.retention.maxSize) || quantity(self.retention.maxSize).asApproximateFloat() >= 2.0 * quantity(self.maxEventSize).asApproximateFloat() + 524288.0").message("retention.maxSize must have room for two of the largest events and 512Ki: make it larger, or maxEventSize smaller").field_path(".retention.maxSize"))]
#[x_kube(validation = Rule::new("self.routing == 'Direct' || quantity(self.broker.storage.size).asApproximateFloat() >= 64.0 * quantity(self.maxEventSize).asApproximateFloat()").message("broker.storage.size must be at least 64 times maxEventSize, so that a dead letter of the largest event has room: make maxEventSize smaller, or make the topic with more storage").field_path(".maxEventSize"))]
#[x_kube(validation = Rule::new("!has(self.retention.maxAge) || duration(self.retention.maxAge) >= duration(self.deduplicationWindow)").message("retention.maxAge must be at least deduplicationWindow (2m unless set): an event that is gone cannot be recognised when it is published again; make maxAge longer, or deduplicationWindow shorter").field_path(".retention.maxAge"))]
#[x_kube(validation = Rule::new("self.routing != 'Direct' || !(has(self.retention.maxAge) || has(self.retention.maxSize))").message("routing: Direct stores nothing: remove retention, or choose routing: Queued").field_path(".retention"))]
#[x_kube(validation = Rule::new("self.routing != 'Direct' || !has(self.delayedEvents)").message("routing: Direct stores nothing, so no event can wait: remove delayedEvents, or choose routing: Queued").field_path(".delayedEvents"))]
#[x_kube(validation = Rule::new("self.routing != 'Direct' || !has(self.schedules) || size(self.schedules) == 0").message("routing: Direct stores nothing, and so no schedules: remove schedules, or choose routing: Queued").field_path(".schedules"))]
pub struct EventTopicSpec {
    /// Way in which events travel. Queued (the default): through a stream; what is acknowledged is stored and delivered
    /// until it is handled. Direct: from publisher to handler at once; nothing is stored, and an event that meets no free
    /// handler, or one that fails, is gone (at most once). Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("routing cannot be changed: make a second topic with the other routing and switch to it"))]
    pub routing: Routing,
    /// Names of workloads that publish over NATS; at most 100, each of at most 40 lower-case letters, digits and '-'. Each
    /// gets a Secret <topic>-publisher-<name> with address, certificate and credentials. Default: none. Publishing over
    /// HTTPS and MQTT requires no name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 100),
        inner(length(min = 1, max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub nats_publishers: Vec<String>,
    /// Limits of what the topic keeps.
    #[serde(default)]
    pub retention: Retention,
    /// Time for which an event that is published again is recognised and not stored twice: over HTTPS and MQTT the same
    /// event, unchanged; over NATS the same source and id of the same publisher. A duration such as 2m, from 1s to 24h
    /// and at most retention.maxAge. Default: 2m. A publisher that retries should give up before it ends. Below 10s a topic
    /// with one broker and durability Fsync stores every event with a flush of its own, which is slower under load.
    #[serde(default = "default_deduplication_window")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("deduplicationWindow must be between 1s and 24h"))]
    pub deduplication_window: Duration,
    /// Maximum size of an event, attributes and data together, such as 256Ki; from 1Ki to 8Mi, and at most a 64th of
    /// broker.storage.size. Default: 1Mi. Larger events are refused with 413: put the data elsewhere and publish a
    /// reference.
    #[serde(default = "default_max_event_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('8Mi')) <= 0 && quantity(self).compareTo(quantity('1Ki')) >= 0").message("maxEventSize must be between 1Ki and 8Mi; for larger data publish a reference to it"))]
    pub max_event_size: Size,
    /// Events that are published at a time of their own, which their publisher says (header Tidegate-Deliver-At or attribute
    /// tidegatedeliverat). Unset: such events are refused with 422. They take a quarter of what the events leave of the
    /// volume. When it is removed, what waits is still published at its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed_events: Option<DelayedEvents>,
    /// Events that the topic publishes by itself, again and again; at most 16. The broker keeps them going while the operator
    /// is away. A run that falls into a time in which the broker is down, or the topic is full, is made up for once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<Schedule>,
    /// Policy for the stored events when this EventTopic is deleted. Retain (the default) keeps the broker's volumes and
    /// keys: a topic made again under the same name has its events again. Delete removes them. The policy counts that
    /// the topic has at that moment.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Broker that keeps the events.
    #[serde(default)]
    pub broker: Broker,
}

/// Way in which events travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Routing {
    /// Through a stream.
    #[default]
    Queued,
    /// From publisher to handler.
    Direct,
}

/// Limits of what the topic keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Age at which events are removed, handled or not. A duration such as 168h, at least 1s and at least
    /// deduplicationWindow. Unset: events are kept until room is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s')").message("retention.maxAge must be at least 1s; leave it out to keep events until room is needed"))]
    pub max_age: Option<Duration>,
    /// Maximum number of bytes of events, such as 15Gi; at most 85 % of broker.storage.size, and room for two of
    /// the largest events. Unset: 80 % of the volume. It can be changed in both directions; a smaller size than
    /// what is stored removes nothing but with whenFull: DropOldest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_size: Option<Size>,
    /// Policy when room for events is needed. ReleaseHandled (the default) removes the oldest of the events that every
    /// handler of the topic has handled or given up, from 75 % of maxSize on; while the rest takes all the room,
    /// publishers are answered with 429. A topic without handlers releases nothing. Reject removes nothing and answers
    /// publishers with 429 until maxAge makes room or maxSize is raised. DropOldest removes the oldest events, handled
    /// or not.
    #[serde(default)]
    pub when_full: WhenFull,
}

/// Policy when room for events is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenFull {
    /// Removes the oldest events that every handler has settled; refuses new ones while there are none.
    #[default]
    ReleaseHandled,
    /// Refuses new events.
    Reject,
    /// Removes the oldest events.
    DropOldest,
}

/// Policy for the stored events of a topic that is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Keeps volumes and keys.
    #[default]
    Retain,
    /// Removes them.
    Delete,
}

/// Broker that keeps the events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Broker {
    /// Number of broker pods: 1 (the default), or 3 so that the topic works and loses nothing while one of them is away.
    /// Cannot be changed: a single broker's data cannot be read by a cluster of three. To move, make a second topic and
    /// switch publishers and handlers to it.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 3))]
    #[x_kube(
        validation = Rule::new("self == 1 || self == 3").message("broker.replicas must be 1 or 3: two brokers cannot agree when one is away"),
        validation = Rule::new("self == oldSelf").message("broker.replicas cannot be changed: a single broker's data cannot be read by a cluster of three; make a second topic and switch to it")
    )]
    pub replicas: i32,
    /// Moment at which an event counts as stored. Fsync (the default): it is on the broker's disk (on most of three)
    /// before the publisher is answered. Relaxed: it is in the operating system's memory and written within two minutes;
    /// faster, but a node's power loss can lose what was acknowledged.
    #[serde(default)]
    pub durability: Durability,
    /// Volume of each broker pod. Cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("broker.storage cannot be changed: make a second topic with the new storage and switch to it"))]
    pub storage: Storage,
    /// Requests and limits of the broker container, as in a pod. Default: 50m CPU and 128Mi memory requested, no limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub resources: Option<Value>,
    /// Labels of the nodes that the broker pods may run on, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::node_selector")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the broker pods tolerate, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_objects")]
    pub tolerations: Option<Value>,
    /// Affinity of the broker pods, as in a pod. Default: the pods of a topic avoid sharing a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub affinity: Option<Value>,
    /// Spread of the broker pods over zones or other domains, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_objects")]
    pub topology_spread_constraints: Option<Value>,
    /// Ingress container in each broker pod, which takes events over HTTPS, MQTT and NATS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            durability: Durability::default(),
            storage: Storage::default(),
            resources: None,
            node_selector: None,
            tolerations: None,
            affinity: None,
            topology_spread_constraints: None,
            ingress: None,
        }
    }
}

/// Ingress container in each broker pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Requests and limits of the ingress container, as in a pod. Default: those of the installation
    /// (ingress.resources of the chart; 20m CPU and 16Mi memory requested, no limits). It holds up to maxRequestMemory of
    /// events, and up to 64 MiB of requests over NATS that wait for their turn, besides its own few MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub resources: Option<Value>,
    /// Maximum number of connections to each broker pod, counted separately for HTTPS and MQTT; 16 to 60000, at most half
    /// of them from one address. Default: 1024. Further connections are answered with 503, or over MQTT with CONNACK
    /// "Server busy". A change restarts the broker pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 60000))]
    pub max_connections: Option<i32>,
    /// Maximum memory for the requests in progress in each broker pod. A size such as 128Mi, from 16Mi to 4Gi; the ingress
    /// takes at least what eight of the largest events need, and gives one address at most half. Default: 64Mi. Further
    /// requests are answered with 503. A change restarts the broker pods one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('16Mi')) >= 0 && quantity(self).compareTo(quantity('4Gi')) <= 0").message("broker.ingress.maxRequestMemory must be between 16Mi and 4Gi"))]
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

/// Volume of each broker pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, such as 20Gi; at least 64Mi. Default: 10Gi.
    #[serde(default = "default_storage_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('64Mi')) >= 0").message("broker.storage.size must be at least 64Mi"))]
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

fn default_deduplication_window() -> Duration {
    Duration::new("2m")
}

fn default_max_event_size() -> Size {
    Size::new("1Mi")
}

fn default_storage_size() -> Size {
    Size::new("10Gi")
}

fn default_replicas() -> i32 {
    1
}
