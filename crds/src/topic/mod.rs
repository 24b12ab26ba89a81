//! EventTopic: a durable stream of CloudEvents on a broker that it shares with others.

mod delayed;
mod publishers;
mod schedule;
mod status;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::delayed::DelayedEvents;
pub use self::publishers::{CertificatePublisher, Publisher, ServiceAccountPublisher};
pub use self::schedule::{Schedule, ScheduledEvent};
pub use self::status::{Address, DataLoss, EventTopicStatus, LostTail, MissingEvents, StreamRecord};
use crate::{Duration, NamespaceGrant, Size};

/// Name of the EventBroker of a topic that names none.
pub const DEFAULT_BROKER: &str = "default";

/// A topic keeps the events that are published to it until its handlers have had them, and as long as its
/// retention says. It becomes streams on an EventBroker, with an HTTPS address to publish CloudEvents to (see
/// status.address.url).
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
    doc = "A topic keeps the events that are published to it until its handlers have had them, and as long as its retention says. It becomes streams on an EventBroker, with an HTTPS address to publish CloudEvents to (see status.address.url).",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name: use at most 40 lower-case letters, digits and '-', beginning with a letter: the names of its Service and its account are made from it"),
    printcolumn(name = "Ready", type_ = "string", description = "Whether events can be published", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Broker", type_ = "string", description = "EventBroker that keeps the events", json_path = ".spec.broker.name"),
    printcolumn(name = "Broker-Namespace", type_ = "string", description = "Namespace of the broker, where that is not the topic's", json_path = ".spec.broker.namespace", priority = 1),
    printcolumn(name = "Events", type_ = "integer", description = "Events kept", json_path = ".status.events"),
    printcolumn(name = "Fill", type_ = "string", description = "Share of retention.maxSize that is in use", json_path = ".status.fill"),
    printcolumn(name = "Dead", type_ = "integer", description = "Dead letters kept", json_path = ".status.deadLetters"),
    printcolumn(name = "Handlers", type_ = "integer", description = "Handlers with a consumer", json_path = ".status.handlers"),
    printcolumn(name = "URL", type_ = "string", description = "Where to publish", json_path = ".status.address.url", priority = 1),
    printcolumn(name = "Reason", type_ = "string", description = "Why it is not ready", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retention.maxSize) || quantity(self.retention.maxSize).asApproximateFloat() >= 2.0 * quantity(self.maxEventSize).asApproximateFloat() + 524288.0").message("retention.maxSize must have room for two of the largest events and 512Ki: make it larger, or maxEventSize smaller").field_path(".retention.maxSize"))]
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
    /// Publishers that the topic takes events from; at most 64, each with exactly one of serviceAccount, certificate, nats and
    /// anonymous. All others are refused. A publisher that is named more than once may publish what any of its entries
    /// allows. Default: every ServiceAccount of the topic's namespace. Handlers that reply or dead-letter to this topic
    /// need no entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(
        validation = Rule::new("size(self) > 0").message("publishers must name at least one publisher: remove it to admit every ServiceAccount of the topic's namespace"),
        validation = Rule::new("self.all(one, self.exists_one(other, other == one))").message("publishers has the same entry more than once: keep one of them")
    )]
    pub publishers: Option<Vec<Publisher>>,
    /// Limits of what the topic keeps.
    #[serde(default)]
    pub retention: Retention,
    /// Time for which an event that is published again is recognised and not stored twice. It is the same event if it has the
    /// same source and id and comes from the same publisher (of a token, a certificate, or over NATS); without an identity
    /// (anonymous), if all of it is unchanged. A duration such as 2m, from 1s to 24h and at most retention.maxAge. Default:
    /// 2m. A publisher that retries should give up before it ends. Below 10s a topic
    /// on a broker with one pod and durability Fsync stores every event with a flush of its own, which is slower under load.
    #[serde(default = "default_deduplication_window")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("deduplicationWindow must be between 1s and 24h"))]
    pub deduplication_window: Duration,
    /// Maximum size of an event, attributes and data together, such as 256Ki; from 1Ki to 8Mi. Default: 1Mi. Larger events
    /// are refused with 413: put the data elsewhere and publish a reference. When it is made smaller, larger events that
    /// are stored, or wait for their time, are delivered, retried, dead-lettered and redriven as before.
    #[serde(default = "default_max_event_size")]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('8Mi')) <= 0 && quantity(self).compareTo(quantity('1Ki')) >= 0").message("maxEventSize must be between 1Ki and 8Mi; for larger data publish a reference to it"))]
    pub max_event_size: Size,
    /// Events that are published at a time of their own, which their publisher says (header Tidegate-Deliver-At or attribute
    /// tidegatedeliverat). Unset: such events are refused with 422. They take a quarter of the
    /// room that the topic has besides its events. When it is removed, what waits is still published at its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed_events: Option<DelayedEvents>,
    /// Events that the topic publishes by itself, again and again; at most 16. The broker publishes them, also while the
    /// operator is away. A run that falls into a time in which the broker is down, or the topic is full, is made up for once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub schedules: Vec<Schedule>,
    /// Policy for the stored events when this EventTopic is deleted. Retain (the default) keeps them on the broker: a topic
    /// made again under the same name on the same broker has its events again. Delete removes them. The policy counts
    /// that the topic has at that moment.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Namespaces whose handlers may receive the events; the topic's own always is among them. Default: its own alone. A
    /// handler of another namespace names the topic with spec.topic and spec.topicNamespace. When a grant is withdrawn,
    /// the handlers of that namespace receive nothing more and keep their place, which holds up no room: what the other
    /// handlers have handled may be removed meanwhile.
    #[serde(default, skip_serializing_if = "NamespaceGrant::is_default")]
    pub handlers: NamespaceGrant,
    /// Broker that keeps the events. Cannot be changed: make a second topic on the other broker and switch to it.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("broker cannot be changed: make a second topic on the other broker and switch to it"))]
    pub broker: BrokerReference,
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
    /// Maximum number of bytes of events, such as 15Gi; room for two of the largest events. Default: 1Gi. The broker
    /// promises this much to the topic, and a quarter of it (at least sixteen of the largest events) besides for dead
    /// letters, retries and attempts; a topic that does not fit beside the others is not admitted (reason BrokerFull). It
    /// can be changed in both directions; a smaller size than what is stored removes nothing but with whenFull:
    /// DropOldest.
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
    /// Keeps them.
    #[default]
    Retain,
    /// Removes them.
    Delete,
}

/// Broker that keeps a topic's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokerReference {
    /// Name of the EventBroker. Default: default, which is made in the topic's own namespace from the installation's
    /// defaultBroker for the first topic that needs it, and is the user's to change afterwards.
    #[serde(default = "default_broker_name")]
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Namespace of the EventBroker, which must grant the topic's namespace (spec.topics of that EventBroker). Default:
    /// the topic's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("is not the name of a namespace: those have lower-case letters, digits and '-'"))]
    pub namespace: Option<String>,
}

impl Default for BrokerReference {
    fn default() -> Self {
        Self { name: default_broker_name(), namespace: None }
    }
}

fn default_deduplication_window() -> Duration {
    Duration::new("2m")
}

fn default_max_event_size() -> Size {
    Size::new("1Mi")
}

fn default_broker_name() -> String {
    DEFAULT_BROKER.to_owned()
}
