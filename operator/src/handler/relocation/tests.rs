use serde_json::{Value, json};

use super::*;

fn handler(spec: Value, status: Value) -> EventHandler {
    let mut whole = json!({"metadata": {"name": "a"}, "spec": {"topic": "t", "template": {}}, "status": status});
    for (field, value) in spec.as_object().unwrap() {
        whole["spec"][field] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

/// What comes next, in short.
fn told(spec: Value, status: Value, lanes: u16) -> String {
    let order = if lanes == 0 { Order::None } else { Order::Key { lanes } };
    match next(&handler(spec, status), order) {
        None => "nothing".to_owned(),
        Some(Change::Lanes { status, count }) => format!("{} lanes become {count}", status.count),
        Some(Change::NewReplay(asked)) => format!("{} begins", asked.request),
        Some(Change::Replay(replay)) => format!("{} continues", replay.request),
    }
}

#[test]
fn one_change_comes_after_the_other() {
    let replay = |request: &str| json!({"replay": {"request": request, "from": "Earliest"}});
    let at = |request: &str, phase: &str| json!({"replay": {"request": request, "phase": phase}});
    let lanes = |count: i32| json!({"lanes": {"count": count}});
    let planned = json!({"lanes": {"count": 4, "change": {"count": 8, "after": 7}}});
    let changing = json!({"lanes": {"count": 4, "change": {"count": 8, "after": 7, "end": 3}}});
    let both = |a: Value, b: Value| {
        let mut both = a;
        both.as_object_mut().unwrap().extend(b.as_object().unwrap().clone());
        both
    };
    for (spec, status, wanted, expected) in [
        (json!({}), json!({}), 0, "nothing"),
        (replay("1"), json!({}), 0, "1 begins"),
        (replay("1"), at("1", "Stopping"), 0, "1 continues"),
        (replay("1"), at("1", "Moving"), 0, "1 continues"),
        (replay("1"), at("1", "Done"), 0, "nothing"),
        (replay("1"), at("1", "Refused"), 0, "nothing"),
        (replay("2"), at("1", "Done"), 0, "2 begins"),
        (replay("2"), at("1", "Refused"), 0, "2 begins"),
        // It has changed nothing yet.
        (replay("2"), at("1", "Stopping"), 0, "2 begins"),
        (json!({}), at("1", "Stopping"), 0, "nothing"),
        // It is finished first.
        (replay("2"), at("1", "Moving"), 0, "1 continues"),
        (json!({}), at("1", "Moving"), 0, "1 continues"),
        (json!({}), json!({}), 8, "nothing"),
        (json!({}), lanes(8), 8, "nothing"),
        (json!({}), lanes(4), 8, "4 lanes become 8"),
        (json!({}), planned.clone(), 8, "4 lanes become 8"),
        // No lane has got anything yet.
        (json!({}), planned.clone(), 4, "4 lanes become 4"),
        (json!({}), planned, 2, "4 lanes become 2"),
        (json!({}), changing.clone(), 8, "4 lanes become 8"),
        (json!({}), changing.clone(), 4, "4 lanes become 8"),
        (json!({}), changing, 2, "4 lanes become 8"),
        (replay("1"), lanes(4), 8, "4 lanes become 8"),
        (replay("1"), both(lanes(4), at("1", "Moving")), 8, "1 continues"),
        (replay("1"), both(lanes(8), at("1", "Stopping")), 8, "1 continues"),
    ] {
        assert_eq!(told(spec.clone(), status.clone(), wanted), expected, "{spec} {status} {wanted}");
    }
}

#[test]
fn sidecars_hear_of_what_is_done() {
    assert_eq!(of_sidecars(&handler(json!({}), json!({}))), Relocation::default());
    let mut settled = vec![0; 32];
    settled[1] = 7;
    let status = json!({
        "replay": {"request": "1", "phase": "Done", "count": 3},
        "lanes": {"count": 8, "settled": settled, "settledBefore": "1970-01-01T00:00:01.000000002Z"},
    });
    let relocation = of_sidecars(&handler(json!({}), status));
    assert_eq!((relocation.rewinds, relocation.settled[1], relocation.settled_before), (3, 7, 1_000_000_002));
}

#[test]
fn pods_have_ended_when_nothing_of_them_is_left() {
    let deployment = |generation: i64, seen: i64, replicas: i32, there: i32| -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"generation": generation},
            "spec": {"replicas": replicas, "selector": {}, "template": {}},
            "status": {"observedGeneration": seen, "replicas": there},
        }))
        .unwrap()
    };
    let pod = |phase: &str| -> Pod { serde_json::from_value(json!({"status": {"phase": phase}})).unwrap() };
    let ending = serde_json::from_value(json!({
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"},
    }));
    let ending: Pod = ending.unwrap();
    for (deployment, pods, expected) in [
        (deployment(2, 2, 0, 0), vec![], true),
        (deployment(2, 2, 0, 0), vec![pod("Succeeded")], true),
        (deployment(2, 2, 0, 0), vec![pod("Running")], false),
        (deployment(2, 2, 0, 0), vec![ending], false),
        (deployment(2, 2, 0, 1), vec![], false),
        (deployment(2, 1, 0, 0), vec![], false),
        (deployment(2, 2, 1, 0), vec![], false),
    ] {
        let change = Change::Replay(&ReplayStatus::default());
        assert_eq!(has_stopped(change, Some(&deployment), &pods), expected, "{deployment:?} {pods:?}");
    }
    let replay = |phase| ReplayStatus { phase, ..ReplayStatus::default() };
    let (stopping, moving) = (replay(ReplayPhase::Stopping), replay(ReplayPhase::Moving));
    assert!(!has_stopped(Change::Replay(&stopping), None, &[]), "it never had any");
    assert!(has_stopped(Change::Replay(&moving), None, &[]), "removed in the middle");
    assert!(!has_stopped(Change::Replay(&moving), None, &[pod("Running")]));
}

#[test]
fn lanes_that_are_being_made_hold_up_the_release_of_events() {
    for (lanes, most) in [
        (json!({"count": 2}), 2),
        (json!({"count": 2, "change": {"count": 8, "after": 4}}), 8),
        (json!({"count": 8, "change": {"count": 3, "after": 4}}), 8),
    ] {
        let handler = handler(json!({}), json!({"lanes": lanes}));
        assert_eq!(most_lanes(&handler), Some(most), "{lanes}");
    }
}
