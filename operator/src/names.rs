//! Names and labels of everything the operator makes.

use std::collections::BTreeMap;

/// The one field manager of the operator.
pub const FIELD_MANAGER: &str = "tidegate-operator";
/// Which topic an object belongs to.
pub const TOPIC_LABEL: &str = "tidegate.io/topic";
/// Which handler an object belongs to.
pub const HANDLER_LABEL: &str = "tidegate.io/handler";
/// `broker` or `handler`: which kind of pod.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Which version of its handler's template a pod was made from.
pub const TEMPLATE_ANNOTATION: &str = "tidegate.io/template";
/// Selects everything the operator watches.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "tidegate");

/// The HTTPS port of the ingress container.
pub const INGRESS_PORT: i32 = 8443;
/// The MQTT port of the ingress container.
pub const MQTT_PORT: i32 = 8883;
/// The probe port of the ingress container.
pub const INGRESS_ADMIN_PORT: i32 = 8081;
/// The probe and drain port of the sidecar; the CRD refuses it to users.
pub const SIDECAR_PORT: i32 = 15480;
/// The broker's route port.
pub const ROUTE_PORT: i32 = 6222;

/// StatefulSet, client Service, PodDisruptionBudget, NetworkPolicy, configuration and Secret of a topic's broker.
pub fn broker(topic: &str) -> String {
    format!("{topic}-broker")
}

/// The headless Service: names of the single broker pods.
pub fn broker_headless(topic: &str) -> String {
    format!("{topic}-broker-headless")
}

/// The Secret with the topic's root of trust; no pod mounts it.
pub fn authority(topic: &str) -> String {
    format!("{topic}-authority")
}

/// The ConfigMap with the certificate that verifies the topic's address.
pub fn ca(topic: &str) -> String {
    format!("{topic}-ca")
}

/// The Secret that the ingress containers mount.
pub fn ingress(topic: &str) -> String {
    format!("{topic}-ingress")
}

/// The Secret with what brokers show each other on their routes; only the broker containers mount it.
pub fn routes(topic: &str) -> String {
    format!("{topic}-routes")
}

/// The Secret of a workload that publishes over NATS.
pub fn publisher(topic: &str, publisher: &str) -> String {
    format!("{topic}-publisher-{publisher}")
}

/// Deployment of a handler.
pub fn handler(handler: &str) -> String {
    format!("{handler}-handler")
}

/// The Secret that only the handler's sidecars mount.
pub fn handler_identity(handler: &str) -> String {
    format!("{handler}-identity")
}

/// The DNS name of the client Service.
pub fn broker_host(topic: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", broker(topic))
}

/// The DNS name of one broker pod.
pub fn broker_pod_host(topic: &str, namespace: &str, ordinal: i32) -> String {
    format!("{}-{ordinal}.{}.{namespace}.svc", broker(topic), broker_headless(topic))
}

/// Labels of everything that belongs to a topic's broker.
pub fn topic_labels(topic: &str) -> BTreeMap<String, String> {
    labels("broker", &[(TOPIC_LABEL, topic), ("app.kubernetes.io/instance", topic)])
}

/// Labels of everything that belongs to a handler.
pub fn handler_labels(handler: &str, topic: &str) -> BTreeMap<String, String> {
    labels("handler", &[(TOPIC_LABEL, topic), (HANDLER_LABEL, handler), ("app.kubernetes.io/instance", handler)])
}

/// Which pods are a topic's brokers; part of immutable selectors.
pub fn broker_selector(topic: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(COMPONENT_LABEL.into(), "broker".into()), (TOPIC_LABEL.into(), topic.into())])
}

/// Which pods are a handler's; part of immutable selectors. Our own label only: all others of these pods are the
/// user's.
pub fn handler_selector(handler: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(HANDLER_LABEL.into(), handler.into())])
}

/// What we add to the labels of a handler's pods.
pub fn handler_pod_labels(handler: &str, topic: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(HANDLER_LABEL.into(), handler.into()), (TOPIC_LABEL.into(), topic.into())])
}

fn labels(component: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let common = [MANAGED_BY, ("app.kubernetes.io/name", "tidegate"), (COMPONENT_LABEL, component)];
    common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
