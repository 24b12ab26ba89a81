//! The handler's pods: the user's template and, beside it, the sidecar.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tidegate_broker_client::contract::TopicAddress;
use tidegate_broker_client::identity::file;
use tidegate_broker_client::layout::BROKER_PORT;

use super::{Input, child};
use crate::context::{environment, pull_secrets, restricted};
use crate::handler::subscribe;
use crate::handler::template::{SIDECAR, checked, without_nulls, wrong};
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::programs::{self, SidecarPlace};
use crate::reconcile::error::Error;

const IDENTITY_FOLDER: &str = "/var/run/tidegate";
const IDENTITY_VOLUME: &str = "tidegate-identity";
/// Below it, a folder for each topic that the sidecar publishes to.
const DESTINATIONS_FOLDER: &str = "/var/run/tidegate-destinations";
/// Run inside the pod, which alone may begin a drain: a path and a token would stand where everybody may read them.
const DRAIN_COMMAND: [&str; 2] = ["/bin/tidegate-handler-sidecar", "drain"];
/// A drained pod that is there longer than its grace period and this was not meant to end.
const RESUME_MARGIN: Duration = Duration::from_secs(30);
/// Where Kubernetes mounts a ServiceAccount's token, unless a container has something else there.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const NO_TOKEN_VOLUME: &str = "tidegate-no-token";
/// A pod has this much longer than one delivery may take.
const GRACE_MARGIN_SECONDS: u64 = 20;

/// The Deployment. Its number of pods is the handler's: to scale it, scale the EventHandler.
pub fn handler(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::handler(&input.owner.name);
    let labels = names::handler_labels(&input.owner.name, &input.handler.spec.topic);
    let mut value = json!({
        "metadata": input.owner.metadata(&name, &labels),
        "spec": {
            "replicas": input.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": names::handler_selector(&input.owner.name)},
            "template": template(input)?,
        },
    });
    if let Some(strategy) = strategy(input) {
        value["spec"]["strategy"] = strategy;
    }
    Ok(child::<Deployment>(&name, value))
}

/// How pods of a new template take the place of the old ones.
fn strategy(input: &Input<'_>) -> Option<Value> {
    let mut strategy = input.handler.spec.strategy.clone()?;
    without_nulls(&mut strategy);
    if strategy.get("type").and_then(Value::as_str) == Some("Recreate") {
        // The API server has filled it in for the strategy before, and does not let the two be together.
        strategy["rollingUpdate"] = Value::Null;
    }
    Some(strategy)
}

/// The user's template as it was written, and what is ours.
fn template(input: &Input<'_>) -> Result<Value, Error> {
    let mut template = checked(&input.handler.spec.template)?;
    let labels = names::handler_pod_labels(input.owner, &input.handler.spec.topic, &input.topic.place.broker);
    let metadata = object(&mut template, "metadata")?;
    let user_labels = object_in(metadata, "labels")?;
    for (key, value) in labels {
        user_labels.insert(key, json!(value));
    }
    let spec = object(&mut template, "spec")?;
    let grace = grace_seconds(spec, input.settings.delivery.timeout.as_secs());
    spec.insert("terminationGracePeriodSeconds".into(), json!(grace));
    if let Some(Value::Array(secrets)) = pull_secrets(input.args) {
        let all = list(spec, "imagePullSecrets")?;
        let missing: Vec<Value> = secrets.into_iter().filter(|secret| !all.contains(secret)).collect();
        all.extend(missing);
    }
    list(spec, "volumes")?.push(json!({
        "name": IDENTITY_VOLUME,
        "secret": {"secretName": names::handler_identity(&input.owner.name), "defaultMode": 0o444},
    }));
    list(spec, "volumes")?.push(json!({"name": NO_TOKEN_VOLUME, "emptyDir": {"sizeLimit": "1Ki"}}));
    for topic in destinations(input) {
        list(spec, "volumes")?
            .push(json!({"name": destination_volume(topic), "configMap": {"name": names::ca(topic)}}));
    }
    for field in ["containers", "initContainers"] {
        for container in list(spec, field)?.iter_mut().filter_map(Value::as_object_mut) {
            container.entry("terminationMessagePolicy").or_insert_with(last_lines);
        }
    }
    // First: it must run before the user's own init containers need nothing of it, and end after all others.
    list(spec, "initContainers")?.insert(0, sidecar(input, Duration::from_secs(grace))?);
    let main = list(spec, "containers")?
        .first_mut()
        .and_then(Value::as_object_mut)
        .ok_or_else(|| wrong("spec.containers: at least one container is needed"))?;
    // The sidecar gets SIGTERM only after the user's containers have ended, so its own hook, which the kubelet runs at
    // the same time, stops the deliveries before; this one waits for that.
    let drained = json!({"httpGet": {"path": "/drained", "port": names::SIDECAR_PORT}});
    object_in(main, "lifecycle")?.insert("preStop".into(), drained);
    let version = Sha256::digest(template.to_string());
    let version: String = version.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let annotations = object_in(object(&mut template, "metadata")?, "annotations")?;
    annotations.insert(names::TEMPLATE_ANNOTATION.into(), json!(version));
    Ok(template)
}

