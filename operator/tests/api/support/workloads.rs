//! What the Deployment controller and the kubelet would do with a handler's Deployment.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;

use super::Space;
use super::brokers::status;

/// As many pods of the current template as there should be, all of them ready, and none of another one.
pub async fn roll_out(space: &Space, handler: &str) {
    let name = format!("{handler}-handler");
    let deployment: Deployment = space.api().get(&name).await.unwrap();
    let spec = deployment.spec.as_ref().unwrap();
    let pods: Api<Pod> = space.api();
    let earlier = ListParams::default().labels(&format!("tidegate.io/handler={handler}"));
    for pod in pods.list(&earlier).await.unwrap().items {
        pods.delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
    }
    let template = spec.template.metadata.clone().unwrap();
    let (generation, replicas) = (deployment.metadata.generation.unwrap(), spec.replicas.unwrap());
    for number in 0..replicas {
        let pod = format!("{name}-{generation}-{number}");
        let metadata = json!({"name": pod, "labels": template.labels, "annotations": template.annotations});
        let spec = json!({"containers": [{"name": "main", "image": "i"}]});
        space.create::<Pod>(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
        let ready = json!([{"type": "Ready", "status": "True"}]);
        status::<Pod>(space, &pod, json!({"phase": "Running", "conditions": ready})).await;
    }
    let counts = json!({
        "observedGeneration": generation, "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": replicas, "availableReplicas": replicas,
    });
    status::<Deployment>(space, &name, counts).await;
}
