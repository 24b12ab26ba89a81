//! Names and labels of everything the operator makes.

use std::collections::BTreeMap;

use crate::context::Owner;
use crate::sessions::brokers::BrokerKey;

/// The one field manager of the operator.
pub const FIELD_MANAGER: &str = "tidegate-operator";
/// Which broker an object belongs to.
pub const BROKER_LABEL: &str = "tidegate.io/broker";
/// The namespace of the broker that an object of another namespace belongs to, or a pod connects to.
pub const BROKER_NAMESPACE_LABEL: &str = "tidegate.io/broker-namespace";
/// Which way to its broker a Service is.
pub const ACCESS_LABEL: &str = "tidegate.io/access";
/// Which topic an object belongs to.
pub const TOPIC_LABEL: &str = "tidegate.io/topic";
/// Which handler an object belongs to.
pub const HANDLER_LABEL: &str = "tidegate.io/handler";
/// `broker`, `topic` or `handler`: which kind of resource an object was made for.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Which version of its handler's template a pod was made from.
pub const TEMPLATE_ANNOTATION: &str = "tidegate.io/template";
/// The domain of the cluster's Services. (An address that ends with `.svc` needs none: resolvers of pods add it.)
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Which configuration and template a broker's pod was made from.
pub const ROLLS_WITH_ANNOTATION: &str = "tidegate.io/rolls-with";
/// On a broker's StatefulSet: its servers are a cluster, also where it is one. Earlier versions did not make it so.
pub const CLUSTER_ANNOTATION: &str = "tidegate.io/cluster";
/// On a broker's StatefulSet: how many servers it has now ([`crate::broker::scale::Scale`]).
pub const SERVERS_ANNOTATION: &str = "tidegate.io/servers";
/// On what is made from a broker's certificate authorities: which generation of them
/// ([`tidegate_broker_admin::rollover::Rollover::generation`]).
pub const GENERATION_ANNOTATION: &str = "tidegate.io/authority-generation";
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
/// The broker's leafnode port, on loopback: the ingress beside it wakes it there.
pub const WAKE_PORT: u16 = 7422;

/// StatefulSet, client Service, PodDisruptionBudget, NetworkPolicy, configuration and Secret of a broker.
pub fn broker(broker: &str) -> String {
    format!("{broker}-broker")
}

/// The Service of a way to a broker from outside.
pub fn access(broker: &str, access: &str) -> String {
    format!("{broker}-access-{access}")
}

/// The headless Service: names of the single pods of a broker.
pub fn broker_headless(broker: &str) -> String {
    format!("{broker}-broker-headless")
}

/// The Secret with a broker's root of trust, in the operator's namespace. No pod mounts it.
pub fn authority(broker: &str, namespace: &str) -> String {
    // Neither name has a dot, so two brokers never share one.
    format!("broker.{namespace}.{broker}")
}

/// The Secret that a broker's ingress containers mount as their identity.
pub fn ingress(broker: &str) -> String {
    format!("{broker}-ingress")
}

/// The Secret that tells a broker's ingress containers which topics they serve.
pub fn topics(broker: &str) -> String {
    format!("{broker}-topics")
}

/// The Secret with what the pods of a broker show each other on their routes; only the broker containers mount it.
pub fn routes(broker: &str) -> String {
    format!("{broker}-routes")
}

/// The Service of a topic's own address.
pub fn topic(topic: &str) -> String {
    format!("{topic}-topic")
}

/// The ConfigMap with the certificate that verifies the topic's address.
pub fn ca(topic: &str) -> String {
    format!("{topic}-ca")
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

/// The DNS name of a broker's client Service.
pub fn broker_host(broker: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", self::broker(broker))
}

/// The DNS name of one pod of a broker.
pub fn broker_pod_host(broker: &str, namespace: &str, ordinal: i32) -> String {
    format!("{}-{ordinal}.{}.{namespace}.svc", self::broker(broker), broker_headless(broker))
}

/// The DNS name of a topic.
pub fn topic_host(topic: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", self::topic(topic))
}

/// Labels of everything that belongs to a broker.
pub fn broker_labels(broker: &str) -> BTreeMap<String, String> {
    labels("broker", &[(BROKER_LABEL, broker), ("app.kubernetes.io/instance", broker)])
}

/// Labels of everything that belongs to a topic.
pub fn topic_labels(topic: &str) -> BTreeMap<String, String> {
    labels("topic", &[(TOPIC_LABEL, topic), ("app.kubernetes.io/instance", topic)])
}

/// Labels of everything that belongs to a handler.
pub fn handler_labels(handler: &str, topic: &str) -> BTreeMap<String, String> {
    labels("handler", &[(TOPIC_LABEL, topic), (HANDLER_LABEL, handler), ("app.kubernetes.io/instance", handler)])
}

/// Which pods are a broker's; part of immutable selectors.
pub fn broker_selector(broker: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(COMPONENT_LABEL.into(), "broker".into()), (BROKER_LABEL.into(), broker.into())])
}

/// Which pods are a handler's; part of immutable selectors. Our own label only: all others of these pods are the
/// user's.
pub fn handler_selector(handler: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(HANDLER_LABEL.into(), handler.into())])
}

/// What we add to the labels of a handler's pods. By the broker's they may connect to it.
pub fn handler_pod_labels(handler: &Owner, topic: &str, broker: &BrokerKey) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (HANDLER_LABEL.into(), handler.name.clone()),
        (TOPIC_LABEL.into(), topic.into()),
        (BROKER_LABEL.into(), broker.name.clone()),
    ]);
    if broker.namespace != handler.namespace {
        labels.insert(BROKER_NAMESPACE_LABEL.into(), broker.namespace.clone());
    }
    labels
}

fn labels(component: &str, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let common = [MANAGED_BY, ("app.kubernetes.io/name", "tidegate"), (COMPONENT_LABEL, component)];
    common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
