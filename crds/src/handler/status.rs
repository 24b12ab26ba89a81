//! What the operator saw of a handler.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RedriveStatus, Scaling};
use crate::Duration;
use crate::conditions::HasConditions;
use crate::schema;

/// What the operator saw of the handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventHandlerStatus {
    /// Ready sums up; TopicReady, Subscribed and PodsReady say what of it is there; HandlerAvailable whether the
    /// containers answer; Delivering whether they handle what they are sent; Stalled says that a person has to do
    /// something.
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
    /// Events on their way. Refreshed about once a minute while they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Number of dead letters of this handler that are kept beside its topic. They stay until they are redriven; with
    /// deadLetter.topic, dead letters are events of that topic and are not counted here. Refreshed once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
    /// The last delivery that failed, in any pod. Refreshed once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// How many pods there should be, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// How far the handler is in its topic, so that it continues there if the broker loses its consumers. Refreshed about
    /// once a minute while it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// How far the last redrive is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<RedriveStatus>,
}

impl HasConditions for EventHandlerStatus {
    fn conditions(&self) -> &[Condition] {
        &self.conditions
    }
}

/// A delivery that failed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// When it failed.
    #[schemars(schema_with = "schema::date_time")]
    pub time: String,
    /// The event's id, at most 256 bytes of it.
    pub event_id: String,
    /// The event's type, at most 256 bytes of it.
    pub event_type: String,
    /// HTTP status of the answer. Unset if there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// What went wrong: the status and the beginning of the answer's body, or why there was no answer. At most 256
    /// bytes.
    pub error: String,
    /// Where the event was posted to. Empty if it was not posted, because what is stored is no event.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// Events on their way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Events that no pod has been given yet.
    pub pending: i64,
    /// Events given to a pod and not yet acknowledged, those that wait for a retry included.
    pub in_flight: i64,
    /// Age of the oldest event that is not yet acknowledged, such as 12s or 1h30m. Absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_event_age: Option<Duration>,
}

/// How far a handler is in its topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Time at which the topic's stream was created, RFC 3339. If the stream is a newer one, the handler begins with its
    /// first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_created: Option<String>,
    /// Position of each consumer of the handler: one, or one for each lane.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub consumers: Vec<ConsumerPosition>,
    /// Set once a consumer was lost and made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<PositionRestored>,
}

/// How far a consumer is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerPosition {
    /// Name of the consumer.
    pub name: String,
    /// Sequence up to which all its events are acknowledged.
    pub acknowledged: i64,
}

/// How deliveries continued after consumers were lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionRestored {
    /// Time at which the consumers were made again, RFC 3339.
    pub time: String,
    /// Where deliveries continued, and why.
    pub message: String,
}
