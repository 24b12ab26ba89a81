//! How the broker pods are found: all of them together, and each by its name.

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use tidegate_broker_client::layout::BROKER_PORT;

use super::{Input, child};
use crate::apply::Child;
use crate::names;

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
