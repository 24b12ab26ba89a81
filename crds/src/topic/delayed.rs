//! Events that are published at a time of their own.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Events that wait for their time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DelayedEvents {
    /// Maximum time that an event may wait. A duration such as 24h, from 1m to 8760h. Default: 720h. An event whose time is
    /// further ahead is refused with 400.
    #[serde(default = "default_max_delay")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('8760h')").message("delayedEvents.maxDelay must be between 1m and 8760h"))]
    pub max_delay: Duration,
}

fn default_max_delay() -> Duration {
    Duration::new("720h")
}
