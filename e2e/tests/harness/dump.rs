//! What there is in a namespace, for whoever has to find out why a test failed.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams, LogParams};

use super::World;

/// Writes resources, pods, their logs and events to standard error.
pub async fn namespace(world: &World) {
    eprintln!("--- {} ---", world.namespace);
    resources(world).await;
    let pods: Api<Pod> = world.api();
    for pod in pods.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        eprintln!("pod {name}: {}", status.phase.unwrap_or_default());
        let spec = pod.spec.unwrap_or_default();
        let containers = spec.init_containers.into_iter().flatten().chain(spec.containers);
        for container in containers {
            let params =
                LogParams { container: Some(container.name.clone()), tail_lines: Some(15), ..LogParams::default() };
            let log = pods.logs(&name, &params).await.unwrap_or_else(|error| error.to_string());
            eprintln!("  {}:\n    {}", container.name, log.trim().replace('\n', "\n    "));
        }
    }
    let events: Api<Event> = world.api();
    for event in events.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default() {
        let about = event.involved_object.name.unwrap_or_default();
        eprintln!("event {about}: {} {}", event.reason.unwrap_or_default(), event.message.unwrap_or_default());
    }
}

async fn resources(world: &World) {
    for broker in world.api::<tidegate_crds::EventBroker>().list(&ListParams::default()).await.into_iter().flatten() {
        eprintln!("{}", serde_json::to_string(&broker.status).unwrap_or_default());
    }
    for topic in world.api::<tidegate_crds::EventTopic>().list(&ListParams::default()).await.into_iter().flatten() {
        eprintln!("{}", serde_json::to_string(&topic.status).unwrap_or_default());
    }
    for handler in world.api::<tidegate_crds::EventHandler>().list(&ListParams::default()).await.into_iter().flatten() {
        eprintln!("{}", serde_json::to_string(&handler.status).unwrap_or_default());
    }
}
