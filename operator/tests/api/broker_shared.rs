//! Topics that share a broker: they come, change and go, and nothing of it is made again.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use tidegate_crds::EventBroker;
use tidegate_crds::EventTopic;

use crate::support::brokers::{Places, account, broker_on, publish_one, server, topic_at, until_ready};
use crate::support::ingress;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::gone;

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
