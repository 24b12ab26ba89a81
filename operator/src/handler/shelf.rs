//! What a handler keeps of events that failed: how many wait for a retry, which keys they hold up, and whether there is
//! room for more (pure).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use tidegate_broker_admin::api::StreamInfo;
use tidegate_broker_admin::handler_streams::HandlerStreams;
use tidegate_broker_admin::held_keys::Keys;
use tidegate_crds::EventHandler;
use tidegate_crds::conditions::{Finding, Status, kind};
use tidegate_crds::handler::{HeldKey, Order, Retries};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The conditions about what is kept.
const KINDS: [&str; 3] = [kind::RETRIES_FULL, kind::DEAD_LETTERS_FULL, kind::KEYS_HELD];
/// What was full has room again below this share of it, so that the condition does not follow each event.
const ROOM_AGAIN_PERCENT: i64 = 90;

/// How much room a stream has that refuses what it has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// For more.
    Some,
    /// For none of its average size.
    None,
    /// It never had any for the largest event.
    TooLittle,
}

impl Room {
    fn of(stream: &StreamInfo, was_full: bool) -> Self {
        let most = stream.config.max_bytes;
        if stream.config.max_message_size > 0 && most < i64::from(stream.config.max_message_size) {
            return Self::TooLittle;
        }
        let used = signed(stream.state.bytes);
        let average = signed(stream.state.bytes.checked_div(stream.state.messages).unwrap_or(0));
        let is_full =
            if was_full { used > most / 100 * ROOM_AGAIN_PERCENT } else { used.saturating_add(average) > most };
        if is_full { Self::None } else { Self::Some }
    }
}

/// The events of a handler that wait for a retry, as its status shows them. What is not known of its keys stays as it
/// was.
pub fn shown(handler: &EventHandler, retries: &StreamInfo, keys: Option<&Keys>) -> Retries {
    let before = || handler.status.as_ref().and_then(|status| status.retries.clone()).unwrap_or_default();
    let of_keys = match handler.spec.delivery.order {
        Order::None => Retries::default(),
        Order::Key => keys.map_or_else(before, shown_keys),
    };
    let held = of_keys.held_keys.and_then(|held| u64::try_from(held).ok()).unwrap_or(0);
    let waiting = waiting(retries, held);
    Retries {
        waiting: signed(waiting),
        oldest: retries.state.first_time.filter(|_| waiting > 0).and_then(time),
        ..of_keys
    }
}

/// Events that wait for a retry, where so many keys are held: the stream has a mark of each, which is no event.
pub fn waiting(retries: &StreamInfo, held: u64) -> u64 {
    retries.state.messages.saturating_sub(held)
}

fn shown_keys(keys: &Keys) -> Retries {
    let held = keys.named.iter().filter_map(|held| {
        let mark = &held.mark;
        Some(HeldKey {
            key: mark.key.clone(),
            sequence: mark.sequence.map(signed),
            since: time(held.since)?,
            reason: mark.reason.as_deref().map(str::to_owned),
        })
    });
    Retries {
        parked_keys: Some(signed(keys.parked)),
        held_keys: Some(signed(keys.held)),
        held: held.collect(),
        ..Retries::default()
    }
}

