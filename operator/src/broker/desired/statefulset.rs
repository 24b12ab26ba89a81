//! The broker pods: a nats-server and the ingress, side by side, with a volume where events are stored.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tidegate_broker_admin::server::{Cluster, JetStream, Server};
use tidegate_broker_admin::streams;
use tidegate_broker_client::contract::{AccessCertificate, Ingress};
use tidegate_broker_client::identity::file;
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_crds::broker::Access;
use time::OffsetDateTime;

use super::{Input, child};
use crate::apply::Child;
use crate::context::{environment, restricted};
use crate::error::Error;
use crate::handler::template;
use crate::names;

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

/// The nats-server's configuration. The same input gives the same text, so that it rolls out only when
/// something changed: its claims carry a fixed time.
pub fn configuration(input: &Input<'_>) -> Result<Child, Error> {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    let issued = OffsetDateTime::UNIX_EPOCH;
    let system = input.authority.system_account(issued)?;
    let ingress = input.authority.ingress_account(&[], issued)?;
    let routes = || {
        let host = |ordinal| names::broker_pod_host(broker, namespace, ordinal);
        (0..input.settings.replicas).map(|ordinal| format!("nats://{}:{}", host(ordinal), names::ROUTE_PORT)).collect()
    };
    let server = Server {
        port: BROKER_PORT,
        monitor: MONITOR.into(),
        data: DATA_FOLDER.into(),
        tls: TLS_FOLDER.into(),
        pid_file: Some(format!("{RUN_FOLDER}/nats.pid")),
        // A topic's streams have its own bound.
        max_payload: usize::try_from(streams::MAX_MESSAGE_SIZE).unwrap_or(usize::MAX),
        jetstream: Some(JetStream {
            max_file_store: input.settings.file_store,
            sync_always: input.settings.sync_always,
        }),
        cluster: (input.settings.replicas > 1).then(|| Cluster {
            name: format!("{namespace}-{broker}"),
            port: u16::try_from(names::ROUTE_PORT).unwrap_or_default(),
            routes: routes(),
            tls: ROUTES_FOLDER.into(),
        }),
        operator_jwt: input.authority.operator_jwt(issued)?,
        accounts: vec![(system.id.clone(), system.jwt), (ingress.id, ingress.jwt)],
        system_account: system.id,
    };
    let name = names::broker(broker);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(broker)),
        "data": {"nats.conf": server.render()},
    });
    Ok(child::<ConfigMap>(&name, value))
}

