//! The broker pods: a nats-server and the ingress, side by side, with a volume where events are stored.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidegate_broker_admin::server::{self, Cluster, JetStream, Server};
use tidegate_broker_client::contract::AccessCertificate;
use tidegate_broker_client::identity::file;
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_crds::broker::{Access, Pods};
use time::OffsetDateTime;

use super::{Input, child};
use crate::args::PodUser;
use crate::context::{environment, pull_secrets, restricted};
use crate::handler::template;
use crate::kubernetes::apply::Child;
use crate::kubernetes::{labels, names};
use crate::programs::{self, IngressPlace, ServerPlace};
use crate::reconcile::error::Error;

const CONFIG_FOLDER: &str = "/etc/nats";
const TLS_FOLDER: &str = "/etc/nats-tls";
const ROUTES_FOLDER: &str = "/etc/nats-routes";
const IDENTITY_FOLDER: &str = "/etc/tidegate";
const TOPICS_FOLDER: &str = "/etc/tidegate-topics";
const ACCESS_FOLDER: &str = "/etc/tidegate-access";
const DATA_FOLDER: &str = "/data";
const RUN_FOLDER: &str = "/run/nats";
const MONITOR: &str = "127.0.0.1:8222";
/// The lame-duck time of the configuration and a margin.
const GRACE_SECONDS: i64 = 60;

/// The nats-server's configuration.
pub fn configuration(input: &Input<'_>) -> Result<Child, Error> {
    let name = names::broker(&input.owner.name);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(&input.owner.name)),
        "data": {"nats.conf": server(input, input.scale.routes)?.render()},
    });
    Ok(child::<ConfigMap>(&name, value))
}

/// A server that has routes to so many, as it is configured.
pub fn server(input: &Input<'_>, routes: i32) -> Result<Server, Error> {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    let host = |ordinal| names::broker_pod_host(broker, namespace, ordinal);
    let route = |ordinal| format!("nats://{}:{}", host(ordinal), names::ROUTE_PORT);
    let place = ServerPlace {
        port: BROKER_PORT,
        monitor: MONITOR.into(),
        wake: format!("127.0.0.1:{}", names::WAKE_PORT),
        data: DATA_FOLDER.into(),
        tls: TLS_FOLDER.into(),
        pid_file: Some(format!("{RUN_FOLDER}/nats.pid")),
        cluster: Cluster {
            name: format!("{namespace}-{broker}"),
            port: u16::try_from(names::ROUTE_PORT).unwrap_or_default(),
            routes: (0..routes).map(route).collect(),
            tls: ROUTES_FOLDER.into(),
        },
    };
    Ok(programs::server(input.authority, input.settings, place)?)
}

/// The StatefulSet. Its controller makes pods, and replaces none: the operator restarts those that were made for another
/// configuration or template, one after the other ([`crate::broker::restart`]).
pub fn broker(input: &Input<'_>) -> Result<Child, Error> {
    let broker = &input.owner.name;
    let name = names::broker(broker);
    let labels = names::broker_labels(broker);
    // A template of claims can never be changed: claims are enlarged one by one ([`crate::broker::resize`]).
    let size = input.observed.statefulset.as_ref().and_then(claimed).unwrap_or(&input.settings.volume_text);
    let claim = claim_spec(input, size);
    let mut pod = pod(input)?;
    let users = &input.broker.spec.pods;
    let rolls_with = rolls_with(&pod, users, &server(input, 0)?);
    // These have no part in that: no pod is restarted because its broker has formed, or has more servers or fewer.
    if input.scale.pods == 1 && !input.is_formed {
        pod["initContainers"] = json!([seed(input)?]);
    }
    if input.scale.pods > 1 {
        pod["containers"][0]["lifecycle"] = lame_duck();
    }
    let mut metadata = input.owner.metadata(&name, &labels);
    metadata["annotations"] =
        json!({names::CLUSTER_ANNOTATION: "true", names::SERVERS_ANNOTATION: input.scale.annotation()});
    let value = json!({
        "metadata": metadata,
        "spec": {
            "serviceName": names::broker_headless(broker),
            "replicas": input.scale.pods,
            // The brokers of a cluster need each other to become ready.
            "podManagementPolicy": "Parallel",
            // Of a StatefulSet that an earlier build made the API server has rollingUpdate, and refuses OnDelete beside it.
            // What takes back what contradicts us (apply.rs) removes it, because of the null.
            "updateStrategy": {"type": "OnDelete", "rollingUpdate": null},
            "selector": {"matchLabels": names::broker_selector(broker)},
            "template": {
                "metadata": {
                    "labels": beside(&theirs(&users.labels), labels),
                    "annotations": beside(&users.annotations, [(names::ROLLS_WITH_ANNOTATION.to_owned(), rolls_with)]),
                },
                "spec": pod,
            },
            "volumeClaimTemplates":
                [{"metadata": {"name": "data", "labels": names::broker_selector(broker)}, "spec": claim}],
            // Whoever deletes the StatefulSet of a broker that lives takes no data with it. A broker that is deleted, and
            // keeps no events of deleted topics, deletes the claims itself.
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        },
    });
    Ok(child::<StatefulSet>(&name, value))
}

