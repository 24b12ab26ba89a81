//! Dead letters to the handler again: what is asked for, and how far it is.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Dead letters to give to the handler again. Each becomes an event for this handler only, with the same id and source
/// and no attempts; the dead letter is removed when that event is stored. A redrive waits while there are pods of an older
/// template, so that one change can repair a handler and redrive its dead letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Redrive {
    /// Name of this redrive, any text of 1 to 64 characters. Another text than before starts another redrive;
    /// status.redrive says how far it is.
    #[schemars(length(min = 1, max = 64))]
    pub request: String,
    /// Maximum number of dead letters to redrive, the oldest first. Default: all that match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub count: Option<i64>,
    /// Ids of the events to redrive, at most 1000. Default: any id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 1024)))]
    pub ids: Vec<String>,
    /// Earliest time at which an event to redrive became a dead letter, such as 2026-01-31T12:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub since: Option<String>,
    /// Time before which an event to redrive became a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::date_time")]
    pub until: Option<String>,
    /// Maximum number of events per second, 1 to 10000. Default: 100.
    #[serde(default = "default_rate")]
    #[schemars(range(min = 1, max = 10000))]
    pub rate: i32,
}

/// Progress of a redrive.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedriveStatus {
    /// Value of spec.redrive.request that started it.
    pub request: String,
    /// Phase: Running, Done or Failed.
    pub phase: RedrivePhase,
    /// Number of dead letters that were examined.
    pub examined: i64,
    /// Sequence of the last one that was examined, in the stream of dead letters.
    pub position: i64,
    /// Sequence of the last dead letter when the redrive began; later ones are not redriven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// Number of events that were given to the handler again.
    pub redriven: i64,
    /// Reason why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Phase of a redrive.
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
