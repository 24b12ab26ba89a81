//! What happens after an attempt that may succeed later.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// What happens after an attempt that may succeed later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Maximum number of delivery attempts, the first included: 3 means three. After the last one the event becomes a
    /// dead letter. Default 10, which with the default backoff is about four minutes.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: i32,
    /// The waits between attempts. A Retry-After in the container's answer makes a wait longer, up to an hour.
    #[serde(default)]
    pub backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: default_max_attempts(), backoff: Backoff::default() }
    }
}

/// The waits between attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.initial) <= duration(self.max)").message("backoff.initial must not be longer than backoff.max"))]
pub struct Backoff {
    /// The first wait, such as 1s.
    #[serde(default = "default_initial")]
    pub initial: Duration,
    /// No wait is longer than this, such as 60s; at most 1h.
    #[serde(default = "default_max")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("backoff.max must be at most 1h"))]
    pub max: Duration,
    /// Each wait is this many times the one before.
    #[serde(default = "default_factor")]
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: f64,
    /// The random share of each wait: 0.2 means up to 20 % shorter or longer, so that handlers do not
    /// retry in step.
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
