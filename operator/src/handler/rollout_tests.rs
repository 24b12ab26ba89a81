//! What `PodsReady` says of Deployments and pods as their controllers write them.

use serde_json::{Value, json};

use super::*;

/// Pods wanted, pods there are, the Deployment's conditions, the reason before; the reason now, status, stalled.
type Case<'a> = (u32, &'a [(&'a str, &'a str)], &'a Value, &'a str, &'a str, Status, bool);

const NOW: i64 = 1_769_860_800;

fn deployment(conditions: &Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"generation": 2},
        "spec": {
            "selector": {},
            "template": {"metadata": {"annotations": {TEMPLATE_ANNOTATION: "new"}}},
        },
        "status": {"observedGeneration": 2, "conditions": conditions},
    }))
    .unwrap()
}

/// A pod of this template: ready, starting, or failing with this reason of the kubelet.
fn pod(template: &str, state: &str) -> Pod {
    let container = |state: Value| json!([{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
    let made = jiff::Timestamp::from_second(NOW - 5).unwrap().to_string();
    let status = match state {
        "ready" => json!({"conditions": [{"type": "Ready", "status": "True"}]}),
        "starting" => json!({"containerStatuses": container(json!({"waiting": {"reason": "ContainerCreating"}}))}),
        "running" => json!({"containerStatuses": container(json!({"running": {}}))}),
        "pending" => json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "no node"}]}),
        reason => json!({"containerStatuses": container(json!({"waiting": {"reason": reason}}))}),
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p", "creationTimestamp": made, "annotations": {TEMPLATE_ANNOTATION: template}},
        "status": status,
    }))
    .unwrap()
}

fn pods(all: &[(&str, &str)]) -> Vec<Pod> {
    all.iter().map(|(template, state)| pod(template, state)).collect()
}

fn before(reason: &str) -> Condition {
    serde_json::from_value(json!({
        "type": "PodsReady", "status": "True", "reason": reason, "message": "", "lastTransitionTime": "2026-01-31T12:00:00Z",
    }))
    .unwrap()
}

fn found(replicas: u32, all: &[(&str, &str)], conditions: &Value, was: &str) -> Finding {
    let (deployment, pods, before) = (deployment(conditions), pods(all), before(was));
    pods_ready(&Rollout {
        plan: Plan { replicas, reason: Reason::Backlog },
        deployment: &deployment,
        pods: &pods,
        outage: None,
        before: Some(&before),
        now: jiff::Timestamp::from_second(NOW).unwrap(),
    })
}

