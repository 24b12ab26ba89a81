//! The configuration: one JSON document in an environment variable, written by the operator.

use std::time::Duration;

use tidegate_broker_client::contract::{self, Format, OnExhausted, Order, Rate, Sidecar};
use tidegate_broker_client::layout::PARTITIONS;

/// What happens beside a delivery (the response's body, the settlement, the flush) fits into this.
pub const MARGIN: Duration = Duration::from_secs(10);

/// Why there is no usable configuration. The operator wrote it, so nothing but another one helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The variable is not set or not UTF-8.
    #[error("{variable}: {0}", variable = contract::VARIABLE)]
    Missing(#[from] std::env::VarError),
    /// It is not such a document.
    #[error("{variable}: {0}", variable = contract::VARIABLE)]
    Json(#[from] serde_json::Error),
    /// A value makes no sense.
    #[error("{variable}: {field}: {problem}", variable = contract::VARIABLE)]
    Value {
        /// The field.
        field: &'static str,
        /// What is wrong with its value.
        problem: &'static str,
    },
}

/// Reads and checks the process's configuration.
///
/// # Errors
/// There is none, or it cannot be used.
pub fn from_environment() -> Result<Sidecar, Error> {
    let config = serde_json::from_str(&std::env::var(contract::VARIABLE)?)?;
    check(&config)?;
    Ok(config)
}

/// Checks what the types do not say.
///
/// # Errors
/// The first value that cannot be used.
pub fn check(config: &Sidecar) -> Result<(), Error> {
    let Sidecar { handler, servers, delivery, ack_wait, .. } = config;
    let retry = &delivery.retry;
    let lanes = match delivery.order {
        Order::None => 1,
        Order::Key { lanes } => u32::from(lanes),
    };
    let batch = match delivery.format {
        Format::Binary | Format::Structured => 1,
        Format::Batch { max_events, .. } => max_events,
    };
    let rate = delivery.rate.unwrap_or(Rate { events: 1, per: Duration::from_secs(1) });
    let subject_token = |text: &str| !text.is_empty() && !text.contains(|c: char| ".*> ".contains(c) || c.is_control());
    let rules = [
        ("handler", subject_token(handler), "must be one token of a subject"),
        ("servers", !servers.is_empty(), "must name a broker"),
        ("delivery.port", delivery.port != 0, "must not be 0"),
        ("delivery.path", delivery.path.starts_with('/'), "must start with /"),
        ("delivery.path", delivery.path.parse::<http::uri::PathAndQuery>().is_ok(), "must be a path of a URI"),
        ("delivery.format.maxEvents", batch > 0, "must be at least 1"),
        ("delivery.order.lanes", (1..=PARTITIONS).contains(&lanes), "must be from 1 to the number of partitions"),
        (
            "delivery.onExhausted",
            delivery.on_exhausted == OnExhausted::DeadLetter || matches!(delivery.order, Order::Key { .. }),
            "must be DeadLetter without an order by key",
        ),
        ("delivery.rate", rate.events > 0 && !rate.per.is_zero(), "must be at least one event in some time"),
        ("delivery.concurrency", delivery.concurrency > 0, "must be at least 1"),
        ("delivery.timeout", !delivery.timeout.is_zero(), "must be more than 0"),
        ("delivery.retry.maxAttempts", retry.max_attempts > 0, "must be at least 1"),
        ("delivery.retry.factor", retry.factor.is_finite() && retry.factor >= 1.0, "must be at least 1"),
        ("delivery.retry.jitter", (0.0..=1.0).contains(&retry.jitter), "must be between 0 and 1"),
        ("ackWait", *ack_wait >= Duration::from_millis(300), "must be at least 300 ms"),
    ];
    match rules.into_iter().find(|(_, holds, _)| !holds) {
        Some((field, _, problem)) => Err(Error::Value { field, problem }),
        None => Ok(()),
    }
}

/// How often an event that is in flight is renewed, so that the broker does not give it to another sidecar: two
/// renewals may be lost.
pub fn renew_every(config: &Sidecar) -> Duration {
    config.ack_wait / 3
}

/// How long the answer to a request to drain may take.
pub fn drained_within(config: &Sidecar) -> Duration {
    drain_limit(config).saturating_add(2 * MARGIN)
}

/// The longest a drain takes: the deliveries in flight, and what follows them.
pub fn drain_limit(config: &Sidecar) -> Duration {
    config.delivery.timeout.saturating_add(MARGIN)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document() -> Value {
        json!({
            "namespace": "shop", "topic": "orders", "handler": "billing", "handlerUid": "1",
            "servers": ["tls://orders:4222"], "identity": "/identity",
            "adminPort": 8090, "resumeAfter": 90_000,
            "delivery": {
                "port": 8080, "path": "/events", "concurrency": 16, "timeout": 30_000,
                "retry": {"maxAttempts": 5, "initial": 1000, "max": 60_000, "factor": 2.0, "jitter": 0.2}
            },
            "ackWait": 30_000
        })
    }

    fn problem(pointer: &str, value: Value) -> String {
        let mut document = document();
        *document.pointer_mut(pointer).unwrap() = value;
        match serde_json::from_value(document).map_err(Error::from).and_then(|config| check(&config)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_the_operator_writes_is_taken() {
        let config: Sidecar = serde_json::from_value(document()).unwrap();
        check(&config).unwrap();
        assert_eq!(renew_every(&config), Duration::from_secs(10));
        assert_eq!(drain_limit(&config), Duration::from_secs(40));
    }

    #[test]
    fn each_problem_names_its_field() {
        for (pointer, value, expected) in [
            ("/handler", json!("a.b"), "TIDEGATE_CONFIG: handler: must be one token of a subject"),
            ("/handler", json!(">"), "TIDEGATE_CONFIG: handler: must be one token of a subject"),
            ("/servers", json!([]), "TIDEGATE_CONFIG: servers: must name a broker"),
            ("/delivery/path", json!("events"), "TIDEGATE_CONFIG: delivery.path: must start with /"),
            ("/delivery/path", json!("/a b"), "TIDEGATE_CONFIG: delivery.path: must be a path of a URI"),
            ("/delivery/concurrency", json!(0), "TIDEGATE_CONFIG: delivery.concurrency: must be at least 1"),
            ("/delivery/timeout", json!(0), "TIDEGATE_CONFIG: delivery.timeout: must be more than 0"),
            (
                "/delivery/retry/maxAttempts",
                json!(0),
                "TIDEGATE_CONFIG: delivery.retry.maxAttempts: must be at least 1",
            ),
            ("/delivery/retry/factor", json!(0.5), "TIDEGATE_CONFIG: delivery.retry.factor: must be at least 1"),
            (
                "/delivery/retry",
                json!({"maxAttempts": 5, "initial": 1, "max": 1, "factor": 1.0, "jitter": 0, "statuses": {"final": ["2xx"]}}),
                "TIDEGATE_CONFIG: \"2xx\" is neither a status from 300 to 599, such as \"404\", nor one of the classes 3xx, 4xx and 5xx",
            ),
            ("/delivery/retry/jitter", json!(1.5), "TIDEGATE_CONFIG: delivery.retry.jitter: must be between 0 and 1"),
            ("/ackWait", json!(2), "TIDEGATE_CONFIG: ackWait: must be at least 300 ms"),
        ] {
            assert_eq!(problem(pointer, value), expected);
        }
        for (name, value, expected) in [
            (
                "format",
                json!({"Batch": {"maxEvents": 0, "maxWait": 100}}),
                "delivery.format.maxEvents: must be at least 1",
            ),
            ("order", json!({"Key": {"lanes": 0}}), "delivery.order.lanes: must be from 1 to the number of partitions"),
            (
                "order",
                json!({"Key": {"lanes": 33}}),
                "delivery.order.lanes: must be from 1 to the number of partitions",
            ),
            ("onExhausted", json!("Park"), "delivery.onExhausted: must be DeadLetter without an order by key"),
            ("rate", json!({"events": 0, "per": 1000}), "delivery.rate: must be at least one event in some time"),
            ("rate", json!({"events": 1, "per": 0}), "delivery.rate: must be at least one event in some time"),
        ] {
            let mut delivery = document()["delivery"].clone();
            delivery[name] = value;
            assert_eq!(problem("/delivery", delivery), format!("TIDEGATE_CONFIG: {expected}"));
        }
        assert!(problem("/adminPort", json!(70_000)).contains("70000"));
    }
}
