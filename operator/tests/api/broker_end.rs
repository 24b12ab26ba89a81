//! The end of brokers and topics, with a real nats-server: what goes, what stays, and what is there again.

use futures::FutureExt as _;
use http::Method;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt as _;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_admin::accounts::Account;
use tidegate_broker_admin::guests;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tidegate_test_broker::{TestBroker, answer};
use time::OffsetDateTime;

use crate::broker::{broker_gone, condition, until_broker};
use crate::children;
use crate::support::brokers::{
    Places, account, broker_on, id, keys, pods_are_ready, publish_one, run_broker_pod, server, topic_at, until_ready,
};
use crate::support::meddling::before_first;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually, ingress};
use crate::topic::{gone, until_reason};
use crate::topic_trouble::volume;
use crate::validation_handler::{handler, spec};

async fn world(purpose: &str) -> (Space, Places, TestBroker, Operator) {
    let (space, places) = (Space::new(purpose).await, Places::default());
    let server = server().await;
    broker_on(&space, &places, &server, "default", json!({"storage": {"size": "1Gi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    (space, places, server, operator)
}

/// The volume that the StatefulSet controller would make.
fn claim() -> Value {
    let mut claim = volume("default");
    claim["spec"]["resources"]["requests"]["storage"] = json!("1Gi");
    claim
}

async fn publish(space: &Space, server: &TestBroker, topic: &str, events: usize) {
    let js = tidegate_test_broker::jetstream(account(space, server, topic).await.operator);
    for _ in 0..events {
        publish_one(&js).await;
    }
}

async fn stored(space: &Space, server: &TestBroker, topic: &str) -> u64 {
    let topic = account(space, server, topic).await;
    answer(async || topic.admin.stream("events").await).await.state.messages
}

async fn delete_topic(space: &Space, name: &str) {
    space.api::<EventTopic>().delete(name, &DeleteParams::default()).await.unwrap();
    gone(space, name).await;
}

/// What the garbage collector and the StatefulSet controller do with what a broker left.
async fn collect(space: &Space, topics: &[&str]) {
    let mut left: Vec<_> = children::of_broker(space, "default").await.into_iter().collect();
    for topic in topics {
        left.extend(children::of_topic(space, topic).await);
    }
    for (kind, child) in left.into_iter().filter(|(kind, _)| *kind != "authority") {
        children::api(space, kind).delete(&child.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    space.api::<Pod>().delete("default-broker-0", &at_once).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_topics_name_stays_and_goes_with_the_last_of_them() {
    let _turn = turn().await;
    let (space, _places, server, operator) = world("in-use").await;
    for name in ["orders", "invoices"] {
        topic_at(&space, "default", name, json!({"deletionPolicy": "Delete"})).await;
        until_ready(&space, name).await;
    }
    space.create::<PersistentVolumeClaim>(claim()).await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    let broker = until_broker(&space, "default", "InUse", "TopicsOnBroker").await;
    let found = condition(&broker, "InUse").unwrap();
    assert!(found.status == "True" && found.message.contains("invoices") && found.message.contains("orders"));
    // It works until then, and takes no topic that was not there.
    publish(&space, &server, "orders", 1).await;
    topic_at(&space, "default", "late", json!({})).await;
    let late = until_reason(&space, "late", "Ready", "BrokerDeleting").await;
    assert_eq!(crate::topic::condition(&late, "Stalled").unwrap().status, "True");
    delete_topic(&space, "late").await;
    until_ready(&space, "orders").await;
    delete_topic(&space, "invoices").await;
    eventually("it names the one that is left", async || {
        let found = condition(&space.api::<EventBroker>().get("default").await.ok()?, "InUse")?;
        (!found.message.contains("invoices") && found.message.contains("orders")).then_some(())
    })
    .await;
    assert_eq!(stored(&space, &server, "orders").await, 1);
    delete_topic(&space, "orders").await;
    broker_gone(&space, "default").await;
    assert!(keys(&space, "default").await.is_none(), "nothing is retained on it");
    let claim = space.api::<PersistentVolumeClaim>().get_opt("data-default-broker-0").await.unwrap();
    assert!(claim.is_none_or(|claim| claim.metadata.deletion_timestamp.is_some()));
    operator.stop().await;
}

#[tokio::test]
async fn a_broker_with_retained_events_leaves_volumes_and_keys_and_made_again_has_the_events() {
    let _turn = turn().await;
    let (space, places, mut server, operator) = world("retained").await;
    topic_at(&space, "default", "orders", json!({})).await;
    until_ready(&space, "orders").await;
    publish(&space, &server, "orders", 3).await;
    space.create::<PersistentVolumeClaim>(claim()).await;
    // Of a server that was removed: the broker had not come to that.
    let mut removed = claim();
    removed["metadata"]["name"] = json!("data-default-broker-1");
    space.create::<PersistentVolumeClaim>(removed).await;
    let before = keys(&space, "default").await.unwrap();
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    until_broker(&space, "default", "InUse", "TopicsOnBroker").await;
    delete_topic(&space, "orders").await;
    broker_gone(&space, "default").await;
    let stale = space.api::<PersistentVolumeClaim>().get_opt("data-default-broker-1").await.unwrap();
    assert!(stale.is_none_or(|claim| claim.metadata.deletion_timestamp.is_some()), "it would begin with old data");
    // As the controller does that protects claims, when no pod has it.
    let unprotected = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let claims = space.api::<PersistentVolumeClaim>();
    let _gone_already = claims.patch("data-default-broker-1", &PatchParams::default(), &unprotected).await;
    let note = eventually("an Event", async || space.events("StorageRetained").await.pop()).await;
    assert!(note.contains("(orders)") && note.contains("data-default-broker-0"), "{note}");
    assert!(!note.contains("data-default-broker-1"), "{note}");
    let kept = keys(&space, "default").await.unwrap();
    assert_eq!((&kept.data, kept.uid(), kept.metadata.deletion_timestamp.clone()), (&before.data, before.uid(), None));
    let claim: PersistentVolumeClaim = space.api().get("data-default-broker-0").await.unwrap();
    assert_eq!(claim.metadata.deletion_timestamp, None);
    // Its pod ends, and another one opens the volume.
    collect(&space, &["orders"]).await;
    server.stop();
    server.restart().await;
    places.set(&space, "default", server.servers());
    space.broker("default", json!({"storage": {"size": "1Gi"}})).await;
    topic_at(&space, "default", "orders", json!({})).await;
    run_broker_pod(&space, "default").await;
    until_ready(&space, "orders").await;
    assert_eq!(stored(&space, &server, "orders").await, 3);
    let again = keys(&space, "default").await.unwrap();
    assert_eq!(again.data, before.data);
    // It is a living topic's again; with Delete nothing is left to keep the volume for.
    space.merge::<EventTopic>("orders", json!({"spec": {"deletionPolicy": "Delete"}})).await;
    delete_topic(&space, "orders").await;
    space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    broker_gone(&space, "default").await;
    assert!(keys(&space, "default").await.is_none());
    operator.stop().await;
}

/// The accounts of a topic, of a handler and of a publisher on it.
fn accounts_of(space: &Space, server: &TestBroker, topic: &str, uid: &str) -> [Account; 3] {
    let (authority, topic, now) = (server.authority(), id(space, topic), OffsetDateTime::now_utc());
    let handler = guests::Handler {
        topic: topic.clone(),
        name: "billing".into(),
        uid: uid.into(),
        order: Order::None,
        routing: Routing::Queued,
        pods: 1,
    };
    [
        authority.topic_account(&topic, Routing::Queued, Some(1), now).unwrap(),
        authority.handler_account(&handler, None, now).unwrap(),
        authority.publisher_account(&topic, "web", None, now).unwrap(),
    ]
}

/// The streams that the server has of an account.
async fn streams(server: &TestBroker, account: &Account) -> Vec<String> {
    let page = server.monitoring("jsz?accounts=true&streams=true").await;
    let all = page["account_details"].as_array().cloned().unwrap_or_default();
    let of = all.iter().filter(|found| found["id"] == json!(account.id) || found["name"] == json!(account.id));
    let streams = of.flat_map(|found| found["stream_detail"].as_array().cloned().unwrap_or_default());
    let mut names: Vec<_> = streams.map(|stream: Value| stream["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn delete_takes_streams_and_accounts_of_one_topic_and_retain_keeps_its_events() {
    let _turn = turn().await;
    let (space, _places, server, operator) = world("two").await;
    for (name, policy) in [("orders", "Delete"), ("invoices", "Retain")] {
        topic_at(&space, "default", name, json!({"deletionPolicy": policy, "publishers": [{"nats": "web"}]})).await;
        until_ready(&space, name).await;
    }
    let mut uids = Vec::new();
    for (name, topic) in [("billing", "orders"), ("audit", "invoices")] {
        let made: EventHandler = space.create(handler(name, spec(json!({"replicas": 1, "topic": topic})))).await;
        uids.push(made.uid().unwrap());
        let js = tidegate_test_broker::jetstream(account(&space, &server, topic).await.operator);
        let consumer = async || js.get_stream("events").await.ok()?.consumer_info(name).await.ok();
        eventually("it is subscribed", consumer).await;
    }
    publish(&space, &server, "orders", 2).await;
    publish(&space, &server, "invoices", 4).await;
    let [topic, of_handler, publisher] = accounts_of(&space, &server, "orders", &uids[0]);
    let [other, other_handler, other_publisher] = accounts_of(&space, &server, "invoices", &uids[1]);
    assert!(!streams(&server, &topic).await.is_empty(), "the test looks where something is");
    let before = streams(&server, &other).await;
    for (what, account) in [("topic", &topic), ("handler", &of_handler), ("publisher", &publisher)] {
        assert!(is_known(&server, account).await, "{what}: the test looks where something is");
    }
    delete_topic(&space, "orders").await;
    assert_eq!(streams(&server, &topic).await, [] as [String; 0]);
    // Whoever still has credentials of it is let in nowhere.
    for (what, account) in [("topic", &topic), ("handler", &of_handler), ("publisher", &publisher)] {
        assert!(!is_known(&server, account).await, "{what}");
    }
    // The other one notices nothing.
    assert_eq!(streams(&server, &other).await, before);
    assert!(is_known(&server, &other).await && is_known(&server, &other_publisher).await);
    assert_eq!(stored(&space, &server, "invoices").await, 4);
    until_ready(&space, "invoices").await;
    let js = tidegate_test_broker::jetstream(account(&space, &server, "invoices").await.operator);
    assert!(js.get_stream("events").await.unwrap().consumer_info("audit").await.is_ok());
    // Made again it begins; its events were deleted.
    children_gone(&space, "orders").await;
    topic_at(&space, "default", "orders", json!({})).await;
    until_ready(&space, "orders").await;
    assert_eq!(stored(&space, &server, "orders").await, 0);
    // Retain: the streams stay, and the topic made again has its events.
    delete_topic(&space, "invoices").await;
    assert!(!is_known(&server, &other_publisher).await, "the ways to it end");
    assert!(!is_known(&server, &other_handler).await, "and the ways from it: nothing of it is delivered");
    let keys: Secret = keys(&space, "default").await.unwrap();
    assert!(keys.annotations().contains_key("retained-topic.tidegate.io/invoices"), "{:?}", keys.annotations());
    children_gone(&space, "invoices").await;
    topic_at(&space, "default", "invoices", json!({})).await;
    until_ready(&space, "invoices").await;
    assert_eq!(stored(&space, &server, "invoices").await, 4);
    eventually("its handler has its way again", async || is_known(&server, &other_handler).await.then_some(())).await;
    pods_are_ready(&space, "default").await;
    operator.stop().await;
}

/// A Direct topic of its name would have the same account, without JetStream.
#[tokio::test]
async fn a_direct_topic_is_not_made_over_retained_events() {
    let _turn = turn().await;
    let (space, _places, server, operator) = world("direct").await;
    topic_at(&space, "default", "orders", json!({})).await;
    until_ready(&space, "orders").await;
    publish(&space, &server, "orders", 3).await;
    let [kept, ..] = accounts_of(&space, &server, "orders", "none");
    let before = streams(&server, &kept).await;
    assert!(!before.is_empty(), "the test looks where something is");
    delete_topic(&space, "orders").await;
    children_gone(&space, "orders").await;
    topic_at(&space, "default", "orders", json!({"routing": "Direct", "deletionPolicy": "Delete"})).await;
    let refused = until_reason(&space, "orders", "Ready", "EventsRetained").await;
    assert_eq!(crate::topic::condition(&refused, "Stalled").unwrap().status, "True");
    let message = crate::topic::condition(&refused, "Ready").unwrap().message;
    assert!(message.contains("EventBroker default retains the events"), "{message}");
    assert!(message.contains("routing: Queued") && message.contains("another name"), "{message}");
    assert_eq!(refused.status.unwrap().promised, None);
    let names = ingress::topics(&space.api::<Secret>(), "default-topics").await.topics;
    assert!(names.is_empty(), "{names:?}");
    assert_eq!(streams(&server, &kept).await, before);
    // It goes as it came.
    delete_topic(&space, "orders").await;
    children_gone(&space, "orders").await;
    assert_eq!(streams(&server, &kept).await, before);
    let kept = keys(&space, "default").await.unwrap();
    assert!(kept.annotations().contains_key("retained-topic.tidegate.io/orders"), "{:?}", kept.annotations());
    // With the Queued one that the message names the events go, and then there may be a Direct one.
    topic_at(&space, "default", "orders", json!({"deletionPolicy": "Delete"})).await;
    until_ready(&space, "orders").await;
    assert_eq!(stored(&space, &server, "orders").await, 3);
    delete_topic(&space, "orders").await;
    children_gone(&space, "orders").await;
    topic_at(&space, "default", "orders", json!({"routing": "Direct"})).await;
    until_ready(&space, "orders").await;
    operator.stop().await;
}

/// Somebody takes the finalizer away and makes it again while the operator is about to delete what it stored.
#[tokio::test]
async fn a_topic_that_is_made_again_meanwhile_is_not_emptied() {
    let _turn = turn().await;
    let (space, places, server, operator) = world("again").await;
    topic_at(&space, "default", "orders", json!({"deletionPolicy": "Delete"})).await;
    until_ready(&space, "orders").await;
    publish(&space, &server, "orders", 3).await;
    operator.stop().await;
    let topics = space.api::<EventTopic>();
    let first = topics.get("orders").await.unwrap().uid();
    topics.delete("orders", &DeleteParams::default()).await.unwrap();
    let same = space.again();
    let make_again = move || {
        let space = same.again();
        async move {
            let let_go = Patch::Merge(json!({"metadata": {"finalizers": null}}));
            space.api::<EventTopic>().patch("orders", &PatchParams::default(), &let_go).await.unwrap();
            topic_at(&space, "default", "orders", json!({"retention": {"maxSize": "64Mi"}})).await;
        }
        .boxed()
    };
    let client = before_first(Method::GET, format!("/namespaces/{}/eventtopics/orders", space.name), make_again);
    let operator = Operator::start_with_brokers(client, places.addresses());
    let has_another = async || (topics.get_opt("orders").await.ok()??.uid() != first).then_some(());
    eventually("another topic of its name", has_another).await;
    children_gone(&space, "orders").await;
    until_ready(&space, "orders").await;
    assert_eq!(stored(&space, &server, "orders").await, 3);
    // It begins with what the first one was promised for them.
    let keys = keys(&space, "default").await.unwrap();
    assert_eq!(keys.annotations().get("retained-topic.tidegate.io/orders"), Some(&(320 << 20).to_string()));
    operator.stop().await;
}

/// What the garbage collector does.
async fn children_gone(space: &Space, topic: &str) {
    for (kind, child) in children::of_topic(space, topic).await {
        children::api(space, kind).delete(&child.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let publisher = format!("{topic}-publisher-web");
    let _ = space.api::<Secret>().delete(&publisher, &DeleteParams::default()).await;
}

/// Whether the server has this account.
async fn is_known(server: &TestBroker, account: &Account) -> bool {
    ingress::claims(server, &account.id).await.is_some()
}
