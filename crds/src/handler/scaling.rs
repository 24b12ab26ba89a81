//! How many pods: the limits that are asked for, and what came of them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

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

/// How many pods there should be, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Pods there should be.
    pub desired: i32,
    /// Why this many.
    pub reason: String,
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
