//! What the local cluster is made of, for whoever needs a program of it without a cluster: [`modules`] builds nats-server,
//! etcd, the API server and the rest from pinned Go modules into the cache that [`state`] finds.

pub mod call;
pub mod modules;
pub mod progress;
pub mod state;
