//! Retries of failed attempts.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Retries of failed attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retryOn) || !has(self.finalOn) || !self.retryOn.exists(s, s in self.finalOn)").message("delivery.retry: retryOn and finalOn must not name the same status or class; remove it from one of them").field_path(".finalOn"))]
pub struct Retry {
    /// Maximum number of delivery attempts, including the first one; 1 to 1000. After the last one the event becomes a
    /// dead letter (see onExhausted). Attempts that fail while one event after the other does are not counted: the
    /// handler is down. Default: 10, which takes about four minutes with the default backoff.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: i32,
    /// Waits between attempts. A Retry-After header in the container's answer makes a wait longer, up to 1h.
    #[serde(default)]
    pub backoff: Backoff,
    /// Statuses of the container's answer that are retried, in addition to 408, 425, 429 and 5xx: each a status from 300 to
    /// 599, such as "404", or one of the classes 3xx, 4xx and 5xx; at most 32. A status goes before its class: with
    /// retryOn: ["4xx"] and finalOn: ["422"], all of 4xx but 422 are retried. Use ["404", "409"] where the container
    /// answers so while it is being deployed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 3, max = 3)))]
    #[x_kube(validation = Rule::new("self.all(s, s.matches('^[345]([0-9][0-9]|xx)$'))").message("delivery.retry.retryOn: each entry must be a status from 300 to 599, such as \"404\", or one of 3xx, 4xx and 5xx"))]
    pub retry_on: Vec<String>,
    /// Statuses of the container's answer that are final, in addition to 3xx and those of 4xx that are not retried: the
    /// event becomes a dead letter at once. Each as in retryOn, such as "501" or "5xx"; at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 3, max = 3)))]
    #[x_kube(validation = Rule::new("self.all(s, s.matches('^[345]([0-9][0-9]|xx)$'))").message("delivery.retry.finalOn: each entry must be a status from 300 to 599, such as \"501\", or one of 3xx, 4xx and 5xx"))]
    pub final_on: Vec<String>,
    /// What happens to an event whose last attempt failed, or that the container refused. DeadLetter (the default): it
    /// becomes a dead letter. Park (with order: Key only): it stays, and holds up the later events of its key until a
    /// person releases the key by spec.release; other keys continue. What is not a valid event, is too old or was never
    /// finished becomes a dead letter all the same. Keys that are held stay so when it is set to DeadLetter.
    #[serde(default)]
    pub on_exhausted: OnExhausted,
}

/// What happens to an event whose last attempt failed, or that the container refused. DeadLetter (the default): it
/// becomes a dead letter. Park: it stays, and holds up its key until a person releases it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnExhausted {
    /// It becomes a dead letter.
    #[default]
    DeadLetter,
    /// It stays, and holds up its key.
    Park,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: default_max_attempts(),
            backoff: Backoff::default(),
            retry_on: Vec::new(),
            final_on: Vec::new(),
            on_exhausted: OnExhausted::default(),
        }
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
