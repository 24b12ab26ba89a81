//! Why pods do not run, in the words of the kubelet and the scheduler (pure).

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

/// What the kubelet says of a container that it is only just making.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// What does not pass with time: the kubelet tries again and again, and only another specification, or an object that
/// somebody makes, lets it succeed.
const HOPELESS: [&str; 7] = [
    // In turn, for as long as the image cannot be had.
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];
/// A program that ended so often will end again.
const MANY_RESTARTS: i32 = 3;
/// Characters of a program's last lines that a condition shows.
const LAST_LINES: usize = 300;

/// What keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which pod and container, why, and the program's last lines.
    pub message: String,
    /// Only a person can help.
    pub is_hopeless: bool,
}

/// The first trouble of these pods; what only a person can remedy comes before the rest.
pub fn trouble<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Option<Trouble> {
    worst(pods.into_iter().filter(|pod| is_alive(pod)).filter_map(trouble_of))
}

/// The first one that only a person can remedy, or else the first.
pub fn worst(troubles: impl IntoIterator<Item = Trouble>) -> Option<Trouble> {
    troubles.into_iter().min_by_key(|trouble| !trouble.is_hopeless)
}

/// Whether the pod is neither on its way out nor ended for good.
pub fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether it was told to end, and should have by now: so long after its grace period, which its node needs besides.
pub fn is_overdue(pod: &Pod, slack: Duration, now: jiff::Timestamp) -> bool {
    overdue_since(pod, slack, now).is_some()
}

/// The end of its grace period, which is what its deletion timestamp says.
fn overdue_since(pod: &Pod, slack: Duration, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
    let end = pod.metadata.deletion_timestamp.as_ref()?.0;
    end.checked_add(slack).is_ok_and(|limit| limit < now).then_some(end)
}

/// What a person can do about the first of these pods that should have ended: only its node can say that it has, and
/// Kubernetes removes no pod whose node does not answer.
pub fn overdue<'a>(pods: impl IntoIterator<Item = &'a Pod>, slack: Duration, now: jiff::Timestamp) -> Option<Trouble> {
    let (pod, since) = pods.into_iter().find_map(|pod| Some((pod, overdue_since(pod, slack, now)?)))?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let message = format!(
        "pod {name} should have ended by {since}, and node {node} has not said that it has. If that machine is switched off or gone for good, and only then: kubectl delete pod {name} -n {namespace} --force"
    );
    Some(Trouble { message, is_hopeless: false })
}

/// Whether all its containers are ready.
pub fn is_ready(pod: &Pod) -> bool {
    has_condition(pod.status.as_ref(), "Ready", "True").is_some()
}

/// When it got its node.
pub fn scheduled_at(pod: &Pod) -> Option<jiff::Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "True")?;
    found.last_transition_time.as_ref().map(|time| time.0)
}

fn trouble_of(pod: &Pod) -> Option<Trouble> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let containers: Vec<_> = init.chain(status.container_statuses.iter().flatten()).collect();
    containers
        .iter()
        .find_map(|container| trouble_of_container(pod, container))
        .map(|trouble| Trouble { message: format!("pod {name}, {}", trouble.message), ..trouble })
        .or_else(|| unscheduled(name, status))
}

fn trouble_of_container(pod: &Pod, container: &ContainerStatus) -> Option<Trouble> {
    let kind = if is_run_once(pod, &container.name) { "init container" } else { "container" };
    let name = &container.name;
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let times = match container.restart_count {
        0 | 1 => String::new(),
        restarts => format!(", restarted {restarts} times"),
    };
    match container.state.as_ref()? {
        ContainerState { waiting: Some(waiting), .. } => {
            let reason = waiting.reason.as_deref().filter(|reason| !ORDINARY.contains(reason))?;
            let detail = waiting.message.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
            let ended = last.map(|last| format!("; it {}", ending(last))).unwrap_or_default();
            let is_hopeless = HOPELESS.contains(&reason) || container.restart_count >= MANY_RESTARTS;
            let remedy = remedy(reason);
            Some(Trouble { message: format!("{kind} {name}: {reason}{detail}{times}{ended}{remedy}"), is_hopeless })
        }
        // An init container that ended well is done.
        ContainerState { terminated: Some(ended), .. } if ended.exit_code != 0 || kind == "container" => {
            let is_hopeless = container.restart_count >= MANY_RESTARTS;
            Some(Trouble { message: format!("{kind} {name}: it {}{times}", ending(ended)), is_hopeless })
        }
        // Started again; whether for long is not known yet.
        ContainerState { running: Some(_), .. } if !container.ready => {
            let message = format!("{kind} {name}: it runs again{times}; before, it {}", ending(last?));
            Some(Trouble { message, is_hopeless: false })
        }
        _ => None,
    }
}

