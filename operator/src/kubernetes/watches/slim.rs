//! What of a watched object is kept (pure): there may be thousands of each, and most of what one holds the operator never
//! looks at.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodSpec};
use kube::Resource;
use kube::core::PartialObjectMeta;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

/// What kubectl writes for itself: the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The prefix of our own labels and annotations.
pub(super) const OURS: &str = "tidegate.io/";

/// What is watched.
pub trait Slim: Resource {
    /// Whether the operator applies such objects.
    const IS_CHILD: bool = false;

    /// Takes away what no one reads.
    fn slim(&mut self) {
        slim_metadata(self);
    }
}

impl Slim for EventBroker {}
impl Slim for EventTopic {}
impl Slim for EventHandler {}
impl<K: Resource<DynamicType = ()>> Slim for PartialObjectMeta<K> {
    const IS_CHILD: bool = true;

    /// Its type is known.
    fn slim(&mut self) {
        slim_metadata(self);
        self.types = None;
    }
}

impl Slim for Deployment {
    const IS_CHILD: bool = true;

    /// Its pods' specification is read live where it is compared.
    fn slim(&mut self) {
        slim_metadata(self);
        if let Some(spec) = &mut self.spec {
            spec.template.spec = None;
        }
    }
}

impl Slim for StatefulSet {
    const IS_CHILD: bool = true;

    /// As of a Deployment.
    fn slim(&mut self) {
        slim_metadata(self);
        if let Some(spec) = &mut self.spec {
            spec.template.spec = None;
        }
    }
}

impl Slim for Pod {
    /// What is left is its metadata, its status, its node, and which of its init containers end.
    fn slim(&mut self) {
        slim_metadata(self);
        if let Some(annotations) = &mut self.metadata.annotations {
            // Those of networks and the like are longer than all the rest.
            annotations.retain(|name, _| name.starts_with(OURS));
        }
        if let Some(status) = &mut self.status {
            let containers = [&mut status.container_statuses, &mut status.init_container_statuses];
            containers.into_iter().flatten().flatten().for_each(slim_container);
        }
        let Some(spec) = self.spec.take() else { return };
        let name_only = |container: Container| Container {
            name: container.name,
            restart_policy: container.restart_policy,
            ..Container::default()
        };
        let init_containers = spec.init_containers.map(|all| all.into_iter().map(name_only).collect());
        self.spec = Some(PodSpec { init_containers, node_name: spec.node_name, ..PodSpec::default() });
    }
}

/// What is left is its name, and how it does.
fn slim_container(container: &mut ContainerStatus) {
    let ContainerStatus { name, ready, restart_count, started, state, last_state, .. } = std::mem::take(container);
    *container =
        ContainerStatus { name, ready, restart_count, started, state, last_state, ..ContainerStatus::default() };
}

fn slim_metadata<K: Resource + ?Sized>(object: &mut K) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata() -> Value {
        json!({
            "name": "x", "labels": {"app": "x"}, "managedFields": [{"manager": "kubectl"}],
            "annotations": {LAST_APPLIED: "{}", "tidegate.io/template": "t", "k8s.v1.cni.cncf.io/network-status": "[]"},
        })
    }

    #[test]
    fn of_a_pod_is_left_what_conditions_are_made_from() {
        let container = json!({"name": "c", "image": "i", "env": [{"name": "A", "value": "b"}]});
        let mut init = container.clone();
        init["restartPolicy"] = json!("Always");
        let running = json!({"name": "c", "ready": true, "restartCount": 1, "image": "i", "imageID": "sha", "containerID": "c-1"});
        let status = json!({"phase": "Running", "containerStatuses": [running]});
        let spec =
            json!({"containers": [container], "initContainers": [init], "nodeName": "n", "volumes": [{"name": "v"}]});
        let mut found: Pod =
            serde_json::from_value(json!({"metadata": metadata(), "spec": spec, "status": status})).unwrap();
        found.slim();
        let left = json!({"name": "c", "ready": true, "restartCount": 1, "image": "", "imageID": ""});
        let expected = json!({
            "apiVersion": "v1", "kind": "Pod", "status": {"phase": "Running", "containerStatuses": [left]},
            "metadata": {"name": "x", "labels": {"app": "x"}, "annotations": {"tidegate.io/template": "t"}},
            "spec": {"containers": [], "initContainers": [{"name": "c", "restartPolicy": "Always"}], "nodeName": "n"},
        });
        assert_eq!(serde_json::to_value(&found).unwrap(), expected);
    }

    #[test]
    fn of_a_deployment_are_left_its_number_and_the_marks_of_its_template() {
        let template = json!({"metadata": metadata(), "spec": {"containers": [{"name": "c"}]}});
        let spec = json!({"replicas": 3, "selector": {}, "template": template});
        let mut found: Deployment = serde_json::from_value(json!({"metadata": metadata(), "spec": spec})).unwrap();
        found.slim();
        let spec = found.spec.unwrap();
        assert_eq!((spec.replicas, spec.template.spec), (Some(3), None));
        assert_eq!(spec.template.metadata.unwrap().annotations.unwrap()["tidegate.io/template"], "t");
    }
}
