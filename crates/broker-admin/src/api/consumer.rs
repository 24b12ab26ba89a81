//! Consumers.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::broker::Broker;
use super::error::{ApiError, Missing};
use super::json;

/// How a consumer is configured, as far as Tidegate sets or reads it (`ConsumerConfig`). In a request zero is the
/// server's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerConfig {
    /// The name of one that outlives its clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable_name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it begins.
    #[serde(flatten)]
    pub deliver_policy: DeliverPolicy,
    /// What is acknowledged.
    pub ack_policy: AckPolicy,
    /// How long a message may stay unacknowledged.
    #[serde(default, with = "json::nanos")]
    pub ack_wait: Duration,
    /// Deliveries of a message at most; -1: unlimited.
    #[serde(default)]
    pub max_deliver: i64,
    /// The subject that it reads, where it is one. The server puts a single one of `filter_subjects` here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter_subject: String,
    /// The subjects that it reads, where they are several. Without any of both it reads all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filter_subjects: Vec<String>,
    /// How fast it delivers: `instant`, or `original`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replay_policy: String,
    /// Open pulls at most.
    #[serde(default)]
    pub max_waiting: i64,
    /// Messages delivered and not acknowledged at most.
    #[serde(default)]
    pub max_ack_pending: i64,
    /// The longest a pull may stay open.
    #[serde(default, with = "json::nanos")]
    pub max_expires: Duration,
    /// Copies of its state.
    pub num_replicas: usize,
    /// What else is known of it. The server adds entries of its own, and keeps them in a change.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub metadata: HashMap<String, String>,
    /// Who of several clients gets the messages.
    #[serde(default, skip_serializing_if = "PriorityPolicy::is_none")]
    pub priority_policy: PriorityPolicy,
    /// The groups of clients for which that is decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub priority_groups: Vec<String>,
    /// A pinned client that does not pull for so long is pinned no more.
    #[serde(default, with = "json::nanos", skip_serializing_if = "Duration::is_zero")]
    pub priority_timeout: Duration,
    /// Nothing is delivered before this moment (RFC 3339). The server takes it from the request that makes a consumer;
    /// later only [`Broker::pause_consumer`] changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_until: Option<String>,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deliver_policy", rename_all = "snake_case")]
pub enum DeliverPolicy {
    /// With the first message.
    #[default]
    All,
    /// With the last message.
    Last,
    /// With the last message of each subject.
    LastPerSubject,
    /// With the next message.
    New,
    /// With the message of a sequence, or the first one after it.
    ByStartSequence {
        /// The sequence.
        #[serde(rename = "opt_start_seq")]
        start_sequence: u64,
    },
    /// With the first message of a time or later.
    ByStartTime {
        /// The time.
        #[serde(rename = "opt_start_time", with = "time::serde::rfc3339")]
        start_time: OffsetDateTime,
    },
    /// In a way that only a later server knows. No server takes it back.
    #[serde(other)]
    Other,
}

/// What is acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckPolicy {
    /// Each message.
    #[default]
    Explicit,
    /// Anything that Tidegate does not use.
    #[serde(untagged)]
    Other(String),
}

/// Who of several clients gets the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PriorityPolicy {
    /// Any of them.
    #[default]
    None,
    /// One of them, until it leaves.
    PinnedClient,
    /// Anything that Tidegate does not use.
    #[serde(untagged)]
    Other(String),
}

impl PriorityPolicy {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// A consumer that is there (`ConsumerInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConsumerInfo {
    /// Its name.
    #[serde(deserialize_with = "json::name")]
    pub name: String,
    /// How it is configured.
    pub config: ConsumerConfig,
    /// The last delivery.
    pub delivered: SequencePair,
    /// The delivery up to which all are acknowledged.
    pub ack_floor: SequencePair,
    /// Messages delivered and not acknowledged.
    #[serde(deserialize_with = "json::count")]
    pub num_ack_pending: u64,
    /// Messages not yet delivered.
    #[serde(deserialize_with = "json::count")]
    pub num_pending: u64,
    /// Whether it delivers nothing for now.
    #[serde(rename = "paused", default)]
    pub is_paused: bool,
}

/// A delivery (`SequenceInfo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct SequencePair {
    /// Which one it is of its consumer; 0: there was none.
    #[serde(rename = "consumer_seq", deserialize_with = "json::count")]
    pub consumer_sequence: u64,
    /// The message's sequence in the stream.
    #[serde(rename = "stream_seq", deserialize_with = "json::count")]
    pub stream_sequence: u64,
}

impl Broker {
    /// A consumer of a stream.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn consumer(&self, stream: &str, name: &str) -> Result<ConsumerInfo, ApiError> {
        let info: ConsumerInfo = self.call(&format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await?;
        info.named(name)
    }

    /// Makes a durable consumer of a stream, or changes the one there is. What [`ConsumerConfig`] does not hold becomes
    /// the server's default.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn put_consumer(&self, stream: &str, config: &ConsumerConfig) -> Result<ConsumerInfo, ApiError> {
        let Some(name) = config.durable_name.as_deref() else {
            return Err(ApiError::Unwritable("the consumer has no name".into()));
        };
        // A single filter of its own would have to be in the subject; `filter_subjects` never is.
        let filter = if config.filter_subject.is_empty() { "" } else { "." };
        let operation = format!("CONSUMER.CREATE.{stream}.{name}{filter}{}", config.filter_subject);
        let info: ConsumerInfo = self.call(&operation, &json!({"stream_name": stream, "config": config})).await?;
        info.named(name)
    }

    /// Removes a consumer and its position.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), ApiError> {
        self.tell(&format!("CONSUMER.DELETE.{stream}.{name}"), &json!({})).await
    }

    /// Lets a consumer deliver nothing before this moment (RFC 3339), or deliver again. What it has delivered can be
    /// acknowledged as ever.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn pause_consumer(&self, stream: &str, name: &str, until: Option<&str>) -> Result<(), ApiError> {
        // Without a time the request ends a pause (`JSApiConsumerPauseRequest`).
        let request = until.map_or_else(|| json!({}), |until| json!({"pause_until": until}));
        let Paused { paused } = self.call(&format!("CONSUMER.PAUSE.{stream}.{name}"), &request).await?;
        if paused == until.is_some() { Ok(()) } else { Err(ApiError::unreadable("it is about another pause")) }
    }

    /// All consumers of a stream, as their leaders know them.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn list_consumers(&self, stream: &str) -> Result<Vec<ConsumerInfo>, ApiError> {
        self.list(&format!("CONSUMER.LIST.{stream}")).await
    }

    /// The names of all consumers of a stream, whether they have leaders or not. None, too, where there is no such
    /// stream.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn list_consumer_names(&self, stream: &str) -> Result<Vec<String>, ApiError> {
        match self.list(&format!("CONSUMER.NAMES.{stream}")).await {
            Ok(names) => Ok(names.into_iter().map(|Name(name)| name).collect()),
            Err(ApiError::NotFound(Missing::Stream)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[derive(Deserialize)]
struct Paused {
    paused: bool,
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Name(#[serde(deserialize_with = "json::name")] String);

impl ConsumerInfo {
    /// An answer about another consumer is none.
    fn named(self, name: &str) -> Result<Self, ApiError> {
        if self.name == name { Ok(self) } else { Err(ApiError::unreadable("it is about another consumer")) }
    }
}
