//! The broker's JetStream API, as far as the operator uses it: requests and answers in JSON under `$JS.API`.
//!
//! The types hold what Tidegate sets or reads and no more; their names and units are those of nats-server (`stream.go`,
//! `consumer.go`, `jetstream_api.go`). A broker is not believed: names, numbers and lists have bounds, and an answer
//! beyond them is an error ([`ApiError::Unreadable`]).

mod broker;
mod consumer;
mod error;
mod json;
mod list;
mod message;
mod meta;
mod stream;

pub use broker::Broker;
pub use consumer::{AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, PriorityPolicy, SequencePair};
pub use error::{ApiError, ErrorCode, Missing, Refusal, Unavailable};
pub(crate) use json::{bounded, count, name};
pub use message::{PublishAck, StoredMessage};
pub use stream::{ClusterInfo, Contents, Discard, Retention, Storage, StreamConfig, StreamInfo};

#[cfg(test)]
mod tests;
