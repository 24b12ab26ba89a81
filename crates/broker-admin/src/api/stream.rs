//! Streams.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;

use super::broker::Broker;
use super::error::{ApiError, Missing};
use super::json;

/// How a stream is configured, as far as Tidegate sets or reads it (`StreamConfig`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamConfig {
    /// Its name.
    #[serde(deserialize_with = "json::name")]
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it stores; none: its own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// What it keeps.
    pub retention: Retention,
    /// Where it keeps it.
    pub storage: Storage,
    /// What happens when it is full.
    pub discard: Discard,
    /// Copies; 0 in a request: one.
    pub num_replicas: usize,
    /// Bytes of messages at most; -1, or 0 in a request: unlimited.
    pub max_bytes: i64,
    /// Older messages go; zero: never.
    #[serde(with = "json::nanos")]
    pub max_age: Duration,
    /// Messages of one subject at most; -1, or 0 in a request: unlimited.
    #[serde(rename = "max_msgs_per_subject")]
    pub max_messages_per_subject: i64,
    /// Bytes of one message at most, headers included; -1, or 0 in a request: unlimited.
    #[serde(rename = "max_msg_size", default)]
    pub max_message_size: i32,
    /// How long a message id is recognised; zero in a request: the server's default.
    #[serde(default, with = "json::nanos")]
    pub duplicate_window: Duration,
    /// Whether any of its servers may give a stored message.
    #[serde(default)]
    pub allow_direct: bool,
    /// Whether it takes atomic batches of messages (ADR-50).
    #[serde(rename = "allow_atomic", default)]
    pub allow_atomic_publish: bool,
    /// Whether it takes messages that it is to publish later (ADR-51). That cannot be taken back.
    #[serde(rename = "allow_msg_schedules", default)]
    pub allow_message_schedules: bool,
    /// What else is known of it. The server adds entries of its own, and keeps them in a change.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub metadata: HashMap<String, String>,
}

/// What a stream keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// What is within its limits.
    #[default]
    Limits,
    /// What is not acknowledged, or removed, yet.
    WorkQueue,
    /// Anything that Tidegate does not use.
    #[serde(untagged)]
    Other(String),
}

/// Where a stream keeps its messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// Anything that Tidegate does not use.
    #[serde(untagged)]
    Other(String),
}

/// What happens when a stream is full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discard {
    /// The oldest messages go.
    #[default]
    Old,
    /// The publisher is refused.
    New,
    /// Something else.
    #[serde(untagged)]
    Other(String),
}

/// A stream that is there (`StreamInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StreamInfo {
    /// How it is configured.
    pub config: StreamConfig,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// What it has.
    pub state: Contents,
    /// The servers that keep it, in a cluster.
    #[serde(default)]
    pub cluster: Option<ClusterInfo>,
}

/// What a stream has (`StreamState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Numbers")]
pub struct Contents {
    /// Messages.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The sequence of the first message; of the next one, if there is none.
    pub first_sequence: u64,
    /// The sequence of the last message there was; 0: there never was one.
    pub last_sequence: u64,
    /// When the first message was stored; `None`: there is none.
    pub first_time: Option<OffsetDateTime>,
    /// Consumers that it has.
    pub consumers: u64,
    /// Different subjects of its messages.
    pub subjects: u64,
}

#[derive(Deserialize)]
struct Numbers {
    #[serde(deserialize_with = "json::count")]
    messages: u64,
    #[serde(deserialize_with = "json::count")]
    bytes: u64,
    #[serde(deserialize_with = "json::count")]
    first_seq: u64,
    #[serde(deserialize_with = "json::count")]
    last_seq: u64,
    #[serde(default, with = "time::serde::rfc3339::option")]
    first_ts: Option<OffsetDateTime>,
    #[serde(default, deserialize_with = "json::count")]
    consumer_count: u64,
    #[serde(default, deserialize_with = "json::count")]
    num_subjects: u64,
}

impl TryFrom<Numbers> for Contents {
    type Error = &'static str;