/// Without those that are refused when they are written ([`crate::broker::settings::check_labels`]), and may be stored.
fn theirs(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.iter().filter(|(key, _)| !labels::is_ours(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What the user wants of labels or annotations, and what is ours, which wins.
fn beside(
    users: &BTreeMap<String, String>,
    ours: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    users.clone().into_iter().chain(ours).collect()
}

fn claim_spec(input: &Input<'_>, size: &str) -> Value {
    let mut claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    if let Some(class) = &input.broker.spec.storage.class_name {
        claim["storageClassName"] = json!(class);
    }
    claim
}

/// The claim of a server that joins, of this name: as the StatefulSet would make it, of the size that the broker has now.
pub fn claim(input: &Input<'_>, name: &str) -> Result<PersistentVolumeClaim, Error> {
    let claim = json!({
        "metadata": {"name": name, "labels": names::broker_selector(&input.owner.name)},
        "spec": claim_spec(input, &input.settings.volume_text),
    });
    serde_json::from_value(claim).map_err(|error| kube::Error::SerdeError(error).into())
}

/// The size of the claims that a StatefulSet makes.
fn claimed(set: &StatefulSet) -> Option<&String> {
    let templates = set.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let requests = templates.first()?.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage").map(|size| &size.0)
}

/// Changes with everything that a pod reads when it starts, and with what it is made of; but not with what a server loads
/// while it runs: its routes, how much it may store ([`crate::broker::members`]), and certificates
/// ([`crate::broker::reload`]).
fn rolls_with(pod: &Value, users: &Pods, server: &Server) -> String {
    let jetstream = server.jetstream.clone().map(|jetstream| JetStream { max_file_store: 0, ..jetstream });
    let cluster = Cluster { routes: Vec::new(), ..server.cluster.clone() };
    let server = Server { jetstream, cluster, ..server.clone() };
    let mut digest = Sha256::new();
    digest.update(pod.to_string());
    if !users.labels.is_empty() || !users.annotations.is_empty() {
        digest.update(json!([users.labels, users.annotations]).to_string());
    }
    digest.update(server.render());
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes the first server of a new broker a cluster of one, before that starts. It is there until the broker has formed:
/// a server that loses its volume afterwards must not form a second one.
fn seed(input: &Input<'_>) -> Result<Value, Error> {
    let system = input.authority.system_account(OffsetDateTime::UNIX_EPOCH)?;
    Ok(json!({
        "name": "seed",
        "image": input.args.ingress_image,
        "imagePullPolicy": input.args.image_pull_policy,
        "args": ["seed", "$(POD_NAME)", DATA_FOLDER, system.id],
        "env": [pod_name()],
        "resources": Value::Object(input.args.ingress_resources.clone()),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": restricted(input.args.pod_user),
        "volumeMounts": [{"name": "data", "mountPath": DATA_FOLDER}],
    }))
}

fn pod_name() -> Value {
    json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}})
}

fn pod(input: &Input<'_>) -> Result<Value, Error> {
    let broker = &input.owner.name;
    let spec = &input.broker.spec.pods;
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [nats(input), ingress(input)?],
        "volumes": [
            {"name": "config", "configMap": {"name": names::broker(broker)}},
            {"name": "tls", "secret": {"secretName": names::broker(broker)}},
            {"name": "identity", "secret": {"secretName": names::ingress(broker)}},
            {"name": "topics", "secret": {"secretName": names::topics(broker)}},
            {"name": "routes", "secret": {"secretName": names::routes(broker)}},
            {"name": "run", "emptyDir": {"sizeLimit": "1Mi"}},
        ],
        "affinity": without_nulls(spec.affinity.as_ref()).unwrap_or_else(|| apart(broker)),
    });
    if let (Some(volume), Some(volumes)) = (access_volume(input), pod["volumes"].as_array_mut()) {
        volumes.push(volume);
    }
    if let PodUser::Fixed(user) = input.args.pod_user {
        pod["securityContext"]["fsGroup"] = json!(user);
    }
    let installations = || pull_secrets(input.args);
    if let Some(secrets) = without_nulls(spec.image_pull_secrets.as_ref()).or_else(installations) {
        pod["imagePullSecrets"] = secrets;
    }
    if let Some(class) = &spec.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    if let Some(selector) = spec.node_selector.as_ref().filter(|selector| !selector.is_empty()) {
        pod["nodeSelector"] = json!(selector);
    }
    for (field, value) in
        [("tolerations", &spec.tolerations), ("topologySpreadConstraints", &spec.topology_spread_constraints)]
    {
        if let Some(value) = without_nulls(value.as_ref()) {
            pod[field] = value;
        }
    }
    Ok(pod)
}

