//! A topic's specification, checked once and turned into numbers.

use std::time::Duration;

use tidegate_broker_admin::schedules::Schedule;
use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::{Capacity, Flush, Routing};
use tidegate_crds::topic::{self, Durability, EventTopicSpec, WhenFull};

use crate::error::Error;
use crate::topic::later;

/// Room in a message for headers: attributes are percent-encoded (three times their size at most), and a
/// dead letter carries its story.
const HEADER_ROOM: u64 = 256 << 10;

/// Share of the volume that the broker counts as its store. Its streams are promised less than that: a store that is
/// promised more than it has takes no change of a stream any more, not even a smaller one.
const FILE_STORE_PERCENT: u64 = 95;
/// Share of the volume that is promised to streams, each of which has its bound: the rest is for accounts, consumers
/// and the file system, and a disk that is quite full stops a stream for good.
const PROMISED_PERCENT: u64 = 90;
/// Share of the volume that events have, where retention.maxSize does not say.
const EVENTS_PERCENT: u64 = 80;
/// Share of the volume that events may have.
const MAX_EVENTS_PERCENT: u64 = 85;
/// Shares of dead letters, of events that wait for a retry, and of attempts in what the events leave of that. The first
/// two hold whole events, and so have the same: a topic has room for as many handlers by the one as by the other.
const DEAD_LETTERS_PERCENT: u64 = 40;
const RETRIES_PERCENT: u64 = 40;
const ATTEMPTS_PERCENT: u64 = 20;
/// Share of events that wait for their time in what the events leave, where a topic takes such events; the others
/// divide the rest.
const LATER_PERCENT: u64 = 25;
/// The broker keeps events at least so long, and recognises repetitions at least so long.
const MIN_DURATION: Duration = Duration::from_secs(1);
/// Every message id of this time is in the broker's memory.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// What the builders and the broker need to know of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Broker pods.
    pub replicas: i32,
    /// How events travel.
    pub routing: Routing,
    /// Bytes of the volume.
    pub volume: u64,
    /// Bytes that the broker may store on the volume.
    pub file_store: u64,
    /// The volume's size as the user wrote it.
    pub volume_text: String,
    /// On disk before acknowledged?
    pub sync_always: bool,
    /// Bytes of the largest event.
    pub max_event_size: u64,
    /// Bytes of the largest message.
    pub max_message_size: u64,
    /// Does what every handler has settled make room for new events?
    pub release_handled: bool,
    /// How much the ingress takes at a time.
    pub capacity: Capacity,
    /// The streams.
    pub streams: streams::Topic,
    /// Events that the topic publishes by itself.
    pub schedules: Vec<Schedule>,
}

impl Settings {
    /// Checks what the schema cannot.
    ///
    /// # Errors
    /// A value is not one; the message names the field. (The schema refuses most of it before.)
    pub fn of(spec: &EventTopicSpec) -> Result<Self, Error> {
        let volume = size("broker.storage.size", &spec.broker.storage.size)?;
        Self::for_volume(spec, volume)
    }

