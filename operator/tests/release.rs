//! Held keys are released, against a real nats-server.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use serde_json::{Value, json};
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::{handler_streams, held_keys};
use tidegate_broker_client::layout;
use tidegate_crds::handler::{Release, ReleasePhase, ReleaseStatus};
use tidegate_operator::handler::release;
use tidegate_test_broker::TestBroker;

const HANDLER: &str = "billing";

async fn world() -> (TestBroker, Broker) {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    handler_streams::ensure(&admin, HANDLER, "u").await.unwrap();
    (broker, admin)
}

async fn hold(admin: &Broker, keys: &[&str]) {
    for key in keys {
        let digest = layout::key_digest(key);
        admin.publish(&layout::parked_subject(HANDLER, 0, digest), None, b"event").await.unwrap();
        let mark = json!({"sequence": 7, "reason": "attempts-used-up", "key": key}).to_string();
        admin.publish(&layout::held_subject(HANDLER, 0, digest), None, mark.as_bytes()).await.unwrap();
    }
}

async fn held(admin: &Broker) -> Vec<String> {
    held_keys::look(admin, HANDLER).await.unwrap().named.into_iter().filter_map(|held| held.mark.key).collect()
}

fn wanted(changes: Value) -> Release {
    let mut whole = json!({"request": "1"});
    whole.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

/// All steps, as reconciles do them.
async fn release(admin: &Broker, wanted: &Release, mut before: Option<ReleaseStatus>) -> ReleaseStatus {
    for _ in 0..100 {
        let done = release::step(admin, HANDLER, wanted, before.as_ref()).await.unwrap();
        let Some(again) = done.again else { return done.status };
        tokio::time::sleep(again).await;
        before = Some(done.status);
    }
    panic!("a release without an end: {before:?}");
}

#[tokio::test]
async fn all_keys_or_those_that_are_named_are_released_once() {
    let (_broker, admin) = world().await;
    hold(&admin, &["a", "b", "c", "d"]).await;
    let named = wanted(json!({"keys": ["c", "no such key", "a", "a"]}));
    let status = release(&admin, &named, None).await;
    assert_eq!((status.phase, status.released, status.examined), (ReleasePhase::Done, 2, 4));
    assert_eq!(held(&admin).await, ["b", "d"]);
    hold(&admin, &["a"]).await;
    assert_eq!(release(&admin, &named, Some(status.clone())).await, status, "the same request is answered once");
    assert_eq!(held(&admin).await, ["b", "d", "a"]);
    let all = wanted(json!({"request": "2"}));
    let status = release(&admin, &all, Some(status)).await;
    assert_eq!((status.request.as_str(), status.phase, status.released), ("2", ReleasePhase::Done, 3));
    assert!(held(&admin).await.is_empty());
    assert_eq!(held_keys::count_events(&admin, HANDLER).await, Ok(5), "no event is removed");
}

/// Nothing is removed before the status says up to where: an operator that continues releases nothing that was held
/// later.
#[tokio::test]
async fn what_is_held_after_a_release_began_is_not_released() {
    for keys in [json!({}), json!({"keys": ["a", "later"]})] {
        let (_broker, admin) = world().await;
        hold(&admin, &["a"]).await;
        let begun = release::step(&admin, HANDLER, &wanted(keys.clone()), None).await.unwrap();
        assert!(begun.again.is_some() && begun.status.end.is_some(), "{:?}", begun.status);
        assert_eq!(held(&admin).await, ["a"]);
        hold(&admin, &["later"]).await;
        // Another operator did this step and ended before the status said so.
        release::step(&admin, HANDLER, &wanted(keys.clone()), Some(&begun.status)).await.unwrap();
        let status = release(&admin, &wanted(keys), Some(begun.status)).await;
        assert_eq!(status.phase, ReleasePhase::Done);
        assert_eq!(held(&admin).await, ["later"]);
    }
}

#[tokio::test]
async fn a_broker_that_is_away_stops_nothing_for_good() {
    let (_broker, admin) = world().await;
    hold(&admin, &["a"]).await;
    admin.delete_stream(&layout::retry_stream(HANDLER)).await.unwrap();
    assert!(release::step(&admin, HANDLER, &wanted(json!({})), None).await.is_err(), "nothing is begun");
    let begun = ReleaseStatus { request: "1".into(), end: Some(2), ..ReleaseStatus::default() };
    let failed = release::step(&admin, HANDLER, &wanted(json!({})), Some(&begun)).await.unwrap();
    assert_eq!((failed.status.phase, failed.again.is_some()), (ReleasePhase::Running, true));
    assert!(failed.status.message.unwrap().contains("release"));
    handler_streams::ensure(&admin, HANDLER, "u").await.unwrap();
    let status = release(&admin, &wanted(json!({})), Some(begun)).await;
    assert_eq!((status.phase, status.released, status.message), (ReleasePhase::Done, 0, None));
}

#[test]
fn a_release_that_waits_says_so_and_forgets_nothing() {
    let asked = wanted(json!({}));
    let first = release::waiting(&asked, None);
    assert!(first.again.is_none() && first.status.message.unwrap().contains("present template"));
    let begun = ReleaseStatus { request: "1".into(), end: Some(7), released: 2, ..ReleaseStatus::default() };
    assert_eq!(release::waiting(&asked, Some(&begun)).status, begun);
    let another = release::waiting(&wanted(json!({"request": "2"})), Some(&begun)).status;
    assert_eq!((another.end, another.released), (None, 0));
}
