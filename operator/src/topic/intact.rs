//! Whether every copy of a topic's streams has all that it should have, as the audit of its broker found (pure).

use kube::ResourceExt as _;
use tidegate_crds::EventTopic;
use tidegate_crds::broker::{AuditStatus, LostEvents};
use tidegate_crds::conditions::{Finding, Status, kind};

use crate::broker::audit::damaged;
use crate::topic::observe::Observed;

/// The condition.
pub(super) fn finding(topic: &EventTopic, observed: &Observed) -> Finding {
    let audit = observed.broker.status.as_ref().and_then(|status| status.audit.as_ref());
    let name = format!("{}/{}", observed.topic_namespace, topic.name_any());
    of_topic(&name, audit)
}

fn of_topic(name: &str, audit: Option<&AuditStatus>) -> Finding {
    let find = |status, reason, message: String| Finding::new(kind::INTACT, status, reason, message);
    let Some(audit) = audit else {
        let message = "what the servers store is audited when all pods of the broker are ready";
        return find(Status::Unknown, "NotAudited", message.into());
    };
    let copies: Vec<String> = audit.damaged.iter().filter(|copy| copy.topic == name).map(damaged).collect();
    if let Some(first) = copies.first() {
        let more = if copies.len() > 1 { format!(" ({} copies in all)", copies.len()) } else { String::new() };
        return find(Status::False, "CopyDamaged", format!("{first}{more}. Nothing is lost, and events flow"));
    }
    if let Some(lost) = audit.lost.iter().find(|lost| lost.topic == name) {
        let LostEvents { missing, first, last, .. } = lost;
        let message = if lost.is_tail {
            format!(
                "events {first} to {last} were acknowledged and are on no server any more: the stream had lost its end. See condition DataLost"
            )
        } else {
            format!(
                "{missing} events between number {first} and {last} are on no server any more: see condition DataLost"
            )
        };
        return find(Status::False, "EventsLost", message);
    }
    find(Status::True, "Audited", "every copy of the topic's streams has all that it should have".into())
}

#[cfg(test)]
mod tests {
    use tidegate_crds::broker::DamagedCopy;

    use super::*;

    #[test]
    fn a_topic_hears_of_its_own_copies() {
        let copy = DamagedCopy {
            topic: "shop/orders".into(),
            stream: "events".into(),
            server: "default-broker-1".into(),
            whole: "default-broker-0".into(),
            missing: 3,
            first: 1,
            last: 100,
        };
        let lost = LostEvents { topic: "shop/bills".into(), missing: 7, first: 1, last: 50, is_tail: false };
        let tail = LostEvents { topic: "shop/tail".into(), missing: 10, first: 91, last: 100, is_tail: true };
        let audit = AuditStatus { damaged: vec![copy], lost: vec![lost, tail], ..AuditStatus::default() };
        assert_eq!(of_topic("shop/orders", None).reason, "NotAudited");
        let found = of_topic("shop/orders", Some(&audit));
        assert_eq!((found.status, found.reason.as_str()), (Status::False, "CopyDamaged"));
        let says = "default-broker-1 lacks 3 of the messages 1 to 100 of stream events of topic shop/orders, and default-broker-0 has them";
        assert!(found.message.starts_with(says), "{}", found.message);
        let found = of_topic("shop/bills", Some(&audit));
        assert!(found.reason == "EventsLost" && found.message.starts_with("7 events between number 1 and 50"));
        let found = of_topic("shop/tail", Some(&audit));
        assert!(found.reason == "EventsLost" && found.message.starts_with("events 91 to 100 were acknowledged"));
        assert!(of_topic("shop/others", Some(&audit)).is_true());
    }
}