/// In whole seconds, as the API has them.
fn time(time: OffsetDateTime) -> Option<String> {
    time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether events wait, and whether keys are held: that either is no longer so is more than a number that changed.
pub fn are_there(retries: &Retries) -> (bool, bool) {
    (retries.waiting > 0, retries.held_keys.is_some_and(|held| held > 0))
}

/// Says that keys are held, or none; `None`: the handler has no keys, or they are not known yet. `Ready` does not depend
/// on it.
pub fn keys_held(retries: &Retries) -> Option<Finding> {
    let found = |status, reason, message| Finding::new(kind::KEYS_HELD, status, reason, message);
    Some(if retries.held_keys? == 0 {
        found(Status::False, "NoneHeld", "no key waits for its release")
    } else {
        found(
            Status::True,
            "Held",
            "keys wait for a person, because an event of each failed for good (delivery.retry.onExhausted: Park): \
             status.retries names some of them, and the events. Repair the handler, then release them (spec.release)",
        )
    })
}

/// The conditions about room, from what the broker has now. `Ready` depends on neither.
pub fn findings(streams: &HandlerStreams, before: &[Condition]) -> [Finding; 2] {
    [retries_full(&streams.retries, before), dead_letters_full(&streams.dead_letters, before)]
}

/// The conditions as they were, while the broker does not say.
pub fn as_they_were(before: &[Condition]) -> impl Iterator<Item = Finding> {
    KINDS.into_iter().filter_map(|kind| Finding::kept(kind, before))
}

fn was_full(kind: &'static str, before: &[Condition]) -> bool {
    Finding::kept(kind, before).is_some_and(|finding| finding.is_true())
}

fn retries_full(stream: &StreamInfo, before: &[Condition]) -> Finding {
    let found = |status, reason, message| Finding::new(kind::RETRIES_FULL, status, reason, message);
    match Room::of(stream, was_full(kind::RETRIES_FULL, before)) {
        Room::Some => found(Status::False, "Room", "there is room for more events that wait for a retry"),
        Room::None => found(
            Status::True,
            "Full",
            "the retry shelf has no room: further events that fail wait for their retry among the others and hold them \
             up. Delivering and status.lastFailure say why events fail; let the handler succeed or give up sooner \
             (delivery.retry), or give the topic a larger retention.maxSize",
        ),
        Room::TooLittle => found(
            Status::True,
            "NoShare",
            "the topic has too little room to let events wait for a retry, so those that fail wait among the \
             others and hold them up: delete a handler, make maxEventSize of the topic smaller, or give it a larger \
             retention.maxSize",
        ),
    }
}

fn dead_letters_full(stream: &StreamInfo, before: &[Condition]) -> Finding {
    let found = |status, reason, message| Finding::new(kind::DEAD_LETTERS_FULL, status, reason, message);
    match Room::of(stream, was_full(kind::DEAD_LETTERS_FULL, before)) {
        Room::Some => found(Status::False, "Room", "there is room for more dead letters"),
        Room::None | Room::TooLittle => found(
            Status::True,
            "Full",
            "the dead letters have no room: an event that should become one waits until there is some and is \
             not delivered meanwhile. Redrive them (spec.redrive), let further ones go to a topic (deadLetter.topic), or \
             give the topic a larger retention.maxSize",
        ),
    }
}

/// Whether what a handler shows is no longer so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is.
    None,
    /// Numbers moved, which may be late.
    Numbers,
    /// There is room or none, there are events or held keys or none, or something is not there: that may not be late.
    Urgent,
}

