//! Raft groups of a broker: how many there are, how many there may be, and whether one more topic or handler fits.
//!
//! On several servers each stream and each consumer is a group, which takes memory and processor time also when nothing
//! happens. The number is the operator's to keep; the servers' own limit behind it counts what was asked for at the same
//! time.

use tidegate_broker_admin::server::MAX_GROUPS;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_crds::EventBroker;
use tidegate_crds::broker::{GroupsStatus, StorageStatus};
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::context::Context;
use crate::kubernetes::watches::get;
use crate::reconcile::error::Error;
use crate::sessions::brokers::BrokerKey;
use crate::topic::settings::Settings;

/// The reason of a topic or handler that does not fit.
const BROKER_FULL: &str = "BrokerFull";
/// From so many percent on, the broker says that it is filling.
const WARN_PERCENT: u64 = 70;
/// Groups of what waits for its time: a stream, and its consumer.
const OF_LATER: usize = 2;
/// Groups of a handler but for its consumers: dead letters, retries, attempts.
const OF_HANDLER: usize = 3;

/// Groups that a topic needs: that of its events, and those of what waits for its time. A Direct one has no streams.
pub(crate) fn of_topic(settings: &Settings) -> usize {
    match settings.routing {
        Routing::Queued => 1 + settings.streams.later.map_or(0, |_| OF_LATER),
        Routing::Direct => 0,
    }
}

/// Groups that a handler needs.
pub(crate) fn of_handler(order: Order) -> usize {
    match order {
        // One consumer of the topic, and one of what waits for a retry.
        Order::None => OF_HANDLER + 2,
        Order::Key { lanes } => OF_HANDLER + usize::from(lanes),
    }
}

/// What the status says. `used`: as the servers say; `None`: they were not asked this time.
pub(super) fn status(before: Option<GroupsStatus>, used: Option<usize>, replicas: i32) -> Option<GroupsStatus> {
    let used = used.and_then(|used| i64::try_from(used).ok()).or(before.map(|before| before.used))?;
    // On one server nothing is a group but the cluster itself.
    let bound = (replicas > 1).then(|| i64::try_from(MAX_GROUPS).unwrap_or(i64::MAX));
    let usage = bound.map_or_else(|| used.to_string(), |bound| format!("{used} of {bound}"));
    Some(GroupsStatus { used, bound, usage })
}

/// Whether a topic or handler that is new may be put on a broker and so have so many groups.
///
/// # Errors
/// They do not fit.
pub(crate) fn check(context: &Context, key: &BrokerKey, what: &str, needed: usize) -> Result<(), Error> {
    let broker = get(&context.stores.brokers, &key.namespace, &key.name);
    broker.map_or(Ok(()), |broker| fits(&broker, what, needed))
}

fn fits(broker: &EventBroker, what: &str, needed: usize) -> Result<(), Error> {
    let groups = broker.status.as_ref().and_then(|status| status.groups.as_ref());
    let Some((used, bound)) = groups.and_then(|groups| Some((groups.used, groups.bound?))) else { return Ok(()) };
    let needed = i64::try_from(needed).unwrap_or(i64::MAX);
    if used.saturating_add(needed) <= bound {
        return Ok(());
    }
    Err(Error::refused(
        BROKER_FULL,
        format!(
            "EventBroker {} has {used} of {bound} raft groups, and this {what} needs {needed}: each stream and each consumer is one. Delete handlers or topics that are not needed, give handlers with order: Key fewer lanes, or put the topic on another broker",
            broker.metadata.name.as_deref().unwrap_or_default(),
        ),
    ))
}

