//! Events that wait for their time, and those that a topic publishes by itself: the specification, checked (pure).

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::schedules::Schedule;
use tidegate_cloudevents::{Event, media_type};
use tidegate_crds::topic::{self, EventTopicSpec, ScheduledEvent};

use super::cron;
use super::settings::{duration, invalid};
use crate::reconcile::error::Error;

/// An event may wait at least so long, and at most.
const MAX_DELAY: RangeInclusive<Duration> = Duration::from_secs(60)..=MAX_EVERY;
/// The least and the greatest time between two events of a schedule.
const MIN_EVERY: Duration = Duration::from_secs(1);
const MAX_EVERY: Duration = Duration::from_secs(8760 * 3600);
/// Bytes of the data of a schedule's event. All of a topic's schedules fit into the room that ingresses leave free.
const MAX_DATA: usize = 4096;
const MAX_ATTRIBUTES: usize = 1024;

/// How events are kept that wait for their time, in so many bytes; `None`: there are none.
///
/// # Errors
/// A value is not one.
pub fn later(spec: &EventTopicSpec, max_bytes: i64) -> Result<Option<Later>, Error> {
    let has_schedules = !spec.schedules.is_empty();
    let Some(delayed) = &spec.delayed_events else {
        return Ok(has_schedules.then_some(Later { max_bytes, max_delay: None, has_schedules }));
    };
    let max_delay = duration("delayedEvents.maxDelay", &delayed.max_delay)?;
    if !MAX_DELAY.contains(&max_delay) {
        return Err(invalid("delayedEvents.maxDelay", "must be between 1m and 8760h"));
    }
    Ok(Some(Later { max_bytes, max_delay: Some(max_delay), has_schedules }))
}

/// The events that the topic publishes by itself.
///
/// # Errors
/// A value is not one.
pub fn schedules(spec: &EventTopicSpec) -> Result<Vec<Schedule>, Error> {
    let mut names = HashSet::new();
    let mut schedules = Vec::with_capacity(spec.schedules.len());
    for (number, schedule) in spec.schedules.iter().enumerate() {
        let field = |name: &str| format!("schedules[{number}].{name}");
        if !is_name(&schedule.name) || !names.insert(&schedule.name) {
            return Err(invalid(&field("name"), "must be unique, of at most 40 lower-case letters, digits and '-'"));
        }
        schedules.push(Schedule {
            name: schedule.name.clone(),
            pattern: pattern(schedule, &field)?,
            time_zone: schedule.time_zone.clone(),
            event: event(&schedule.name, &schedule.event, &field)?,
        });
    }
    Ok(schedules)
}

/// Such a name can be a token of a subject.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&name.len()) && name.bytes().all(allowed)
}

/// When, in the broker's words (ADR-51).
fn pattern(schedule: &topic::Schedule, field: &impl Fn(&str) -> String) -> Result<String, Error> {
    match (&schedule.cron, &schedule.every) {
        (Some(cron), None) => cron::pattern(cron).map_err(|why| invalid(&field("cron"), why)),
        (None, Some(every)) => {
            let (name, every) = (field("every"), every);
            let every = duration(&name, every)?;
            if !(MIN_EVERY..=MAX_EVERY).contains(&every) || every.subsec_nanos() > 0 {
                return Err(invalid(&name, "must be whole seconds between 1s and 8760h"));
            }
            Ok(format!("@every {}s", every.as_secs()))
        }
        _ => Err(invalid(&field("cron"), "must be there, such as \"0 2 * * *\", or every, such as 15m, and not both")),
    }
}

