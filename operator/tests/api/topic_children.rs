//! The children of a topic as they are in the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Resource, ResourceExt as _};
use tidegate_crds::EventTopic;

use crate::support::Space;

/// All of them, in order.
pub const CHILDREN: [&str; 10] = [
    "authority",
    "broker",
    "ca",
    "config",
    "disruption-budget",
    "headless",
    "ingress",
    "network-policy",
    "service",
    "statefulset",
];

/// Type and name.
fn place(kind: &str, topic: &str) -> (ApiResource, String) {
    fn of<K: Resource<DynamicType = ()>>(topic: &str, suffix: &str) -> (ApiResource, String) {
        (ApiResource::erase::<K>(&()), format!("{topic}-{suffix}"))
    }
    match kind {
        "authority" => of::<Secret>(topic, "authority"),
        "broker" => of::<Secret>(topic, "broker"),
        "ca" => of::<ConfigMap>(topic, "ca"),
        "config" => of::<ConfigMap>(topic, "broker"),
        "disruption-budget" => of::<PodDisruptionBudget>(topic, "broker"),
        "headless" => of::<Service>(topic, "broker-headless"),
        "ingress" => of::<Secret>(topic, "ingress"),
        "network-policy" => of::<NetworkPolicy>(topic, "broker"),
        "service" => of::<Service>(topic, "broker"),
        "statefulset" => of::<StatefulSet>(topic, "broker"),
        other => panic!("no child {other}"),
    }
}

pub fn api(space: &Space, kind: &str) -> Api<DynamicObject> {
    Api::namespaced_with(space.client.clone(), &space.name, &place(kind, "").0)
}

/// Those there are.
pub async fn children(space: &Space, topic: &str) -> BTreeMap<&'static str, DynamicObject> {
    let mut found = BTreeMap::new();
    for kind in CHILDREN {
        if let Some(child) = api(space, kind).get_opt(&place(kind, topic).1).await.expect("read") {
            found.insert(kind, child);
        }
    }
    found
}

/// The resource versions of the topic, of its children, and of everything else of these types around it.
pub async fn versions(space: &Space, topic: &str) -> BTreeMap<String, String> {
    let mut versions = BTreeMap::new();
    let topic: EventTopic = space.api().get(topic).await.expect("topic");
    versions.insert("topic".to_owned(), topic.resource_version().expect("version"));
    for kind in CHILDREN {
        for object in api(space, kind).list(&kube::api::ListParams::default()).await.expect("listed") {
            versions.insert(format!("{kind} {}", object.name_any()), object.resource_version().expect("version"));
        }
    }
    versions
}
