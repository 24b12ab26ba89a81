//! Dead letters to the handler again: what is asked for, and how far it is.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

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
    #[serde(default = "default_rate")]
    #[schemars(range(min = 1, max = 10000))]
    pub rate: i32,
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

fn default_rate() -> i32 {
    100
}
