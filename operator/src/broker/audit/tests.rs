use serde_json::json;
use tidegate_broker_admin::membership;
use tidegate_crds::conditions::Status;

use super::*;

fn at(second: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_second(second).unwrap()
}

fn servers(ids: &str) -> Vec<AuditedServer> {
    let server = |(ordinal, id): (usize, char)| AuditedServer { name: format!("b-{ordinal}"), id: id.to_string() };
    ids.chars().enumerate().map(server).collect()
}

fn copy(server: &str) -> DamagedCopy {
    DamagedCopy {
        topic: "shop/orders".into(),
        stream: "events".into(),
        server: server.into(),
        missing: 3,
        ..Default::default()
    }
}

fn broker(audit: Option<AuditStatus>) -> EventBroker {
    let mut broker: EventBroker = serde_json::from_value(json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {}, "spec": {}, "status": {},
    }))
    .unwrap();
    broker.status.as_mut().unwrap().audit = audit;
    broker
}

fn events() -> LostEvents {
    LostEvents { topic: "shop/orders".into(), missing: 7, first: 1, last: 50, is_tail: false }
}

#[test]
fn an_audit_is_due_after_each_start_every_hour_and_while_something_is_wrong() {
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    for (before, ids, now, expected) in [
        (None, "abc", 1_000_000, true),
        (Some(passed.clone()), "abc", 1_000_000, false),
        (Some(passed.clone()), "abc", 1_003_599, false),
        (Some(passed.clone()), "abc", 1_003_600, true),
        (Some(passed.clone()), "abc", 900_000, true),
        (Some(passed.clone()), "abd", 1_000_001, true),
        (Some(AuditStatus { damaged: vec![copy("b-1")], ..passed.clone() }), "abc", 1_000_001, true),
        (Some(AuditStatus { lost: vec![events()], ..passed.clone() }), "abc", 1_000_001, true),
        (Some(AuditStatus { last_run: Some("soon".into()), ..passed }), "abc", 1_000_001, true),
    ] {
        assert_eq!(is_due(before.as_ref(), &servers(ids), &[], at(now), PERIOD), expected, "{before:?} {ids} {now}");
    }
    // A topic tells of a loss.
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    assert!(is_due(Some(&passed), &servers("abc"), &[events()], at(1_000_001), PERIOD));
}

#[test]
fn copies_are_taken_away_only_of_servers_that_were_audited_since_they_started() {
    let site = Site { names: vec!["b-0".into(), "b-1".into(), "b-2".into()], ..Site::default() };
    let server = |id: &str, stores: bool| membership::Server {
        id: id.into(),
        digest: String::new(),
        cluster: stores.then(membership::Cluster::default),
        holds: 0,
    };
    let seen = |all: &[(&str, bool)]| Observed {
        servers: all.iter().map(|(id, stores)| server(id, *stores)).enumerate().collect(),
        ..Observed::default()
    };
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    let all = [("a", true), ("b", true), ("c", true)];
    assert!(covers(&broker(Some(passed.clone())), &site, &seen(&all)));
    assert!(!covers(&broker(None), &site, &seen(&all)), "there was no audit");
    let restarted = [("x", true), ("b", true), ("c", true)];
    assert!(!covers(&broker(Some(passed.clone())), &site, &seen(&restarted)), "it may have come back with a hole");
    let removed = [("a", true), ("b", true), ("y", false)];
    assert!(covers(&broker(Some(passed.clone())), &site, &seen(&removed)), "it stores nothing any more");
    let damaged = AuditStatus { damaged: vec![copy("b-1")], ..passed };
    assert!(!covers(&broker(Some(damaged)), &site, &seen(&all)));
}

#[test]
fn what_is_remembered_lets_another_operator_continue() {
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    assert_eq!(passed.last_passed.as_deref(), Some("1970-01-12T13:46:40Z"));
    // Found after a start of server 1: it is still to be audited.
    let found = record(Some(passed.clone()), (vec![copy("b-1")], vec![]), servers("abd"), true, at(1_000_010));
    assert_eq!((found.damaged.len(), found.damaged_copies), (1, 1));
    assert_eq!((&found.last_passed, &found.servers), (&passed.last_passed, &passed.servers));
    // Only one copy is left meanwhile: none of those that there are is damaged.
    let healing = record(Some(found.clone()), (vec![], vec![]), servers("abd"), true, at(1_000_020));
    assert_eq!(healing, found);
    let healed = record(Some(healing), (vec![], vec![]), servers("abd"), false, at(1_000_030));
    assert_eq!((healed.damaged.len(), healed.damaged_copies), (0, 0));
    assert_eq!((healed.last_passed.as_deref(), healed.servers), (Some("1970-01-12T13:47:10Z"), servers("abd")));
    // What is lost is no reason to look all the time, and the audit has not passed.
    let lost = record(Some(passed.clone()), (vec![], vec![events()]), servers("abd"), false, at(1_000_040));
    assert_eq!((&lost.last_passed, lost.last_run.as_deref()), (&passed.last_passed, Some("1970-01-12T13:47:20Z")));
    let many = (0..40).map(|number| copy(&number.to_string())).collect();
    let many = record(None, (many, vec![]), servers("abc"), true, at(1));
    assert_eq!((many.damaged.len(), many.damaged_copies), (LISTED, 40));
}

