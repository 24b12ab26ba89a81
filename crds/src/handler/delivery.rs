//! How an event reaches the container.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Retry;
use crate::Duration;

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
    #[x_kube(validation = Rule::new("self.matches('^/[!$-;=?-_a-~]*$')").message("delivery.path must begin with / and have no spaces and none of < > # \" `, such as /events; percent-encode them where they are needed"))]
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
    /// How often and when a failed attempt is repeated. An attempt fails with a timeout, a broken connection, or the
    /// answer 408, 425, 429 or 5xx. Any other answer than 2xx is final: the event becomes a dead letter at once. A
    /// container that takes no connections at all uses up no attempt: delivery pauses until it does.
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