/// What its owner can do, where the kubelet does not say it.
fn remedy(reason: &str) -> &'static str {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => {
            ". Is the image's name right, and may the node pull it (imagePullSecrets)?"
        }
        "ErrImageNeverPull" => ". Load the image into the node, or choose another imagePullPolicy",
        "CreateContainerConfigError" => ". Make what it names, or correct the template",
        _ => "",
    }
}

/// Why the API server makes no pods, with what can be done.
pub fn refused(message: &str) -> Trouble {
    let remedy = if message.contains("exceeded quota") {
        ". Raise that quota, or ask for less: fewer pods, or smaller resources, those that Tidegate adds included"
    } else if message.contains("violates PodSecurity") {
        ". Correct the template, or the namespace's pod-security labels"
    } else {
        ""
    };
    Trouble { message: format!("{}{remedy}", message.trim_end_matches('.')), is_hopeless: true }
}

/// Whether this is an init container that ends (a sidecar does not).
fn is_run_once(pod: &Pod, container: &str) -> bool {
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.into_iter().any(|init| init.name == container && init.restart_policy.as_deref() != Some("Always"))
}

fn ending(ended: &ContainerStateTerminated) -> String {
    let why = match ended.reason.as_deref() {
        None | Some("Error" | "Completed") => String::new(),
        Some(reason) => format!(" ({reason})"),
    };
    let lines = ended.message.as_deref().unwrap_or_default().trim();
    let skipped = lines.chars().count().saturating_sub(LAST_LINES);
    let said = match (lines, skipped) {
        ("", _) => String::new(),
        (lines, 0) => format!(", saying: {lines}"),
        (lines, _) => format!(", saying: …{}", lines.chars().skip(skipped).collect::<String>()),
    };
    format!("ended with exit code {}{why}{said}", ended.exit_code)
}

fn unscheduled(pod: &str, status: &PodStatus) -> Option<Trouble> {
    let why = has_condition(Some(status), "PodScheduled", "False")?;
    // Nodes come and go, so this may pass; a rollout that waits for too long says so by its deadline.
    Some(Trouble { message: format!("pod {pod} is not scheduled: {why}"), is_hopeless: false })
}