/// A program's last lines are in its pod's status, and so in the handler's conditions.
fn last_lines() -> Value {
    json!("FallbackToLogsOnError")
}

/// What the handler's specification says of the sidecar's resources, or else the installation's.
fn resources(input: &Input<'_>) -> Value {
    let mut resources = input.handler.spec.sidecar.as_ref().and_then(|sidecar| sidecar.resources.clone());
    resources.iter_mut().for_each(without_nulls);
    resources.unwrap_or_else(|| Value::Object(input.args.sidecar_resources.clone()))
}

/// A native sidecar: started before the user's containers, ended after them.
fn sidecar(input: &Input<'_>, grace: Duration) -> Result<Value, Error> {
    let namespace = &input.owner.namespace;
    let broker = &input.topic.place.broker;
    let place = SidecarPlace {
        namespace: namespace.clone(),
        known_as: subscribe::known_as(input.owner, input.topic),
        uid: input.owner.reference.uid.clone(),
        routing: input.topic.routing,
        servers: vec![format!("tls://{}:{BROKER_PORT}", names::broker_host(&broker.name, &broker.namespace))],
        identity: IDENTITY_FOLDER.into(),
        admin_port: u16::try_from(names::SIDECAR_PORT).unwrap_or_default(),
        resume_after: grace.saturating_add(RESUME_MARGIN),
        destination: |topic: &str| topic_address(topic, namespace),
    };
    let config = programs::sidecar(input.handler, input.settings, place);
    let config = serde_json::to_string(&config).map_err(kube::Error::SerdeError)?;
    let mut mounts = vec![
        json!({"name": IDENTITY_VOLUME, "mountPath": IDENTITY_FOLDER, "readOnly": true}),
        // The token of the user's ServiceAccount is for the user's containers only.
        json!({"name": NO_TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true}),
    ];
    mounts.extend(destinations(input).into_iter().map(|topic| {
        json!({"name": destination_volume(topic), "mountPath": format!("{DESTINATIONS_FOLDER}/{topic}"), "readOnly": true})
    }));
    let probe = |path: &str, period: i32, failures: i32| json!({"httpGet": {"path": path, "port": names::SIDECAR_PORT}, "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3});
    Ok(json!({
        "name": SIDECAR,
        "image": input.args.sidecar_image,
        "imagePullPolicy": input.args.image_pull_policy,
        "restartPolicy": "Always",
        "env": environment(input.args, &config),
        "ports": [{"name": "tidegate", "containerPort": names::SIDECAR_PORT, "protocol": "TCP"}],
        "resources": resources(input),
        "terminationMessagePolicy": last_lines(),
        "securityContext": restricted(input.args.pod_user),
        "startupProbe": probe("/startupz", 1, 60),
        "livenessProbe": probe("/livez", 10, 3),
        "readinessProbe": probe("/readyz", 2, 3),
        "lifecycle": {"preStop": {"exec": {"command": DRAIN_COMMAND}}},
        "volumeMounts": mounts,
    }))
}

/// The topics that the sidecar publishes to.
fn destinations<'a>(input: &Input<'a>) -> BTreeSet<&'a str> {
    let spec = &input.handler.spec;
    [&spec.dead_letter, &spec.reply].into_iter().flatten().map(|to| to.topic.as_str()).collect()
}

fn destination_volume(topic: &str) -> String {
    format!("tidegate-to-{topic}")
}

fn topic_address(topic: &str, namespace: &str) -> TopicAddress {
    TopicAddress {
        topic: topic.to_owned(),
        url: format!("https://{}", names::topic_host(topic, namespace)),
        ca: format!("{DESTINATIONS_FOLDER}/{topic}/{}", file::CA).into(),
        message_id_key: format!("{IDENTITY_FOLDER}/{}", file::message_id_key_for(topic)).into(),
    }
}

/// The user's, if it is longer than what one delivery needs.
fn grace_seconds(spec: &Map<String, Value>, timeout: u64) -> u64 {
    let users = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(0);
    users.max(timeout + GRACE_MARGIN_SECONDS)
}

fn wrong_shape(field: &str) -> Error {
    wrong(format!("{field} is not what a pod template has there"))
}

fn object<'a>(parent: &'a mut Value, field: &str) -> Result<&'a mut Map<String, Value>, Error> {
    object_in(parent.as_object_mut().ok_or_else(|| wrong_shape(field))?, field)
}

fn object_in<'a>(parent: &'a mut Map<String, Value>, field: &str) -> Result<&'a mut Map<String, Value>, Error> {
    parent.entry(field).or_insert_with(|| json!({})).as_object_mut().ok_or_else(|| wrong_shape(field))
}

fn list<'a>(parent: &'a mut Map<String, Value>, field: &str) -> Result<&'a mut Vec<Value>, Error> {
    parent.entry(field).or_insert_with(|| json!([])).as_array_mut().ok_or_else(|| wrong_shape(field))
}

#[cfg(test)]
#[path = "deployment_tests.rs"]
mod tests;
