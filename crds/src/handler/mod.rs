//! EventHandler: an autoscaled container that receives a topic's events.
//!
//! - `filter`: which events;  `delivery`, `retry`: how each reaches the container, and what if it fails there.
//! - `redrive`: dead letters to the handler again;  `release`: keys that are held;  `replay`: its place in the topic.
//! - `scaling`: how many pods;  `status`: what the operator saw.

mod delivery;
mod filter;
mod pods;
mod redrive;
mod release;
mod replay;
mod retry;
mod scaling;
mod status;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use delivery::{Batch, Delivery, Format, OnExpired, Order, RateLimit};
pub use filter::Filter;
pub use pods::{PodNetwork, Sidecar};
pub use redrive::{Redrive, RedrivePhase, RedriveStatus};
pub use release::{Release, ReleasePhase, ReleaseStatus};
pub use replay::{LanesChange, LanesStatus, Replay, ReplayPhase, ReplayStatus};
pub use retry::{Backoff, OnExhausted, Retry};
pub use scaling::{Autoscaling, Scaling};
pub use status::{
    ConsumerPosition, EventHandlerStatus, HeldKey, Lag, LastFailure, Position, PositionRestored, Retries,
};

use crate::schema;

/// A handler receives the events of one topic: each event is posted to one of its pods as a CloudEvent over
/// local HTTP and counts as handled when the container answers 2xx.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "tidegate.io",
    version = "v1alpha1",
    kind = "EventHandler",
    namespaced,
    status = "EventHandlerStatus",
    derive = "PartialEq",
    shortname = "eh",
    category = "tidegate",
    doc = "A handler receives the events of one topic: each event is posted to one of its pods as a CloudEvent over local HTTP, and counts as handled when the container answers 2xx.",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name: use at most 40 lower-case letters, digits and '-', beginning with a letter: the names of pods and consumer are made from it"),
    printcolumn(name = "Topic", type_ = "string", description = "Whose events it receives", json_path = ".spec.topic"),
    printcolumn(name = "Ready", type_ = "string", description = "Whether it receives events, or would if there were any", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Replicas", type_ = "integer", description = "Pods there should be", json_path = ".status.scaling.desired"),
    printcolumn(name = "Pods", type_ = "integer", description = "Pods that are ready", json_path = ".status.readyReplicas"),
    printcolumn(name = "Lag", type_ = "integer", description = "Events not yet delivered", json_path = ".status.lag.pending"),
    printcolumn(name = "Suspended", type_ = "boolean", description = "Whether spec.suspend stops its deliveries", json_path = ".spec.suspend"),
    printcolumn(name = "Retries", type_ = "integer", description = "Events that wait for a retry", json_path = ".status.retries.waiting"),
    printcolumn(name = "Dead", type_ = "integer", description = "Dead letters kept", json_path = ".status.deadLetters"),
    printcolumn(name = "Reason", type_ = "string", description = "Why it is not ready", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "Topic-Namespace", type_ = "string", description = "Namespace of the topic, where that is not the handler's", json_path = ".spec.topicNamespace", priority = 1),
    printcolumn(name = "Scaling", type_ = "string", description = "Why there are so many pods", json_path = ".status.scaling.reason", priority = 1),
    printcolumn(name = "Held", type_ = "integer", description = "Keys that wait for their release", json_path = ".status.retries.heldKeys", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.autoscaling) && has(self.replicas))").message("replicas and autoscaling exclude each other: remove one of them (kubectl scale works where autoscaling is absent)").field_path(".replicas"),
    validation = Rule::new("self.delivery.order != 'Key' || !has(self.autoscaling) || self.autoscaling.maxReplicas <= (has(self.delivery.lanes) ? self.delivery.lanes : 8)").message("autoscaling.maxReplicas must not be larger than delivery.lanes (8 if absent): a lane is served by one pod at a time").field_path(".autoscaling"),
    validation = Rule::new("!has(self.reply) || self.delivery.format != 'Batch'").message("reply and delivery.format: Batch exclude each other: a batch has one answer").field_path(".reply"),
    validation = Rule::new("!has(self.deadLetter) || has(self.topicNamespace) || self.deadLetter.topic != self.topic").message("deadLetter.topic must be another topic, or each failing event would come again without an end; leave deadLetter out to keep dead letters beside the topic").field_path(".deadLetter"),
    validation = Rule::new("has(self.topicNamespace) == has(oldSelf.topicNamespace) && (!has(self.topicNamespace) || self.topicNamespace == oldSelf.topicNamespace)").message("topicNamespace cannot be changed, because the handler's place in the topic would be lost: make another EventHandler").field_path(".topicNamespace"),
    validation = Rule::new("!has(self.redrive) || !has(self.deadLetter)").message("redrive gives back dead letters that are kept beside the topic; with deadLetter.topic they are events of that topic").field_path(".redrive"),
    validation = Rule::new("!has(self.release) || self.delivery.order == 'Key'").message("release belongs to delivery.order: Key: without an order no key is held").field_path(".release"),
    validation = Rule::new("!has(self.delivery.port) || self.delivery.port != 15480").message("delivery.port: 15480 is Tidegate's own port in the pod; choose another").field_path(".delivery")
)]
pub struct EventHandlerSpec {
    /// Name of the EventTopic whose events the handler receives. It is of this namespace, or of topicNamespace where
    /// that is set. Cannot be changed: make another handler.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(
        validation = Rule::new("self.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("is not the name of an EventTopic: those have at most 40 lower-case letters, digits and '-', beginning with a letter"),
        validation = Rule::new("self == oldSelf").message("topic cannot be changed, because the handler's place in the topic would be lost: make another EventHandler")
    )]
    pub topic: String,
    /// Namespace of the EventTopic, which must grant this namespace (spec.handlers of that EventTopic). Default: the
    /// handler's own. Cannot be changed: make another handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("is not the name of a namespace: those have lower-case letters, digits and '-'"))]
    pub topic_namespace: Option<String>,
    /// Events that the handler receives. Default: all events of the topic. A change takes effect when its pods have
    /// rolled; an event that was passed over before is not delivered later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// First event that a new handler receives: Latest (the default; what is published from now on), Earliest (the
    /// oldest event that the topic keeps), a time such as 2026-01-31T12:00:00Z (the first event published then or
    /// later), or the sequence number of an event in quotes. It counts only while the handler has no position in its
    /// topic, so it cannot be changed: to deliver events again, or to pass some over, use replay.
    #[serde(default = "default_start_from")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new(r"self == 'Latest' || self == 'Earliest' || self.matches('^[1-9][0-9]{0,17}$') || self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$')").message("startFrom must be Latest, Earliest, a time such as 2026-01-31T12:00:00Z, or the sequence number of an event in quotes, such as \"1234\""),
        validation = Rule::new("self == oldSelf").message("startFrom cannot be changed, because it only says where a new handler begins: to continue with another event, set spec.replay, such as {request: again-1, from: Earliest}")
    )]
    pub start_from: String,
    /// Pod template of the handler, as in a Deployment. The first container receives the events; a sidecar that delivers
    /// them is added. Nothing is delivered before that container's startupProbe and readinessProbe succeed, nor while
    /// the readinessProbe fails; exec probes are not considered, because the sidecar cannot run them. A change rolls
    /// out without losing events. Labels by which Tidegate selects pods are refused: keys of the domain tidegate.io, and
    /// app.kubernetes.io/component: broker.
    #[schemars(schema_with = "schema::pod_template")]
    pub template: Value,
    /// Number of pods, 0 to 1000, where autoscaling is unset; kubectl scale and a HorizontalPodAutoscaler set it.
    /// Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Strategy by which pods of a changed template replace the old ones, as in a Deployment. Default: RollingUpdate with
    /// the Deployment's own defaults. Recreate ends the old pods first, for example where only one can have a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::kubernetes_object")]
    pub strategy: Option<Value>,
    /// The sidecar that delivers events in each pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<Sidecar>,
    /// Network access to the pods. Default: none. Enforced where the cluster's network enforces NetworkPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_policy: Option<PodNetwork>,
    /// Suspends delivery. While true, no event is delivered and every event waits in the topic, those that wait for a
    /// retry included; requests that are under way are finished. Pods are not replaced: with autoscaling there are
    /// minReplicas of them, else the same number as before. A Direct topic keeps no events: its handler has no pods then, and
    /// what is published meanwhile does not reach it. When set to false, delivery continues where it was. Default:
    /// false.
    #[serde(default)]
    pub suspend: bool,
    /// Delivery of events to the container.
    #[serde(default)]
    pub delivery: Delivery,
    /// Topic that dead letters are published to: events that the container refused, or whose last attempt failed.
    /// Default: dead letters are kept beside the handler's own topic, each with its attempts, until they are redriven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<Destination>,
    /// Dead letters beside the topic that are given to this handler again, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<Redrive>,
    /// Keys that are held by a failed event and continue with it, once. With delivery.order: Key only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// Event of the topic that the handler continues with, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// Topic that replies are published to. A CloudEvent in the container's 2xx answer is published there before the
    /// event counts as handled. Default: the body of an answer is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Destination>,
    /// Automatic scaling by the events that wait. Unset: there are as many pods as replicas says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

/// EventTopic of this namespace that events are published to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Name of the EventTopic; at most 40 characters.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("is not the name of an EventTopic: those have at most 40 lower-case letters, digits and '-', beginning with a letter"))]
    pub topic: String,
}

fn default_start_from() -> String {
    "Latest".to_owned()
}
