//! EventHandler: an autoscaled container that receives a topic's events.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Duration;
use crate::conditions::HasConditions;
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
    printcolumn(name = "Ready", type_ = "string", description = "Does it receive events (or would it)?", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Replicas", type_ = "integer", description = "Pods there should be", json_path = ".status.scaling.desired"),
    printcolumn(name = "Pods", type_ = "integer", description = "Pods that are ready", json_path = ".status.readyReplicas"),
    printcolumn(name = "Lag", type_ = "integer", description = "Events not yet delivered", json_path = ".status.lag.pending"),
    printcolumn(name = "Reason", type_ = "string", description = "Why it is not ready", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Scaling", type_ = "string", description = "Why there are so many pods", json_path = ".status.scaling.reason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.autoscaling) && has(self.replicas))").message("replicas and autoscaling exclude each other: remove one of them (kubectl scale works where autoscaling is absent)").field_path(".replicas"),
    validation = Rule::new("has(self.delivery.port) || (has(self.template.spec.containers[0].ports) && self.template.spec.containers[0].ports.size() > 0)").message("say where events are to be posted: give the first container a containerPort, or set delivery.port").field_path(".delivery"),
    validation = Rule::new("!has(self.delivery.port) || self.delivery.port != 15480").message("delivery.port: 15480 is Tidegate's own port in the pod; choose another").field_path(".delivery")
)]
pub struct EventHandlerSpec {
    /// The EventTopic of this namespace whose events it receives. Cannot be changed: make another handler.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("topic cannot be changed, because the handler's place in the topic would be lost: make another EventHandler"))]
    pub topic: String,
    /// The pods that handle events: an ordinary pod template. Its first container receives the events; a
    /// sidecar that delivers them is added. A change rolls out without losing events.
    #[schemars(schema_with = "schema::pod_template")]
    #[x_kube(
        validation = Rule::new("self.spec.containers.all(c, c.name != 'tidegate-sidecar') && (!has(self.spec.initContainers) || self.spec.initContainers.all(c, c.name != 'tidegate-sidecar'))").message("template.spec: the container name tidegate-sidecar is taken by Tidegate; choose another"),
        validation = Rule::new("!has(self.spec.volumes) || self.spec.volumes.all(v, v.name != 'tidegate-identity')").message("template.spec.volumes: the name tidegate-identity is taken by Tidegate; choose another"),
        validation = Rule::new("self.spec.containers.all(c, !has(c.ports) || c.ports.all(p, p.containerPort != 15480))").message("template.spec.containers: containerPort 15480 is taken by Tidegate; choose another"),
        validation = Rule::new("!has(self.spec.containers[0].lifecycle) || !has(self.spec.containers[0].lifecycle.preStop)").message("template.spec.containers[0].lifecycle.preStop: Tidegate drains deliveries there; move what it does into the handler's reaction to SIGTERM, which comes after the last event")
    )]
    pub template: Value,
    /// How many pods, where autoscaling is absent; kubectl scale and a HorizontalPodAutoscaler set it.
    /// Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// How an event reaches the container.
    #[serde(default)]
    pub delivery: Delivery,
    /// Scales the pods by the events that wait. Absent: as many pods as replicas says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

/// How an event reaches the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The path events are posted to.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^/[!-~]*$')").message("delivery.path must begin with / and have no spaces, such as /events"))]
    pub path: String,
    /// The port events are posted to. Absent: the first container's first containerPort.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Events in flight at most in each pod.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: i32,
    /// How long the container may take for one event; then the attempt counts as failed. A duration such
    /// as 30s, at most 1h.
    #[serde(default = "default_timeout")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h') && duration(self) >= duration('10ms')").message("delivery.timeout must be between 10ms and 1h"))]
    pub timeout: Duration,
    /// What happens after an attempt that may succeed later: no connection, a timeout, 408, 425, 429 or 5xx.
    /// Any other answer than 2xx is final: the event becomes a dead letter at once.
    #[serde(default)]
    pub retry: Retry,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            path: default_path(),
            port: None,
            concurrency: default_concurrency(),
            timeout: default_timeout(),
            retry: Retry::default(),
        }
    }
}

/// What happens after an attempt that may succeed later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Deliveries in all, the first included: 3 means three. Then the event becomes a dead letter.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: i32,
    /// The waits between attempts. A Retry-After in the container's answer makes a wait longer, up to an hour.
    #[serde(default)]
    pub backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: default_max_attempts(), backoff: Backoff::default() }
    }
}

/// The waits between attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.initial) <= duration(self.max)").message("backoff.initial must not be longer than backoff.max"))]
pub struct Backoff {
    /// The first wait, such as 1s.
    #[serde(default = "default_initial")]
    pub initial: Duration,
    /// No wait is longer than this, such as 60s.
    #[serde(default = "default_max")]
    pub max: Duration,
    /// Each wait is this many times the one before.
    #[serde(default = "default_factor")]
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// The random share of each wait: 0.2 means up to 20 % shorter or longer, so that handlers do not
    /// retry in step.
    #[serde(default = "default_jitter")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: default_initial(), max: default_max(), factor: default_factor(), jitter: default_jitter() }
    }
}

/// How the number of pods follows the events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("autoscaling.minReplicas must not be larger than maxReplicas").field_path(".minReplicas"))]
pub struct Autoscaling {
    /// Never fewer pods; 0 means none while there are no events.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Never more pods.
    #[serde(default = "default_max_replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// As many pods as it takes to work off what waits within this time, judged by the measured rate of a
    /// pod. A duration such as 5s.
    #[serde(default = "default_target_event_age")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms')").message("autoscaling.targetEventAge must be at least 100ms"))]
    pub target_event_age: Duration,
    /// Fewer pods only after fewer would have been enough for this long; also the wait before the last pod
    /// goes. A duration such as 60s.
    #[serde(default = "default_idle_after")]
    pub idle_after: Duration,
}

/// What the operator saw of the handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventHandlerStatus {
    /// Ready sums up; TopicReady, Subscribed and PodsReady say what of it is there; Stalled says that a
    /// person has to do something.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// The generation of the specification this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The pods' label selector, for kubectl scale and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Events on their way. Refreshed about every ten seconds while they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// How many pods there should be, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
}

/// Events on their way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Events that no pod has been given yet.
    pub pending: i64,
    /// Events given to a pod and not yet acknowledged, those that wait for a retry included.
    pub in_flight: i64,
}

/// How many pods there should be, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Pods there should be.
    pub desired: i32,
    /// Why this many.
    pub reason: String,
}

impl HasConditions for EventHandlerStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_concurrency() -> i32 {
    16
}

fn default_timeout() -> Duration {
    Duration::new("30s")
}

fn default_max_attempts() -> i32 {
    5
}

fn default_initial() -> Duration {
    Duration::new("1s")
}

fn default_max() -> Duration {
    Duration::new("60s")
}

fn default_factor() -> f64 {
    2.0
}

fn default_jitter() -> f64 {
    0.2
}

fn default_min_replicas() -> i32 {
    1
}

fn default_max_replicas() -> i32 {
    10
}

fn default_target_event_age() -> Duration {
    Duration::new("5s")
}

fn default_idle_after() -> Duration {
    Duration::new("60s")
}