/// Compares what a handler shows with its streams.
pub fn news(
    handler: &EventHandler,
    retries: Option<&StreamInfo>,
    keys: Option<&Keys>,
    dead_letters: Option<&StreamInfo>,
) -> News {
    let Some(status) = &handler.status else { return News::None };
    // What was never made is not missing.
    let Some(before) = &status.retries else { return News::None };
    if handler.metadata.deletion_timestamp.is_some() {
        return News::None;
    }
    let (Some(retries), Some(dead_letters)) = (retries, dead_letters) else { return News::Urgent };
    let is_unread = handler.spec.delivery.order == Order::None && retries.state.consumers == 0;
    let conditions = &status.conditions;
    let differs = |found: Finding| {
        Finding::kept(found.kind, conditions)
            .is_none_or(|was| (was.status, &was.reason) != (found.status, &found.reason))
    };
    let now = shown(handler, retries, keys);
    if is_unread
        || are_there(before) != are_there(&now)
        || differs(retries_full(retries, conditions))
        || differs(dead_letters_full(dead_letters, conditions))
    {
        return News::Urgent;
    }
    if *before == now { News::None } else { News::Numbers }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_broker_client::held_key::Mark;
    use tidegate_crds::conditions::merge;

    use super::*;

    fn stream(name: &str, messages: u64, bytes: u64, max_bytes: i64) -> StreamInfo {
        let (made, first) = ("2026-01-01T00:00:00Z", "2026-01-02T03:04:05.678Z");
        let first = if messages > 0 { first } else { "0001-01-01T00:00:00Z" };
        let max_size = if name.starts_with("retries") { 100 } else { -1 };
        serde_json::from_value(json!({
            "config": {"name": name, "discard": "new", "max_bytes": max_bytes, "retention": "workqueue",
                       "storage": "file", "max_consumers": -1, "max_msgs": -1, "max_msgs_per_subject": -1,
                       "max_age": 0, "num_replicas": 1, "max_msg_size": max_size},
            "created": made,
            "state": {"messages": messages, "bytes": bytes, "first_seq": 1, "last_seq": 90, "consumer_count": 1,
                      "first_ts": first, "last_ts": made},
        }))
        .unwrap()
    }

    fn retries(messages: u64, bytes: u64) -> StreamInfo {
        stream("retries_a", messages, bytes, 1000)
    }

    fn streams(retried: StreamInfo, letters: StreamInfo) -> HandlerStreams {
        HandlerStreams { retries: retried, dead_letters: letters }
    }

    fn letters(messages: u64, bytes: u64) -> StreamInfo {
        stream("dead-letters_a", messages, bytes, 1000)
    }

    #[test]
    fn what_waits_is_shown_with_its_oldest() {
        let oldest = Some("2026-01-02T03:04:05Z".to_owned());
        let unordered = handler("None", Value::Null, &streams(retries(0, 0), letters(0, 0)));
        let some = Retries { waiting: 7, oldest, ..Retries::default() };
        assert_eq!(shown(&unordered, &retries(7, 70), None), some);
        assert_eq!(shown(&unordered, &retries(0, 0), None), Retries::default());
    }

    fn keys(parked: u64, held: u64) -> Keys {
        let since = OffsetDateTime::from_unix_timestamp_nanos(1_767_323_045_678_000_000).unwrap();
        let named = (0..held).map(|number| tidegate_broker_admin::held_keys::HeldKey {
            mark: Mark {
                key: Some(format!("k{number}")),
                sequence: Some(40 + number),
                reason: Some("refused-by-handler".into()),
            },
            since,
        });
        Keys { parked, held, named: named.collect() }
    }

    /// A mark is no event, and what the broker has not said yet is not taken to be nothing.
    #[test]
    fn held_keys_are_counted_and_named() {
        let ordered = |shown: &Value| handler("Key", shown.clone(), &streams(retries(0, 0), letters(0, 0)));
        let found = shown(&ordered(&json!({"waiting": 0})), &retries(7, 70), Some(&keys(3, 2)));
        assert_eq!((found.waiting, found.parked_keys, found.held_keys), (5, Some(3), Some(2)));
        let since = "2026-01-02T03:04:05Z".to_owned();
        let (key, reason) = (Some("k1".to_owned()), Some("refused-by-handler".to_owned()));
        assert_eq!(found.held[1], HeldKey { key, sequence: Some(41), since, reason });
        let before = serde_json::to_value(&found).unwrap();
        assert_eq!(shown(&ordered(&before), &retries(7, 70), None), found, "it was so before");
        let released = shown(&ordered(&before), &retries(5, 50), Some(&keys(3, 0)));
        assert_eq!((released.waiting, released.held_keys, released.held), (5, Some(0), Vec::new()));
        assert_eq!(shown(&ordered(&before), &retries(1, 10), None).waiting, 0, "fewer messages than there were marks");
        let reason = |retries: &Retries| keys_held(retries).map(|found| (found.status, found.reason));
        assert_eq!(reason(&found), Some((Status::True, "Held".to_owned())));
        assert_eq!(reason(&Retries { held_keys: Some(0), ..found }), Some((Status::False, "NoneHeld".to_owned())));
        assert_eq!(reason(&Retries::default()), None, "there are no keys, or they are not known");
    }

    /// A share that is too small says so; one that is full stays so until there is some room.
    #[test]
    fn a_condition_says_that_there_is_no_room_and_what_helps() {
        for (bytes, max_bytes, was_full, status, reason, word) in [
            (0, 1000, false, Status::False, "Room", "room"),
            (900, 1000, false, Status::False, "Room", "room"),
            (901, 1000, false, Status::True, "Full", "delivery.retry"),
            (901, 1000, true, Status::True, "Full", "retention.maxSize"),
            (900, 1000, true, Status::False, "Room", "room"),
            (2000, 1000, false, Status::True, "Full", "delivery.retry"),
            (0, 99, false, Status::True, "NoShare", "maxEventSize"),
            (0, 2, true, Status::True, "NoShare", "maxEventSize"),
        ] {
            let full = Finding::new(kind::RETRIES_FULL, Status::True, "Full", "");
            let before = merge(was_full.then_some(full).into_iter().collect(), &[], None, jiff::Timestamp::UNIX_EPOCH);
            let messages = if bytes == 0 { 0 } else { bytes / 100 };
            let found = retries_full(&stream("retries_a", messages, bytes, max_bytes), &before);
            assert_eq!((found.status, found.reason.as_str()), (status, reason), "{bytes} of {max_bytes} {was_full}");
            assert!(found.message.contains(word) && !found.is_stalled, "{}", found.message);
        }
        let [_, full] = findings(&streams(retries(0, 0), letters(9, 990)), &[]);
        assert_eq!((full.kind, full.status, full.reason.as_str()), (kind::DEAD_LETTERS_FULL, Status::True, "Full"));
        assert!(full.message.contains("spec.redrive"), "{}", full.message);
        let [_, room] = findings(&streams(retries(0, 0), letters(0, 0)), &[]);
        assert_eq!(room.status, Status::False);
    }

    fn handler(order: &str, shown: Value, streams: &HandlerStreams) -> EventHandler {
        let conditions = merge(findings(streams, &[]).to_vec(), &[], None, jiff::Timestamp::UNIX_EPOCH);
        serde_json::from_value(json!({
            "metadata": {"name": "a"},
            "spec": {"topic": "orders", "template": {}, "delivery": {"order": order}},
            "status": {"retries": shown, "conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn what_may_not_be_late_is_told_from_numbers() {
        let quiet = streams(retries(0, 0), letters(0, 0));
        let none = json!({"waiting": 0});
        let some = json!({"waiting": 7, "oldest": "2026-01-02T03:04:05Z"});
        let unread = |mut info: StreamInfo| {
            info.state.consumers = 0;
            Some(info)
        };
        let dead = || Some(letters(0, 0));
        for (what, order, shown, retried, letters, expected) in [
            ("nothing is new", "None", none.clone(), Some(retries(0, 0)), dead(), News::None),
            ("the same events", "None", some.clone(), Some(retries(7, 70)), dead(), News::None),
            ("first events", "None", none.clone(), Some(retries(7, 70)), dead(), News::Urgent),
            ("more events", "None", some.clone(), Some(retries(8, 80)), dead(), News::Numbers),
            ("no events any more", "None", some.clone(), Some(retries(0, 0)), dead(), News::Urgent),
            ("a full shelf", "None", some.clone(), Some(retries(7, 980)), dead(), News::Urgent),
            ("full dead letters", "None", none.clone(), Some(retries(0, 0)), Some(letters(9, 980)), News::Urgent),
            ("a lost consumer", "None", none.clone(), unread(retries(0, 0)), dead(), News::Urgent),
            ("a shelf without one", "Key", none.clone(), unread(retries(0, 0)), dead(), News::None),
            ("a lost stream", "Key", none.clone(), None, dead(), News::Urgent),
            ("never made", "None", Value::Null, None, None, News::None),
        ] {
            let found = news(&handler(order, shown, &quiet), retried.as_ref(), None, letters.as_ref());
            assert_eq!(found, expected, "{what}");
        }
        let held = json!({"waiting": 6, "oldest": "2026-01-02T03:04:05Z", "parkedKeys": 3, "heldKeys": 1});
        let one =
            json!([{"key": "k0", "sequence": 40, "since": "2026-01-02T03:04:05Z", "reason": "refused-by-handler"}]);
        let held = Value::Object(held.as_object().unwrap().clone().into_iter().chain([("held".into(), one)]).collect());
        for (what, shown, messages, keys, expected) in [
            ("the first held key", some.clone(), 8, keys(3, 1), News::Urgent),
            ("the same keys", held.clone(), 7, keys(3, 1), News::None),
            ("another held key", held.clone(), 8, keys(3, 2), News::Numbers),
            ("more parked keys", held.clone(), 7, keys(4, 1), News::Numbers),
            ("no held key any more", held.clone(), 6, keys(3, 0), News::Urgent),
            ("keys that were not counted before", some.clone(), 7, keys(3, 0), News::Numbers),
        ] {
            let handler = handler("Key", shown, &quiet);
            let found = news(&handler, Some(&retries(messages, 70)), Some(&keys), Some(&letters(0, 0)));
            assert_eq!(found, expected, "{what}");
        }
    }
}