    fn try_from(numbers: Numbers) -> Result<Self, Self::Error> {
        let Numbers { messages, bytes, first_seq, last_seq, first_ts, consumer_count, num_subjects } = numbers;
        let span = (last_seq + 1).checked_sub(first_seq).ok_or("the first sequence is after the last one")?;
        if messages > span {
            return Err("there are more messages than sequences");
        }
        Ok(Self {
            messages,
            bytes,
            first_sequence: first_seq,
            last_sequence: last_seq,
            // A server says the year 1 where there is none.
            first_time: first_ts.filter(|_| messages > 0),
            consumers: consumer_count,
            subjects: num_subjects,
        })
    }
}

/// The servers that keep a stream (`ClusterInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClusterInfo {
    /// Which of them leads, if one does.
    #[serde(default, deserialize_with = "json::optional_text")]
    pub leader: Option<String>,
    /// How many others there are.
    #[serde(rename = "replicas", default, deserialize_with = "json::length")]
    others: usize,
    /// Whether they are to become others.
    #[serde(rename = "desired", default, deserialize_with = "json::is_there")]
    is_moving: bool,
}

impl ClusterInfo {
    /// Whether it is one server, and is to stay that one.
    pub(crate) fn is_single(&self) -> bool {
        self.others == 0 && !self.is_moving
    }
}

/// More subjects than a stream has.
const PAST_THE_LAST: u32 = u32::MAX;

#[derive(Deserialize)]
struct Counted {
    #[serde(flatten)]
    info: StreamInfo,
    #[serde(deserialize_with = "json::count")]
    total: u64,
}

#[derive(Deserialize)]
struct Dated {
    #[serde(flatten)]
    info: StreamInfo,
    #[serde(rename = "ts", with = "time::serde::rfc3339")]
    time: OffsetDateTime,
}

#[derive(Deserialize)]
struct Gapped {
    state: Gaps,
}

#[derive(Deserialize)]
struct Gaps {
    #[serde(default)]
    deleted: Vec<u64>,
}

#[derive(Deserialize)]
struct Purged {
    #[serde(default)]
    success: bool,
    #[serde(deserialize_with = "json::count")]
    purged: u64,
}

/// A stream with all that the server says of its configuration.
#[derive(Deserialize)]
struct AnyStream {
    config: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    cluster: Option<ClusterInfo>,
}

impl Broker {
    /// The stream of this name.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn stream(&self, name: &str) -> Result<StreamInfo, ApiError> {
        let info: StreamInfo = self.call(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        info.named(name)
    }

    /// The same, and the time then by the clock that gives its messages their times: that of the server that leads it.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn stream_with_time(&self, name: &str) -> Result<(StreamInfo, OffsetDateTime), ApiError> {
        let Dated { info, time } = self.call(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        Ok((info.named(name)?, time))
    }