    /// The same for a volume that has another size than the specification says.
    ///
    /// # Errors
    /// As above.
    pub fn for_volume(spec: &EventTopicSpec, volume: u64) -> Result<Self, Error> {
        let max_event_size = size("maxEventSize", &spec.max_event_size)?;
        let max_message_size = max_event_size.saturating_add(HEADER_ROOM);
        let max_bytes = event_bytes(spec, volume, max_event_size)?;
        let file_store = percent(volume, FILE_STORE_PERCENT);
        let left = percent(volume, PROMISED_PERCENT).saturating_sub(max_bytes);
        let later = later::later(spec, signed("broker.storage.size", percent(left, LATER_PERCENT))?)?;
        let left = left.saturating_sub(later.map_or(0, |later| later.max_bytes.unsigned_abs()));
        let (max_age, deduplication_window) = times(spec)?;
        let replicas = spec.broker.replicas;
        Ok(Self {
            replicas,
            routing: routing(spec.routing),
            volume,
            file_store,
            volume_text: spec.broker.storage.size.to_string(),
            sync_always: spec.broker.durability == Durability::Fsync,
            max_event_size,
            max_message_size,
            release_handled: spec.retention.when_full == WhenFull::ReleaseHandled,
            capacity: capacity(spec.broker.ingress.as_ref())?,
            streams: streams::Topic {
                replicas: usize::try_from(replicas).map_err(|_| invalid("broker.replicas", "must be 1 or 3"))?,
                max_bytes: signed("retention.maxSize", max_bytes)?,
                dead_letter_bytes: signed("broker.storage.size", percent(left, DEAD_LETTERS_PERCENT))?,
                retry_bytes: signed("broker.storage.size", percent(left, RETRIES_PERCENT))?,
                attempt_bytes: signed("broker.storage.size", percent(left, ATTEMPTS_PERCENT))?,
                later,
                max_age,
                drop_oldest: spec.retention.when_full == WhenFull::DropOldest,
                deduplication_window,
                max_message_size: i32::try_from(max_message_size)
                    .map_err(|_| invalid("maxEventSize", "must be at most 8Mi"))?,
            },
            schedules: later::schedules(spec)?,
        })
    }

    /// What the broker does before it acknowledges an event. A cluster flushes its log for many at once.
    pub fn flush(&self) -> Flush {
        if self.sync_always && self.replicas == 1 { Flush::PerCommit } else { Flush::Shared }
    }
}

/// Bytes of events, within what the volume can hold.
fn event_bytes(spec: &EventTopicSpec, volume: u64, max_event_size: u64) -> Result<u64, Error> {
    if spec.routing == topic::Routing::Queued && max_event_size.saturating_mul(64) > volume {
        return Err(invalid(
            "maxEventSize",
            format!(
                "a dead letter of {max_event_size} bytes has no room on a volume of {volume} bytes: it may be a 64th of it at most"
            ),
        ));
    }
    let Some(wanted) = &spec.retention.max_size else { return Ok(percent(volume, EVENTS_PERCENT)) };
    let bytes = size("retention.maxSize", wanted)?;
    if u128::from(bytes) * 100 > u128::from(volume) * u128::from(MAX_EVENTS_PERCENT) {
        let most = percent(volume, MAX_EVENTS_PERCENT);
        return Err(invalid(
            "retention.maxSize",
            format!(
                "{wanted} is more than {MAX_EVENTS_PERCENT} % of the volume ({most} of {volume} bytes): the rest is for dead letters, retries, attempts and the broker's own files"
            ),
        ));
    }
    let least = max_event_size.saturating_add(HEADER_ROOM).saturating_mul(2);
    if bytes < least {
        return Err(invalid(
            "retention.maxSize",
            format!(
                "{wanted} has no room for two of the largest events ({least} bytes with their headers): make it larger, or maxEventSize smaller"
            ),
        ));
    }
    Ok(bytes)
}

/// How long events are kept, and how long repetitions are recognised.
fn times(spec: &EventTopicSpec) -> Result<(Option<Duration>, Duration), Error> {
    let window = duration("deduplicationWindow", &spec.deduplication_window)?;
    if !(MIN_DURATION..=MAX_WINDOW).contains(&window) {
        return Err(invalid("deduplicationWindow", "must be between 1s and 24h"));
    }
    let max_age = spec.retention.max_age.as_ref().map(|age| duration("retention.maxAge", age)).transpose()?;
    match max_age {
        Some(age) if age < MIN_DURATION => {
            Err(invalid("retention.maxAge", "must be at least 1s; leave it out to keep events until room is needed"))
        }
        Some(age) if age < window => Err(invalid(
            "retention.maxAge",
            "must be at least deduplicationWindow (2m unless set): an event that is gone cannot be recognised when it is published again",
        )),
        age => Ok((age, window)),
    }
}

fn percent(of: u64, percent: u64) -> u64 {
    // Of a hundredth, so that it cannot be beyond 64 bits; sizes are far above a hundred bytes.
    of / 100 * percent
}