/// The condition: how full the broker is of what it can promise, and of groups.
pub(super) fn has_room(storage: &StorageStatus, groups: Option<&GroupsStatus>) -> Finding {
    let find = |status, reason, message: String| Finding::new(kind::HAS_ROOM, status, reason, message);
    let share = |used: i64, of: i64| u64::try_from(i128::from(used) * 100 / i128::from(of.max(1))).unwrap_or(0);
    let of_groups = groups.and_then(|groups| Some((groups, share(groups.used, groups.bound?))));
    if let Some((groups, percent)) = of_groups.filter(|(_, percent)| *percent >= WARN_PERCENT) {
        let help = "delete handlers or topics that are not needed, give handlers with order: Key fewer lanes, or put further topics on another broker";
        let message = format!("{} raft groups are in use ({percent}%): {help}", groups.usage);
        return if percent >= 100 {
            find(Status::False, "GroupsUsedUp", message)
        } else {
            find(Status::True, "GroupsFilling", message)
        };
    }
    let percent = share(storage.promised_bytes, storage.usable_bytes);
    if percent >= WARN_PERCENT {
        let message = format!(
            "{percent}% of {} bytes are promised to topics. What does not fit is not admitted: lower retention.maxSize of topics that have too much, or put further topics on another broker",
            storage.usable_bytes
        );
        return find(Status::True, "StoreFilling", message);
    }
    find(Status::True, "Room", "there is room for further topics and handlers".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn broker(groups: Option<GroupsStatus>) -> EventBroker {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": "default"},
            "spec": {"replicas": 3}, "status": {"groups": groups},
        }))
        .unwrap()
    }

    #[test]
    fn what_exceeds_the_bound_is_told_so() {
        let used = |used, replicas| status(None, Some(used), replicas);
        assert!(fits(&broker(used(1995, 3)), "handler", 5).is_ok());
        let error = fits(&broker(used(1996, 3)), "handler", 5).unwrap_err();
        assert_eq!(error.reason(), "BrokerFull");
        assert!(error.to_string().contains("has 1996 of 2000 raft groups, and this handler needs 5"), "{error}");
        assert!(fits(&broker(used(90_000, 1)), "topic", 3).is_ok(), "one server has no bound");
        assert!(fits(&broker(None), "topic", 3).is_ok(), "not known yet");
        assert_eq!((of_handler(Order::None), of_handler(Order::Key { lanes: 8 })), (5, 11));
        for (spec, groups) in [
            (json!({}), 1),
            (json!({"delayedEvents": {}}), 3),
            (json!({"schedules": [{"name": "a", "every": "1m", "event": {"type": "t", "source": "/s"}}]}), 3),
            (json!({"routing": "Direct"}), 0),
        ] {
            let settings = Settings::of(&serde_json::from_value(spec.clone()).unwrap(), 3).unwrap();
            assert_eq!(of_topic(&settings), groups, "{spec}");
        }
    }

    #[test]
    fn the_number_stays_while_the_servers_are_not_asked() {
        let known = status(None, Some(48), 3).unwrap();
        assert_eq!((known.used, known.bound, known.usage.as_str()), (48, Some(2000), "48 of 2000"));
        assert_eq!(status(Some(known.clone()), None, 3), Some(known));
        assert_eq!(status(None, None, 3), None);
        assert_eq!(status(None, Some(7), 1).unwrap().usage, "7");
    }

    #[test]
    fn the_broker_warns_before_it_is_full() {
        let storage = |promised_bytes| StorageStatus { promised_bytes, usable_bytes: 100, ..StorageStatus::default() };
        for (promised, used, expected) in [
            (69, 1399, (Status::True, "Room")),
            (70, 1399, (Status::True, "StoreFilling")),
            (69, 1400, (Status::True, "GroupsFilling")),
            (99, 1999, (Status::True, "GroupsFilling")),
            (0, 2000, (Status::False, "GroupsUsedUp")),
        ] {
            let found = has_room(&storage(promised), status(None, Some(used), 3).as_ref());
            assert_eq!((found.status, found.reason.as_str()), expected, "{promised} {used}");
        }
        assert_eq!(has_room(&storage(0), status(None, Some(9999), 1).as_ref()).reason, "Room");
    }
}
