//! What the operator says (one JSON document), and the bounds of everything that could grow.

use std::time::Duration;

use tidegate_broker_client::contract;
use tidegate_cloudevents::MAX_ATTRIBUTES;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The program was not started by the operator.
    #[error("environment variable {} is not set: the operator sets it", contract::VARIABLE)]
    Missing,
    /// The operator is of another version, or the variable was written by hand.
    #[error("environment variable {}: {error}", contract::VARIABLE)]
    Unreadable {
        /// What is wrong with the JSON.
        #[from]
        error: serde_json::Error,
    },
}

/// Reads the configuration from the environment.
///
/// # Errors
/// The variable is missing, or does not hold what [`contract::Ingress`] describes.
pub fn from_env() -> Result<contract::Ingress, ConfigError> {
    let json = std::env::var(contract::VARIABLE).map_err(|_| ConfigError::Missing)?;
    Ok(serde_json::from_str(&json)?)
}

/// Largest head of a request: all attributes of an event fit into it, and what else a request has.
pub const MAX_HEAD: usize = 80 * 1024;
/// Headers of a request at most.
pub const MAX_HEADERS: usize = MAX_ATTRIBUTES + 64;

/// Bounds in time and number. The defaults are meant for production; tests shorten some.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of publishers, over HTTPS and over MQTT each, half of them from one address, and three quarters from
    /// one network of IPv6; further ones are refused with that reason.
    pub connections: usize,
    /// A connection that has brought no event for so long makes room for a new one where none is left.
    pub unused: Duration,
    /// A TLS handshake; over MQTT the time until CONNECT after it, too.
    pub handshake: Duration,
    /// The head of a request, and the idle time between two requests of a connection; over MQTT the time in which
    /// a device must take what is written to it.
    pub idle: Duration,
    /// The longest silence of a device with MQTT; one and a half times the longest keep-alive.
    pub silence: Duration,
    /// The body of a request, over MQTT a packet from its first bytes to its last: the time it may take besides that
    /// of `body_rate`, and the longest pause in it.
    pub body: Duration,
    /// Bytes of a body a second, at least.
    pub body_rate: u32,
    /// Requests in progress; more are answered with 503.
    pub requests: usize,
    /// Bytes of the bodies in progress, in KiB; more are answered with 503.
    pub body_memory_kib: u32,
    /// Publishes that wait for the broker or are under way to it, of all topics; more wait before that.
    pub publishes: usize,
    /// Publishes of one connection with MQTT that are not acknowledged.
    pub publishes_per_connection: usize,
    /// One publish, from the wait for its turn to the broker's acknowledgement.
    pub publish: Duration,
    /// How often the certificate is read again.
    pub certificate_check: Duration,
    /// How often the file is read again that says which topics there are.
    pub topics_check: Duration,
    /// After SIGTERM: how long requests are still taken while the cluster learns that this pod is leaving.
    pub propagation: Duration,
    /// After that: how long open requests may take to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            unused: Duration::from_secs(60),
            silence: Duration::from_secs(600),
            body: Duration::from_secs(10),
            body_rate: 16 * 1024,
            requests: 1024,
            body_memory_kib: 64 * 1024,
            publishes: 4096,
            publishes_per_connection: 64,
            publish: Duration::from_secs(5),
            certificate_check: Duration::from_secs(5),
            topics_check: Duration::from_secs(1),
            propagation: Duration::from_secs(5),
            drain: Duration::from_secs(20),
        }
    }
}

impl Limits {
    /// With the capacity that the operator says.
    #[must_use]
    pub fn with_capacity(self, capacity: contract::Capacity) -> Self {
        Self {
            connections: capacity.connections.map_or(self.connections, usize::from),
            body_memory_kib: capacity.request_memory_kib.unwrap_or(self.body_memory_kib),
            ..self
        }
    }
}

/// The largest request body (over MQTT: packet) in bytes: room for a batch, and for an event whose data is written as
/// base64.
pub fn request_limit(max_event_size: usize) -> usize {
    max_event_size.saturating_mul(4).max(64 * 1024)
}
