//! What becomes of an EventBroker: the default one of a namespace, and those that topics name.

use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_operator::context::Context;

use crate::children::{self, OF_BROKER, kinds};
use crate::support::brokers::{
    Places, broker_on, keep_keys, keys, pods_are_ready, run_broker_pod, server, topic_at, until_ready,
};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually};
use crate::topic::{self, gone, until_reason};

/// The broker's condition of this type.
pub fn condition(broker: &EventBroker, kind: &str) -> Option<Condition> {
    broker.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// Waits until the broker's condition has this reason.
pub async fn until_broker(space: &Space, name: &str, kind: &str, reason: &str) -> EventBroker {
    let api: Api<EventBroker> = space.api();
    let mut last = None;
    eventually(&format!("{kind} of broker {name} says {reason}"), async || {
        let broker = api.get(name).await.ok()?;
        let found = condition(&broker, kind)?;
        let says = found.reason == reason;
        if last.as_ref() != Some(&found) {
            eprintln!("broker {name} in {}: {} because {}: {}", space.name, found.status, found.reason, found.message);
            last = Some(found);
        }
        says.then_some(broker)
    })
    .await
}

pub async fn broker_gone(space: &Space, name: &str) {
    eventually("the broker is gone", async || {
        space.api::<EventBroker>().get_opt(name).await.ok()?.is_none().then_some(())
    })
    .await;
}

/// All brokers of the namespace.
pub async fn brokers(space: &Space) -> Vec<EventBroker> {
    space.api::<EventBroker>().list(&ListParams::default()).await.unwrap().items
}

/// An operator of an installation with this `defaultBroker`.
fn with_default(space: &Space, spec: Value) -> Operator {
    let mut args = args("operator-0", "default");
    args.default_broker = spec.as_object().unwrap().clone();
    Operator::run(Context::new(space.client.clone(), args))
}

#[tokio::test]
async fn topics_that_come_at_once_have_one_default_broker_which_is_the_users_from_then_on() {
    let _turn = turn().await;
    let space = Space::new("default").await;
    let said = json!({"durability": "Relaxed", "storage": {"size": "20Gi"}, "ingress": {"maxConnections": 99}});
    let operator = with_default(&space, said.clone());
    let topics: Api<EventTopic> = space.api();
    let made = (0..8).map(|number| {
        let topic = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": format!("t{number}")},
            "spec": {},
        });
        let topics = topics.clone();
        async move { topics.create(&PostParams::default(), &serde_json::from_value(topic).unwrap()).await.unwrap() }
    });
    for topic in join_all(made).await {
        let name = topic.name_any();
        until_reason(&space, &name, "Ready", "PodsNotReady").await;
        assert_eq!(space.events("BrokerNotFound").await, [] as [String; 0]);
    }
    let found = brokers(&space).await;
    assert_eq!(found.iter().map(|broker| broker.name_any()).collect::<Vec<_>>(), ["default"]);
    let spec = serde_json::to_value(&found[0].spec).unwrap();
    // No node is here, so it is one pod.
    assert_eq!(spec, crate::support::merged(&json!({"replicas": 1}), &said));
    assert_eq!(kinds(&children::of_broker(&space, "default").await), OF_BROKER);
    // A user's change stays, through another operator of an installation that says something else, and another topic.
    let edited: EventBroker =
        space.merge("default", json!({"spec": {"durability": "Fsync", "ingress": {"maxConnections": 500}}})).await;
    operator.stop().await;
    let operator = with_default(&space, json!({"durability": "Relaxed", "ingress": {"maxConnections": 7000}}));
    space.topic("late", json!({})).await;
    until_reason(&space, "late", "Ready", "PodsNotReady").await;
    let after: EventBroker = eventually("the broker was looked at", async || {
        let broker: EventBroker = space.api().get("default").await.ok()?;
        (broker.status.as_ref()?.topics == 9).then_some(broker)
    })
    .await;
    assert_eq!((&after.spec, after.metadata.generation), (&edited.spec, edited.metadata.generation));
    operator.stop().await;
}

#[tokio::test]
async fn an_installation_says_how_many_pods_the_default_broker_has() {
    let _turn = turn().await;
    let space = Space::new("default-three").await;
    let operator = with_default(&space, json!({"replicas": 3}));
    space.topic("orders", json!({})).await;
    let topic = until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    assert!(topic::condition(&topic, "Ready").unwrap().message.contains("0 of 3 broker pods"));
    assert_eq!(brokers(&space).await[0].spec.replicas, 3);
    operator.stop().await;
}

#[tokio::test]
async fn where_there_are_three_nodes_the_default_broker_has_three_pods() {
    let _turn = turn().await;
    let space = Space::new("default-nodes").await;
    let nodes: Api<Node> = Api::all(space.client.clone());
    let names = [0, 1, 2].map(|number| format!("{}-{number}", space.name));
    for name in &names {
        let node = json!({"metadata": {"name": name}});
        nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    }
    let operator = with_default(&space, json!({}));
    space.topic("orders", json!({})).await;
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
    // Other tests have none.
    for name in &names {
        nodes.delete(name, &DeleteParams::default()).await.unwrap();
    }
    assert_eq!(brokers(&space).await[0].spec.replicas, 3);
}