fn event(name: &str, wanted: &ScheduledEvent, field: &impl Fn(&str) -> String) -> Result<Event, Error> {
    let mut event = Event::builder(name, &wanted.source, &wanted.event_type);
    if let Some(subject) = &wanted.subject {
        event = event.attribute("subject", subject);
    }
    if let Some(data) = &wanted.data {
        let content_type = wanted.data_content_type.as_deref().unwrap_or("application/json");
        if data.len() > MAX_DATA {
            return Err(invalid(&field("event.data"), format!("must have at most {MAX_DATA} bytes")));
        }
        if media_type::is_json(content_type)
            && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(data)
        {
            let why = format!("is no JSON: {error}. Correct it, or set dataContentType, such as text/plain");
            return Err(invalid(&field("event.data"), why));
        }
        event = event.attribute("datacontenttype", content_type).data(data.clone());
    } else if wanted.data_content_type.is_some() {
        return Err(invalid(&field("event.dataContentType"), "belongs to data: set data, or remove it"));
    }
    let event = event.build().map_err(|error| invalid(&field("event"), error))?;
    let data = wanted.data.as_ref().map_or(0, String::len);
    if event.size().saturating_sub(data) > MAX_ATTRIBUTES {
        return Err(invalid(&field("event"), format!("must have attributes of at most {MAX_ATTRIBUTES} bytes")));
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(schedule: Value) -> Result<Vec<Schedule>, String> {
        let spec = serde_json::from_value(json!({"schedules": [schedule]})).map_err(|error| error.to_string())?;
        schedules(&spec).map_err(|error| error.to_string())
    }

    fn with(changes: Value) -> Value {
        let mut schedule =
            json!({"name": "nightly", "cron": "0 2 * * *", "event": {"type": "report.due", "source": "/schedules"}});
        for (name, value) in changes.as_object().unwrap() {
            schedule[name] = value.clone();
        }
        schedule
    }

    #[test]
    fn schedules_are_said_in_the_words_of_the_broker() {
        let zoned = of(with(json!({"timeZone": "Europe/Berlin"}))).unwrap();
        assert_eq!((&*zoned[0].pattern, zoned[0].time_zone.as_deref()), ("0 0 2 * * *", Some("Europe/Berlin")));
        let every = of(with(json!({"cron": null, "every": "1h30m"}))).unwrap();
        assert_eq!(every[0].pattern, "@every 5400s");
        let event = json!({"type": "t", "source": "/s", "subject": "k", "data": "{\"a\": 1}"});
        let event = of(with(json!({"event": event}))).unwrap().remove(0).event;
        assert_eq!((event.id(), event.attribute("subject")), ("nightly", Some("k")));
        assert_eq!((event.data_content_type(), event.data().unwrap().len()), (Some("application/json"), 8));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        let event = |changes: Value| {
            let mut event = json!({"type": "t", "source": "/s"});
            event.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            with(json!({"event": event}))
        };
        for (schedule, field, words) in [
            (with(json!({"cron": "60 * * * *"})), "cron", "cannot be the minute"),
            (with(json!({"every": "1m"})), "cron", "not both"),
            (with(json!({"cron": null})), "cron", "such as 15m"),
            (with(json!({"cron": null, "every": "500ms"})), "every", "between 1s and 8760h"),
            (with(json!({"cron": null, "every": "1s1ms"})), "every", "whole seconds"),
            (with(json!({"cron": null, "every": "8761h"})), "every", "between 1s and 8760h"),
            (with(json!({"name": "a.b"})), "name", "lower-case"),
            (event(json!({"source": "not a uri"})), "event", "URI-reference"),
            (event(json!({"type": ""})), "event", "must not be empty"),
            (event(json!({"data": "{"})), "event.data", "is no JSON"),
            (event(json!({"data": "ä".repeat(2049), "dataContentType": "text/plain"})), "event.data", "4096 bytes"),
            (event(json!({"dataContentType": "text/plain"})), "event.dataContentType", "belongs to data"),
            (event(json!({"data": "x", "dataContentType": "nonsense"})), "event", "media type"),
            (event(json!({"subject": "ä".repeat(1000)})), "event", "1024 bytes"),
        ] {
            let error = of(schedule.clone()).unwrap_err();
            assert!(
                error.contains(&format!("spec.schedules[0].{field}: ")) && error.contains(words),
                "{schedule}: {error}"
            );
        }
        let twice = serde_json::from_value(json!({"schedules": [with(json!({})), with(json!({}))]})).unwrap();
        assert!(schedules(&twice).unwrap_err().to_string().contains("spec.schedules[1].name: must be unique"));
    }

    #[test]
    fn schedules_alone_need_the_stream_too() {
        let of = |spec: Value| later(&serde_json::from_value(spec).unwrap(), 7).unwrap();
        assert_eq!(of(json!({})), None);
        let expected = Later { max_bytes: 7, max_delay: None, has_schedules: true };
        assert_eq!(of(json!({"schedules": [with(json!({}))]})), Some(expected));
        assert!(of(json!({"delayedEvents": {}})).is_some_and(|later| !later.has_schedules));
    }
}
