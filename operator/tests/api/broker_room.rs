//! Room on a broker: what is promised to its topics is there, and whoever does not fit is told what would.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use tidegate_broker_client::layout;
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_test_broker::{TestBroker, answer};

use crate::broker::{condition as broker_condition, until_broker};
use crate::children;
use crate::support::brokers::{Places, account, broker_on, publish_one, server, status, topic_at, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually, ingress};
use crate::topic::{condition, gone, until_reason};

/// A broker of 1 GiB, which can promise 870 MiB: two topics of 256 MiB and what they have besides are 640 MiB.
async fn world(purpose: &str) -> (Space, Places, TestBroker, Operator) {
    let (space, places) = (Space::new(purpose).await, Places::default());
    let broker = server().await;
    broker_on(&space, &places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    (space, places, broker, operator)
}

async fn topic(space: &Space, name: &str, spec: Value) {
    topic_at(space, "default", name, spec).await;
}

async fn delete(space: &Space, name: &str) {
    space.api::<EventTopic>().delete(name, &DeleteParams::default()).await.unwrap();
    gone(space, name).await;
    // What the garbage collector does.
    for (kind, child) in children::of_topic(space, name).await {
        children::api(space, kind).delete(&child.name_any(), &DeleteParams::default()).await.unwrap();
    }
}

async fn promised(space: &Space, name: &str) -> Option<i64> {
    space.api::<EventTopic>().get(name).await.unwrap().status?.promised
}

/// What all topics together are promised, by their own statuses, and how many that are.
async fn promised_to_all(space: &Space) -> (i64, usize) {
    let topics = space.api::<EventTopic>().list(&ListParams::default()).await.unwrap().items;
    let promised: Vec<i64> = topics.iter().filter_map(|topic| topic.status.as_ref()?.promised).collect();
    (promised.iter().sum(), promised.len())
}

async fn usable(space: &Space) -> i64 {
    space.api::<EventBroker>().get("default").await.unwrap().status.unwrap().storage.unwrap().usable_bytes
}

async fn is_ready(space: &Space, name: &str) -> bool {
    condition(&space.api::<EventTopic>().get(name).await.unwrap(), "Ready").unwrap().status == "True"
}

/// The size that a topic which does not fit is told to have.
fn hint(topic: &EventTopic) -> String {
    let message = condition(topic, "Ready").unwrap().message;
    let size = message.split_once("A retention.maxSize of ").unwrap().1.split_once(" KiB").unwrap().0;
    format!("{size}Ki")
}

#[tokio::test]
async fn a_topic_that_does_not_fit_is_told_what_would_and_comes_in_when_another_goes() {
    let _turn = turn().await;
    let (space, _places, broker, operator) = world("full").await;
    for name in ["a", "b"] {
        topic(&space, name, json!({"deletionPolicy": "Delete"})).await;
        until_ready(&space, name).await;
    }
    topic(&space, "c", json!({})).await;
    let refused = until_reason(&space, "c", "Ready", "BrokerFull").await;
    assert_eq!(condition(&refused, "Stalled").unwrap().status, "True");
    let note = eventually("an Event", async || space.events("BrokerFull").await.pop()).await;
    assert!(note.contains("EventBroker default can promise") && note.contains("name another broker"), "{note}");
    assert_eq!(refused.status.as_ref().unwrap().promised, None);
    let names = ingress::topics(&space.api::<Secret>(), "default-topics").await.topics;
    assert_eq!(names.iter().map(|topic| topic.id.name()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(is_ready(&space, "a").await && is_ready(&space, "b").await);
    // What it is told would fit does, and nothing more.
    topic(&space, "d", json!({"retention": {"maxSize": hint(&refused)}, "deletionPolicy": "Delete"})).await;
    until_ready(&space, "d").await;
    let (all, _) = promised_to_all(&space).await;
    assert!(all <= usable(&space).await && usable(&space).await - all < 8 << 10, "{all}");
    let none = until_reason(&space, "c", "Ready", "BrokerFull").await;
    assert_eq!(condition(&none, "Ready").unwrap().status, "False");
    for name in ["a", "b", "d"] {
        let js = tidegate_test_broker::jetstream(account(&space, &broker, name).await.operator);
        publish_one(&js).await;
    }
    // Room that is given back is theirs who waited for it.
    delete(&space, "b").await;
    until_ready(&space, "c").await;
    let (all, count) = promised_to_all(&space).await;
    assert!(all <= usable(&space).await && count == 3, "{all} bytes to {count}");
    operator.stop().await;
}

#[tokio::test]
async fn a_topic_that_never_came_in_goes_at_once() {
    let _turn = turn().await;
    let (space, _places, _broker, operator) = world("never").await;
    topic(&space, "a", json!({"retention": {"maxSize": "600Mi"}})).await;
    until_ready(&space, "a").await;
    topic(&space, "b", json!({"deletionPolicy": "Delete"})).await;
    until_reason(&space, "b", "Ready", "BrokerFull").await;
    delete(&space, "b").await;
    topic(&space, "b", json!({})).await;
    until_reason(&space, "b", "Ready", "BrokerFull").await;
    delete(&space, "b").await;
    // It had no events that could be retained.
    let keys = crate::support::brokers::keys(&space, "default").await.unwrap();
    let retained = |key: &&String| key.starts_with("retained-topic.tidegate.io/");
    assert_eq!(keys.metadata.annotations.unwrap_or_default().keys().find(retained), None);
    assert_eq!(space.events("EventsRetained").await, [] as [String; 0]);
    operator.stop().await;
}

/// Those that come at the same moment, to operators that end and come again.
#[tokio::test]
async fn never_is_more_promised_than_there_is() {
    let _turn = turn().await;
    let (space, places, _broker, operator) = world("together").await;
    for number in 0..6 {
        topic(&space, &format!("t{number}"), json!({})).await;
    }
    let topics: Api<EventTopic> = space.api();
    let reasons = async || -> Vec<String> {
        let all = topics.list(&ListParams::default()).await.unwrap().items;
        let mut reasons: Vec<_> =
            all.iter().filter_map(|topic| condition(topic, "Ready")).map(|ready| ready.reason).collect();
        reasons.sort();
        reasons
    };
    let settled = async || {
        let (all, count) = promised_to_all(&space).await;
        if count > 0 {
            assert!(all <= usable(&space).await, "{all} bytes are promised to {count} topics");
        }
        let refused = reasons().await.iter().filter(|reason| *reason == "BrokerFull").count();
        (count == 2 && refused == 4).then_some(())
    };
    eventually("two have it, and four are told", settled).await;
    operator.kill().await;
    // The next one knows what was promised from the statuses alone.
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    for number in 6..9 {
        topic(&space, &format!("t{number}"), json!({})).await;
    }
    let with_more = async || {
        let (all, count) = promised_to_all(&space).await;
        assert!(all <= usable(&space).await, "{all} bytes are promised to {count} topics");
        let refused = reasons().await.iter().filter(|reason| *reason == "BrokerFull").count();
        (count == 2 && refused == 7).then_some(())
    };
    eventually("the others are told, too", with_more).await;
    operator.stop().await;
}

#[tokio::test]
async fn growth_that_does_not_fit_leaves_what_was_admitted() {
    let _turn = turn().await;
    let (space, _places, broker, operator) = world("growth").await;
    for name in ["a", "b"] {
        topic(&space, name, json!({})).await;
        until_ready(&space, name).await;
    }
    let before = promised(&space, "a").await;
    let inside = account(&space, &broker, "a").await;
    let size = async || answer(async || inside.admin.stream("events").await).await.config.max_bytes;
    space.merge::<EventTopic>("a", json!({"spec": {"retention": {"maxSize": "500Mi"}}})).await;
    let refused = until_reason(&space, "a", "Ready", "BrokerFull").await;
    assert_eq!((promised(&space, "a").await, size().await), (before, 256 << 20));
    publish_one(&tidegate_test_broker::jetstream(inside.operator.clone())).await;
    assert!(is_ready(&space, "b").await);
    let names = ingress::topics(&space.api::<Secret>(), "default-topics").await.topics;
    assert_eq!(names.len(), 2, "it is served as before");
    // What is told counts what the topic has already.
    space.merge::<EventTopic>("a", json!({"spec": {"retention": {"maxSize": hint(&refused)}}})).await;
    eventually("it has grown", async || (size().await > 430 << 20).then_some(())).await;
    until_ready(&space, "a").await;
    space.merge::<EventTopic>("a", json!({"spec": {"retention": {"maxSize": "64Mi"}}})).await;
    eventually("it has become smaller", async || {
        (size().await == 64 << 20 && promised(&space, "a").await? == 84 << 20).then_some(())
    })
    .await;
    assert_eq!(answer(async || inside.admin.stream("events").await).await.state.messages, 1);
    operator.stop().await;
}

/// Room that is promised to somebody else must be there: a topic that asks for less than it has gives back what it does not
/// need when its events are gone, and can use what it needs until then.
#[tokio::test]
async fn a_topic_that_asks_for_less_gives_back_what_is_empty() {
    let _turn = turn().await;
    let (space, _places, broker, operator) = world("less").await;
    let sized = |size: &str| json!({"maxEventSize": "32Ki", "retention": {"maxSize": size, "whenFull": "Reject"}});
    topic(&space, "a", sized("400Mi")).await;
    until_ready(&space, "a").await;
    let inside = account(&space, &broker, "a").await;
    let js = tidegate_test_broker::jetstream(inside.operator.clone());
    let subject = layout::event_subject(0, "order.new");
    for _ in 0..80 {
        js.publish(subject.clone(), vec![b'x'; 30 << 10].into()).await.unwrap().await.unwrap();
    }
    space.merge::<EventTopic>("a", json!({"spec": {"retention": {"maxSize": "1Mi"}}})).await;
    let size = async || answer(async || inside.admin.stream("events").await).await.config.max_bytes;
    eventually("its stream takes no more", async || (size().await == 1 << 20).then_some(())).await;
    topic(&space, "b", sized("400Mi")).await;
    until_reason(&space, "b", "Ready", "BrokerFull").await;
    assert_eq!(promised(&space, "a").await, Some(500 << 20));
    // Dead letters and retries still have their room, which a limit of the account below its events would take.
    let limit = async || js.query_account().await.unwrap().limits.max_storage;
    assert_eq!(limit().await, Some(500 << 20));
    space.merge::<EventTopic>("a", json!({"spec": {"retention": {"maxAge": "1s"}, "deduplicationWindow": "1s"}})).await;
    until_ready(&space, "b").await;
    let now = promised(&space, "a").await.unwrap();
    assert!(now < 8 << 20, "{now}: it, and sixteen of the largest messages");
    eventually("its account", async || (limit().await == Some(now)).then_some(())).await;
    operator.stop().await;
}

/// Its events are still on the volume.
#[tokio::test]
async fn a_deleted_topic_whose_events_are_retained_still_counts() {
    let _turn = turn().await;
    let (space, _places, _broker, operator) = world("kept").await;
    topic(&space, "a", json!({"retention": {"maxSize": "400Mi"}})).await;
    until_ready(&space, "a").await;
    delete(&space, "a").await;
    topic(&space, "b", json!({"retention": {"maxSize": "400Mi"}})).await;
    until_reason(&space, "b", "Ready", "BrokerFull").await;
    let brokers: Api<EventBroker> = space.api();
    eventually("the broker says so", async || {
        let storage = brokers.get("default").await.ok()?.status?.storage?;
        (storage.promised_bytes == 500 << 20 && storage.promised == "57%").then_some(())
    })
    .await;
    // Made again with more than there is it does not come in, and what it left still counts.
    topic(&space, "a", json!({"retention": {"maxSize": "700Mi"}})).await;
    until_reason(&space, "a", "Ready", "BrokerFull").await;
    space.merge::<EventTopic>("b", json!({"metadata": {"annotations": {"looked": "at"}}})).await;
    topic(&space, "c", json!({"retention": {"maxSize": "400Mi"}})).await;
    until_reason(&space, "c", "Ready", "BrokerFull").await;
    until_reason(&space, "b", "Ready", "BrokerFull").await;
    delete(&space, "c").await;
    delete(&space, "a").await;
    // Made again it has its own room, and not as much again; deleted with Delete it gives it back.
    topic(&space, "a", json!({"retention": {"maxSize": "400Mi"}, "deletionPolicy": "Delete"})).await;
    until_ready(&space, "a").await;
    delete(&space, "a").await;
    until_ready(&space, "b").await;
    operator.stop().await;
}

/// It has the events of the first one, however little it asks for.
#[tokio::test]
async fn a_retained_topic_that_is_made_again_smaller_keeps_what_its_events_need() {
    let _turn = turn().await;
    let (space, _places, broker, operator) = world("smaller").await;
    let sized = |size: &str| json!({"maxEventSize": "32Ki", "retention": {"maxSize": size, "whenFull": "Reject"}});
    topic(&space, "a", sized("400Mi")).await;
    until_ready(&space, "a").await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "a").await.operator);
    let subject = layout::event_subject(0, "order.new");
    for _ in 0..80 {
        js.publish(subject.clone(), vec![b'x'; 30 << 10].into()).await.unwrap().await.unwrap();
    }
    let noted = async || -> Option<u64> {
        let keys = crate::support::brokers::keys(&space, "default").await?;
        keys.annotations().get("retained-topic.tidegate.io/a")?.parse().ok()
    };
    let limit = async || js.query_account().await.unwrap().limits.max_storage;
    for other in ["b", "c"] {
        delete(&space, "a").await;
        assert_eq!(noted().await, Some(500 << 20), "{other}");
        topic(&space, "a", sized("1Mi")).await;
        eventually("it is there", async || {
            let found = condition(&space.api::<EventTopic>().get("a").await.ok()?, "StreamReady")?;
            (found.status == "True").then_some(())
        })
        .await;
        assert_eq!((promised(&space, "a").await, limit().await), (Some(500 << 20), Some(500 << 20)), "{other}");
        topic(&space, other, sized("400Mi")).await;
        until_reason(&space, other, "Ready", "BrokerFull").await;
    }
    delete(&space, "c").await;
    // When they are gone it needs no more than it asks for.
    space.merge::<EventTopic>("a", json!({"spec": {"retention": {"maxAge": "1s"}, "deduplicationWindow": "1s"}})).await;
    until_ready(&space, "b").await;
    let now = promised(&space, "a").await.unwrap();
    assert!(now < 8 << 20, "{now}: it, and sixteen of the largest messages");
    delete(&space, "a").await;
    assert_eq!(noted().await, u64::try_from(now).ok());
    operator.stop().await;
}

/// On three servers each stream and each consumer is a raft group, of which there is a number that is too many.
#[tokio::test]
async fn a_topic_for_which_there_are_too_many_groups_is_told_so_and_comes_in_when_there_are_fewer() {
    let _turn = turn().await;
    let (space, places) = (Space::new("groups").await, Places::default());
    let server = server().await;
    broker_on(&space, &places, &server, "default", json!({"replicas": 3, "storage": {"size": "1Gi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    eventually("how much the broker has is known", async || {
        space.api::<EventBroker>().get("default").await.ok()?.status?.storage
    })
    .await;
    // Its pods are not ready, so that its servers are not asked: what they said last counts.
    let groups = |used: i64| json!({"groups": {"used": used, "bound": 2000, "usage": format!("{used} of 2000")}});
    status::<EventBroker>(&space, "default", groups(1998)).await;
    topic(&space, "late", json!({"delayedEvents": {}})).await;
    let refused = until_reason(&space, "late", "Ready", "BrokerFull").await;
    let message = condition(&refused, "Ready").unwrap().message;
    assert!(message.contains("has 1998 of 2000 raft groups, and this topic needs 3"), "{message}");
    assert_eq!(promised(&space, "late").await, None);
    topic(&space, "plain", json!({})).await;
    eventually("one that needs one is admitted", async || promised(&space, "plain").await).await;
    space.merge::<EventBroker>("default", json!({"metadata": {"annotations": {"look": "now"}}})).await;
    let broker = until_broker(&space, "default", "HasRoom", "GroupsFilling").await;
    assert!(
        broker_condition(&broker, "HasRoom").unwrap().message.starts_with("1998 of 2000 raft groups are in use (99%)")
    );
    eventually("it is an Event", async || (space.events("GroupsFilling").await.len() == 1).then_some(())).await;
    status::<EventBroker>(&space, "default", groups(1997)).await;
    eventually("it is admitted", async || promised(&space, "late").await).await;
    operator.stop().await;
}