/// The StatefulSet. A changed configuration or certificate restarts the pods, one after the other.
pub fn broker(input: &Input<'_>, config: &Child, secret: &Child, routes: Option<&Child>) -> Result<Child, Error> {
    let broker = &input.owner.name;
    let name = names::broker(broker);
    let labels = names::broker_labels(broker);
    let spec = &input.broker.spec;
    let mut claim = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": input.settings.volume_text}},
    });
    if let Some(class) = &spec.storage.class_name {
        claim["storageClassName"] = json!(class);
    }
    let routes_data = routes.map(|routes| routes.value["data"].to_string()).unwrap_or_default();
    let rolls_with = Sha256::digest(format!("{}{}{routes_data}", config.value["data"], secret.value["data"]));
    let rolls_with: String = rolls_with.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let value = json!({
        "metadata": input.owner.metadata(&name, &labels),
        "spec": {
            "serviceName": names::broker_headless(broker),
            "replicas": input.settings.replicas,
            // The brokers of a cluster need each other to become ready.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": names::broker_selector(broker)},
            "template": {
                "metadata": {"labels": labels, "annotations": {"tidegate.io/rolls-with": rolls_with}},
                "spec": pod(input)?,
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

fn pod(input: &Input<'_>) -> Result<Value, Error> {
    let broker = &input.owner.name;
    let spec = &input.broker.spec.pods;
    let mut pod = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "fsGroup": 65532, "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [nats(input), ingress(input)?],
        "volumes": [
            {"name": "config", "configMap": {"name": names::broker(broker)}},
            {"name": "tls", "secret": {"secretName": names::broker(broker)}},
            {"name": "identity", "secret": {"secretName": names::ingress(broker)}},
            {"name": "topics", "secret": {"secretName": names::topics(broker)}},
            {"name": "run", "emptyDir": {"sizeLimit": "1Mi"}},
        ],
        "affinity": without_nulls(spec.affinity.as_ref()).unwrap_or_else(|| apart(broker)),
    });
    if input.settings.replicas > 1
        && let Some(volumes) = pod["volumes"].as_array_mut()
    {
        volumes.push(json!({"name": "routes", "secret": {"secretName": names::routes(broker)}}));
    }
    if let (Some(volume), Some(volumes)) = (access_volume(input), pod["volumes"].as_array_mut()) {
        volumes.push(volume);
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
    let mut mounts = vec![
        json!({"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": true}),
        json!({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": true}),
        json!({"name": "data", "mountPath": DATA_FOLDER}),
        json!({"name": "run", "mountPath": RUN_FOLDER}),
    ];
    if input.settings.replicas > 1 {
        mounts.push(json!({"name": "routes", "mountPath": ROUTES_FOLDER, "readOnly": true}));
    }
    let mut nats = json!({
        "name": "nats",
        "image": input.args.broker_image,
        "imagePullPolicy": input.args.image_pull_policy,
        "args": ["--name", "$(POD_NAME)", "--config", format!("{CONFIG_FOLDER}/nats.conf")],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
        "ports": [
            {"name": "nats", "containerPort": BROKER_PORT, "protocol": "TCP"},
            {"name": "route", "containerPort": names::ROUTE_PORT, "protocol": "TCP"},
        ],
        "resources": without_nulls(input.broker.spec.pods.resources.as_ref()).unwrap_or_else(|| json!({"requests": {"cpu": "50m", "memory": "128Mi"}})),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": restricted(),
        // Recovery of large streams takes its time: five minutes.
        "startupProbe": probe("startup", 1, 300),
        "readinessProbe": probe("ready", 5, 3),
        // Slow to judge: it also fails when only the ingress container is away.
        "livenessProbe": probe("live", 10, 9),
        "volumeMounts": mounts,
    });
    if input.settings.replicas > 1 {
        // Lame duck: clients are moved to other brokers one by one. The server ignores SIGTERM meanwhile. A single
        // broker has no other to move them to, and would only be away for longer.
        let lame_duck = ["nats-server", "--signal", &format!("ldm={RUN_FOLDER}/nats.pid")];
        nats["lifecycle"] = json!({"preStop": {"exec": {"command": lame_duck}}});
    }
    nats
}

fn ingress(input: &Input<'_>) -> Result<Value, Error> {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    let mut servers = vec![format!("tls://localhost:{BROKER_PORT}")];
    if input.settings.replicas > 1 {
        servers.push(format!("tls://{}:{BROKER_PORT}", names::broker_host(broker, namespace)));
    }
    let config = Ingress {
        namespace: namespace.clone(),
        broker: broker.clone(),
        servers,
        identity: IDENTITY_FOLDER.into(),
        https_port: u16::try_from(names::INGRESS_PORT).unwrap_or_default(),
        admin_port: u16::try_from(names::INGRESS_ADMIN_PORT).unwrap_or_default(),
        broker_monitor: format!("http://{MONITOR}"),
        mqtt_port: u16::try_from(names::MQTT_PORT).unwrap_or_default(),
        volume: Some(DATA_FOLDER.into()),
        topics: TOPICS_FOLDER.into(),
        capacity: input.settings.capacity,
        flush: input.settings.flush(),
        certificates: with_certificates(input)
            .map(|(access, _)| AccessCertificate {
                folder: format!("{ACCESS_FOLDER}/{}", access.name).into(),
                hosts: access.hostnames.clone(),
            })
            .collect(),
    };
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
        "securityContext": restricted(),
        "readinessProbe": probe("/readyz", 2),
        "livenessProbe": probe("/livez", 10),
        "volumeMounts": mounts,
    }))
}

#[cfg(test)]
#[path = "statefulset_tests.rs"]
mod tests;