/// The certificates of the ways from outside, a folder for each. A Secret that is not there keeps no pod from starting: its
/// hosts have the broker's own certificate until it comes.
fn access_volume(input: &Input<'_>) -> Option<Value> {
    let sources: Vec<Value> = with_certificates(input)
        .map(|(access, secret)| {
            let item = |key: &str| json!({"key": key, "path": format!("{}/{key}", access.name)});
            json!({"secret": {
                "name": secret, "optional": true, "items": [item(file::CERTIFICATE), item(file::KEY)],
            }})
        })
        .collect();
    (!sources.is_empty()).then(|| json!({"name": "access", "projected": {"sources": sources}}))
}

fn with_certificates<'a>(input: &Input<'a>) -> impl Iterator<Item = (&'a Access, &'a str)> {
    let with = |access: &'a Access| Some((access, access.certificate.as_ref()?.secret_name.as_str()));
    input.broker.spec.access.iter().filter_map(with)
}

/// What the user wrote, without its nulls: they mean that a field is not set.
fn without_nulls(written: Option<&Value>) -> Option<Value> {
    let mut value = written.cloned()?;
    template::without_nulls(&mut value);
    Some(value)
}

/// The pods of a broker avoid sharing a node, and share one where there is no other.
fn apart(broker: &str) -> Value {
    json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": names::broker_selector(broker)},
        },
    }]}})
}

/// The nats-server. Its monitoring port answers anyone, so it listens on loopback, and the probes go
/// through the ingress container, which passes on nothing but health.
fn nats(input: &Input<'_>) -> Value {
    let probe = |path: &str, period: i32, failures: i32| {
        json!({
            "httpGet": {"path": format!("/broker/{path}"), "port": names::INGRESS_ADMIN_PORT},
            "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": 3,
        })
    };
    let mounts = json!([
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": true},
        {"name": "tls", "mountPath": TLS_FOLDER, "readOnly": true},
        {"name": "routes", "mountPath": ROUTES_FOLDER, "readOnly": true},
        {"name": "data", "mountPath": DATA_FOLDER},
        {"name": "run", "mountPath": RUN_FOLDER},
    ]);
    json!({
        "name": "nats",
        "image": input.args.broker_image,
        "imagePullPolicy": input.args.image_pull_policy,
        "args": ["--config", format!("{CONFIG_FOLDER}/nats.conf")],
        "env": [pod_name(), {"name": server::NAME_VARIABLE, "value": server::name_value("$(POD_NAME)")}],
        "ports": [
            {"name": "nats", "containerPort": BROKER_PORT, "protocol": "TCP"},
            {"name": "route", "containerPort": names::ROUTE_PORT, "protocol": "TCP"},
        ],
        "resources": without_nulls(input.broker.spec.pods.resources.as_ref()).unwrap_or_else(|| json!({"requests": {"cpu": "50m", "memory": "128Mi"}})),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": restricted(input.args.pod_user),
        // Recovery of large streams takes its time: five minutes.
        "startupProbe": probe("startup", 1, 300),
        "readinessProbe": probe("ready", 5, 3),
        // Slow to judge: it also fails when only the ingress container is away.
        "livenessProbe": probe("live", 10, 9),
        "volumeMounts": mounts,
    })
}

