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
    validation = Rule::new("self.delivery.order != 'Key' || !has(self.autoscaling) || self.autoscaling.maxReplicas <= (has(self.delivery.lanes) ? self.delivery.lanes : 8)").message("autoscaling.maxReplicas must not be larger than delivery.lanes (8 if absent): a lane is served by one pod at a time").field_path(".autoscaling"),
    validation = Rule::new("!has(self.reply) || self.delivery.format != 'Batch'").message("reply and delivery.format: Batch exclude each other: a batch has one answer").field_path(".reply"),
    validation = Rule::new("!has(self.deadLetter) || self.deadLetter.topic != self.topic").message("deadLetter.topic must be another topic, or each failing event would come again without an end; leave deadLetter out to keep dead letters beside the topic").field_path(".deadLetter"),
    validation = Rule::new("!has(self.redrive) || !has(self.deadLetter)").message("redrive gives back dead letters that are kept beside the topic; with deadLetter.topic they are events of that topic").field_path(".redrive"),
    validation = Rule::new("!has(self.delivery.port) || self.delivery.port != 15480").message("delivery.port: 15480 is Tidegate's own port in the pod; choose another").field_path(".delivery")
)]
pub struct EventHandlerSpec {
    /// The EventTopic of this namespace whose events it receives. Cannot be changed: make another handler.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("topic cannot be changed, because the handler's place in the topic would be lost: make another EventHandler"))]
    pub topic: String,
    /// Which events it receives; absent: all. A change takes effect at once: what was handled stays handled, and
    /// what was passed over before is not delivered later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Where a new handler begins: Latest (the default; what is published from now on), Earliest (the oldest event
    /// the topic keeps), a time such as 2026-01-31T12:00:00Z (the first event published then or later), or the
    /// sequence number of an event. It only counts when the handler is made, so it cannot be changed: to replay
    /// events, make another handler.
    #[serde(default = "default_start_from")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(
        validation = Rule::new(r"self == 'Latest' || self == 'Earliest' || self.matches('^[1-9][0-9]{0,17}$') || self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$')").message("startFrom must be Latest, Earliest, a time such as 2026-01-31T12:00:00Z, or the sequence number of an event in quotes, such as \"1234\""),
        validation = Rule::new("self == oldSelf").message("startFrom cannot be changed, because it only says where a new handler begins: to replay events, make another EventHandler")
    )]
    pub start_from: String,
    /// The pods that handle events: an ordinary pod template. Its first container receives the events; a
    /// sidecar that delivers them is added. A change rolls out without losing events.
    #[schemars(schema_with = "schema::pod_template")]
    #[x_kube(
        validation = Rule::new("self.spec.containers.all(c, c.name != 'tidegate-sidecar') && (!has(self.spec.initContainers) || self.spec.initContainers.all(c, c.name != 'tidegate-sidecar'))").message("template.spec: the container name tidegate-sidecar is taken by Tidegate; choose another"),
        validation = Rule::new("!has(self.spec.volumes) || self.spec.volumes.all(v, !v.name.startsWith('tidegate-'))").message("template.spec.volumes: names that begin with tidegate- are taken by Tidegate; choose another"),
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
    /// Where events go that the container refused or failed at too often. Absent: they are kept beside the topic,
    /// each with all its attempts, until they are redriven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<Destination>,
    /// Gives dead letters that are kept beside the topic to this handler again, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<Redrive>,
    /// Where replies go: a CloudEvent in the container's 2xx answer is published there before the event counts as
    /// handled. Absent: what an answer contains is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Destination>,
    /// Scales the pods by the events that wait. Absent: as many pods as replicas says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
}

/// Which events a handler receives. All of what is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    /// Event types: exact, such as com.shop.order.created, or every type beneath a prefix, such as
    /// com.shop.order.*. The broker sees to it, so events of other types cost this handler nothing. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 256)))]
    #[x_kube(validation = Rule::new("self.all(t, t != '*' && !t.startsWith('*') && (!t.contains('*') || (t.endsWith('.*') && t.indexOf('*') == t.size() - 1)))").message("filter.types: a * may only stand for everything beneath a prefix, at the end, such as com.shop.order.*; leave types out for all events"))]
    pub types: Vec<String>,
    /// Sources, exact. Events of other sources are passed over by the sidecar. Absent: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub sources: Vec<String>,
    /// A CEL expression over the event that must be true, such as data.amount > 100 && event.subject == 'eu'. event
    /// has the attributes (event.id, event.source, event.type, event.time, every extension), all of them strings;
    /// data is the event's JSON data, or a string, or bytes. An expression that fails on an event, for example because
    /// a field is missing, counts as false; has(data.amount) asks first. One that is not valid is refused with the
    /// reason in the condition Stalled, and the handler goes on as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub expression: Option<String>,
}

/// An EventTopic of this namespace to publish to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    pub topic: String,
}

