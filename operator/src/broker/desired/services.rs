//! How the broker pods are found: all of them together, and each by its name.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_crds::broker::{Access, AccessType, TrafficPolicy};

use super::{Input, child};
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;

/// Publishers and handlers: any broker that is ready.
pub fn client(input: &Input<'_>) -> Child {
    let broker = &input.owner.name;
    let name = names::broker(broker);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(broker)),
        "spec": {
            "selector": names::broker_selector(broker),
            "ports": [
                {"name": "https", "port": 443, "targetPort": names::INGRESS_PORT, "protocol": "TCP", "appProtocol": "https"},
                {"name": "nats", "port": BROKER_PORT, "targetPort": BROKER_PORT, "protocol": "TCP"},
                {"name": "mqtts", "port": names::MQTT_PORT, "targetPort": names::MQTT_PORT, "protocol": "TCP"},
            ],
        },
    });
    child::<Service>(&name, value)
}

/// Clients from outside of the cluster: a Service for each way.
pub fn access(input: &Input<'_>) -> Vec<Child> {
    input.broker.spec.access.iter().map(|access| outside(input, access)).collect()
}

fn outside(input: &Input<'_>, access: &Access) -> Child {
    let broker = &input.owner.name;
    let name = names::access(broker, &access.name);
    let mut labels = names::broker_labels(broker);
    labels.insert(names::ACCESS_LABEL.into(), access.name.clone());
    let mut metadata = input.owner.metadata(&name, &labels);
    for (key, value) in &access.annotations {
        // What the operator says of the object is not the user's to change.
        if metadata["annotations"].get(key).is_none() {
            metadata["annotations"][key] = json!(value);
        }
    }
    let service_type = match access.service_type {
        AccessType::LoadBalancer => "LoadBalancer",
        AccessType::NodePort => "NodePort",
        AccessType::ClusterIP => "ClusterIP",
    };
    let node_ports = access.node_ports.unwrap_or_default();
    let port = |name: &str, port: i32, target: i32, node_port: Option<i32>| {
        let mut port = json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
        if let Some(node_port) = node_port {
            port["nodePort"] = json!(node_port);
        }
        port
    };
    let mut spec = json!({
        "type": service_type,
        "selector": names::broker_selector(broker),
        "ports": [
            port("https", 443, names::INGRESS_PORT, node_ports.https),
            port("mqtts", names::MQTT_PORT, names::MQTT_PORT, node_ports.mqtts),
        ],
    });
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec[field] = value;
        }
    };
    set("loadBalancerClass", access.load_balancer_class.as_ref().map(|class| json!(class)));
    set("loadBalancerSourceRanges", Some(json!(access.source_ranges)).filter(|_| !access.source_ranges.is_empty()));
    let policy = access.external_traffic_policy.map(|policy| match policy {
        TrafficPolicy::Cluster => json!("Cluster"),
        TrafficPolicy::Local => json!("Local"),
    });
    set("externalTrafficPolicy", policy);
    child::<Service>(&name, json!({"metadata": metadata, "spec": spec}))
}

/// The brokers among themselves, and the operator: every pod, ready or not, because a broker becomes ready
/// only after its peers and the operator have reached it.
pub fn headless(input: &Input<'_>) -> Child {
    let broker = &input.owner.name;
    let name = names::broker_headless(broker);
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(broker)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": true,
            "selector": names::broker_selector(broker),
            "ports": [
                {"name": "nats", "port": BROKER_PORT, "targetPort": BROKER_PORT, "protocol": "TCP"},
                {"name": "route", "port": names::ROUTE_PORT, "targetPort": names::ROUTE_PORT, "protocol": "TCP"},
            ],
        },
    });
    child::<Service>(&name, value)
}
