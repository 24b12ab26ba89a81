//! Which changes are reported to the reconcilers, and which are not.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::stores::feed;
use super::*;

fn pod(name: &str, version: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "resourceVersion": version}})).unwrap()
}

fn names(found: Vec<Found<Pod>>) -> Vec<String> {
    let name = |found: Found<Pod>| match found {
        Found::There(at) => at.name,
        Found::Gone(pod) => pod.name_any(),
    };
    found.into_iter().map(name).collect()
}

#[test]
fn what_did_not_change_is_not_reported_and_what_is_gone_is_even_if_no_event_said_so() {
    let (count, unlisted) = watch::channel(0);
    let (store, feed) = feed(&Arc::new(count), &Arc::default());
    let mut changes = Changes::new(feed, any_change);
    let mut take = |event| names(changes.take(event));
    for event in [Event::Init, Event::InitApply(pod("a", "1")), Event::InitApply(pod("b", "1"))] {
        assert_eq!(take(event), [] as [&str; 0]);
    }
    assert_eq!(*unlisted.borrow(), 1);
    assert_eq!(take(Event::InitDone), ["a", "b"]);
    assert_eq!(*unlisted.borrow(), 0);
    assert_eq!(take(Event::Apply(pod("a", "1"))), [] as [&str; 0]);
    assert_eq!(take(Event::Apply(pod("a", "2"))), ["a"]);
    // The watch was interrupted, and b deleted meanwhile.
    take(Event::Init);
    take(Event::InitApply(pod("a", "2")));
    assert_eq!(take(Event::InitDone), ["b"]);
    assert_eq!(store.state().len(), 1);
    assert_eq!(take(Event::Delete(pod("a", "2"))), ["a"]);
}

#[test]
fn a_status_is_no_change_of_what_was_applied() {
    let meta = |value| serde_json::from_value::<ObjectMeta>(value).unwrap();
    let applied = meta(json!({"uid": "u", "generation": 1, "resourceVersion": "1"}));
    let status = meta(json!({"uid": "u", "generation": 1, "resourceVersion": "2"}));
    let drifted = meta(json!({"uid": "u", "generation": 1, "resourceVersion": "2", "labels": {"a": "b"}}));
    assert_eq!(child_mark(&applied), child_mark(&status));
    assert_ne!(child_mark(&applied), child_mark(&drifted));
    let (one, two) = (json!({"uid": "u", "resourceVersion": "1"}), json!({"uid": "u", "resourceVersion": "2"}));
    assert_ne!(child_mark(&meta(one)), child_mark(&meta(two)), "without generations every change counts");
}

#[test]
fn numbers_of_a_topic_are_nothing_to_its_handlers() {
    let topic = |status: serde_json::Value| -> EventTopic {
        serde_json::from_value(json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": "t"}, "spec": {},
            "status": status,
        }))
        .unwrap()
    };
    let ready = |status: &str, message: &str| json!([{"type": "StreamReady", "status": status, "reason": "R", "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let mark = |events: u64, status, message| {
        mark_for_handlers(&topic(json!({"events": events, "conditions": ready(status, message)})))
    };
    assert_eq!(mark(1, "True", "a"), mark(2, "True", "b"));
    assert_ne!(mark(1, "True", "a"), mark(1, "False", "a"));
    assert_ne!(mark(1, "False", "a"), mark(1, "False", "b"));
}
