//! How much one identity may use of a broker (pure).
//!
//! Generous for whoever does what it is there for, and bounded: no guest can use up the server's connections or memory.
//! Connections are counted for the account on each server, subscriptions for each connection.

use serde_json::{Value, json};

/// Bytes of a message: the largest event there can be, and its headers. The server's own `max_payload` is that of the
/// topic, and smaller.
const MAX_PAYLOAD: u64 = 9 << 20;

/// The limits of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections of the account, on each server.
    pub connections: u32,
    /// Subscriptions of each connection.
    pub subscriptions: u32,
    /// Has it JetStream? How much of it is the streams' and the volume's affair: no guest has any.
    pub jetstream: bool,
}

impl Limits {
    /// The operator, and the servers themselves (which are not counted).
    pub const SYSTEM: Self = Self { connections: 64, subscriptions: 1024, jetstream: false };
    /// A workload that publishes.
    pub const PUBLISHER: Self = Self { connections: 256, subscriptions: 128, jetstream: false };
    /// Admits no connection.
    pub const TOMBSTONE: Self = Self { connections: 0, subscriptions: 0, jetstream: false };

    /// The operator and the ingresses, two connections each.
    pub const fn topic(jetstream: bool) -> Self {
        Self { connections: 256, subscriptions: 1024, jetstream }
    }

    /// A handler's sidecars: all pods, as many again during a rollout, and some that have not been noticed to be gone.
    pub fn handler(pods: u32) -> Self {
        Self { connections: pods.saturating_mul(2).saturating_add(16), subscriptions: 256, jetstream: false }
    }

    /// As the claim of an account has them, together with how much it imports and exports.
    pub fn claim(self, imports: usize, exports: usize) -> Value {
        let storage = if self.jetstream { -1 } else { 0 };
        json!({
            "conn": self.connections, "subs": self.subscriptions, "payload": MAX_PAYLOAD, "data": -1, "leaf": 0,
            "imports": imports, "exports": exports, "wildcards": true,
            "disk_storage": storage, "streams": storage, "consumer": storage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_streams_is_bounded() {
        for limits in [
            Limits::SYSTEM,
            Limits::PUBLISHER,
            Limits::TOMBSTONE,
            Limits::topic(true),
            Limits::topic(false),
            Limits::handler(1000),
            Limits::handler(u32::MAX),
        ] {
            let claim = limits.claim(3, 0);
            // What a server does not count (`data`) or only the operator can use (JetStream) is left out.
            for name in ["conn", "subs", "payload", "leaf", "imports", "exports"] {
                assert!(claim[name].as_i64().is_some_and(|limit| limit >= 0), "{name}: {claim}");
            }
            assert_eq!(claim["disk_storage"].as_i64() == Some(0), !limits.jetstream);
        }
    }
}
