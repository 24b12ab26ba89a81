//! Why pods do not run, in the words of the kubelet.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// A container's waiting state that a person may have to mend.
const USUAL: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The first reason for which a pod waits: a container that cannot start, or a node that cannot be found.
pub fn why_waiting(pods: &[Pod]) -> Option<String> {
    pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).find_map(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let status = pod.status.as_ref()?;
        let containers =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        containers
            .into_iter()
            .find_map(|container| why_container(name, container))
            .or_else(|| why_unscheduled(name, pod))
    })
}

fn why_container(pod: &str, container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !USUAL.contains(reason))?;
    let detail = waiting.message.as_deref().unwrap_or_default();
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let exit = last.map(|last| format!(" (it ended with exit code {})", last.exit_code)).unwrap_or_default();
    Some(format!("pod {pod}, container {}: {reason}: {detail}{exit}", container.name))
}

fn why_unscheduled(pod: &str, found: &Pod) -> Option<String> {
    let conditions = found.status.as_ref()?.conditions.as_ref()?;
    let unscheduled =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(format!("pod {pod}: {}", unscheduled.message.as_deref().unwrap_or("not scheduled")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(state: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "status": {"containerStatuses": [{
                "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named() {
        let pods = [pod(json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}))];
        assert_eq!(why_waiting(&pods).unwrap(), "pod p, container main: ImagePullBackOff: Back-off pulling image");
    }

    #[test]
    fn a_pod_that_is_being_made_is_nothing_special() {
        assert_eq!(why_waiting(&[pod(json!({"waiting": {"reason": "ContainerCreating"}}))]), None);
        assert_eq!(why_waiting(&[pod(json!({"running": {}}))]), None);
    }
}
