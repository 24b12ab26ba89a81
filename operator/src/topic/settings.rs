//! A topic's specification, checked once and turned into numbers.

use std::time::Duration;

use tidegate_broker_admin::schedules::Schedule;
use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::Routing;
use tidegate_crds::topic::{self, EventTopicSpec, WhenFull};

use crate::reconcile::error::Error;
use crate::reconcile::grants;
use crate::topic::later;

/// Room in a message for headers: attributes are percent-encoded (three times their size at most), and a
/// dead letter carries its story.
const HEADER_ROOM: u64 = 256 << 10;

/// Bytes of events, where retention.maxSize does not say.
const EVENT_BYTES: u64 = 1 << 30;
/// What a topic has besides its events: this part of their room, but at least so many of the largest messages, so that
/// a few handlers have a share that is of use.
const SIDE_PART: u64 = 4;
const SIDE_MESSAGES: u64 = 16;
/// Shares of dead letters, of events that wait for a retry, and of attempts in what a topic has besides its events. The first
/// two hold whole events, and so have the same: a topic has room for as many handlers by the one as by the other.
const DEAD_LETTERS_PERCENT: u64 = 40;
const RETRIES_PERCENT: u64 = 40;
const ATTEMPTS_PERCENT: u64 = 20;
/// Share of events that wait for their time in that, where a topic takes such events; the others
/// divide the rest.
const LATER_PERCENT: u64 = 25;
/// The broker keeps events at least so long, and recognises repetitions at least so long.
const MIN_DURATION: Duration = Duration::from_secs(1);
/// Every message id of this time is in the broker's memory.
const MAX_WINDOW: Duration = Duration::from_secs(24 * 3600);

/// What the broker needs to know of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How events travel.
    pub routing: Routing,
    /// Bytes of the largest event.
    pub max_event_size: u64,
    /// Does what every handler has settled make room for new events?
    pub release_handled: bool,
    /// Bytes that all streams of the topic may have together on each server; 0 on a Direct topic.
    pub promised: u64,
    /// The streams.
    pub streams: streams::Topic,
    /// Events that the topic publishes by itself.
    pub schedules: Vec<Schedule>,
}

