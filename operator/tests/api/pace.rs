//! An upgrade restarts a few brokers at a time.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use tidegate_crds::EventTopic;

use crate::support::brokers::status;
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::until_reason;

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

/// What the StatefulSet controller says: whether the pods are of the newest template.
async fn count(space: &Space, name: &str, done: bool) {
    let set: StatefulSet = space.api().get(name).await.unwrap();
    let current = if done { "new" } else { "old" };
    let counts = json!({
        "replicas": 1, "observedGeneration": set.metadata.generation, "currentRevision": current,
        "updateRevision": "new",
    });
    status::<StatefulSet>(space, name, counts).await;
}

/// Those whose template is of the new version.
async fn upgraded(space: &Space) -> Vec<String> {
    let sets: Api<StatefulSet> = space.api();
    let sets = sets.list(&ListParams::default()).await.unwrap().items;
    let is_new = |set: &StatefulSet| {
        set.spec
            .as_ref()?
            .template
            .spec
            .as_ref()?
            .containers
            .iter()
            .find(|nats| nats.image.as_deref() == Some("new:2"))?;
        set.metadata.name.clone()
    };
    sets.iter().filter_map(is_new).collect()
}

#[tokio::test]
async fn an_upgrade_goes_on_from_topic_to_topic_and_a_users_change_does_not_wait() {
    let _turn = turn().await;
    let space = Space::new("pace").await;
    for name in TOPICS {
        space.topic(name, json!({})).await;
    }
    let operator = Operator::start(space.client.clone());
    for name in TOPICS {
        until_reason(&space, name, "StreamReady", "BrokerStarting").await;
        count(&space, &format!("{name}-broker"), true).await;
    }
    operator.stop().await;
    // What other tests have left is not in the queue.
    let all: Api<EventTopic> = Api::all(space.client.clone());
    for topic in all.list(&ListParams::default()).await.unwrap().items {
        let namespace = topic.namespace().unwrap();
        if namespace != space.name {
            let api: Api<EventTopic> = Api::namespaced(space.client.clone(), &namespace);
            let paused = Patch::Merge(json!({"metadata": {"annotations": {"tidegate.io/paused": "true"}}}));
            // Another test may be about to remove it.
            let _ = api.patch(&topic.name_any(), &PatchParams::default(), &paused).await;
        }
    }
    // Nor does it seem to be rolling out: no controller completes its status.
    let sets: Api<StatefulSet> = Api::all(space.client.clone());
    for set in sets.list(&ListParams::default()).await.unwrap().items {
        let namespace = set.namespace().unwrap();
        if namespace != space.name {
            let api: Api<StatefulSet> = Api::namespaced(space.client.clone(), &namespace);
            let _ = api.delete(&set.name_any(), &DeleteParams::default()).await;
        }
    }
    let operator = Operator::start_version(space.client.clone(), "new:2");
    let first = eventually("the first are upgraded", async || {
        let upgraded = upgraded(&space).await;
        for name in &upgraded {
            count(&space, name, false).await;
        }
        (upgraded.len() >= 2).then_some(upgraded)
    })
    .await;
    // Longer than a turn that does not show.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(upgraded(&space).await, first, "the others wait until these are done");
    let waiting = TOPICS.iter().find(|name| !first.contains(&format!("{name}-broker"))).unwrap();
    let change = json!({"spec": {"broker": {"resources": {"requests": {"memory": "1Gi"}}}}});
    space.merge::<EventTopic>(waiting, change).await;
    eventually("a change that was asked for is made", async || {
        upgraded(&space).await.contains(&format!("{waiting}-broker")).then_some(())
    })
    .await;
    eventually("all are upgraded, one after the other", async || {
        for name in upgraded(&space).await {
            count(&space, &name, true).await;
        }
        (upgraded(&space).await.len() == TOPICS.len()).then_some(())
    })
    .await;
    operator.stop().await;
}