#[tokio::test]
async fn a_default_broker_that_is_none_is_told_and_mended_by_the_next_installation_or_the_user() {
    let _turn = turn().await;
    let space = Space::new("default-wrong").await;
    // What our types refuse, and what only the schema does.
    for (wrong, reason, words) in [
        (json!({"replicas": "many"}), "InvalidDefaultBroker", "defaultBroker of the installation"),
        (json!({"replicas": 2}), "InvalidDefaultBroker", "1, 3 or 5"),
        (json!({"storage": {"size": "1Ki"}}), "InvalidDefaultBroker", "at least 64Mi"),
    ] {
        let operator = with_default(&space, wrong.clone());
        space.topic("orders", json!({})).await;
        let topic = until_reason(&space, "orders", "Stalled", reason).await;
        let found = topic::condition(&topic, "Stalled").unwrap();
        assert!(found.status == "True" && found.message.contains(words), "{wrong}: {}", found.message);
        assert!(brokers(&space).await.is_empty());
        // Nothing was made of it: it goes at once.
        space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
        gone(&space, "orders").await;
        operator.stop().await;
    }
    let operator = with_default(&space, json!({"replicas": 2}));
    space.topic("orders", json!({})).await;
    until_reason(&space, "orders", "Stalled", "InvalidDefaultBroker").await;
    space.broker("default", json!({})).await;
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_topic_of_a_broker_that_is_not_there_says_so_and_continues_when_it_comes() {
    let _turn = turn().await;
    let space = Space::new("not-there").await;
    let operator = Operator::start(space.client.clone());
    space.topic("orders", json!({"broker": {"name": "large"}})).await;
    let topic = until_reason(&space, "orders", "Ready", "BrokerNotFound").await;
    let found = topic::condition(&topic, "Ready").unwrap();
    assert!(found.message.contains("no EventBroker large") && found.message.contains("make it"), "{}", found.message);
    assert_eq!(topic::condition(&topic, "Stalled").unwrap().status, "True");
    assert!(brokers(&space).await.is_empty(), "it has a name of its own");
    assert_eq!(children::of_topic(&space, "orders").await.len(), 0);
    space.broker("large", json!({})).await;
    until_reason(&space, "orders", "Ready", "PodsNotReady").await;
    space.topic("lost", json!({"broker": {"name": "other"}})).await;
    until_reason(&space, "lost", "Ready", "BrokerNotFound").await;
    space.api::<EventTopic>().delete("lost", &DeleteParams::default()).await.unwrap();
    gone(&space, "lost").await;
    operator.stop().await;
}

/// Two topics of one name in two namespaces, each on the default broker of its own, with keys, room and events apart.
#[tokio::test]
async fn topics_of_one_name_in_two_namespaces_have_nothing_in_common() {
    let _turn = turn().await;
    let (one, other, places) = (Space::new("one").await, Space::new("other").await, Places::default());
    let servers = [server().await, server().await];
    let operator = Operator::start_with_brokers(one.client.clone(), places.addresses());
    for (space, server) in [&one, &other].into_iter().zip(&servers) {
        // The operator makes the resource itself.
        keep_keys(space, &places, server, "default").await;
        space.topic("orders", json!({"retention": {"maxSize": "256Mi"}})).await;
        run_broker_pod(space, "default").await;
    }
    for (space, server) in [&one, &other].into_iter().zip(&servers) {
        until_ready(space, "orders").await;
        let topic = crate::support::brokers::account(space, server, "orders").await;
        let events = tidegate_test_broker::answer(async || topic.admin.stream("events").await).await;
        assert_eq!(events.config.max_bytes, 256 << 20);
    }
    let addresses =
        async |space: &Space| space.api::<EventTopic>().get("orders").await.unwrap().status.unwrap().address;
    assert_ne!(addresses(&one).await, addresses(&other).await);
    assert_ne!(keys(&one, "default").await.unwrap().data, keys(&other, "default").await.unwrap().data);
    // One's end is none of the other's.
    one.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
    gone(&one, "orders").await;
    one.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
    broker_gone(&one, "default").await;
    let still = crate::support::brokers::account(&other, &servers[1], "orders").await;
    assert!(still.admin.stream("events").await.is_ok());
    assert!(keys(&other, "default").await.is_some());
    operator.stop().await;
}

/// A topic is ready when every ingress takes events for it, and not when only its streams are there.
#[tokio::test]
async fn a_topic_is_ready_when_its_ingress_serves_it_as_it_is_now() {
    let _turn = turn().await;
    let (space, places) = (Space::new("served").await, Places::default());
    let server = server().await;
    broker_on(&space, &places, &server, "default", json!({"storage": {"size": "1Gi"}})).await;
    topic_at(&space, "default", "orders", json!({"maxEventSize": "64Ki"})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    pods_are_ready(&space, "default").await;
    let secrets = space.api();
    let topics = async || crate::support::ingress::topics(&secrets, "default-topics").await.topics;
    let first = topics().await;
    assert_eq!(first.len(), 1);
    assert_eq!(
        (first[0].max_event_size, first[0].hosts[0].as_str()),
        (64 << 10, format!("orders-topic.{}.svc", space.name).as_str())
    );
    // What the ingress has to know changes: the topic is served again, with the new revision.
    let changed: EventTopic = space.merge("orders", json!({"spec": {"maxEventSize": "128Ki"}})).await;
    eventually("it is served as it is now", async || {
        let topic: EventTopic = space.api().get("orders").await.ok()?;
        let (ready, served) = (topic::condition(&topic, "Ready")?, topic::condition(&topic, "Addressable")?);
        (ready.status == "True"
            && served.reason == "Served"
            && ready.observed_generation == changed.metadata.generation)
            .then_some(())
    })
    .await;
    let second = topics().await;
    assert!(second[0].max_event_size == 128 << 10 && second[0].revision != first[0].revision);
    operator.stop().await;
}
