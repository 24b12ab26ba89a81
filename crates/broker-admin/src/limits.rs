//! How much one identity may use of a broker (pure).
//!
//! Generous for whoever does what it is there for, and bounded: no guest can use up the server's connections or memory.
//! Connections are counted for the account on each server, subscriptions for each connection.

use serde_json::{Value, json};

use crate::streams;

/// Bytes of a message, as the server's own `max_payload`.
const MAX_PAYLOAD: i32 = streams::MAX_MESSAGE_SIZE;

/// The limits of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Connections of the account, on each server.
    pub connections: u32,
    /// Subscriptions of each connection.
    pub subscriptions: u32,
    /// Bytes that its streams may have, each times its copies, without a bound from 2^63 on; `None`: it has no JetStream,
    /// as all but topics.
    pub storage: Option<u64>,
    /// Connections of leafnodes, over all servers.
    pub leafnodes: u32,
}

impl Limits {
    /// The operator, and the servers themselves (which are not counted).
    pub const SYSTEM: Self = Self { connections: 64, subscriptions: 1024, storage: None, leafnodes: 0 };
    /// A workload that publishes.
    pub const PUBLISHER: Self = Self { connections: 256, subscriptions: 128, storage: None, leafnodes: 0 };
    /// The ingresses, two connections each, up to five of them and as many that are not noticed to be gone, and the
    /// operator. An ingress subscribes up to eight times for each of the topics that a broker may have.
    pub const INGRESS: Self = Self { connections: 64, subscriptions: 4096, storage: None, leafnodes: 0 };
    /// The ingresses' connections that wake the brokers beside them: one each, up to five of them, and as many again that
    /// are not noticed to be gone. A server that hears of the others' counts its own leafnodes among its connections, too, and
    /// what they and it subscribe to by themselves.
    pub const WAKE: Self = Self { connections: 16, subscriptions: 1024, storage: None, leafnodes: 16 };
    /// Admits no connection.
    pub const TOMBSTONE: Self = Self { connections: 0, subscriptions: 0, storage: None, leafnodes: 0 };

    /// The operator.
    pub const fn topic(storage: Option<u64>) -> Self {
        Self { connections: 64, subscriptions: 1024, storage, leafnodes: 0 }
    }

    /// A handler's sidecars: all pods, as many again during a rollout, and some that have not been noticed to be gone.
    pub fn handler(pods: u32) -> Self {
        let connections = pods.saturating_mul(2).saturating_add(16);
        Self { connections, subscriptions: 256, storage: None, leafnodes: 0 }
    }

    /// As the claim of an account has them, together with how much it imports and exports.
    pub fn claim(self, imports: usize, exports: usize) -> Value {
        // The server has -1 for no bound, and 0 for no JetStream.
        let (storage, count) = match self.storage {
            Some(bytes) => (i64::try_from(bytes).map_or(-1, |bytes| bytes.max(1)), -1),
            None => (0, 0),
        };
        json!({
            "conn": self.connections, "subs": self.subscriptions, "payload": MAX_PAYLOAD, "data": -1, "leaf": self.leafnodes,
            "imports": imports, "exports": exports, "wildcards": true,
            "disk_storage": storage, "streams": count, "consumer": count,
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
            Limits::INGRESS,
            Limits::WAKE,
            Limits::topic(Some(0)),
            Limits::topic(Some(1 << 30)),
            Limits::topic(Some(i64::MAX as u64)),
            Limits::topic(None),
            Limits::handler(1000),
            Limits::handler(u32::MAX),
        ] {
            let claim = limits.claim(3, 0);
            // What a server does not count (`data`) or only the operator can use (streams) is left out.
            for name in ["conn", "subs", "payload", "leaf", "imports", "exports", "disk_storage"] {
                assert!(claim[name].as_i64().is_some_and(|limit| limit >= 0), "{name}: {claim}");
            }
            assert_eq!(Limits::topic(Some(u64::MAX)).claim(0, 0)["disk_storage"], -1);
            assert_eq!(claim["disk_storage"].as_i64() == Some(0), limits.storage.is_none());
        }
    }
}
