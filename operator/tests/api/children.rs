//! What was made of a topic and of its broker, as it is in the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_operator::kubernetes::names;

use crate::support::Space;
use crate::support::brokers::{OPERATORS, keys_api};

/// Of a broker of one pod, in order. The first is in the operator's namespace and has no owner.
pub const OF_BROKER: [&str; 11] = [
    "authority",
    "broker",
    "config",
    "disruption-budget",
    "headless",
    "ingress",
    "network-policy",
    "routes",
    "service",
    "statefulset",
    "topics",
];
/// Of a topic, in order.
pub const OF_TOPIC: [&str; 2] = ["ca", "topic-service"];

/// What is found of one.
pub type Children = BTreeMap<&'static str, DynamicObject>;

fn resource(kind: &str) -> ApiResource {
    match kind {
        "authority" | "broker" | "ingress" | "routes" | "topics" => ApiResource::erase::<Secret>(&()),
        "config" | "ca" => ApiResource::erase::<ConfigMap>(&()),
        "disruption-budget" => ApiResource::erase::<PodDisruptionBudget>(&()),
        "headless" | "service" | "topic-service" => ApiResource::erase::<Service>(&()),
        "network-policy" => ApiResource::erase::<NetworkPolicy>(&()),
        "statefulset" => ApiResource::erase::<StatefulSet>(&()),
        other => panic!("no child {other}"),
    }
}

fn name(kind: &str, of: &str, space: &Space) -> String {
    match kind {
        "authority" => names::authority(of, &space.name),
        "broker" | "config" | "disruption-budget" | "network-policy" | "service" | "statefulset" => names::broker(of),
        "headless" => names::broker_headless(of),
        "ingress" => names::ingress(of),
        "routes" => names::routes(of),
        "topics" => names::topics(of),
        "ca" => names::ca(of),
        "topic-service" => names::topic(of),
        other => panic!("no child {other}"),
    }
}

/// Where the children of this kind are.
pub fn api(space: &Space, kind: &str) -> Api<DynamicObject> {
    let namespace = if kind == "authority" { OPERATORS } else { &space.name };
    Api::namespaced_with(space.client.clone(), namespace, &resource(kind))
}

async fn found(space: &Space, kinds: &[&'static str], of: &str) -> Children {
    let mut found = BTreeMap::new();
    for kind in kinds {
        if let Some(child) = api(space, kind).get_opt(&name(kind, of, space)).await.expect("read") {
            found.insert(*kind, child);
        }
    }
    found
}

/// Those of a broker that there are.
pub async fn of_broker(space: &Space, broker: &str) -> Children {
    found(space, &OF_BROKER, broker).await
}

/// Those of a topic that there are.
pub async fn of_topic(space: &Space, topic: &str) -> Children {
    found(space, &OF_TOPIC, topic).await
}

/// Which there are.
pub fn kinds(children: &Children) -> Vec<&'static str> {
    children.keys().copied().collect()
}

/// The resource versions of all topics and brokers, and of everything of the types that are made of them.
pub async fn versions(space: &Space) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let mut note = |kind: &str, object: &dyn Fn() -> (String, Option<String>)| {
        let (name, version) = object();
        versions.insert(format!("{kind} {name}"), version.expect("version"));
    };
    let all = ListParams::default();
    for topic in space.api::<EventTopic>().list(&all).await.expect("listed") {
        note("topic", &|| (topic.name_any(), topic.resource_version()));
    }
    for broker in space.api::<EventBroker>().list(&all).await.expect("listed") {
        note("event-broker", &|| (broker.name_any(), broker.resource_version()));
    }
    for kind in OF_BROKER.iter().chain(&OF_TOPIC).filter(|kind| **kind != "authority") {
        for object in api(space, kind).list(&all).await.expect("listed") {
            note(kind, &|| (object.name_any(), object.resource_version()));
        }
    }
    let ours = names::authority("", &space.name);
    for keys in keys_api(space).list(&all).await.expect("listed").items {
        if keys.name_any().starts_with(&ours) {
            note("authority", &|| (keys.name_any(), keys.resource_version()));
        }
    }
    versions
}
