//! What may reach the broker pods, where the cluster's network enforces it.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::json;
use tidegate_broker_client::layout::BROKER_PORT;

use super::{Input, child};
use crate::apply::Child;
use crate::names;
use crate::topic::rules;

/// Publishing: any pod of the broker's namespace, and of those of which a topic admits ServiceAccounts (the ingress admits
/// whom the topic names); everybody where there is a way from outside: what comes through a load balancer has the address
/// of a node, or one that is not known here. The broker itself: the handlers of its topics, its peers, the operator, and, where
/// there are publishers over NATS, any pod of the namespace (the broker admits those with credentials).
/// Probes come from the node, which every network lets through.
pub fn broker(input: &Input<'_>) -> Child {
    let broker = &input.owner.name;
    let name = names::broker(broker);
    let brokers = json!({"podSelector": {"matchLabels": names::broker_selector(broker)}});
    // By our own labels only: the others of a handler's pods are the user's.
    let handlers = json!({"podSelector": {
        "matchLabels": {names::BROKER_LABEL: broker},
        "matchExpressions": [{"key": names::HANDLER_LABEL, "operator": "Exists"}],
    }});
    let operator = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": input.args.pod_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "tidegate", names::COMPONENT_LABEL: "operator"}},
    });
    let port = |port: i32| json!({"port": port, "protocol": "TCP"});
    let namespace = json!({"podSelector": {}});
    let mut clients = vec![brokers.clone(), handlers, operator];
    if input.topics.iter().any(|topic| !rules::nats_names(&topic.publishers).is_empty()) {
        clients.push(namespace.clone());
    }
    let mut publishers = vec![namespace];
    let named = input.topics.iter().flat_map(|topic| rules::namespaces(&topic.publishers));
    let elsewhere: BTreeSet<&str> = named.filter(|namespace| *namespace != input.owner.namespace).collect();
    if !elsewhere.is_empty() {
        let named = json!({"key": "kubernetes.io/metadata.name", "operator": "In", "values": elsewhere});
        publishers.push(json!({"namespaceSelector": {"matchExpressions": [named]}}));
    }
    let ports = json!([port(names::INGRESS_PORT), port(names::MQTT_PORT)]);
    let publishing = if input.broker.spec.access.is_empty() {
        json!({"from": publishers, "ports": ports})
    } else {
        json!({"ports": ports})
    };
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(broker)),
        "spec": {
            "podSelector": {"matchLabels": names::broker_selector(broker)},
            "policyTypes": ["Ingress"],
            "ingress": [
                publishing,
                {"from": clients, "ports": [port(i32::from(BROKER_PORT))]},
                {"from": [brokers], "ports": [port(names::ROUTE_PORT)]},
            ],
        },
    });
    child::<NetworkPolicy>(&name, value)
}
