//! A handler's place in its topic, changed: to another event, or to another number of lanes.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Event of the topic that the handler continues with, once. The handler's pods end, deliveries continue with that event,
/// and the pods start again. Every event from there on is delivered as if it had never been: with all its attempts, and
/// no longer as one that waits for a retry or holds up its key. Dead letters stay, and so do events before it that wait
/// for a retry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// Name of this replay, any text of 1 to 64 characters. Another text than before starts another replay;
    /// status.replay says how far it is.
    #[schemars(length(min = 1, max = 64))]
    pub request: String,
    /// First event that is delivered: Earliest (the oldest event that the topic keeps), Latest (what is published from now
    /// on: events that wait are passed over), a time such as 2026-01-31T12:00:00Z (the first event published then or
    /// later), or the sequence number of an event in quotes. An event that the topic does not keep any more stands for the
    /// oldest that it keeps. What is still to come is refused: use Latest.
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new(r"self == 'Latest' || self == 'Earliest' || self.matches('^[1-9][0-9]{0,17}$') || self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$')").message("replay.from must be Latest, Earliest, a time such as 2026-01-31T12:00:00Z, or the sequence number of an event in quotes, such as \"1234\""))]
    pub from: String,
}

/// Progress of a replay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayStatus {
    /// Value of spec.replay.request that started it.
    pub request: String,
    /// Phase: Stopping (the handler's pods end), Moving (they have ended, and the handler's place is changed), Done or
    /// Refused.
    pub phase: ReplayPhase,
    /// Sequence of the first event that is delivered, in the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    /// Time at which the topic stored that event. Unset if it was still to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub time: Option<String>,
    /// Number of replays of this handler that are done.
    #[serde(default)]
    pub count: i64,
    /// Message of the handler's stream of retries up to which all were examined.
    #[serde(default)]
    pub examined: i64,
    /// Last message of that stream when the handler's pods had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// What it waits for, or why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Phase of a replay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReplayPhase {
    /// The handler's pods end.
    #[default]
    Stopping,
    /// The handler's place is changed.
    Moving,
    /// Deliveries continue with the event that was asked for.
    Done,
    /// There is no such event; nothing was changed.
    Refused,
}

/// Lanes of a handler with order: Key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanesStatus {
    /// Number of lanes that there are.
    pub count: i32,
    /// For each of the 32 partitions of keys, the sequence up to which its events were settled when the number of lanes
    /// changed last. Empty if all were equally far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub settled: Vec<i64>,
    /// Time at which the topic had stored these events: what was stored later is none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub settled_before: Option<String>,
    /// Time since which each lane finishes what it has before it gets another event, so that a change can begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub draining_since: Option<String>,
    /// Change under way, once the handler's pods have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<LanesChange>,
    /// What a change waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Change of the number of lanes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanesChange {
    /// Number of lanes that there will be.
    pub count: i32,
    /// Sequence after which the new lanes begin.
    pub after: i64,
    /// As status.lanes.settled, for the new lanes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub settled: Vec<i64>,
    /// As status.lanes.settledBefore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub settled_before: Option<String>,
    /// Message of the handler's stream of retries up to which all were examined.
    #[serde(default)]
    pub examined: i64,
    /// Last message of that stream when the new lanes had been made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
}
