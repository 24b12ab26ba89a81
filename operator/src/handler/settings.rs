//! A handler's specification, checked once and turned into numbers.

use std::time::Duration;

use axum::http::uri::PathAndQuery;
use serde::Serialize;
use serde_json::Value;
use tidegate_broker_admin::consumers::Start;
use tidegate_broker_client::contract::{
    Delivery, Expiry, Filter, Format, OnExhausted, OnExpired, Order, PortSource, Rate, Retry,
};
use tidegate_broker_client::layout;
use tidegate_broker_client::statuses::{StatusMatch, StatusRules};
use tidegate_crds::{EventHandlerSpec, handler};
use tidegate_filter::Expression;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::autoscaling::Policy;
use crate::handler::template;
use crate::reconcile::error::Error;
use crate::topic::settings::duration;

/// The broker gives an event to another pod when nothing was heard of it for this long. Renewed while a
/// delivery runs, so it can be short: a crashed pod's events come back soon.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// Lanes where none are named, as the schema says.
const LANES: u16 = 8;

/// As long as a handler's name on a broker can be, with its namespace: the filters of redriven events contain it.
const LONGEST_NAME: &str =
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The sidecar gets its configuration in one environment variable, and Linux takes none of more than 128 KiB: what
/// else it contains fits into the rest.
const MAX_FILTER_BYTES: usize = 96 << 10;
/// A consumer's filter goes to the broker in one message, and the smallest `maxEventSize` allows 257 KiB.
const MAX_SUBJECTS_BYTES: usize = 192 << 10;

/// What the builders and the broker need to know of a handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which events it gets.
    pub filter: Filter,
    /// Where it begins.
    pub start: Start,
    /// How events are delivered.
    pub delivery: Delivery,
    /// Pods at most, for the consumer's bounds.
    pub max_replicas: u32,
    /// Autoscaling, if any.
    pub policy: Option<Policy>,
    /// Pods without autoscaling.
    pub replicas: u32,
    /// Whether nothing is delivered for now.
    pub is_suspended: bool,
    /// Whether each lane finishes what it has, because their number is to change. The specification does not say.
    pub is_draining: bool,
}

impl Settings {
    /// Checks what the schema cannot.
    ///
    /// # Errors
    /// A value is not one; the message names the field. (The schema refuses most of it before.)
    pub fn of(spec: &EventHandlerSpec) -> Result<Self, Error> {
        let policy = scaling_policy(spec)?;
        let replicas = spec.replicas.map_or(Ok(1), |replicas| number("replicas", replicas))?;
        let backoff = &spec.delivery.retry.backoff;
        template::checked(&spec.template)?;
        let _: Option<u16> = spec.delivery.lanes.map(|lanes| number("delivery.lanes", lanes)).transpose()?;
        let order = order(&spec.delivery);
        Ok(Self {
            filter: filter(spec, order)?,
            start: start("spec.startFrom", &spec.start_from)?,
            delivery: Delivery {
                port: port(spec)?,
                port_source: spec.delivery.port.map_or(PortSource::Container, |_| PortSource::Setting),
                path: path(&spec.delivery.path)?,
                format: format(&spec.delivery)?,
                order,
                rate: rate(&spec.delivery)?,
                concurrency: concurrency(&spec.delivery)?,
                timeout: duration("delivery.timeout", &spec.delivery.timeout)?,
                retry: Retry {
                    max_attempts: number("delivery.retry.maxAttempts", spec.delivery.retry.max_attempts)?,
                    initial: duration("delivery.retry.backoff.initial", &backoff.initial)?,
                    max: duration("delivery.retry.backoff.max", &backoff.max)?,
                    factor: backoff.factor,
                    jitter: backoff.jitter,
                    statuses: StatusRules {
                        retried: statuses("delivery.retry.retryOn", &spec.delivery.retry.retry_on)?,
                        final_: statuses("delivery.retry.finalOn", &spec.delivery.retry.final_on)?,
                    },
                },
                on_exhausted: on_exhausted(&spec.delivery)?,
                expiry: expiry(&spec.delivery)?,
            },
            max_replicas: policy.as_ref().map_or(replicas, |policy| policy.max).max(1),
            policy,
            replicas,
            is_suspended: spec.suspend,
            is_draining: false,
        })
    }
}

fn filter(spec: &EventHandlerSpec, order: Order) -> Result<Filter, Error> {
    let handler::Filter { types, sources, expression } = spec.filter.clone().unwrap_or_default();
    if let Some(expression) = &expression {
        let refused = |why| Error::refused("InvalidFilter", format!("spec.filter.expression: {why}"));
        Expression::compile(expression).map_err(refused)?;
    }
    let filter = Filter { types, sources, expression };
    check_size("spec.filter: types, sources and expression together", &filter, MAX_FILTER_BYTES)?;
    let (partitions, field) = match order {
        Order::None => (None, "spec.filter.types"),
        Order::Key { lanes: 1 } => (None, "spec.filter.types"),
        Order::Key { lanes } => {
            (Some(layout::lane_partitions(0, lanes)), "spec.filter.types, once for each partition of a lane,")
        }
    };
    check_size(
        field,
        &layout::filter_subjects(LONGEST_NAME, &filter.types, partitions.as_deref()),
        MAX_SUBJECTS_BYTES,
    )?;
    Ok(filter)
}

fn check_size<T: Serialize>(field: &str, value: &T, limit: usize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(kube::Error::SerdeError)?.len();
    if bytes <= limit {
        return Ok(());
    }
    let message = format!(
        "{field} take {bytes} bytes, and {limit} are possible: use fewer or shorter ones, for example a prefix such as com.shop.*"
    );
    Err(Error::refused("InvalidSpec", message))
}

