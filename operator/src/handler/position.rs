//! A handler's position between the broker and the handler's status.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use tidegate_broker_admin::consumers::Ensured;
use tidegate_broker_admin::overview::Progress;
use tidegate_broker_admin::positions::{Position, Restart};
use tidegate_crds::EventHandler;
use tidegate_crds::handler::{self, ConsumerPosition, PositionRestored};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How long a condition says that a position was restored.
const NEWS: SignedDuration = SignedDuration::from_hours(24);

/// The position that is on record in a handler's status.
pub fn recorded(handler: &EventHandler) -> Position {
    let Some(position) = handler.status.as_ref().and_then(|status| status.position.as_ref()) else {
        return Position::default();
    };
    let created = position.stream_created.as_deref();
    let known = |entry: &ConsumerPosition| Some((entry.name.clone(), u64::try_from(entry.acknowledged).ok()?));
    Position {
        stream_created: created.and_then(|created| OffsetDateTime::parse(created, &Rfc3339).ok()),
        acknowledged: position.consumers.iter().filter_map(known).collect::<BTreeMap<_, _>>(),
    }
}

/// The same as the status shows it, after consumers were looked at.
pub fn shown(before: Option<&handler::Position>, ensured: &Ensured, now: Timestamp) -> handler::Position {
    let restored = restored(ensured).map(|message| PositionRestored { time: now.to_string(), message });
    let shown = shown_as(before, &ensured.position);
    handler::Position { restored: restored.or(shown.restored.clone()), ..shown }
}

/// A position as the status shows it.
pub fn shown_as(before: Option<&handler::Position>, position: &Position) -> handler::Position {
    let acknowledged = position.acknowledged.iter();
    handler::Position {
        stream_created: position.stream_created.and_then(|created| created.format(&Rfc3339).ok()),
        consumers: acknowledged
            .map(|(name, sequence)| ConsumerPosition {
                name: name.clone(),
                acknowledged: i64::try_from(*sequence).unwrap_or(i64::MAX),
            })
            .collect(),
        restored: before.and_then(|before| before.restored.clone()),
    }
}

/// What the condition `Subscribed` adds of a position that was restored, for a day; the status keeps it.
pub fn note(position: Option<&handler::Position>, now: Timestamp) -> String {
    let is_news = |restored: &&PositionRestored| {
        restored.time.parse::<Timestamp>().is_ok_and(|time| now.duration_since(time) < NEWS)
    };
    let restored = position.and_then(|position| position.restored.as_ref()).filter(is_news);
    restored.map(|restored| format!("; at {}: {}", restored.time, restored.message)).unwrap_or_default()
}

/// Whether the broker has lost a consumer that the handler had, going by all that it has now.
pub fn is_lost(handler: &EventHandler, consumers: &[Progress]) -> bool {
    let position = handler.status.as_ref().and_then(|status| status.position.as_ref());
    let known = position.into_iter().flat_map(|position| &position.consumers);
    let mut lost = known.filter(|known| consumers.iter().all(|consumer| consumer.name != known.name));
    handler.metadata.deletion_timestamp.is_none() && lost.next().is_some()
}

/// What is said of consumers that had to be made again; `None`: none had.
pub fn restored(ensured: &Ensured) -> Option<String> {
    let of = |wanted: fn(&Restart) -> bool| -> Vec<&str> {
        let found = ensured.restarts.iter().filter(|(_, restart)| wanted(restart));
        found.map(|(name, _)| name.as_str()).collect()
    };
    let lost = of(|restart| matches!(restart, Restart::After(_)));
    let reset = of(|restart| *restart == Restart::NewStream);
    let mut sentences = Vec::new();
    if let Some(lowest) = ensured
        .restarts
        .iter()
        .filter_map(|(_, restart)| match restart {
            Restart::After(sequence) => Some(*sequence),
            Restart::NewStream => None,
        })
        .min()
    {
        sentences.push(format!(
            "the broker had lost consumer {}: deliveries continue after sequence {lowest}, so events acknowledged since that was recorded are delivered again",
            lost.join(", ")
        ));
    }
    if !reset.is_empty() {
        sentences.push(format!(
            "the topic's stream is a new one or has lost its end: deliveries of {} begin with its first event",
            reset.join(", ")
        ));
    }
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ensured(restarts: &[(&str, Restart)]) -> Ensured {
        let created = OffsetDateTime::parse("2026-11-25T21:00:00.123456789Z", &Rfc3339).unwrap();
        Ensured {
            position: Position {
                stream_created: Some(created),
                acknowledged: BTreeMap::from([("a_0".into(), 41), ("a_1".into(), 7)]),
            },
            restarts: restarts.iter().map(|(name, restart)| ((*name).to_owned(), *restart)).collect(),
            backlog: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let position = shown(None, &ensured(&[]), Timestamp::now());
        let handler: EventHandler = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"topic": "t", "template": {}}, "status": {"position": position},
        }))
        .unwrap();
        assert_eq!(recorded(&handler), ensured(&[]).position);
    }

    #[test]
    fn a_restored_position_is_shown_and_stays_shown() {
        let now = Timestamp::now();
        let position = shown(None, &ensured(&[("a_0", Restart::After(41)), ("a_1", Restart::After(7))]), now);
        let message = position.restored.clone().unwrap().message;
        assert!(message.contains("consumer a_0, a_1") && message.contains("after sequence 7"), "{message}");
        assert_eq!(shown(Some(&position), &ensured(&[]), now).restored, position.restored);
        assert!(note(Some(&position), now + SignedDuration::from_hours(23)).contains(&message));
        assert_eq!(note(Some(&position), now + SignedDuration::from_hours(25)), "");
        let reset = restored(&ensured(&[("a_0", Restart::NewStream)])).unwrap();
        assert!(reset.contains("deliveries of a_0 begin with its first event"), "{reset}");
    }

    #[test]
    fn a_status_that_cannot_be_read_is_no_position() {
        let handler: EventHandler = serde_json::from_value(json!({
            "metadata": {"name": "a"}, "spec": {"topic": "t", "template": {}},
            "status": {"position": {"streamCreated": "yesterday", "consumers": [{"name": "a", "acknowledged": -1}]}},
        }))
        .unwrap();
        assert_eq!(recorded(&handler), Position::default());
    }
}