    /// The stream of this name, and how many of the subjects of its messages a filter matches.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn stream_with_subjects(&self, name: &str, filter: &str) -> Result<(StreamInfo, u64), ApiError> {
        // The server tells their number with each page of their names (`jsStreamInfoRequest`); on the page after the last
        // one there are no names.
        let question = json!({"subjects_filter": filter, "offset": PAST_THE_LAST});
        let Counted { info, total } = self.call(&format!("STREAM.INFO.{name}"), &question).await?;
        Ok((info.named(name)?, total))
    }

    /// The same as [`Broker::stream`]; `None`: there is none.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn find_stream(&self, name: &str) -> Result<Option<StreamInfo>, ApiError> {
        match self.stream(name).await {
            Ok(info) => Ok(Some(info)),
            Err(ApiError::NotFound(Missing::Stream)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sequences between the first and the last one of which a stream has no message: first and last of each gap, in
    /// their order. The answer has each of them, so this is for a stream that does not lack many.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn stream_gaps(&self, name: &str) -> Result<Vec<(u64, u64)>, ApiError> {
        let Gapped { state } = self.call(&format!("STREAM.INFO.{name}"), &json!({"deleted_details": true})).await?;
        let mut gaps: Vec<(u64, u64)> = Vec::new();
        for sequence in state.deleted {
            match gaps.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(sequence) => *last = sequence,
                _ => gaps.push((sequence, sequence)),
            }
        }
        Ok(gaps)
    }

    /// Makes a stream.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn create_stream(&self, config: &StreamConfig) -> Result<StreamInfo, ApiError> {
        let info: StreamInfo = self.call(&format!("STREAM.CREATE.{}", config.name), config).await?;
        info.named(&config.name)
    }

    /// Changes a stream. What [`StreamConfig`] does not hold becomes the server's default.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn update_stream(&self, config: &StreamConfig) -> Result<StreamInfo, ApiError> {
        let info: StreamInfo = self.call(&format!("STREAM.UPDATE.{}", config.name), config).await?;
        info.named(&config.name)
    }

    /// Gives a stream so many copies, and changes nothing else of it: what another version has set there stays.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn set_stream_copies(&self, name: &str, copies: usize) -> Result<(), ApiError> {
        let mut info: AnyStream = self.call(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        if info.config.insert("num_replicas".to_owned(), json!(copies)) == Some(json!(copies)) {
            return Ok(());
        }
        let _: AnyStream = self.call(&format!("STREAM.UPDATE.{name}"), &info.config).await?;
        Ok(())
    }

    /// Removes all copies of a stream but that of the server that leads it, if it is this one. (The cluster keeps the
    /// leader's.) Whether it is.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn keep_only_copy(&self, name: &str, leader: &str) -> Result<bool, ApiError> {
        let mut info: AnyStream = self.call(&format!("STREAM.INFO.{name}"), &json!({})).await?;
        let leads = info.cluster.as_ref().and_then(|group| group.leader.as_deref());
        if leads != Some(leader) {
            return Ok(false);
        }
        info.config.insert("num_replicas".to_owned(), json!(1));
        let _: AnyStream = self.call(&format!("STREAM.UPDATE.{name}"), &info.config).await?;
        Ok(true)
    }

    /// Lets another server lead a stream, which has a copy of it.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn step_down_stream(&self, name: &str, preferred: &str) -> Result<(), ApiError> {
        let question = json!({"placement": {"preferred": preferred}});
        self.tell(&format!("STREAM.LEADER.STEPDOWN.{name}"), &question).await
    }

    /// Removes a stream and all that it has.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn delete_stream(&self, name: &str) -> Result<(), ApiError> {
        self.tell(&format!("STREAM.DELETE.{name}"), &json!({})).await
    }

    /// Removes all messages of a stream whose sequence is below this one.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn purge_stream_below(&self, name: &str, sequence: u64) -> Result<(), ApiError> {
        self.tell(&format!("STREAM.PURGE.{name}"), &json!({"seq": sequence})).await
    }

    /// Removes all messages of a stream whose subject a filter matches.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn purge_stream_subject(&self, name: &str, filter: &str) -> Result<(), ApiError> {
        self.tell(&format!("STREAM.PURGE.{name}"), &json!({"filter": filter})).await
    }

    /// Removes those of them whose sequence is below this one. How many there were.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn purge_stream_subject_below(&self, name: &str, filter: &str, sequence: u64) -> Result<u64, ApiError> {
        let question = json!({"filter": filter, "seq": sequence});
        let Purged { success, purged } = self.call(&format!("STREAM.PURGE.{name}"), &question).await?;
        if success { Ok(purged) } else { Err(ApiError::unreadable("it was neither done nor refused")) }
    }

    /// All streams of the account.
    ///
    /// # Errors
    /// As [`ApiError`] says.
    pub async fn list_streams(&self) -> Result<Vec<StreamInfo>, ApiError> {
        self.list("STREAM.LIST").await
    }
}

impl StreamInfo {
    /// An answer about another stream is none.
    fn named(self, name: &str) -> Result<Self, ApiError> {
        if self.config.name == name { Ok(self) } else { Err(ApiError::unreadable("it is about another stream")) }
    }
}
