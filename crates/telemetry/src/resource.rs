//! The resource: who, in which version, in which pod.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_semantic_conventions::resource as key;

use crate::Service;

/// What the pod specification may give by the downward API, and the attribute it becomes.
const DOWNWARD: [(&str, [&str; 2]); 5] = [
    (key::K8S_POD_NAME, ["POD_NAME", "K8S_POD_NAME"]),
    (key::K8S_POD_UID, ["POD_UID", "K8S_POD_UID"]),
    (key::K8S_NAMESPACE_NAME, ["POD_NAMESPACE", "K8S_NAMESPACE_NAME"]),
    (key::K8S_NODE_NAME, ["NODE_NAME", "K8S_NODE_NAME"]),
    (key::SERVICE_INSTANCE_ID, ["POD_NAME", "K8S_POD_NAME"]),
];

/// The resource of a service in an environment. What the user set by `OTEL_RESOURCE_ATTRIBUTES` wins.
pub fn of(service: Service, variable: impl Fn(&str) -> Option<String>) -> Resource {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let name = set("OTEL_SERVICE_NAME").unwrap_or_else(|| service.name.to_owned());
    let pod = DOWNWARD.iter().filter_map(|(attribute, names)| {
        names.iter().find_map(|name| set(name)).map(|value| KeyValue::new(*attribute, value))
    });
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(pod)
        .with_attributes(service.attributes)
        .with_attributes([
            KeyValue::new(key::SERVICE_NAME, name),
            KeyValue::new(key::SERVICE_VERSION, service.version),
            KeyValue::new(key::SERVICE_NAMESPACE, "tidegate"),
        ])
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_schema_url([], opentelemetry_semantic_conventions::SCHEMA_URL)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_and_the_service_are_named() {
        let service = Service {
            name: "tidegate-ingress",
            version: "1.2.3",
            attributes: vec![KeyValue::new("tidegate.topic", "orders")],
        };
        let pod = |name: &str| match name {
            "POD_NAME" => Some("orders-broker-0".to_owned()),
            "K8S_NAMESPACE_NAME" => Some("shop".to_owned()),
            "NODE_NAME" => Some(String::new()),
            _ => None,
        };
        let resource = of(service, pod);
        let value = |key: &'static str| resource.get(&key.into()).map(|value| value.to_string());
        assert_eq!(value("service.name").as_deref(), Some("tidegate-ingress"));
        assert_eq!(value("service.version").as_deref(), Some("1.2.3"));
        assert_eq!(value("service.namespace").as_deref(), Some("tidegate"));
        assert_eq!(value("service.instance.id").as_deref(), Some("orders-broker-0"));
        assert_eq!(value("k8s.pod.name").as_deref(), Some("orders-broker-0"));
        assert_eq!(value("k8s.namespace.name").as_deref(), Some("shop"));
        assert_eq!(value("tidegate.topic").as_deref(), Some("orders"));
        assert_eq!(value("k8s.node.name"), None, "an empty variable is no name");
        assert_eq!(resource.schema_url(), Some(opentelemetry_semantic_conventions::SCHEMA_URL));
    }
}
