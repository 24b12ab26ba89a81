//! The handler's pods: the user's template and, beside it, the sidecar.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Map, Value, json};
use tidegate_broker_client::contract::{Outlet, Sidecar};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::layout::BROKER_PORT;

use super::{Input, child};
use crate::apply::Child;
use crate::context::{environment, restricted};
use crate::error::Error;
use crate::handler::probes;
use crate::handler::settings::ACK_WAIT;
use crate::names;

const IDENTITY_FOLDER: &str = "/var/run/tidegate";
const IDENTITY_VOLUME: &str = "tidegate-identity";
/// Below it, a folder for each topic that the sidecar publishes to.
const DESTINATIONS_FOLDER: &str = "/var/run/tidegate-destinations";
const SIDECAR: &str = "tidegate-sidecar";
/// Run inside the pod, which alone may begin a drain: a path and a token would stand where everybody may read them.
const DRAIN_COMMAND: [&str; 2] = ["/bin/tidegate-handler-sidecar", "drain"];
/// A drained pod that is there longer than its grace period and this was not meant to end.
const RESUME_MARGIN: Duration = Duration::from_secs(30);
/// A pod has this much longer than one delivery may take.
const GRACE_MARGIN_SECONDS: u64 = 20;

/// The Deployment. Its number of pods is the handler's: who wants to scale, scales the EventHandler.
pub fn handler(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::handler(&input.owner.name);
    let labels = names::handler_labels(&input.owner.name, &input.handler.spec.topic);
    let value = json!({
        "metadata": input.owner.metadata(&name, &labels),
        "spec": {
            "replicas": input.replicas,
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": names::handler_selector(&input.owner.name)},
            "template": template(input)?,
        },
    });
    Ok(child::<Deployment>(&name, value))
}

/// The user's template as it was written, and what is ours. What the schema promises is not relied on:
/// a template of another shape is refused in words.
fn template(input: &Input<'_>) -> Result<Value, Error> {
    let mut template = input.handler.spec.template.clone();
    let labels = names::handler_labels(&input.owner.name, &input.handler.spec.topic);
    let metadata = object(&mut template, "metadata")?;
    let user_labels = object_in(metadata, "labels")?;
    for (key, value) in labels {
        user_labels.insert(key, json!(value));
    }
    let spec = object(&mut template, "spec")?;
    let grace = grace_seconds(spec, input.settings.delivery.timeout.as_secs());
    spec.insert("terminationGracePeriodSeconds".into(), json!(grace));
    list(spec, "volumes")?.push(json!({
        "name": IDENTITY_VOLUME,
        "secret": {"secretName": names::handler_identity(&input.owner.name), "defaultMode": 0o444},
    }));
    for topic in destinations(input) {
        list(spec, "volumes")?
            .push(json!({"name": destination_volume(topic), "configMap": {"name": names::ca(topic)}}));
    }
    // First: it must run before the user's own init containers need nothing of it, and end after all others.
    list(spec, "initContainers")?.insert(0, sidecar(input, Duration::from_secs(grace))?);
    let main = list(spec, "containers")?.first_mut().and_then(Value::as_object_mut).ok_or_else(|| {
        Error::refused("InvalidTemplate", "spec.template.spec.containers: at least one container is needed")
    })?;
    // The sidecar gets SIGTERM only after the user's containers have ended, so its own hook, which the kubelet runs at the
    // same time, stops the deliveries before; this one waits for that.
    let drained = json!({"httpGet": {"path": "/drained", "port": names::SIDECAR_PORT}});
    object_in(main, "lifecycle")?.insert("preStop".into(), drained);
    Ok(template)
}

/// A native sidecar: started before the user's containers, ended after them.
fn sidecar(input: &Input<'_>, grace: Duration) -> Result<Value, Error> {
    let (topic, namespace) = (&input.handler.spec.topic, &input.owner.namespace);
    let config = Sidecar {
        namespace: namespace.clone(),
        topic: topic.clone(),
        handler: input.owner.name.clone(),
        handler_uid: input.owner.reference.uid.clone(),
        routing: input.topic.routing,
        servers: vec![format!("tls://{}:{BROKER_PORT}", names::broker_host(topic, namespace))],
        identity: IDENTITY_FOLDER.into(),
        admin_port: u16::try_from(names::SIDECAR_PORT).unwrap_or_default(),
        resume_after: grace.saturating_add(RESUME_MARGIN),
        probes: probes::of(&input.handler.spec.template),
        filter: input.settings.filter.clone(),
        delivery: input.settings.delivery.clone(),
        dead_letter: input.handler.spec.dead_letter.as_ref().map(|to| outlet(&to.topic, namespace)),
        reply: input.handler.spec.reply.as_ref().map(|to| outlet(&to.topic, namespace)),
        ack_wait: ACK_WAIT,
    };
    let config = serde_json::to_string(&config).map_err(kube::Error::SerdeError)?;
    let mut mounts = vec![json!({"name": IDENTITY_VOLUME, "mountPath": IDENTITY_FOLDER, "readOnly": true})];
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
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
        "securityContext": restricted(),
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

fn outlet(topic: &str, namespace: &str) -> Outlet {
    Outlet {
        topic: topic.to_owned(),
        url: format!("https://{}", names::broker_host(topic, namespace)),
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
    Error::refused("InvalidTemplate", format!("spec.template: {field} is not what a pod template has there"))
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
