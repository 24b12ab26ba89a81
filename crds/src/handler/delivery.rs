//! Delivery of events to the container.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Retry;
use crate::Duration;

/// Delivery of events to the container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.format == 'Batch') == has(self.batch)").message("delivery.batch belongs to format: Batch; set both or none (batch: {} takes the defaults)").field_path(".batch"),
    validation = Rule::new("self.format != 'Batch' || self.order == 'None'").message("delivery.format: Batch and order: Key exclude each other: events of a key are delivered one at a time").field_path(".order"),
    validation = Rule::new("!has(self.lanes) || self.order == 'Key'").message("delivery.lanes belongs to order: Key; remove it or set order: Key").field_path(".lanes"),
    validation = Rule::new("self.retry.onExhausted != 'Park' || self.order == 'Key'").message("delivery.retry.onExhausted: Park belongs to order: Key, because without an order no event holds up others; remove it, or set order: Key").field_path(".retry.onExhausted"),
    validation = Rule::new("!has(self.onExpired) || has(self.maxEventAge)").message("delivery.onExpired belongs to maxEventAge; set maxEventAge, or remove onExpired").field_path(".onExpired")
)]
pub struct Delivery {
    /// Path that events are posted to, such as /events, with an optional query; at most 1024 characters. Default: /.
    #[serde(default = "default_path")]
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("self.matches('^/[!$-;=?-_a-~]*$')").message("delivery.path must begin with / and have no spaces and none of < > # \" `, such as /events; percent-encode them where they are needed"))]
    pub path: String,
    /// Port that events are posted to, on the pod's loopback interface; any but 15480. Default: the first containerPort
    /// of the first container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Format of requests. Binary (the default): one event, with its attributes as ce-… headers and its data as the
    /// body. Structured: one event as a JSON document. Batch: several events as a JSON array.
    #[serde(default)]
    pub format: Format,
    /// Size of batches. Required with format: Batch ({} takes the defaults), refused with any other format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Order of deliveries. None (the default): each event is delivered as soon as a pod is free. Key: events of one key
    /// are delivered one at a time, in the order in which they were published; a failing event holds up those of its key
    /// until it is handled or a dead letter, and no other keys. The key is the attribute partitionkey, else subject; an
    /// event without either waits for no other. Cannot be changed: make another handler.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("delivery.order cannot be changed, because the handler's place in the topic would be lost: make another EventHandler"))]
    pub order: Order,
    /// Number of lanes that the keys are divided into, with order: Key; 1 to 32. Default: 8. Each lane is served by one
    /// pod at a time, so pods beyond the number of lanes stay idle. When it changes, the handler's pods end, its place in
    /// the topic is moved to the new lanes, and the pods start again: order and place are kept, and of the events that
    /// were settled before an earlier one of their lane, some may be delivered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub lanes: Option<i32>,
    /// Maximum number of deliveries per period across all pods of the handler. Unlimited if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Maximum number of events in flight in each pod, or of requests with format: Batch; 1 to 4096. Default: 16.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 4096))]
    pub concurrency: i32,
    /// Maximum duration of a request, after which the attempt fails. A duration such as 30s, from 10ms to 1h.
    /// Default: 30s.
    #[serde(default = "default_timeout")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h') && duration(self) >= duration('10ms')").message("delivery.timeout must be between 10ms and 1h"))]
    pub timeout: Duration,
    /// Retries of failed attempts. An attempt fails on a timeout, a broken connection, or the status 408, 425, 429 or
    /// 5xx. Any other status than 2xx is final: the event becomes a dead letter at once. retryOn and finalOn change
    /// which statuses are which. While the container accepts no connections, or one event after the other fails, delivery
    /// pauses and uses up no attempts.
    #[serde(default)]
    pub retry: Retry,
    /// Maximum age of an event at the beginning of a delivery attempt, the first one or a retry: the time since the topic
    /// stored it, by the clocks of broker and pod. An older event is not delivered. A duration such as 1h, from 1s to
    /// 8760h. Unlimited if unset. A redriven event is as old as its redrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message("delivery.maxEventAge must be between 1s and 8760h"))]
    pub max_event_age: Option<Duration>,
    /// What happens to an event that is older than maxEventAge. DeadLetter (the default): it becomes a dead letter
    /// (too-old). Skip: it counts as settled and is not kept for the handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expired: Option<OnExpired>,
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
            max_event_age: None,
            on_expired: None,
        }
    }
}

/// Format of requests.
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

/// What happens to an event that is older than maxEventAge. DeadLetter (the default): it becomes a dead letter (too-old).
/// Skip: it counts as settled and is not kept for the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExpired {
    /// It becomes a dead letter.
    DeadLetter,
    /// It counts as settled.
    Skip,
}

/// Order of deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Order {
    /// No order.
    #[default]
    None,
    /// The order of publishing, for each key.
    Key,
}

/// Size of batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batch {
    /// Maximum number of events in a request; 1 to 1000. Default: 100.
    #[serde(default = "default_max_events")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_events: i32,
    /// Maximum time that a batch waits for more events. A duration such as 100ms, at most 10s. Default: 100ms.
    #[serde(default = "default_max_wait")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('10s')").message("delivery.batch.maxWait must be at most 10s"))]
    pub max_wait: Duration,
}

/// Maximum rate of deliveries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Maximum number of deliveries in each period, across all pods; 1 to 1000000.
    #[schemars(range(min = 1, max = 1000000))]
    pub events: i32,
    /// Length of the period. A duration such as 1s or 1m, from 1s to 1h. Default: 1s.
    #[serde(default = "default_per")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("delivery.rateLimit.per must be between 1s and 1h"))]
    pub per: Duration,
}

fn default_path() -> String {
    "/".to_owned()
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