/// A value that is not one.
pub fn invalid(field: &str, why: impl std::fmt::Display) -> Error {
    Error::refused("InvalidSpec", format!("spec.{field}: {why}"))
}

fn capacity(ingress: Option<&topic::Ingress>) -> Result<Capacity, Error> {
    let Some(ingress) = ingress else { return Ok(Capacity::default()) };
    let connections = ingress.max_connections.map(u16::try_from).transpose();
    let connections =
        connections.map_err(|_| invalid("broker.ingress.maxConnections", "must be between 16 and 60000"))?;
    let memory = match &ingress.max_request_memory {
        None => None,
        Some(memory) => {
            let kib = size("broker.ingress.maxRequestMemory", memory)? / 1024;
            let out_of_range = |_| invalid("broker.ingress.maxRequestMemory", "must be between 16Mi and 4Gi");
            Some(u32::try_from(kib).map_err(out_of_range)?)
        }
    };
    Ok(Capacity { connections, request_memory_kib: memory })
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

fn signed(field: &str, bytes: u64) -> Result<i64, Error> {
    i64::try_from(bytes).map_err(|_| invalid(field, "is beyond what a volume can have"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(spec: serde_json::Value) -> Result<Settings, Error> {
        Settings::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_capacity_of_the_ingress_is_what_is_asked_for() {
        assert_eq!(settings(json!({})).unwrap().capacity, Capacity::default());
        let asked = json!({"broker": {"ingress": {"maxConnections": 60000, "maxRequestMemory": "4Gi"}}});
        let expected = Capacity { connections: Some(60000), request_memory_kib: Some(4 << 20) };
        assert_eq!(settings(asked).unwrap().capacity, expected);
    }

    #[test]
    fn an_empty_specification_has_sensible_streams() {
        let settings = settings(json!({})).unwrap();
        let streams = &settings.streams;
        assert_eq!(streams.max_bytes, (10 << 30) / 100 * 80);
        let of_handlers = streams.dead_letter_bytes + streams.retry_bytes + streams.attempt_bytes;
        assert!(streams.max_bytes + of_handlers <= (10 << 30) / 10 * 9);
        assert_eq!(streams.dead_letter_bytes, streams.retry_bytes);
        assert!(settings.release_handled);
        assert_eq!(settings.streams.deduplication_window, Duration::from_secs(120));
        assert!(settings.sync_always && !settings.streams.drop_oldest);
    }

    #[test]
    fn events_that_wait_have_a_quarter_of_what_the_others_have_without_them() {
        let without = settings(json!({})).unwrap().streams;
        let with = settings(json!({"delayedEvents": {}})).unwrap().streams;
        assert_eq!((without.later, with.max_bytes), (None, without.max_bytes));
        let later = with.later.unwrap();
        assert_eq!(later.max_delay.unwrap(), Duration::from_secs(30 * 24 * 3600));
        let of_handlers =
            |streams: &streams::Topic| streams.dead_letter_bytes + streams.retry_bytes + streams.attempt_bytes;
        assert!(later.max_bytes + of_handlers(&with) <= of_handlers(&without) + 100);
        assert!(later.max_bytes > 255 << 20, "{}", later.max_bytes);
        for max_delay in ["59s", "8761h", "soon"] {
            let error = settings(json!({"delayedEvents": {"maxDelay": max_delay}})).unwrap_err();
            assert!(error.to_string().contains("spec.delayedEvents.maxDelay"), "{error}");
        }
    }

    #[test]
    fn only_a_single_broker_flushes_each_commit() {
        let flush = |broker| settings(json!({"broker": broker})).unwrap().flush();
        assert_eq!(flush(json!({})), Flush::PerCommit);
        assert_eq!(flush(json!({"durability": "Relaxed"})), Flush::Shared);
        assert_eq!(flush(json!({"replicas": 3})), Flush::Shared);
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        let error = settings(json!({"retention": {"maxAge": "soon"}})).unwrap_err();
        assert!(error.to_string().contains("spec.retention.maxAge"), "{error}");
    }
}
