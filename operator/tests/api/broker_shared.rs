//! Topics that share a broker: they come, change and go, and nothing of it is made again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::RequestErrorKind;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use tidegate_broker_admin::jwt;
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::Routing;
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_crds::EventBroker;
use tidegate_crds::EventTopic;
use tidegate_test_broker::TestBroker;
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::support::brokers::{Places, account, broker_on, publish_one, server, topic_at, until_ready};
use crate::support::ingress;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{gone, until_reason};

const TOPICS: usize = 10;

fn name(number: usize) -> String {
    format!("t{number}")
}

/// 21 MiB of the broker's room.
fn small() -> Value {
    json!({"retention": {"maxSize": "16Mi"}, "maxEventSize": "64Ki", "deletionPolicy": "Delete"})
}

/// What a restart of the broker would be seen by: its StatefulSet, its configuration, and the pod itself.
async fn made(space: &Space) -> (Vec<(String, Option<String>)>, Value, Option<String>, Option<String>) {
    let sets = space.api::<StatefulSet>().list(&ListParams::default()).await.unwrap().items;
    let template = serde_json::to_value(&sets[0].spec.as_ref().unwrap().template).unwrap();
    let config: ConfigMap = space.api().get("default-broker").await.unwrap();
    let pod: Pod = space.api().get("default-broker-0").await.unwrap();
    let sets = sets.iter().map(|set| (set.name_any(), set.resource_version())).collect();
    (sets, template, config.resource_version(), pod.uid())
}

/// The names of the topics that the ingresses are told of.
async fn served(space: &Space) -> Vec<String> {
    let topics = ingress::topics(&space.api(), "default-topics").await.topics;
    topics.iter().map(|topic| topic.id.name().to_owned()).collect()
}

