//! A handler's pods as the cluster really makes them.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::ListParams;
use serde_json::json;

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{World, world};

/// Where Kubernetes mounts a ServiceAccount's token.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Helm, Flux, Argo CD and `kubectl wait` go by the conditions of the current generation.
#[tokio::test]
async fn a_rollout_that_is_stuck_is_not_ready_for_a_moment_while_the_old_pod_serves() {
    world("stuck", async |world| {
        world.begin(1).await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        let mut broken = handler("worker", &[], json!({}));
        broken["spec"]["template"]["spec"]["containers"][0]["image"] = json!("localhost/tidegate/no-such-image:dev");
        world.accept(broken).await;
        let stuck = world.until("the rollout to be said to be stuck", 60, async || {
            let handler = world.handler("worker").await;
            let generation = handler.metadata.generation;
            let conditions = handler.status?.conditions;
            let current = conditions.iter().filter(|condition| condition.observed_generation == generation);
            let find = |kind: &str| current.clone().find(|condition| condition.type_ == kind);
            assert!(
                find("Ready").is_none_or(|ready| ready.status == "False"),
                "kubectl wait would return: {conditions:?}"
            );
            let is_stalled = find("Stalled")?.status == "True";
            find("Ready").filter(|_| is_stalled).cloned()
        });
        let stuck = stuck.await;
        assert_eq!(stuck.reason, "PodsFailing", "{}", stuck.message);
        for part in ["0 of 1 pods are ready, 1 of an earlier template remain", "container main", "no-such-image"] {
            assert!(stuck.message.contains(part), "{part}: {}", stuck.message);
        }
        world.publish("meanwhile", 10, 0).await;
        world.all_received(10, 60).await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
    })
    .await;
}

#[tokio::test]
async fn the_token_of_the_users_serviceaccount_is_for_the_users_containers_only() {
    world("token", async |world| {
        world.accept(broker("default", 1)).await;
        world.accept(topic("events")).await;
        let mut with_token = handler("worker", &[], json!({}));
        let template = with_token["spec"]["template"]["spec"].as_object_mut().unwrap();
        template.remove("automountServiceAccountToken");
        world.accept(with_token).await;
        world.accept(handler("without", &[], json!({}))).await;
        for (name, has_token) in [("worker", true), ("without", false)] {
            world.handler_ready(name).await;
            let spec = world.handler_pod(name).await.spec.unwrap();
            let volumes = spec.volumes.unwrap();
            let tokens = |container: &Container| {
                let mounts = container.volume_mounts.iter().flatten();
                let mounted = mounts.filter_map(|mount| volumes.iter().find(|volume| volume.name == mount.name));
                let sources = mounted.filter_map(|volume| volume.projected.as_ref()?.sources.as_ref()).flatten();
                sources.filter(|source| source.service_account_token.is_some()).count()
            };
            let sidecar = spec.init_containers.as_ref().unwrap().first().unwrap();
            assert_eq!(sidecar.name, "tidegate-sidecar");
            assert_eq!((tokens(sidecar), tokens(&spec.containers[0])), (0, usize::from(has_token)), "{name}");
            let at = sidecar.volume_mounts.iter().flatten().find(|mount| mount.mount_path == TOKEN_FOLDER).unwrap();
            let empty = volumes.iter().find(|volume| volume.name == at.name).unwrap();
            assert!(empty.empty_dir.is_some(), "{empty:?}");
        }
    })
    .await;
}

impl World {
    /// The one pod of a handler.
    async fn handler_pod(&self, name: &str) -> Pod {
        let params = ListParams::default().labels(&format!("tidegate.io/handler={name}"));
        let mut pods = self.api::<Pod>().list(&params).await.unwrap().items;
        assert_eq!(pods.len(), 1, "{name}");
        pods.remove(0)
    }
}
