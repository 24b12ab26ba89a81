//! An upgrade restarts a few brokers at a time, and replaces the pods of a few handlers; the others say what they wait
//! for.

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::broker::{condition, until_broker};
use crate::support::brokers::{Places, run_missing_pods, server, status, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::workloads::roll_out;
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

const BROKERS: [&str; 4] = ["a", "b", "c", "d"];
/// A configuration as an earlier version would have written it.
const OLD_CONFIG: &str = "# of an earlier version";
/// One more than have their turn at a time.
const HANDLERS: usize = 11;

/// The pods that the operator has taken away are made again.
async fn remake(space: &Space, set: &str) {
    run_missing_pods(space, set.trim_end_matches("-broker")).await;
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

/// Those whose brokers would read the configuration of the version before.
async fn configured_as_before(space: &Space) -> Vec<String> {
    let configs: Api<ConfigMap> = space.api();
    let configs = configs.list(&ListParams::default()).await.unwrap().items;
    let is_old = |config: &ConfigMap| config.data.as_ref().is_some_and(|data| data["nats.conf"] == OLD_CONFIG);
    let brokers = configs.iter().filter(|config| config.name_any().ends_with("-broker"));
    brokers.filter(|config| is_old(config)).map(|config| config.name_any()).collect()
}

/// The same of Deployments.
async fn upgraded_handlers(space: &Space) -> Vec<String> {
    let deployments: Api<Deployment> = space.api();
    let deployments = deployments.list(&ListParams::default()).await.unwrap().items;
    let is_new = |deployment: &Deployment| {
        let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
        pod.init_containers.iter().flatten().find(|sidecar| sidecar.image.as_deref() == Some("new:2"))?;
        Some(deployment.metadata.name.as_ref()?.trim_end_matches("-handler").to_owned())
    };
    deployments.iter().filter_map(is_new).collect()
}

/// All of a type in other namespaces.
async fn others<K>(space: &Space) -> Vec<(Api<K>, String)>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let all: Api<K> = Api::all(space.client.clone());
    let all = all.list(&ListParams::default()).await.unwrap().items;
    let others = all.into_iter().filter(|object| object.namespace().as_ref() != Some(&space.name));
    others
        .map(|object| (Api::namespaced(space.client.clone(), &object.namespace().unwrap()), object.name_any()))
        .collect()
}

/// What other tests have left is not in the queue, nor does it seem to be rolling out: no controller completes its
/// status.
async fn set_others_aside(space: &Space) {
    let paused = Patch::Merge(json!({"metadata": {"annotations": {"tidegate.io/paused": "true"}}}));
    // Another test may be about to remove any of them.
    for (api, name) in others::<EventTopic>(space).await {
        let _ = api.patch(&name, &PatchParams::default(), &paused).await;
    }
    for (api, name) in others::<EventBroker>(space).await {
        let _ = api.patch(&name, &PatchParams::default(), &paused).await;
    }
    for (api, name) in others::<EventHandler>(space).await {
        let _ = api.patch(&name, &PatchParams::default(), &paused).await;
    }
    for (api, name) in others::<StatefulSet>(space).await {
        let _ = api.delete(&name, &DeleteParams::default()).await;
    }
    for (api, name) in others::<Deployment>(space).await {
        let _ = api.delete(&name, &DeleteParams::default()).await;
    }
}

#[tokio::test]
async fn an_upgrade_goes_on_from_broker_to_broker_and_a_users_change_does_not_wait() {
    let _turn = turn().await;
    let (space, places) = (Space::new("pace").await, Places::default());
    for name in BROKERS {
        space.broker(name, json!({})).await;
    }
    let operator = Operator::start(space.client.clone());
    for name in BROKERS {
        until_broker(&space, name, "Ready", "PodsNotReady").await;
        run_missing_pods(&space, name).await;
    }
    operator.stop().await;
    for name in BROKERS {
        space.merge::<ConfigMap>(&format!("{name}-broker"), json!({"data": {"nats.conf": OLD_CONFIG}})).await;
    }
    set_others_aside(&space).await;
    let operator = Operator::start_version(space.client.clone(), "new:2", places.addresses());
    let first = eventually("the first are upgraded", async || {
        let upgraded = upgraded(&space).await;
        (upgraded.len() >= 2).then_some(upgraded)
    })
    .await;
    // Longer than a turn that does not show.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(upgraded(&space).await, first, "the others wait until these are done");
    let as_before = configured_as_before(&space).await;
    for name in BROKERS.map(|name| format!("{name}-broker")) {
        assert_ne!(first.contains(&name), as_before.contains(&name), "{name} reads what its pods were made for");
    }
    let waiting = BROKERS.iter().find(|name| !first.contains(&format!("{name}-broker"))).unwrap();
    let change = json!({"spec": {"pods": {"resources": {"requests": {"memory": "1Gi"}}}}});
    space.merge::<EventBroker>(waiting, change).await;
    eventually("a change that was asked for is made", async || {
        upgraded(&space).await.contains(&format!("{waiting}-broker")).then_some(())
    })
    .await;
    eventually("all are upgraded, one after the other", async || {
        for name in upgraded(&space).await {
            remake(&space, &name).await;
        }
        (upgraded(&space).await.len() == BROKERS.len() && configured_as_before(&space).await.is_empty()).then_some(())
    })
    .await;
    operator.stop().await;
}

/// What the Deployment controller says while pods are being replaced.
async fn begin(space: &Space, handler: &str) {
    let name = format!("{handler}-handler");
    let deployment: Deployment = space.api().get(&name).await.unwrap();
    let counts = json!({"observedGeneration": deployment.metadata.generation, "replicas": 1, "updatedReplicas": 0});
    status::<Deployment>(space, &name, counts).await;
}

fn waits(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition], limit: &str) -> Option<()> {
    let says = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    let reconciling = says("Reconciling").filter(|found| found.status == "True" && found.reason == "WaitingForTurn")?;
    assert!(reconciling.message.contains(limit), "{}", reconciling.message);
    assert_eq!(says("Stalled").unwrap().status, "False");
    Some(())
}