fn late() -> Value {
    json!([{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out progressing"}])
}

fn refused() -> Value {
    json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: tight, requested: pods=1"}])
}

#[test]
fn it_is_about_the_current_template_and_not_a_count() {
    let none = json!([]);
    let (new, old) = ("new", "old");
    let table: &[Case<'_>] = &[
        // Ordinary.
        (2, &[(new, "ready"), (new, "ready")], &none, "PodsReady", "PodsReady", Status::True, false),
        (2, &[(new, "starting")], &none, "", "PodsStarting", Status::False, false),
        // Steps of scaling, up and down, from zero and to it.
        (6, &[(new, "ready"), (new, "starting")], &none, "PodsReady", "Scaling", Status::True, false),
        (1, &[(new, "ready"), (new, "ready")], &none, "PodsReady", "PodsReady", Status::True, false),
        (1, &[], &none, "ScaledToZero", "Waking", Status::True, false),
        (1, &[(new, "starting")], &none, "Waking", "Waking", Status::True, false),
        (0, &[(new, "ready")], &none, "PodsReady", "ScaledToZero", Status::True, false),
        // All pods lost is no waking.
        (1, &[(new, "starting")], &none, "PodsReady", "PodsStarting", Status::False, false),
        // A rollout, whatever still serves.
        (1, &[(old, "ready"), (new, "starting")], &none, "PodsReady", "RollingOut", Status::False, false),
        (1, &[(old, "ready")], &none, "PodsReady", "RollingOut", Status::False, false),
        (1, &[(old, "ready"), (new, "ready")], &none, "PodsReady", "RollingOut", Status::False, false),
        (1, &[(old, "ready"), (new, "ImagePullBackOff")], &none, "PodsReady", "PodsFailing", Status::False, true),
        (1, &[(old, "ready"), (new, "pending")], &none, "PodsReady", "PodsFailing", Status::False, false),
        (1, &[(old, "ready"), (new, "pending")], &late(), "PodsReady", "PodsFailing", Status::False, true),
        (1, &[(old, "ready"), (new, "starting")], &late(), "PodsReady", "PodsFailing", Status::False, true),
        (1, &[(old, "ready")], &refused(), "PodsReady", "PodsFailing", Status::False, true),
        // What is wrong with an old pod is what the rollout repairs.
        (1, &[(old, "CreateContainerConfigError"), (new, "ready")], &none, "", "RollingOut", Status::False, false),
        // No pod starts.
        (1, &[], &refused(), "", "PodsFailing", Status::False, true),
        (1, &[(new, "ErrImagePull")], &none, "Waking", "PodsFailing", Status::False, true),
        // Some do not: events are delivered.
        (2, &[(new, "ready"), (new, "CreateContainerError")], &none, "", "SomePodsFailing", Status::True, false),
        (2, &[(new, "ready")], &refused(), "", "SomePodsFailing", Status::True, false),
    ];
    for (replicas, all, conditions, was, reason, status, stalled) in table {
        let found = found(*replicas, all, conditions, was);
        let case = format!("{replicas} wanted, {all:?}, {conditions}, was {was}: {found:?}");
        assert_eq!((found.reason.as_str(), found.status, found.is_stalled), (*reason, *status, *stalled), "{case}");
    }
}

#[test]
fn the_message_says_what_is_in_the_way() {
    let none = json!([]);
    let message = |all: &[(&str, &str)], conditions: &Value| found(1, all, conditions, "").message;
    let rolling = message(&[("old", "ready"), ("new", "pending")], &none);
    assert_eq!(rolling, "0 of 1 pods are ready, 1 of an earlier template remain: pod p is not scheduled: no node");
    assert!(message(&[], &refused()).contains("exceeded quota: tight"));
    assert!(message(&[("new", "starting")], &late()).contains("timed out progressing"));
}

#[test]
fn a_first_pod_that_does_not_come_is_no_longer_waking() {
    let (deployment, mut pods) = (deployment(&json!([])), pods(&[("new", "starting")]));
    pods[0].metadata.creation_timestamp =
        Some(serde_json::from_value(json!(jiff::Timestamp::from_second(NOW - 601).unwrap().to_string())).unwrap());
    let before = before("Waking");
    let now = jiff::Timestamp::from_second(NOW).unwrap();
    let plan = Plan { replicas: 1, reason: Reason::Backlog };
    let found =
        pods_ready(&Rollout { plan, deployment: &deployment, pods: &pods, outage: None, before: Some(&before), now });
    assert_eq!((found.reason.as_str(), found.status), ("PodsStarting", Status::False));
}

#[test]
fn zero_by_the_specification_waits_for_no_event() {
    let deployment = deployment(&json!([]));
    let now = jiff::Timestamp::from_second(NOW).unwrap();
    for (reason, says) in [(Reason::Fixed, "spec.replicas is 0"), (Reason::Idle, "the first event starts one")] {
        let plan = Plan { replicas: 0, reason };
        let found = pods_ready(&Rollout { plan, deployment: &deployment, pods: &[], outage: None, before: None, now });
        assert!(found.is_true() && found.message.contains(says), "{}", found.message);
    }
}

/// What the sidecars know of pods that are not ready and for which the kubelet has no reason.
#[test]
fn a_program_that_takes_no_events_is_why_its_pod_is_not_ready() {
    let why = "nothing listens on 127.0.0.1:9999";
    let none = json!([]);
    let (new, old) = ("new", "old");
    for (all, conditions, reason, says, stalled) in [
        (vec![(new, "running")], &none, "Outage", format!("0 of 1 pods are ready: {why}"), false),
        (vec![(new, "running")], &late(), "PodsFailing", format!("{why}; timed out progressing"), true),
        (vec![(old, "ready"), (new, "running")], &none, "RollingOut", format!("template remain: {why}"), false),
        (vec![(new, "ImagePullBackOff")], &none, "PodsFailing", "(imagePullSecrets)?".into(), true),
        (vec![(new, "ready")], &none, "PodsReady", "1 of 1 pods are ready".into(), false),
    ] {
        let (deployment, pods) = (deployment(conditions), pods(&all));
        let now = jiff::Timestamp::from_second(NOW).unwrap();
        let plan = Plan { replicas: 1, reason: Reason::Fixed };
        let rollout = Rollout { plan, deployment: &deployment, pods: &pods, outage: Some(why), before: None, now };
        let found = pods_ready(&rollout);
        assert_eq!((found.reason.as_str(), found.is_stalled), (reason, stalled), "{all:?}: {found:?}");
        assert!(found.message.ends_with(&says), "{all:?}: {found:?}");
    }
}
