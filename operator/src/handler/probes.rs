//! The probes of the first container, as its sidecar asks them. Pure.
//!
//! The API server judges the template; what it would refuse, or what cannot be asked from inside the pod (`exec`, a
//! `host` of its own), is left out here.

use std::time::Duration;

use serde_json::Value;
use tidegate_broker_client::probes::{Check, Probe, Probes};

/// The probes of a pod template.
pub fn of(template: &Value) -> Probes {
    let Some(container) = template.pointer("/spec/containers/0") else { return Probes::default() };
    let probe = |field: &str| probe(container.get(field)?, container);
    Probes { startup: probe("startupProbe"), readiness: probe("readinessProbe") }
}

fn probe(probe: &Value, container: &Value) -> Option<Probe> {
    // As in the API server, 0 and absent mean the default.
    let number = |field: &str, default: u32| {
        let value = probe.get(field).and_then(Value::as_i64).and_then(|value| u32::try_from(value).ok());
        value.filter(|value| *value > 0).unwrap_or(default)
    };
    let seconds = |field, default| Duration::from_secs(number(field, default).into());
    Some(Probe {
        check: check(probe, container)?,
        initial_delay: seconds("initialDelaySeconds", 0),
        period: seconds("periodSeconds", 10),
        timeout: seconds("timeoutSeconds", 1),
        success_threshold: number("successThreshold", 1),
        failure_threshold: number("failureThreshold", 3),
    })
}

fn check(probe: &Value, container: &Value) -> Option<Check> {
    let present = |field: &str| probe.get(field).filter(|value| value.is_object());
    if let Some(http) = present("httpGet") {
        return http_check(http, container);
    }
    if let Some(tcp) = present("tcpSocket") {
        return Some(Check::Tcp { port: local_port(tcp, container)? });
    }
    let grpc = present("grpc")?;
    let service = grpc.get("service").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Check::Grpc { port: local_port(grpc, container)?, service })
}

fn http_check(http: &Value, container: &Value) -> Option<Check> {
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let headers = http.get("httpHeaders").and_then(Value::as_array).into_iter().flatten();
    let path = text(http, "path");
    Some(Check::Http {
        tls: text(http, "scheme").eq_ignore_ascii_case("HTTPS"),
        port: local_port(http, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: headers.map(|header| (text(header, "name"), text(header, "value"))).collect(),
    })
}

/// The port, by its number or its name, if it is the container's own.
fn local_port(action: &Value, container: &Value) -> Option<u16> {
    let host = action.get("host").and_then(Value::as_str).unwrap_or_default();
    if !host.is_empty() {
        return None;
    }
    let port = match action.get("port")? {
        Value::String(name) => named_port(name, container).or_else(|| name.parse().ok())?,
        number => number.as_i64()?,
    };
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn named_port(name: &str, container: &Value) -> Option<i64> {
    let ports = container.get("ports")?.as_array()?;
    ports.iter().find(|port| port.get("name").and_then(Value::as_str) == Some(name))?.get("containerPort")?.as_i64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn readiness(probe: Value) -> Option<Probe> {
        let ports = json!([{"containerPort": 8080, "name": "http"}, {"containerPort": 9090, "name": "health"}]);
        let container = json!({"name": "c", "image": "i", "ports": ports, "readinessProbe": probe});
        of(&json!({"spec": {"containers": [container, {"name": "other", "readinessProbe": {"grpc": {"port": 1}}}]}}))
            .readiness
    }

    fn http(port: u16, path: &str) -> Check {
        Check::Http { tls: false, port, path: path.into(), headers: Vec::new() }
    }

    #[test]
    fn every_kind_that_can_be_asked_is_taken_over() {
        for (probe, expected) in [
            (json!({"httpGet": {"port": 8080}}), Some(http(8080, "/"))),
            (json!({"httpGet": {"port": "health", "path": "/ready?x=1"}}), Some(http(9090, "/ready?x=1"))),
            (json!({"httpGet": {"port": "7070", "path": "ready"}, "tcpSocket": null}), Some(http(7070, "/ready"))),
            (
                json!({"httpGet": {"port": 8443, "scheme": "HTTPS", "httpHeaders": [{"name": "A", "value": "b"}]}}),
                Some(Check::Http { tls: true, port: 8443, path: "/".into(), headers: vec![("A".into(), "b".into())] }),
            ),
            (json!({"tcpSocket": {"port": "http"}}), Some(Check::Tcp { port: 8080 })),
            (json!({"grpc": {"port": 9090}}), Some(Check::Grpc { port: 9090, service: String::new() })),
            (
                json!({"grpc": {"port": 9090, "service": "orders"}}),
                Some(Check::Grpc { port: 9090, service: "orders".into() }),
            ),
            (json!({"exec": {"command": ["true"]}}), None),
            (json!({"httpGet": {"port": 8080, "host": "elsewhere"}}), None),
            (json!({"httpGet": {"port": "unknown"}}), None),
            (json!({"httpGet": {"port": 0}}), None),
            (json!({"httpGet": {"port": -1}}), None),
            (json!({"httpGet": "no"}), None),
            (json!({"httpGet": {"port": {}}}), None),
            (json!("no"), None),
            (json!(null), None),
        ] {
            assert_eq!(readiness(probe.clone()).map(|probe| probe.check), expected, "{probe}");
        }
    }

    #[test]
    fn numbers_are_those_of_kubernetes() {
        let plain = readiness(json!({"tcpSocket": {"port": 1}})).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!((plain.initial_delay, plain.period, plain.timeout), (seconds(0), seconds(10), seconds(1)));
        assert_eq!((plain.success_threshold, plain.failure_threshold), (1, 3));
        let set = readiness(json!({
            "tcpSocket": {"port": 1}, "initialDelaySeconds": 5, "periodSeconds": 2, "timeoutSeconds": 4,
            "successThreshold": 6, "failureThreshold": 7,
        }))
        .unwrap();
        assert_eq!((set.initial_delay, set.period, set.timeout), (seconds(5), seconds(2), seconds(4)));
        assert_eq!((set.success_threshold, set.failure_threshold), (6, 7));
        assert_eq!(readiness(json!({"tcpSocket": {"port": 1}, "periodSeconds": -3})).unwrap().period, seconds(10));
    }

    #[test]
    fn a_template_without_probes_has_none() {
        assert!(of(&json!({"spec": {"containers": [{"name": "c"}]}})).is_empty());
        assert!(of(&json!({})).is_empty());
    }
}
