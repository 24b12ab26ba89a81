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

fn events() -> LostEvents {
    LostEvents { topic: "shop/orders".into(), missing: 7, first: 1, last: 50 }
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
        assert_eq!(is_due(before.as_ref(), &servers(ids), at(now)), expected, "{before:?} {ids} {now}");
    }
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
    let audit = |status: AuditStatus, step: &str| Audit { status: Some(status), groups: None, step: step.into() };
    let damaged = AuditStatus { damaged: vec![copy("b-1")], damaged_copies: 1, ..passed.clone() };
    for (audit, status, reason, word) in [
        (Audit::default(), Status::Unknown, "NotAudited", "when all pods are ready"),
        (audit(passed.clone(), ""), Status::True, "Audited", "every copy"),
        (audit(passed.clone(), "waiting"), Status::Unknown, "Auditing", "waiting"),
        (audit(damaged.clone(), "making 3 copies of it"), Status::False, "CopyDamaged", "making 3 copies of it"),
        (audit(damaged.clone(), ""), Status::False, "CopyDamaged", "looked at again"),
        (audit(AuditStatus { lost: vec![events()], ..passed.clone() }, ""), Status::False, "EventsLost", "DataLost"),
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
