//! What the operator saw of a handler.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LanesStatus, RedriveStatus, ReleaseStatus, ReplayStatus, Scaling};
use crate::Duration;
use crate::conditions::HasConditions;
use crate::key::KeyStatus;
use crate::schema;

/// State of the handler as the operator saw it last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventHandlerStatus {
    /// Conditions. Ready sums up Granted (where the topic is of another namespace), TopicReady, Subscribed, PodsReady, HandlerAvailable (the containers answer) and Delivering
    /// (they handle what they are sent); Exposed warns of a program that others can reach, RetriesFull and DeadLettersFull
    /// of a lack of room for events that fail, KeysHeld of keys that wait for spec.release; Suspended is there while
    /// spec.suspend is true; Stalled says that a person has to do something.
    #[serde(default)]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the specification that this status was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of pods.
    #[serde(default)]
    pub replicas: i32,
    /// Number of pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the pods, for kubectl scale and autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Events that are not handled yet. Refreshed about once a minute while they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Number of dead letters of this handler that are kept beside its topic. They stay until they are redriven; with
    /// deadLetter.topic, dead letters are events of that topic and are not counted here. Refreshed once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<i64>,
    /// Events that wait for a retry on the handler's retry shelf. Unset on a Direct topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// Last delivery that failed, in any pod. Refreshed once a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Number of pods that the handler should have, and the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Position of the handler in its topic, from which it continues if the broker loses its consumers. Refreshed about
    /// once a minute while it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Progress of the last redrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<RedriveStatus>,
    /// Progress of the last release of held keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseStatus>,
    /// Progress of the last replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayStatus>,
    /// Lanes of the handler, and a change of their number. With order: Key only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lanes: Option<LanesStatus>,
    /// Key with which the sidecars show the broker who they are. Another value of the annotation tidegate.io/rotate of the
    /// EventHandler replaces it, and nothing else has to be done: the sidecars use the new one before the old one is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyStatus>,
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
    /// Time at which it failed.
    #[schemars(schema_with = "schema::date_time")]
    pub time: String,
    /// Id of the event, at most 256 bytes of it.
    pub event_id: String,
    /// Type of the event, at most 256 bytes of it.
    pub event_type: String,
    /// HTTP status of the answer. Unset if there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Error: the status and the beginning of the answer's body, or the reason why there was no answer. At most 256 bytes.
    pub error: String,
    /// Address that the event was posted to. Unset if it was not posted: what is stored is not a valid event, no attempt of it
    /// ever ended, or filter.expression is too much work for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
}

/// Events that are not handled yet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// Number of events that no pod was given yet.
    pub pending: i64,
    /// Number of events that were given to a pod and are not acknowledged, those included whose retry is only seconds
    /// away.
    pub in_flight: i64,
    /// Age of the oldest event that is not yet acknowledged, such as 12s or 1h30m. Unset while there is none, or while the
    /// broker does not say. With order: Key and fewer than 8 lanes, or with more than 4 filter.types, it can be the age of
    /// an event that is acknowledged already, and so too high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_event_age: Option<Duration>,
}

/// Events that wait for a retry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Number of events that wait, those behind a failing event of their key included. Refreshed about once a minute while
    /// it changes. Events whose next attempt is only seconds away are not among them.
    pub waiting: i64,
    /// Time since which the oldest of them waits. Unset while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub oldest: Option<String>,
    /// Number of keys of which events wait, those that are held among them. With order: Key only. Refreshed about once a
    /// minute while it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_keys: Option<i64>,
    /// Number of keys that wait for a person to release them, with delivery.retry.onExhausted: Park. With order: Key
    /// only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_keys: Option<i64>,
    /// Keys that are held, those that have been so for longest first; at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub held: Vec<HeldKey>,
}

/// A key that is held until a person releases it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldKey {
    /// Partition key, to be named in spec.release.keys. Unset if it has more than 1024 bytes, or is not known: it is
    /// released with all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Sequence of the event that holds it up, in the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// Time since which it is held.
    #[schemars(schema_with = "schema::date_time")]
    pub since: String,
    /// Reason, as of a dead letter: attempts-used-up or refused-by-handler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Position of a handler in its topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// Time at which the topic's stream was created. If the stream is a newer one, the handler begins with its first event.
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

/// Position of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerPosition {
    /// Name of the consumer.
    pub name: String,
    /// Sequence up to which all its events are acknowledged.
    pub acknowledged: i64,
}

/// Continuation of deliveries after consumers were lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PositionRestored {
    /// Time at which the consumers were made again.
    #[schemars(schema_with = "schema::date_time")]
    pub time: String,
    /// Where deliveries continued, and why.
    pub message: String,
}
