//! Held keys to be delivered again: what is asked for, and how far it is.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Held keys to release. With delivery.retry.onExhausted: Park an event that failed for good holds up its key until the
/// key is released. A released key continues with that event, as if it had never failed. A release waits while there are
/// pods of an older template, so that one change can repair a handler and release its keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Name of this release, any text of 1 to 64 characters. Another text than before starts another release;
    /// status.release says how far it is.
    #[schemars(length(min = 1, max = 64))]
    pub request: String,
    /// Partition keys to release, 1 to 1000 of them, each of 1 to 1024 characters. A key that is not held is passed over.
    /// Default: all keys that are held when the release begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 1000), inner(length(min = 1, max = 1024)))]
    pub keys: Vec<String>,
}

/// Progress of a release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseStatus {
    /// Value of spec.release.request that started it.
    pub request: String,
    /// Phase: Running or Done.
    pub phase: ReleasePhase,
    /// Sequence of the last message when the release began, in the handler's stream of retries; keys that are held later
    /// are not released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<i64>,
    /// Number of entries of spec.release.keys that were examined.
    #[serde(default)]
    pub examined: i64,
    /// Number of keys that were released. Too low if the operator ended in the middle of it.
    pub released: i64,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Phase of a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleasePhase {
    /// Under way.
    #[default]
    Running,
    /// All that matched was released.
    Done,
}