/// The message of a condition that says this.
fn has_condition<'a>(status: Option<&'a PodStatus>, kind: &str, says: &str) -> Option<&'a str> {
    let conditions = status?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind && condition.status == says)?;
    Some(found.message.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(name: &str, changes: Value) -> Value {
        let mut container = json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0});
        container.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        container
    }

    fn pod(status: Value) -> Pod {
        let spec = json!({
            "containers": [{"name": "main"}],
            "initContainers": [{"name": "tidegate-sidecar", "restartPolicy": "Always"}, {"name": "migrate"}],
        });
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": status})).unwrap()
    }

    fn main(changes: Value) -> Pod {
        pod(json!({"containerStatuses": [container("main", changes)]}))
    }

    fn ended(code: i32, changes: Value) -> Value {
        let mut ended = json!({"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }});
        ended.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        ended
    }

    #[test]
    fn a_pod_that_should_have_ended_is_told_with_its_node_and_a_command() {
        let pod = |name: &str, deleted: Option<&str>| -> Pod {
            let metadata = json!({"name": name, "namespace": "shop", "deletionTimestamp": deleted});
            let spec = json!({"nodeName": "node-7", "containers": []});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let (slack, now) = (Duration::from_secs(120), "2026-01-01T12:00:00Z".parse().unwrap());
        let alive = pod("b-0", None);
        let (ending, late) = (pod("b-1", Some("2026-01-01T11:58:00Z")), pod("b-2", Some("2026-01-01T11:57:59Z")));
        assert_eq!([&alive, &ending, &late].map(|pod| is_overdue(pod, slack, now)), [false, false, true]);
        assert_eq!(overdue([&alive, &ending], slack, now), None);
        let found = overdue([&alive, &ending, &late], slack, now).unwrap();
        let (node, command) = ("node node-7 has not said", "kubectl delete pod b-2 -n shop --force");
        assert!(found.message.contains(node) && found.message.ends_with(command), "{}", found.message);
        assert!(found.message.contains("by 2026-01-01T11:57:59Z") && !found.is_hopeless);
    }

    /// As kubelets of 1.29 to 1.34 write them.
    #[test]
    fn each_trouble_is_told_with_what_is_known() {
        let waiting =
            |reason: &str, message: &str| json!({"state": {"waiting": {"reason": reason, "message": message}}});
        let crashing = json!({
            "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
            "lastState": {"terminated": ended(3, json!({"message": "starting\nno database\n"}))},
        });
        let init = |state: Value| {
            pod(json!({
                "initContainerStatuses": [
                    container("tidegate-sidecar", json!({"ready": true, "state": {"running": {}}})),
                    container("migrate", json!({"state": state})),
                ],
                "containerStatuses": [container("main", json!({"state": {"waiting": {"reason": "PodInitializing"}}}))],
            }))
        };
        let unscheduled = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient example.com/gpu.",
        }]});
        let table = [
            (
                main(waiting("ErrImagePull", "not found")),
                "container main: ErrImagePull: not found. Is the image's name right",
                true,
            ),
            (
                main(waiting("ImagePullBackOff", "Back-off")),
                "container main: ImagePullBackOff: Back-off. Is the image's name right",
                true,
            ),
            (main(waiting("InvalidImageName", "bad")), "container main: InvalidImageName: bad", true),
            (
                main(waiting("CreateContainerConfigError", "couldn't find key a in ConfigMap shop/settings")),
                "container main: CreateContainerConfigError: couldn't find key a in ConfigMap shop/settings",
                true,
            ),
            (
                main(crashing),
                "CrashLoopBackOff: back-off 40s restarting failed container, restarted 4 times; it ended with exit code 3, saying: starting\nno database",
                true,
            ),
            (
                main(json!({"state": {"terminated": ended(0, json!({}))}})),
                "container main: it ended with exit code 0",
                false,
            ),
            (
                main(json!({"state": {"terminated": ended(137, json!({"reason": "OOMKilled"}))}, "restartCount": 3})),
                "container main: it ended with exit code 137 (OOMKilled), restarted 3 times",
                true,
            ),
            (
                main(
                    json!({"state": {"running": {}}, "restartCount": 1, "lastState": {"terminated": ended(1, json!({}))}}),
                ),
                "container main: it runs again; before, it ended with exit code 1",
                false,
            ),
            (
                init(json!({"terminated": ended(1, json!({"message": "no such table"}))})),
                "init container migrate: it ended with exit code 1, saying: no such table",
                false,
            ),
            (
                pod(unscheduled),
                "pod p is not scheduled: 0/1 nodes are available: 1 Insufficient example.com/gpu.",
                false,
            ),
        ];
        for (pod, says, is_hopeless) in table {
            let found = trouble(&[pod]).unwrap_or_else(|| panic!("nothing said: {says}"));
            assert!(found.message.starts_with("pod p") && found.message.contains(says), "{}\n{says}", found.message);
            assert_eq!(found.is_hopeless, is_hopeless, "{says}");
        }
    }

    #[test]
    fn what_refuses_a_pod_is_said_with_what_helps() {
        for (message, expected) in [
            ("exceeded quota: tight", "exceeded quota: tight. Raise that quota, or ask for less"),
            ("violates PodSecurity \"restricted\"", "\"restricted\". Correct the template"),
            ("denied by a webhook.", "denied by a webhook"),
        ] {
            let found = refused(message);
            assert!(found.message.contains(expected) && found.is_hopeless, "{}", found.message);
        }
    }

    #[test]
    fn what_is_ordinary_is_no_trouble() {
        for pod in [
            main(json!({"state": {"waiting": {"reason": "ContainerCreating"}}})),
            main(json!({"state": {"running": {}}})),
            main(
                json!({"ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": ended(1, json!({}))}}),
            ),
            pod(
                json!({"initContainerStatuses": [container("migrate", json!({"state": {"terminated": ended(0, json!({}))}}))]}),
            ),
            pod(
                json!({"phase": "Failed", "containerStatuses": [container("main", json!({"state": {"terminated": ended(1, json!({}))}}))]}),
            ),
        ] {
            assert_eq!(trouble(std::slice::from_ref(&pod)), None, "{pod:?}");
        }
    }

    #[test]
    fn what_only_a_person_mends_comes_first_and_last_lines_are_bounded() {
        let long = "x".repeat(10_000);
        let pods = [
            main(json!({"state": {"terminated": ended(1, json!({"message": long}))}})),
            main(json!({"state": {"waiting": {"reason": "InvalidImageName"}}})),
        ];
        assert!(trouble(&pods).unwrap().message.contains("InvalidImageName"));
        assert!(trouble(&pods[..1]).unwrap().message.len() < 400);
    }
}
