//! Retries of failed attempts.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Retries of failed attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Maximum number of delivery attempts, including the first one; 1 to 1000. After the last one the event becomes a
    /// dead letter. Default: 10, which takes about four minutes with the default backoff.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: i32,
    /// Waits between attempts. A Retry-After header in the container's answer makes a wait longer, up to 1h.
    #[serde(default)]
    pub backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: default_max_attempts(), backoff: Backoff::default() }
    }
}

/// Waits between attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.initial) <= duration(self.max)").message("backoff.initial must not be longer than backoff.max"))]
pub struct Backoff {
    /// Wait before the second attempt. A duration such as 1s, at most max. Default: 1s.
    #[serde(default = "default_initial")]
    pub initial: Duration,
    /// Maximum wait between two attempts. A duration such as 60s, at most 1h. Default: 60s.
    #[serde(default = "default_max")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("backoff.max must be at most 1h"))]
    pub max: Duration,
    /// Factor between one wait and the next; 1 to 100. Default: 2.
    #[serde(default = "default_factor")]
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// Random share of each wait; 0 to 1. With 0.2 a wait is up to 20 % shorter or longer, so that pods do not retry in
    /// step. Default: 0.2.
    #[serde(default = "default_jitter")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: default_initial(), max: default_max(), factor: default_factor(), jitter: default_jitter() }
    }
}

fn default_max_attempts() -> i32 {
    10
}

fn default_initial() -> Duration {
    Duration::new("1s")
}

fn default_max() -> Duration {
    Duration::new("60s")
}

fn default_factor() -> f64 {
    2.0
}

fn default_jitter() -> f64 {
    0.2
}
