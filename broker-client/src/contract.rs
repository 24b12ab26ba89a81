//! What the operator tells the programs it starts: one JSON document each, in an environment variable.
//!
//! A change of it changes the pod template, so it always reaches the program by an ordinary rollout.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The environment variable that holds the JSON.
pub const VARIABLE: &str = "TIDEGATE_CONFIG";

/// What a handler's sidecar needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sidecar {
    /// Namespace of topic and handler.
    pub namespace: String,
    /// The EventTopic's name.
    pub topic: String,
    /// The EventHandler's name; also the name of its durable consumer.
    pub handler: String,
    /// Broker addresses, `tls://host:port`.
    pub servers: Vec<String>,
    /// Folder of [`crate::identity::file`]s.
    pub identity: PathBuf,
    /// The port of the sidecar's own listener: `/livez`, `/readyz` and the drain path.
    pub admin_port: u16,
    /// The secret part of the drain path (`/drain/<token>`): only who can read the pod's specification can drain it.
    pub drain_token: String,
    /// How events reach the user's container.
    pub delivery: Delivery,
    /// How long the broker waits for an acknowledgement before it gives an event to somebody else.
    #[serde(with = "millis")]
    pub ack_wait: Duration,
}

/// How events reach the user's container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delivery {
    /// The port the user's container listens on.
    pub port: u16,
    /// The path events are posted to; starts with `/`.
    pub path: String,
    /// Events in flight at most.
    pub concurrency: u16,
    /// The limit of one attempt.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// What to do after an attempt that may succeed later.
    pub retry: Retry,
}

/// What to do after an attempt that may succeed later.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Deliveries in all, the first included; at least 1.
    pub max_attempts: u32,
    /// The wait before the second attempt.
    #[serde(with = "millis")]
    pub initial: Duration,
    /// No wait is longer.
    #[serde(with = "millis")]
    pub max: Duration,
    /// Each wait is this many times the one before; at least 1.
    pub factor: f64,
    /// The share of a wait that is random: 0.2 means ± 20 %.
    pub jitter: f64,
}

/// What the ingress of a topic needs to know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ingress {
    /// The topic's namespace.
    pub namespace: String,
    /// The EventTopic's name.
    pub topic: String,
    /// Broker addresses in order of preference, the pod's own first, `tls://host:port`.
    pub servers: Vec<String>,
    /// Folder of [`crate::identity::file`]s; its certificate also serves HTTPS.
    pub identity: PathBuf,
    /// The port of the HTTPS listener.
    pub https_port: u16,
    /// The port of the plain listener for probes: `/livez`, `/readyz`, and `/broker/{startup,ready,live}`.
    pub admin_port: u16,
    /// The broker's own monitoring address on loopback, `http://127.0.0.1:8222`: the probes of the broker
    /// container go through the ingress, which shows nothing of it but health.
    pub broker_monitor: String,
    /// The largest event in bytes (attributes and data together).
    pub max_event_size: usize,
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