#[test]
fn the_condition_says_what_is_wrong_and_what_is_done() {
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    let audit = |status: AuditStatus, step: &str| Audit { status: Some(status), step: step.into(), ..Audit::default() };
    let damaged = AuditStatus { damaged: vec![copy("b-1")], damaged_copies: 1, ..passed.clone() };
    let tail = LostEvents { first: 91, last: 100, is_tail: true, ..events() };
    for (audit, status, reason, word) in [
        (Audit::default(), Status::Unknown, "NotAudited", "when all pods are ready"),
        (audit(passed.clone(), ""), Status::True, "Audited", "every copy"),
        (audit(passed.clone(), "waiting"), Status::Unknown, "Auditing", "waiting"),
        (audit(damaged.clone(), "making 3 copies of it"), Status::False, "CopyDamaged", "making 3 copies of it"),
        (audit(damaged.clone(), ""), Status::False, "CopyDamaged", "looked at again"),
        (
            audit(AuditStatus { lost: vec![events()], ..passed.clone() }, ""),
            Status::False,
            "EventsLost",
            "lacks 7 events",
        ),
        (
            audit(AuditStatus { lost: vec![tail], ..passed.clone() }, ""),
            Status::False,
            "EventsLost",
            "events 91 to 100",
        ),
    ] {
        let found = audit.intact();
        assert_eq!((found.status, found.reason.as_str()), (status, reason));
        assert!(found.message.contains(word), "{}", found.message);
    }
    let healing = audit(damaged, "making 3 copies of it");
    assert!(healing.holds_changes(3).unwrap().ends_with("making 3 copies of it"));
    assert_eq!(healing.holds_changes(1), None, "there is no other copy");
    assert_eq!(audit(passed, "").holds_changes(3), None);
}

/// An audit that fails is none that has ended.
#[test]
fn servers_that_cannot_be_asked_keep_what_was_found_and_hold_restarts_while_copies_are_made() {
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    let damaged = AuditStatus { damaged: vec![copy("b-1")], damaged_copies: 1, ..passed.clone() };
    let missed = |before: &AuditStatus, second| Audit::missed(Some(before.clone()), None, "timed out", at(second));
    for (before, second, holds, status, reason, says) in [
        (&passed, 1_003_700, false, Status::True, "Audited", "has all"),
        (&passed, 1_010_800, false, Status::Unknown, "AuditFailed", "could not be since: timed out"),
        (&damaged, 1_003_700, true, Status::False, "CopyDamaged", "asking the servers again"),
        (&damaged, 1_010_800, true, Status::False, "CopyDamaged", "timed out"),
    ] {
        let audit = missed(before, second);
        let found = audit.intact();
        assert_eq!((audit.is_open(), audit.holds_changes(3).is_some()), (holds, holds), "{before:?} {second}");
        assert_eq!((found.status, found.reason.as_str()), (status, reason), "{before:?} {second}");
        assert!(found.message.contains(says), "{}", found.message);
        assert_eq!(audit.status.as_ref(), Some(before));
    }
    assert_eq!(Audit::missed(None, None, "timed out", at(1)).intact().reason, "NotAudited");
}

/// A change holds up no change: it would be itself that is waited for.
#[test]
fn a_change_that_lasts_does_not_leave_unsaid_that_nothing_is_audited() {
    let passed = record(None, (vec![], vec![]), servers("abc"), false, at(1_000_000));
    let damaged = AuditStatus { damaged: vec![copy("b-1")], damaged_copies: 1, ..passed.clone() };
    for (before, second, status, reason, says) in [
        (Some(&passed), 1_010_799, Status::True, "Audited", "has all"),
        (Some(&passed), 1_010_800, Status::Unknown, "AuditFailed", "servers come and go"),
        (Some(&damaged), 1_010_800, Status::False, "CopyDamaged", "looked at again"),
        (None, 1_010_800, Status::Unknown, "NotAudited", "when all pods are ready"),
    ] {
        let audit = Audit::during_change(&broker(before.cloned()), at(second));
        let found = audit.intact();
        assert_eq!((audit.holds_changes(3), audit.is_open()), (None, false), "{before:?} {second}");
        assert_eq!((found.status, found.reason.as_str()), (status, reason), "{before:?} {second}");
        assert!(found.message.contains(says), "{}", found.message);
    }
}
