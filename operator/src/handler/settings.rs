//! A handler's specification, checked once and turned into numbers.

use std::time::Duration;

use serde_json::Value;
use tidegate_broker_client::contract::{Delivery, Retry};
use tidegate_crds::EventHandlerSpec;

use crate::error::Error;
use crate::scaling::Policy;
use crate::topic::settings::duration;

/// The broker gives an event to another pod when nothing was heard of it for this long. Renewed while a
/// delivery runs, so it can be short: a crashed pod's events come back soon.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// What the builders and the broker need to know of a handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How events are delivered.
    pub delivery: Delivery,
    /// Pods at most, for the consumer's bounds.
    pub max_replicas: u32,
    /// Autoscaling, if any.
    pub policy: Option<Policy>,
    /// Pods without autoscaling.
    pub replicas: u32,
}

impl Settings {
    /// Checks what the schema cannot.
    ///
    /// # Errors
    /// A value is not one; the message names the field. (The schema refuses most of it before.)
    pub fn of(spec: &EventHandlerSpec) -> Result<Self, Error> {
        let policy = scaling_policy(spec)?;
        let replicas = spec.replicas.map_or(1, unsigned);
        let backoff = &spec.delivery.retry.backoff;
        Ok(Self {
            delivery: Delivery {
                port: port(spec)?,
                path: spec.delivery.path.clone(),
                concurrency: u16::try_from(spec.delivery.concurrency).unwrap_or(u16::MAX),
                timeout: duration("delivery.timeout", &spec.delivery.timeout)?,
                retry: Retry {
                    max_attempts: unsigned(spec.delivery.retry.max_attempts),
                    initial: duration("delivery.retry.backoff.initial", &backoff.initial)?,
                    max: duration("delivery.retry.backoff.max", &backoff.max)?,
                    factor: backoff.factor,
                    jitter: backoff.jitter,
                },
            },
            max_replicas: policy.as_ref().map_or(replicas, |policy| policy.max).max(1),
            policy,
            replicas,
        })
    }
}

/// How the handler scales; `None`: it does not.
///
/// # Errors
/// As [`Settings::of`].
pub fn scaling_policy(spec: &EventHandlerSpec) -> Result<Option<Policy>, Error> {
    let Some(autoscaling) = &spec.autoscaling else {
        return Ok(None);
    };
    Ok(Some(Policy {
        min: unsigned(autoscaling.min_replicas),
        max: unsigned(autoscaling.max_replicas),
        target: duration("autoscaling.targetEventAge", &autoscaling.target_event_age)?,
        idle_after: duration("autoscaling.idleAfter", &autoscaling.idle_after)?,
        concurrency: unsigned(spec.delivery.concurrency).max(1),
    }))
}

/// The named port, or the first container's first.
fn port(spec: &EventHandlerSpec) -> Result<u16, Error> {
    let of_container = || spec.template.pointer("/spec/containers/0/ports/0/containerPort").and_then(Value::as_i64);
    spec.delivery.port.map(i64::from).or_else(of_container).and_then(|port| u16::try_from(port).ok()).ok_or_else(|| {
        Error::refused("InvalidSpec", "spec.delivery: give the first container a containerPort, or set delivery.port")
    })
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(spec: Value) -> Result<Settings, Error> {
        Settings::of(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn the_port_is_the_first_containers_unless_named() {
        let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]});
        let template = json!({"spec": {"containers": [container]}});
        assert_eq!(settings(json!({"topic": "t", "template": template})).unwrap().delivery.port, 8080);
        let named = settings(json!({"topic": "t", "template": template, "delivery": {"port": 9090}})).unwrap();
        assert_eq!(named.delivery.port, 9090);
    }

    #[test]
    fn no_port_is_refused_with_the_remedy() {
        let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        let error = settings(json!({"topic": "t", "template": template})).unwrap_err();
        assert!(error.to_string().contains("containerPort"), "{error}");
    }
}