impl Settings {
    /// Checks what the schema cannot. `replicas`: the copies that the broker has of everything.
    ///
    /// # Errors
    /// A value is not one; the message names the field. (The schema refuses most of it before.)
    pub fn of(spec: &EventTopicSpec, replicas: i32) -> Result<Self, Error> {
        grants::check("handlers", &spec.handlers)?;
        let max_event_size = size("maxEventSize", &spec.max_event_size)?;
        let max_message_size = max_event_size.saturating_add(HEADER_ROOM);
        let max_bytes = event_bytes(spec, max_message_size)?;
        let side = (max_bytes / SIDE_PART).max(max_message_size.saturating_mul(SIDE_MESSAGES));
        let later = later::later(spec, signed("retention.maxSize", percent(side, LATER_PERCENT))?)?;
        let left = side.saturating_sub(later.map_or(0, |later| later.max_bytes.unsigned_abs()));
        let (max_age, deduplication_window) = times(spec)?;
        let routing = routing(spec.routing);
        Ok(Self {
            routing,
            max_event_size,
            release_handled: spec.retention.when_full == WhenFull::ReleaseHandled,
            promised: if routing == Routing::Queued { max_bytes.saturating_add(side) } else { 0 },
            streams: streams::Topic {
                replicas: usize::try_from(replicas).map_err(|_| invalid("broker", "has no pods"))?,
                keeps_copies: false,
                max_bytes: signed("retention.maxSize", max_bytes)?,
                dead_letter_bytes: signed("retention.maxSize", percent(left, DEAD_LETTERS_PERCENT))?,
                retry_bytes: signed("retention.maxSize", percent(left, RETRIES_PERCENT))?,
                attempt_bytes: signed("retention.maxSize", percent(left, ATTEMPTS_PERCENT))?,
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
}

/// The largest `retention.maxSize` of a topic that is promised so many bytes in all; `None`: there is none.
pub fn largest(promised: u64, max_event_size: u64) -> Option<u64> {
    let message = max_event_size.saturating_add(HEADER_ROOM);
    let of_events = promised / (SIDE_PART + 1) * SIDE_PART;
    let bytes = of_events.min(promised.saturating_sub(message.saturating_mul(SIDE_MESSAGES)));
    // What is told in whole KiB still has room for two of the largest.
    Some(bytes).filter(|bytes| *bytes >= message.saturating_mul(2).saturating_add(1 << 10))
}

/// Bytes of events.
fn event_bytes(spec: &EventTopicSpec, max_message_size: u64) -> Result<u64, Error> {
    let Some(wanted) = &spec.retention.max_size else { return Ok(EVENT_BYTES) };
    let bytes = size("retention.maxSize", wanted)?;
    let least = max_message_size.saturating_mul(2);
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

/// So many hundredths of a size.
pub fn percent(of: u64, percent: u64) -> u64 {
    // Of a hundredth, so that it cannot be beyond 64 bits; sizes are far above a hundred bytes.
    of / 100 * percent
}

/// A value that is not one.
pub fn invalid(field: &str, why: impl std::fmt::Display) -> Error {
    Error::refused("InvalidSpec", format!("spec.{field}: {why}"))
}

/// How a topic's events travel, in the words of the contract.
pub fn routing(routing: topic::Routing) -> Routing {
    match routing {
        topic::Routing::Queued => Routing::Queued,
        topic::Routing::Direct => Routing::Direct,
    }
}

/// The bytes of a field, or what is wrong with it.
///
/// # Errors
/// It is not a size.
pub fn size(field: &str, size: &tidegate_crds::Size) -> Result<u64, Error> {
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
        Settings::of(&serde_json::from_value(spec).unwrap(), 3)
    }

    #[test]
    fn an_empty_specification_has_sensible_streams() {
        let settings = settings(json!({})).unwrap();
        let streams = &settings.streams;
        assert_eq!((streams.max_bytes, streams.replicas), (1 << 30, 3));
        assert_eq!(streams.dead_letter_bytes, streams.retry_bytes);
        assert!(settings.release_handled && !streams.drop_oldest);
        assert_eq!(streams.deduplication_window, Duration::from_secs(120));
    }

    fn of_handlers(streams: &streams::Topic) -> i64 {
        streams.dead_letter_bytes + streams.retry_bytes + streams.attempt_bytes
    }

    #[test]
    fn what_is_promised_is_what_the_streams_may_have() {
        for spec in [
            json!({}),
            json!({"delayedEvents": {}}),
            json!({"retention": {"maxSize": "4Mi"}}),
            json!({"retention": {"maxSize": "2Ti"}, "maxEventSize": "8Mi", "delayedEvents": {}}),
        ] {
            let settings = settings(spec.clone()).unwrap();
            let streams = &settings.streams;
            let later = streams.later.map_or(0, |later| later.max_bytes);
            let all = u64::try_from(streams.max_bytes + of_handlers(streams) + later).unwrap();
            assert!(all <= settings.promised && settings.promised - all < 400, "{spec}: {all} {}", settings.promised);
        }
        assert_eq!(settings(json!({"routing": "Direct"})).unwrap().promised, 0);
    }

    #[test]
    fn the_largest_size_that_fits_is_promised_no_more_than_there_is() {
        for (left, event) in [(1 << 30, 1 << 20), (40 << 20, 1 << 20), (25 << 20, 1 << 20), (10 << 20, 1 << 10)] {
            let bytes = largest(left, event).unwrap() >> 10;
            let spec = json!({"retention": {"maxSize": format!("{bytes}Ki")}, "maxEventSize": event.to_string()});
            let promised = settings(spec).unwrap().promised;
            assert!(promised <= left && left - promised < 4 << 10, "{left}: {promised}");
        }
        assert_eq!(largest(22 << 20, 1 << 20), None);
        assert_eq!(largest(0, 1 << 10), None);
    }

    #[test]
    fn a_small_topic_has_room_for_the_dead_letters_of_a_few_handlers() {
        let streams = settings(json!({"retention": {"maxSize": "4Mi"}})).unwrap().streams;
        let quarter = streams.dead_letter_bytes / 4;
        assert!(quarter > i64::from(streams.max_message_size), "four handlers: {quarter}");
    }

    #[test]
    fn events_that_wait_have_a_quarter_of_what_the_others_have_without_them() {
        let without = settings(json!({})).unwrap().streams;
        let with = settings(json!({"delayedEvents": {}})).unwrap().streams;
        assert_eq!((without.later, with.max_bytes), (None, without.max_bytes));
        let later = with.later.unwrap();
        assert_eq!(later.max_delay.unwrap(), Duration::from_secs(30 * 24 * 3600));
        assert!(later.max_bytes + of_handlers(&with) <= of_handlers(&without) + 400);
        assert!(later.max_bytes > 63 << 20, "{}", later.max_bytes);
        for max_delay in ["59s", "8761h", "soon"] {
            let error = settings(json!({"delayedEvents": {"maxDelay": max_delay}})).unwrap_err();
            assert!(error.to_string().contains("spec.delayedEvents.maxDelay"), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_names_its_field() {
        let error = settings(json!({"retention": {"maxAge": "soon"}})).unwrap_err();
        assert!(error.to_string().contains("spec.retention.maxAge"), "{error}");
        let error = settings(json!({"retention": {"maxSize": "1Mi"}})).unwrap_err();
        assert!(error.to_string().contains("two of the largest events"), "{error}");
    }
}
