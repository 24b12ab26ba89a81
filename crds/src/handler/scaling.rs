//! How many pods: the limits that are asked for, and what came of them.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Rules by which the number of pods follows the events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message("autoscaling.minReplicas must not be larger than maxReplicas").field_path(".minReplicas"))]
pub struct Autoscaling {
    /// Minimum number of pods, 0 to 1000. Default: 1. With 0 there are no pods while there are no events, and the first
    /// event starts one.
    #[serde(default = "default_min_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: i32,
    /// Maximum number of pods, 1 to 1000. Default: 10.
    #[serde(default = "default_max_replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Time within which the events that wait are to be handled: there are as many pods as that takes at the measured
    /// rate of a pod. A duration such as 5s, at least 100ms. Default: 5s.
    #[serde(default = "default_target_event_age")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms')").message("autoscaling.targetEventAge must be at least 100ms"))]
    pub target_event_age: Duration,
    /// Time for which fewer pods must have been enough before pods are removed, the last one included. A duration such as
    /// 60s. Default: 60s.
    #[serde(default = "default_idle_after")]
    pub idle_after: Duration,
}

/// How many pods there should be, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Number of pods that the handler should have.
    pub desired: i32,
    /// Reason for this number: Backlog, Concurrency, Retries, Idle, Holding, Failing, AtMaximum, Suspended, Moving, Fixed or
    /// Direct.
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
