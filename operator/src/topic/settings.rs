//! A topic's specification, checked once and turned into numbers.

use std::time::Duration;

use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::topic::{self, DeletionPolicy, Durability, EventTopicSpec, WhenFull};

use crate::error::Error;

/// Room in a message for headers: attributes are percent-encoded (three times their size at most), and a
/// dead letter carries its story.
const HEADER_ROOM: u64 = 256 << 10;

/// What the builders and the broker need to know of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Broker pods.
    pub replicas: i32,
    /// How events travel.
    pub routing: Routing,
    /// Bytes of the volume.
    pub volume: u64,
    /// The volume's size as the user wrote it.
    pub volume_text: String,
    /// On disk before acknowledged?
    pub sync_always: bool,
    /// Bytes of the largest event.
    pub max_event_size: u64,
    /// Bytes of the largest message.
    pub max_message_size: u64,
    /// Do volumes and keys survive the topic?
    pub retain: bool,
    /// The streams.
    pub streams: streams::Topic,
}

impl Settings {
    /// Checks what the schema cannot.
    ///
    /// # Errors
    /// A value is not one; the message names the field. (The schema refuses most of it before.)
    pub fn of(spec: &EventTopicSpec) -> Result<Self, Error> {
        let volume = size("broker.storage.size", &spec.broker.storage.size)?;
        let max_event_size = size("maxEventSize", &spec.max_event_size)?;
        let max_message_size = max_event_size + HEADER_ROOM;
        let max_bytes = match &spec.retention.max_size {
            Some(wanted) => size("retention.maxSize", wanted)?,
            None => volume / 10 * 8,
        };
        let replicas = spec.broker.replicas;
        Ok(Self {
            replicas,
            routing: routing(spec.routing),
            volume,
            volume_text: spec.broker.storage.size.to_string(),
            sync_always: spec.broker.durability == Durability::Fsync,
            max_event_size,
            max_message_size,
            retain: spec.deletion_policy == DeletionPolicy::Retain,
            streams: streams::Topic {
                replicas: usize::try_from(replicas).unwrap_or(1),
                max_bytes: signed(max_bytes),
                // What is left of the volume, less a reserve for the broker's own files.
                dead_letter_bytes: signed((volume.saturating_sub(max_bytes)) / 2),
                attempt_bytes: signed((volume.saturating_sub(max_bytes)) / 8),
                max_age: spec.retention.max_age.as_ref().map(|age| duration("retention.maxAge", age)).transpose()?,
                drop_oldest: spec.retention.when_full == WhenFull::DropOldest,
                deduplication_window: duration("deduplicationWindow", &spec.deduplication_window)?,
                max_message_size: i32::try_from(max_message_size).unwrap_or(i32::MAX),
            },
        })
    }
}

/// How a topic's events travel, in the words of the contract.
pub fn routing(routing: topic::Routing) -> Routing {
    match routing {
        topic::Routing::Queued => Routing::Queued,
        topic::Routing::Direct => Routing::Direct,
    }
}

fn size(field: &str, size: &tidegate_crds::Size) -> Result<u64, Error> {
    size.bytes().map_err(|error| Error::refused("InvalidSpec", format!("spec.{field}: {error}")))
}

/// The duration of a field, or what is wrong with it.
///
/// # Errors
/// It is not a duration.
pub fn duration(field: &str, duration: &tidegate_crds::Duration) -> Result<Duration, Error> {
    duration.get().map_err(|error| Error::refused("InvalidSpec", format!("spec.{field}: {error}")))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(spec: serde_json::Value) -> Result<Settings, Error> {
        Settings::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn an_empty_specification_has_sensible_streams() {
        let settings = settings(json!({})).unwrap();
        assert_eq!(settings.streams.max_bytes, (10 << 30) / 10 * 8);
        assert_eq!(settings.streams.dead_letter_bytes, ((10 << 30) - (10 << 30) / 10 * 8) / 2);
        assert_eq!(settings.streams.deduplication_window, Duration::from_secs(120));
        assert!(settings.sync_always && settings.retain && !settings.streams.drop_oldest);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        let error = settings(json!({"retention": {"maxAge": "soon"}})).unwrap_err();
        assert!(error.to_string().contains("spec.retention.maxAge"), "{error}");
    }
}
