//! What Tidegate's programs share about the broker.
//!
//! - [`layout`]: names of streams, consumers and subjects inside a topic's account; who may say what.
//! - [`topic_id`]: which topic of a broker.
//! - [`identity`]: the five files (or values) by which a program proves who it is, and how they are reloaded.
//! - [`connect`]: a connection with mutual TLS and a user JWT that survives rotation.
//! - [`renewal`]: that connection made again when its user is replaced.
//! - [`connection_log()`]: what a program logs of its connection.
//! - [`stored`]: the form of a CloudEvent inside the stream.
//! - [`message_id`]: how a stream recognises a repetition, and why no other program can choose its id.
//! - [`contract`]: what the operator tells a sidecar and an ingress, and what a sidecar reports.
//! - [`held_key`]: the mark of a key that waits for a person.
//! - [`outcomes`]: the part of that report about how deliveries ended.
//! - `peer` (with the feature of that name): the broker as other programs reach it, for tests and benchmarks.
//! - [`publish_ack`]: a stream's answer to a publish, and why a stream refuses.
//! - [`probes`]: the part of a sidecar's configuration about when to deliver.
//! - [`statuses`]: the part about which answers are final.
//! - [`seed`]: the file that makes a new broker's first server a cluster of one.
//! - [`wake`]: the connection without which a server that starts serves no stream.

pub mod connect;
mod connection_log;
pub mod contract;
pub mod delivery_info;
pub mod held_key;
pub mod identity;
pub mod later;
pub mod layout;
pub mod message_id;
pub mod outcomes;
#[cfg(any(test, feature = "peer"))]
pub mod peer;
pub mod probes;
pub mod publish_ack;
pub mod renewal;
pub mod seed;
pub mod statuses;
pub mod stored;
pub mod topic_id;
pub mod wake;

pub use connection_log::connection_log;
pub use topic_id::TopicId;