/// Lame duck: clients are moved to other brokers one by one. The server ignores SIGTERM meanwhile. A single broker has no
/// other to move them to, and would only be away for longer.
fn lame_duck() -> Value {
    let command = ["nats-server", "--signal", &format!("ldm={RUN_FOLDER}/nats.pid")];
    json!({"preStop": {"exec": {"command": command}}})
}

fn ingress(input: &Input<'_>) -> Result<Value, Error> {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    // The second is of use where there are several: which may be so while the ingress runs.
    let others = names::broker_host(broker, namespace);
    let servers = vec![format!("tls://localhost:{BROKER_PORT}"), format!("tls://{others}:{BROKER_PORT}")];
    let place = IngressPlace {
        namespace: namespace.clone(),
        broker: broker.clone(),
        servers,
        identity: IDENTITY_FOLDER.into(),
        topics: TOPICS_FOLDER.into(),
        volume: DATA_FOLDER.into(),
        https_port: u16::try_from(names::INGRESS_PORT).unwrap_or_default(),
        mqtt_port: u16::try_from(names::MQTT_PORT).unwrap_or_default(),
        admin_port: u16::try_from(names::INGRESS_ADMIN_PORT).unwrap_or_default(),
        monitor: MONITOR.into(),
        // A name that the broker's certificate has.
        wake: format!("localhost:{}", names::WAKE_PORT),
        certificates: with_certificates(input)
            .map(|(access, _)| AccessCertificate {
                folder: format!("{ACCESS_FOLDER}/{}", access.name).into(),
                hosts: access.hostnames.clone(),
            })
            .collect(),
    };
    let config = programs::ingress(input.settings, place);
    let config = serde_json::to_string(&config).map_err(kube::Error::SerdeError)?;
    let resources = input.broker.spec.ingress.as_ref().and_then(|ingress| without_nulls(ingress.resources.as_ref()));
    let probe = |path: &str, period: i32| json!({"httpGet": {"path": path, "port": names::INGRESS_ADMIN_PORT}, "periodSeconds": period, "timeoutSeconds": 3});
    let mut mounts = json!([
        {"name": "identity", "mountPath": IDENTITY_FOLDER, "readOnly": true},
        {"name": "topics", "mountPath": TOPICS_FOLDER, "readOnly": true},
        // To see how full it is.
        {"name": "data", "mountPath": DATA_FOLDER, "readOnly": true},
    ]);
    if let (Some(_), Some(mounts)) = (with_certificates(input).next(), mounts.as_array_mut()) {
        mounts.push(json!({"name": "access", "mountPath": ACCESS_FOLDER, "readOnly": true}));
    }
    Ok(json!({
        "name": "ingress",
        "image": input.args.ingress_image,
        "imagePullPolicy": input.args.image_pull_policy,
        "env": environment(input.args, &config),
        "ports": [
            {"name": "https", "containerPort": names::INGRESS_PORT, "protocol": "TCP"},
            {"name": "mqtts", "containerPort": names::MQTT_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": names::INGRESS_ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": resources.unwrap_or_else(|| Value::Object(input.args.ingress_resources.clone())),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": restricted(input.args.pod_user),
        "readinessProbe": probe("/readyz", 2),
        "livenessProbe": probe("/livez", 10),
        "volumeMounts": mounts,
    }))
}

#[cfg(test)]
#[path = "statefulset_tests.rs"]
mod tests;