#[tokio::test]
async fn what_waits_for_its_turn_says_so_and_stays_ready() {
    let _turn = turn().await;
    let (space, places) = (Space::new("turns").await, Places::default());
    let server = server().await;
    topic_on(&space, &places, &server, "a").await;
    for name in &BROKERS[1..] {
        space.broker(name, json!({})).await;
    }
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "a").await;
    // It is made again with the others, from its StatefulSet's template.
    space.api::<Pod>().delete("a-broker-0", &DeleteParams::default()).await.unwrap();
    for name in BROKERS {
        until_broker(&space, name, "Ready", if name == "a" { "Ready" } else { "PodsNotReady" }).await;
        run_missing_pods(&space, name).await;
        let ready = json!({"replicas": 1, "readyReplicas": 1});
        status::<StatefulSet>(&space, &format!("{name}-broker"), ready).await;
        until_broker(&space, name, "Ready", "Ready").await;
    }
    let names: Vec<String> = (0..HANDLERS).map(|number| format!("h{number}")).collect();
    let topic_a = || spec(json!({"topic": "a", "replicas": 1}));
    for name in &names {
        space.create::<EventHandler>(handler(name, topic_a())).await;
    }
    let handlers: Api<EventHandler> = space.api();
    for name in &names {
        let deployments: Api<Deployment> = space.api();
        eventually(name, async || deployments.get_opt(&format!("{name}-handler")).await.ok()?).await;
        roll_out(&space, name).await;
    }
    operator.stop().await;
    set_others_aside(&space).await;
    let operator = Operator::start_version(space.client.clone(), "new:2", places.addresses());
    let mut said = 0;
    let waiting = eventually("one handler waits, and says so", async || {
        // Handlers wait for their topic too, and that for its broker, whose turn may come before theirs.
        run_missing_pods(&space, "a").await;
        let upgraded = upgraded_handlers(&space).await;
        if upgraded.len() != said {
            eprintln!("of the new version: {upgraded:?}");
            said = upgraded.len();
        }
        for name in &upgraded {
            begin(&space, name).await;
        }
        let waiting = names.iter().find(|name| !upgraded.contains(name)).filter(|_| upgraded.len() + 1 == HANDLERS)?;
        let status = handlers.get(waiting).await.ok()?.status?;
        waits(&status.conditions, "10 handlers at a time").map(|()| waiting)
    })
    .await;
    let ready = handlers.get(waiting).await.unwrap().status.unwrap().conditions;
    assert!(ready.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"), "{ready:?}");
    let brokers: Api<EventBroker> = space.api();
    let broker = eventually("a broker waits, and says so", async || {
        let upgraded = upgraded(&space).await;
        let waiting = BROKERS.iter().find(|name| !upgraded.contains(&format!("{name}-broker")))?;
        let broker = brokers.get(waiting).await.ok()?;
        waits(&broker.status.as_ref()?.conditions, "2 brokers at a time").map(|()| broker)
    })
    .await;
    assert_eq!(condition(&broker, "Ready").unwrap().status, "True");
    eventually("all are upgraded, and none waits any more", async || {
        for name in upgraded(&space).await {
            remake(&space, &name).await;
        }
        for name in upgraded_handlers(&space).await {
            roll_out(&space, &name).await;
        }
        let is_done = |reason: &str| reason != "WaitingForTurn";
        let broker = condition(&brokers.get(&broker.name_any()).await.ok()?, "Reconciling")?;
        let handler = crate::handler::condition(&handlers.get(waiting).await.ok()?, "Reconciling")?;
        (is_done(&broker.reason) && is_done(&handler.reason)).then_some(())
    })
    .await;
    operator.stop().await;
}
