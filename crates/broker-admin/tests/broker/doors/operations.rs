//! What is tried of the authorization matrix, and by whom it should be allowed.

use std::collections::BTreeMap;

use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout::ingress::{self, TopicSubjects};
use tidegate_broker_client::{later, layout};
use tidegate_test_broker::topic_id;

use self::Wanted::Allowed;

/// What should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Allowed,
    Refused,
    /// Allowed, and known to be: docs/decisions say why, and when that will be looked at again.
    Open,
}

/// Publishing and subscribing, as each of them may.
pub fn operations() -> Vec<(&'static str, String, BTreeMap<&'static str, Wanted>)> {
    let only = |who: &[(&'static str, Wanted)]| who.iter().copied().collect::<BTreeMap<_, _>>();
    let billing = |wanted| only(&[("handler billing", wanted)]);
    let mut all = Vec::new();
    for subject in [
        layout::waiting_subject("billing"),
        layout::retry_pull_subject("billing"),
        "$JS.ACK.retries_billing.billing.1.1.1.1.1".into(),
    ] {
        all.push(("publish", subject, billing(Allowed)));
    }
    for subject in [
        layout::parked_subject("ordered", 1, 7),
        layout::held_subject("ordered", 1, 7),
        layout::lease_subject("ordered", 1),
        layout::lease_read_subject("ordered", 1),
        layout::local_retry_info_subject("ordered"),
        layout::local_retry_read_subject("ordered"),
        layout::local_retry_delete_subject("ordered"),
        layout::dead_letter_subject("ordered"),
    ] {
        all.push(("publish", subject, only(&[("handler ordered", Allowed)])));
    }
    // Of others', and of their own what a handler of the other order does.
    for subject in [
        layout::waiting_subject("shipping"),
        layout::waiting_subject("ordered"),
        layout::parked_subject("billing", 1, 7),
        layout::parked_subject("shipping", 1, 7),
        layout::held_subject("billing", 1, 7),
        layout::held_subject("shipping", 1, 7),
        layout::lease_subject("shipping", 1),
        layout::lease_read_subject("shipping", 1),
        layout::retry_pull_subject("shipping"),
        layout::retry_pull_subject("ordered"),
        "$JS.API.CONSUMER.MSG.NEXT.retries_shipping.billing".into(),
        "$JS.ACK.retries_shipping.shipping.1.1.1.1.1".into(),
        layout::retry_read_subject("ordered"),
        layout::retry_read_subject("shipping"),
        layout::local_retry_read_subject("billing"),
        layout::local_retry_read_subject("shipping"),
        layout::retry_info_subject("ordered"),
        layout::retry_info_subject("shipping"),
        layout::local_retry_info_subject("billing"),
        layout::local_retry_info_subject("shipping"),
        format!("$JS.API.DIRECT.GET.{}", layout::retry_stream("ordered")),
        layout::retry_delete_subject("ordered"),
        layout::retry_delete_subject("shipping"),
        layout::local_retry_delete_subject("billing"),
        layout::local_retry_delete_subject("shipping"),
        "$JS.API.STREAM.PURGE.retries_ordered".into(),
        "$JS.API.CONSUMER.CREATE.retries_ordered.mine".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    for (subject, wanted) in [
        (layout::pull_subject("billing"), Allowed),
        (layout::dead_letter_subject("billing"), Allowed),
        (layout::attempt_subject("billing", "1"), Allowed),
        (layout::attempt_read_subject("billing", "1"), Allowed),
        (layout::report_subject("billing"), Allowed),
        ("$JS.ACK.events.billing.1.1.1.1.1".into(), Allowed),
    ] {
        all.push(("publish", subject, billing(wanted)));
    }
    let publishers = only(&[("publisher", Allowed), ("publisher elsewhere", Allowed)]);
    all.push(("publish", layout::PUBLISH_SUBJECT.into(), publishers));
    all.push(("publish", ingress::publish_subject(&topic_id(), "other"), BTreeMap::new()));
    let subjects = TopicSubjects::new(&topic_id(), Routing::Queued);
    for subject in [
        subjects.event(&layout::event_subject(0, "forged")),
        subjects.report(),
        subjects.delayed("key"),
        subjects.pull().to_owned(),
        subjects.later_info(),
        subjects.later_purge(),
        "topic.test.topic.write.due.acknowledge.1.1.1.1.1".into(),
    ] {
        all.push(("publish", subject, only(&[("ingress", Allowed)])));
    }
    // Under their names in the topic's account no one reaches them, and under the import's no more than these.
    for subject in [
        layout::event_subject(0, "forged"),
        later::delayed_subject("key"),
        later::PULL_SUBJECT.into(),
        later::INFO_SUBJECT.into(),
        later::PURGE_SUBJECT.into(),
        "$JS.ACK.later.ingress.1.1.1.1.1".into(),
        "ingress.write.events.0.forged".into(),
        ingress::PULL_SUBJECT.into(),
        "topic.test.topic.write.redrive.billing.0.forged".into(),
        "topic.test.topic.write.due.delayed.key".into(),
        "topic.test.topic.write.later.schedules.nightly".into(),
        "topic.test.topic.write.dead-letters.billing".into(),
        "topic.test.topic.write.$JS.API.STREAM.PURGE.events".into(),
        "topic.test.topic.write.due.acknowledge".into(),
        "topic.test.topic.pull.x".into(),
        "topic.test.other.write.events.0.forged".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    // What only the broker and the operator do.
    for subject in [
        later::due_subject("key"),
        later::schedule_subject("nightly"),
        later::due_schedule_subject("nightly"),
        "$JS.API.STREAM.UPDATE.later".into(),
        "$JS.API.STREAM.DELETE.later".into(),
        "$JS.API.STREAM.MSG.GET.later".into(),
        "$JS.API.CONSUMER.CREATE.later.mine".into(),
        "$JS.API.CONSUMER.DELETE.later.ingress".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    for subject in [
        layout::pull_subject("shipping"),
        layout::dead_letter_subject("shipping"),
        layout::attempt_subject("shipping", "1"),
        layout::attempt_read_subject("shipping", "1"),
        layout::report_subject("shipping"),
        layout::info_subject("shipping"),
        layout::unpin_subject("shipping"),
        layout::redrive_subject("billing", 0, "forged"),
        "$JS.ACK.events.shipping.1.1.1.1.1".into(),
        "$JS.API.INFO".into(),
        "$JS.API.STREAM.CREATE.mine".into(),
        "$JS.API.STREAM.UPDATE.events".into(),
        "$JS.API.STREAM.NAMES".into(),
        "$JS.API.STREAM.INFO.events".into(),
        "$JS.API.STREAM.PURGE.events".into(),
        "$JS.API.STREAM.DELETE.events".into(),
        "$JS.API.STREAM.MSG.GET.events".into(),
        "$JS.API.STREAM.MSG.DELETE.events".into(),
        "$JS.API.DIRECT.GET.events".into(),
        format!("$JS.API.DIRECT.GET.{}", layout::dead_letter_stream("billing")),
        format!("$JS.API.DIRECT.GET.{}", layout::dead_letter_stream("shipping")),
        format!("$JS.API.DIRECT.GET.{}", layout::attempt_stream("shipping")),
        format!(
            "$JS.API.DIRECT.GET.{}.{}",
            layout::attempt_stream("billing"),
            layout::attempt_subject("shipping", "1")
        ),
        "$JS.API.CONSUMER.CREATE.events.mine".into(),
        "$JS.API.CONSUMER.DELETE.events.shipping".into(),
        "$JS.API.CONSUMER.LIST.events".into(),
        "$JS.API.CONSUMER.LEADER.STEPDOWN.events.billing".into(),
        "$SYS.REQ.ACCOUNT.PING.CONNZ".into(),
        "$SYS.REQ.CLAIMS.UPDATE".into(),
        "$SYS.REQ.SERVER.PING".into(),
    ] {
        all.push(("publish", subject, BTreeMap::new()));
    }
    // Each in its own account: what is said in the topic's there is not heard (`try_inboxes`).
    let everyone = only(&[
        ("handler billing", Allowed),
        ("handler ordered", Allowed),
        ("handler elsewhere", Allowed),
        ("publisher", Allowed),
        ("publisher elsewhere", Allowed),
        ("ingress", Allowed),
    ]);
    all.push(("subscribe", "_INBOX.>".into(), everyone));
    for subject in [ingress::PUBLISHES, ingress::TOPICS_SUBJECT] {
        all.push(("subscribe", subject.into(), only(&[("ingress", Allowed)])));
    }
    all.push(("subscribe", layout::PUBLISH_SUBJECT.into(), BTreeMap::new()));
    let handlers = only(&[("handler billing", Allowed), ("handler ordered", Allowed), ("handler elsewhere", Allowed)]);
    all.push(("subscribe", layout::MEMBER_SUBJECT.into(), handlers));
    for subject in [
        ">",
        "*",
        layout::EVENT_SUBJECTS,
        layout::REDRIVE_SUBJECTS,
        layout::DEAD_LETTER_SUBJECTS,
        layout::ATTEMPT_SUBJECTS,
        layout::RETRY_SUBJECTS,
        ingress::REPORTS,
        ingress::INGRESS_REPORTS,
        ingress::ALL_WRITES,
        later::DELAYED_SUBJECTS,
        later::SCHEDULE_SUBJECTS,
        later::DUE_SUBJECTS,
        "topic.>",
        "direct.>",
        "publish.>",
        "ingress.>",
        "$JS.>",
        "$SYS.>",
    ] {
        all.push(("subscribe", subject.into(), BTreeMap::new()));
    }
    all
}