/// Gives dead letters to the handler again. Each becomes an event for this handler only, with its identity and
/// its attempts counted anew; it is removed from the dead letters when that is stored. While pods of an older
/// template are there, it waits: a handler can be mended and its dead letters redriven in one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redrive {
    /// Any text; another than before starts a redrive. status.redrive says how far it is.
    #[schemars(length(min = 1, max = 64))]
    pub request: String,
    /// The oldest so many at most. Absent: all that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub count: Option<i64>,
    /// Only events with one of these ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 1024)))]
    pub ids: Vec<String>,
    /// Only what became a dead letter at this time or later, such as 2026-01-31T12:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub since: Option<String>,
    /// Only what became a dead letter before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub until: Option<String>,
    /// Events a second at most.
    #[serde(default = "default_redrive_rate")]
    #[schemars(range(min = 1, max = 10000))]
    pub rate: i32,
}

/// How an event reaches the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.format == 'Batch') == has(self.batch)").message("delivery.batch belongs to format: Batch; set both or none (batch: {} takes the defaults)").field_path(".batch"),
    validation = Rule::new("self.format != 'Batch' || self.order == 'None'").message("delivery.format: Batch and order: Key exclude each other: events of a key are delivered one at a time").field_path(".order"),
    validation = Rule::new("!has(self.lanes) || self.order == 'Key'").message("delivery.lanes belongs to order: Key; remove it or set order: Key").field_path(".lanes"),
    validation = Rule::new("has(self.lanes) == has(oldSelf.lanes) && (!has(self.lanes) || self.lanes == oldSelf.lanes)").message("delivery.lanes cannot be changed, because the handler's place in the topic would be lost: make another EventHandler").field_path(".lanes")
)]
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
    /// The shape of a request. Binary (the default): one event, its attributes as ce-… headers, its data as body.
    /// Structured: one event, as a JSON document. Batch: several events, as a JSON array.
    #[serde(default)]
    pub format: Format,
    /// How batches are made, with format: Batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// None (the default): each event as soon as a pod is free. Key: events with the same partitionkey (if they have
    /// none, the same subject; without that each event is on its own) one at a time and in the order in which they
    /// were published; a failing event holds up those behind it until it is handled or a dead letter. Cannot be
    /// changed: make another handler.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("delivery.order cannot be changed, because the handler's place in the topic would be lost: make another EventHandler"))]
    pub order: Order,
    /// With order: Key, into how many lanes the keys are divided; a lane is served by one pod at a time, so more
    /// pods than lanes are of no use. Absent: 8. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub lanes: Option<i32>,
    /// Deliveries in a time at most, over all pods. Absent: as many as there can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Events in flight at most in each pod (with format: Batch, requests).
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
            format: Format::default(),
            batch: None,
            order: Order::default(),
            lanes: None,
            rate_limit: None,
            concurrency: default_concurrency(),
            timeout: default_timeout(),
            retry: Retry::default(),
        }
    }
}

/// The shape of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// Attributes as headers.
    #[default]
    Binary,
    /// A JSON document.
    Structured,
    /// A JSON array of several.
    Batch,
}

/// In which order events are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// In none.
    #[default]
    None,
    /// In that of each key.
    Key,
}

/// How batches are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// Events in a request at most.
    #[serde(default = "default_max_events")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_events: i32,
    /// A batch that is not full is sent after this. A duration such as 100ms.
    #[serde(default = "default_max_wait")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('10s')").message("delivery.batch.maxWait must be at most 10s"))]
    pub max_wait: Duration,
}

/// Deliveries in a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// How many, over all pods.
    #[schemars(range(min = 1, max = 1000000))]
    pub events: i32,
    /// In which time, such as 1s or 1m.
    #[serde(default = "default_per")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("delivery.rateLimit.per must be between 1s and 1h"))]
    pub per: Duration,
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
    /// No wait is longer than this, such as 60s; at most 1h.
    #[serde(default = "default_max")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("backoff.max must be at most 1h"))]
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
    /// Ready sums up; TopicReady, Subscribed and PodsReady say what of it is there; HandlerAvailable whether the
    /// containers answer; Stalled says that a person has to do something.
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
    /// How far the last redrive is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<RedriveStatus>,
}

/// How far a redrive is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedriveStatus {
    /// The request it answers.
    pub request: String,
    /// Running, Done, or Failed.
    pub phase: RedrivePhase,
    /// Dead letters that were looked at.
    pub examined: i64,
    /// The sequence of the last of them in the stream of dead letters.
    pub position: i64,
    /// The sequence of the last one there was when it began: what becomes a dead letter later is not redriven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// Events that were given to the handler again.
    pub redriven: i64,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Where a redrive is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RedrivePhase {
    /// Under way.
    #[default]
    Running,
    /// All that matched was redriven.
    Done,
    /// It cannot be done as it was asked for.
    Failed,
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

fn default_start_from() -> String {
    "Latest".to_owned()
}

fn default_redrive_rate() -> i32 {
    100
}

fn default_max_events() -> i32 {
    100
}

fn default_max_wait() -> Duration {
    Duration::new("100ms")
}

fn default_per() -> Duration {
    Duration::new("1s")
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