async fn until_counted(space: &Space, count: i64) {
    let brokers: Api<EventBroker> = space.api();
    eventually("the broker counts its topics", async || {
        (brokers.get("default").await.ok()?.status?.topics == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn topics_come_change_and_go_and_their_broker_stays_as_it_is() {
    let _turn = turn().await;
    let (space, places) = (Space::new("shared").await, Places::default());
    let broker = server().await;
    broker_on(&space, &places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    topic_at(&space, "default", &name(0), small()).await;
    until_ready(&space, &name(0)).await;
    let first = made(&space).await;
    assert_eq!(first.0.len(), 1);
    for number in 1..TOPICS {
        topic_at(&space, "default", &name(number), small()).await;
    }
    for number in 0..TOPICS {
        until_ready(&space, &name(number)).await;
    }
    let all: Vec<String> = (0..TOPICS).map(name).collect();
    assert_eq!(served(&space).await, all);
    until_counted(&space, 10).await;
    assert_eq!(made(&space).await, first, "ten topics, one broker");
    // Each has streams and events of its own.
    let one = tidegate_test_broker::jetstream(account(&space, &broker, &name(3)).await.operator);
    publish_one(&one).await;
    for number in 0..TOPICS {
        let topic = account(&space, &broker, &name(number)).await;
        let events = tidegate_test_broker::answer(async || topic.admin.stream("events").await).await;
        assert_eq!(events.state.messages, u64::from(number == 3), "{}", name(number));
    }
    // They change, with what the ingress has to know and without.
    space.merge::<EventTopic>(&name(1), json!({"spec": {"maxEventSize": "128Ki"}})).await;
    space.merge::<EventTopic>(&name(2), json!({"spec": {"retention": {"maxSize": "20Mi"}}})).await;
    let admin = account(&space, &broker, &name(2)).await.admin;
    eventually("both changes are made", async || {
        let topics = ingress::topics(&space.api(), "default-topics").await.topics;
        (topics[1].max_event_size == 128 << 10 && admin.stream("events").await.ok()?.config.max_bytes == 20 << 20)
            .then_some(())
    })
    .await;
    // And go, all but two.
    for number in 2..TOPICS {
        space.api::<EventTopic>().delete(&name(number), &DeleteParams::default()).await.unwrap();
    }
    for number in 2..TOPICS {
        gone(&space, &name(number)).await;
    }
    eventually("the ingresses are told", async || (served(&space).await == all[..2]).then_some(())).await;
    until_counted(&space, 2).await;
    for number in 0..2 {
        until_ready(&space, &name(number)).await;
    }
    assert_eq!(made(&space).await, first, "nothing was restarted");
    operator.stop().await;
}

/// Topics that are made at the same time.
const MANY: usize = 30;

/// The id of the account of a broker's ingresses.
fn ingress_account(broker: &TestBroker) -> String {
    broker.authority().ingress_account(&[], OffsetDateTime::now_utc()).unwrap().id
}

/// Counts the pushes of the account of the ingresses.
async fn pushes(broker: &TestBroker) -> (Arc<AtomicUsize>, AbortOnDropHandle<()>) {
    let (client, account, count) =
        (broker.system_client().await, ingress_account(broker), Arc::<AtomicUsize>::default());
    let mut pushes = client.subscribe("$SYS.REQ.CLAIMS.UPDATE", None).unwrap();
    let counted = count.clone();
    let task = tokio::spawn(async move {
        while let Some(push) = pushes.next().await {
            let claims = std::str::from_utf8(push.payload()).ok().and_then(jwt::payload).expect("claims");
            counted.fetch_add(usize::from(claims["sub"] == account.as_str()), Ordering::SeqCst);
        }
        drop(client);
    });
    (count, AbortOnDropHandle::new(task))
}

/// The account of the ingresses has something of every topic: pushed once for each, it would grow as their square.
#[tokio::test]
async fn topics_that_come_together_are_pushed_to_the_ingresses_together() {
    let _turn = turn().await;
    let (space, places) = (Space::new("together").await, Places::default());
    let broker = server().await;
    broker_on(&space, &places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    let (count, _task) = pushes(&broker).await;
    let names: Vec<String> = (0..MANY).map(name).collect();
    join_all(names.iter().map(|name| topic_at(&space, "default", name, small()))).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    eventually("the first push", async || (count.load(Ordering::SeqCst) > 0).then_some(())).await;
    let begun = Instant::now();
    for name in &names {
        until_ready(&space, name).await;
    }
    let (pushes, took) = (count.load(Ordering::SeqCst), begun.elapsed());
    eprintln!("{pushes} pushes for {MANY} topics in {took:?}");
    let has_all = async || {
        let claims = jwt::payload(&ingress::claims(&broker, &ingress_account(&broker)).await?)?;
        // Two of each: what is written, and what is pulled.
        (claims["nats"]["imports"].as_array()?.len() == 2 * MANY).then_some(())
    };
    eventually("the ingresses have something of each topic", has_all).await;
    // One begins every half second at most. The first one may have been a second before it was seen.
    let spaced = usize::try_from(took.as_millis() / 500).unwrap();
    assert!(pushes <= spaced + 4, "{pushes} pushes for {MANY} topics in {took:?}");
    operator.stop().await;
}

/// A server that loads the account of the ingresses while it is pushed may go on with the former one. This one is put there.
#[tokio::test]
async fn what_the_ingresses_are_given_is_seen_to_until_it_is_in_force() {
    let _turn = turn().await;
    let (space, places) = (Space::new("in-force").await, Places::default());
    let broker = server().await;
    broker_on(&space, &places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    topic_at(&space, "default", "orders", small()).await;
    until_ready(&space, "orders").await;
    // No reconcile of the topic sees to it.
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {"tidegate.io/paused": "true"}}})).await;
    until_reason(&space, "orders", "Paused", "Paused").await;
    let file = broker.data().join("accounts").join(format!("{}.jwt", ingress_account(&broker)));
    let pushed = std::fs::read_to_string(&file).unwrap();
    // The server has nothing of this topic in force, and stores that it has.
    broker.push_ingress_account().await;
    std::fs::write(&file, pushed).unwrap();
    let orders = TopicId::new(space.name.clone(), "orders").unwrap();
    let event = TopicSubjects::new(&orders, Routing::Queued).event("events.0.t");
    let ingress = broker.ingress().await;
    let refused = ingress.request(event.clone(), "x".into()).await.unwrap_err();
    assert_eq!(refused.kind(), RequestErrorKind::NoResponders);
    // Ten seconds after its push, or once a minute.
    let compared = Instant::now() + Duration::from_secs(90);
    while ingress.request(event.clone(), "x".into()).await.is_err() {
        assert!(Instant::now() < compared, "no event is stored");
        sleep(Duration::from_millis(200)).await;
    }
    operator.stop().await;
}