/// The sidecar would end at a path that no HTTP request can have.
fn path(path: &str) -> Result<String, Error> {
    match path.parse::<PathAndQuery>() {
        Ok(parsed) if parsed.as_str() == path && path.starts_with('/') => Ok(path.to_owned()),
        _ => Err(Error::refused(
            "InvalidSpec",
            format!(
                "spec.delivery.path: {path:?} cannot be requested over HTTP: percent-encode what a path may not contain"
            ),
        )),
    }
}

/// Where a handler begins, or continues.
///
/// # Errors
/// The field has something else.
pub fn start(field: &str, from: &str) -> Result<Start, Error> {
    match from {
        "Latest" => Ok(Start::Latest),
        "Earliest" => Ok(Start::Earliest),
        other => match (other.parse(), OffsetDateTime::parse(other, &Rfc3339)) {
            (Ok(sequence), _) => Ok(Start::Sequence(sequence)),
            (_, Ok(time)) => Ok(Start::Time(time)),
            (_, Err(error)) => {
                let message = format!("{field}: {other:?} is neither Latest, Earliest, a sequence nor a time: {error}");
                Err(Error::refused("InvalidSpec", message))
            }
        },
    }
}

fn format(delivery: &handler::Delivery) -> Result<Format, Error> {
    Ok(match (delivery.format, &delivery.batch) {
        (handler::Format::Binary, _) => Format::Binary,
        (handler::Format::Structured, _) => Format::Structured,
        (handler::Format::Batch, Some(batch)) => Format::Batch {
            max_events: number("delivery.batch.maxEvents", batch.max_events)?,
            max_wait: duration("delivery.batch.maxWait", &batch.max_wait)?,
        },
        (handler::Format::Batch, None) => {
            return Err(Error::refused("InvalidSpec", "spec.delivery.batch: set it with format: Batch"));
        }
    })
}

/// In which order events are delivered, as it is asked for: of lanes there may be another number yet.
pub fn order(delivery: &handler::Delivery) -> Order {
    match delivery.order {
        handler::Order::None => Order::None,
        handler::Order::Key => {
            Order::Key { lanes: delivery.lanes.and_then(|lanes| u16::try_from(lanes).ok()).unwrap_or(LANES) }
        }
    }
}

fn rate(delivery: &handler::Delivery) -> Result<Option<Rate>, Error> {
    let Some(limit) = &delivery.rate_limit else { return Ok(None) };
    let events = number("delivery.rateLimit.events", limit.events)?;
    Ok(Some(Rate { events, per: duration("delivery.rateLimit.per", &limit.per)? }))
}

/// Without an order no event holds up another, so none stays for a person.
fn on_exhausted(delivery: &handler::Delivery) -> Result<OnExhausted, Error> {
    match (delivery.retry.on_exhausted, delivery.order) {
        (handler::OnExhausted::DeadLetter, _) => Ok(OnExhausted::DeadLetter),
        (handler::OnExhausted::Park, handler::Order::Key) => Ok(OnExhausted::Park),
        (handler::OnExhausted::Park, handler::Order::None) => {
            Err(Error::refused("InvalidSpec", "spec.delivery.retry.onExhausted: set Park with order: Key"))
        }
    }
}

fn expiry(delivery: &handler::Delivery) -> Result<Option<Expiry>, Error> {
    let Some(max_age) = &delivery.max_event_age else { return Ok(None) };
    let on_expired = match delivery.on_expired {
        None | Some(handler::OnExpired::DeadLetter) => OnExpired::DeadLetter,
        Some(handler::OnExpired::Skip) => OnExpired::Skip,
    };
    Ok(Some(Expiry { max_age: duration("delivery.maxEventAge", max_age)?, on_expired }))
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
        min: number("autoscaling.minReplicas", autoscaling.min_replicas)?,
        max: number("autoscaling.maxReplicas", autoscaling.max_replicas)?,
        target: duration("autoscaling.targetEventAge", &autoscaling.target_event_age)?,
        idle_after: duration("autoscaling.idleAfter", &autoscaling.idle_after)?,
        slots: u32::try_from(format(&spec.delivery)?.slots(concurrency(&spec.delivery)?)).unwrap_or(u32::MAX).max(1),
    }))
}

fn concurrency(delivery: &handler::Delivery) -> Result<u16, Error> {
    number("delivery.concurrency", delivery.concurrency)
}

/// The named port, or the first container's first.
fn port(spec: &EventHandlerSpec) -> Result<u16, Error> {
    let of_container = || spec.template.pointer("/spec/containers/0/ports/0/containerPort").and_then(Value::as_i64);
    spec.delivery.port.map(i64::from).or_else(of_container).and_then(|port| u16::try_from(port).ok()).ok_or_else(|| {
        Error::refused("InvalidSpec", "spec.delivery: give the first container a containerPort, or set delivery.port")
    })
}

/// The schema has the bounds. A resource that was stored under another schema must not get some other number.
fn statuses(field: &str, statuses: &[String]) -> Result<Vec<StatusMatch>, Error> {
    let refused = |why| Error::refused("InvalidSpec", format!("spec.{field}: {why}"));
    statuses.iter().map(|status| status.parse().map_err(refused)).collect()
}

fn number<N: TryFrom<i32>>(field: &str, number: i32) -> Result<N, Error> {
    N::try_from(number).map_err(|_| Error::refused("InvalidSpec", format!("spec.{field}: {number} is out of range")))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
