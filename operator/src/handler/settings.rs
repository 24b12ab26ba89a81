//! A handler's specification, checked once and turned into numbers.

use std::time::Duration;

use axum::http::uri::PathAndQuery;
use serde::Serialize;
use serde_json::Value;
use tidegate_broker_admin::consumers::Start;
use tidegate_broker_client::contract::{Delivery, Expiry, Filter, Format, OnExhausted, OnExpired, Order, Rate, Retry};
use tidegate_broker_client::layout;
use tidegate_broker_client::statuses::{StatusMatch, StatusRules};
use tidegate_crds::{EventHandlerSpec, handler};
use tidegate_filter::Expression;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::Error;
use crate::handler::template;
use crate::scaling::Policy;
use crate::topic::settings::duration;

/// The broker gives an event to another pod when nothing was heard of it for this long. Renewed while a
/// delivery runs, so it can be short: a crashed pod's events come back soon.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// Lanes where none are named, as the schema says.
const LANES: u16 = 8;

/// As long as a handler's name can be: the filters of redriven events contain it.
const LONGEST_NAME: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
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
            start: start(&spec.start_from)?,
            delivery: Delivery {
                port: port(spec)?,
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
                on_exhausted: OnExhausted::DeadLetter,
                expiry: expiry(&spec.delivery)?,
            },
            max_replicas: policy.as_ref().map_or(replicas, |policy| policy.max).max(1),
            policy,
            replicas,
            is_suspended: spec.suspend,
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

fn start(from: &str) -> Result<Start, Error> {
    match from {
        "Latest" => Ok(Start::Latest),
        "Earliest" => Ok(Start::Earliest),
        other => match (other.parse(), OffsetDateTime::parse(other, &Rfc3339)) {
            (Ok(sequence), _) => Ok(Start::Sequence(sequence)),
            (_, Ok(time)) => Ok(Start::Time(time)),
            (_, Err(error)) => {
                let message =
                    format!("spec.startFrom: {other:?} is neither Latest, Earliest, a sequence nor a time: {error}");
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

/// In which order events are delivered. It cannot be changed, and so says which consumers a handler has.
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

    fn of(changes: Value) -> Result<Settings, Error> {
        let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]});
        let mut spec = json!({"topic": "t", "template": {"spec": {"containers": [container]}}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        settings(spec)
    }

    #[test]
    fn an_expression_that_is_none_is_refused_in_words() {
        let filter = |expression: &str| of(json!({"filter": {"expression": expression}}));
        assert!(filter("data.amount > 100 && has(event.subject)").is_ok());
        for (expression, says) in
            [("data.amount >", "spec.filter.expression"), ("amount > 1", "amount"), ("f(data)", "f")]
        {
            let error = filter(expression).unwrap_err();
            assert_eq!(error.reason(), "InvalidFilter");
            assert!(error.to_string().contains(says), "{expression}: {error}");
        }
    }

    #[test]
    fn what_the_sidecar_or_the_broker_could_not_take_is_refused_in_words() {
        let long = |character: &str, number: usize, count: usize| -> Vec<String> {
            (0..count).map(|index| format!("{index}{}", character.repeat(number))).collect()
        };
        for (changes, says) in [
            (json!({"delivery": {"path": "/a<b"}}), "spec.delivery.path"),
            (json!({"delivery": {"path": "/a#b"}}), "spec.delivery.path"),
            (json!({"filter": {"sources": long("\u{1F600}", 1000, 64)}}), "spec.filter"),
            (
                json!({"filter": {"types": long("ö", 200, 16)}, "delivery": {"order": "Key", "lanes": 2}}),
                "once for each",
            ),
        ] {
            let error = of(changes.clone()).unwrap_err();
            assert_eq!(error.reason(), "InvalidSpec", "{changes}");
            assert!(error.to_string().contains(says), "{error}");
        }
        for changes in [
            json!({"delivery": {"path": "/~a-_/%20?b=[c]&d={e}|f^"}}),
            json!({"filter": {"sources": long("s", 1000, 64)}}),
            json!({"filter": {"types": long("ö", 200, 16)}}),
            json!({"filter": {"types": long("t", 200, 16)}, "delivery": {"order": "Key", "lanes": 2}}),
        ] {
            assert!(of(changes.clone()).is_ok(), "{changes}");
        }
    }

    #[test]
    fn a_number_that_the_schema_would_refuse_is_not_another_number() {
        for (changes, field) in [
            (json!({"delivery": {"concurrency": -1}}), "spec.delivery.concurrency"),
            (json!({"delivery": {"retry": {"maxAttempts": -1}}}), "spec.delivery.retry.maxAttempts"),
            (json!({"delivery": {"retry": {"retryOn": ["2xx"]}}}), "spec.delivery.retry.retryOn: \"2xx\" is neither"),
            (json!({"delivery": {"retry": {"finalOn": ["404", "all"]}}}), "spec.delivery.retry.finalOn: \"all\""),
            (json!({"delivery": {"order": "Key", "lanes": 70_000}}), "spec.delivery.lanes"),
            (json!({"delivery": {"format": "Batch", "batch": {"maxEvents": -1}}}), "spec.delivery.batch.maxEvents"),
            (json!({"delivery": {"rateLimit": {"events": -1, "per": "1s"}}}), "spec.delivery.rateLimit.events"),
            (json!({"autoscaling": {"minReplicas": -1}}), "spec.autoscaling.minReplicas"),
            (json!({"autoscaling": {"maxReplicas": -1}}), "spec.autoscaling.maxReplicas"),
            (json!({"replicas": -1}), "spec.replicas"),
        ] {
            let error = of(changes.clone()).unwrap_err();
            assert_eq!(error.reason(), "InvalidSpec", "{changes}");
            assert!(error.to_string().contains(field), "{error}");
        }
    }

    #[test]
    fn it_starts_where_it_says() {
        let noon = OffsetDateTime::from_unix_timestamp(1_769_860_800).unwrap();
        for (from, start) in [
            ("Latest", Start::Latest),
            ("Earliest", Start::Earliest),
            ("1234", Start::Sequence(1234)),
            ("2026-01-31T12:00:00Z", Start::Time(noon)),
            ("2026-01-31T13:00:00.0+01:00", Start::Time(noon)),
        ] {
            assert_eq!(of(json!({"startFrom": from})).unwrap().start, start, "{from}");
        }
        assert_eq!(of(json!({})).unwrap().start, Start::Latest);
        let error = of(json!({"startFrom": "2026-02-30T00:00:00Z"})).unwrap_err();
        assert!(error.to_string().contains("spec.startFrom"), "{error}");
    }

    #[test]
    fn delivery_is_in_the_words_of_the_contract() {
        let delivery = |delivery: Value| of(json!({"delivery": delivery})).unwrap().delivery;
        let plain = delivery(json!({}));
        assert_eq!((plain.format, plain.order, plain.rate), (Format::Binary, Order::None, None));
        assert_eq!(delivery(json!({"order": "Key"})).order, Order::Key { lanes: 8 });
        assert_eq!(delivery(json!({"order": "Key", "lanes": 3})).order, Order::Key { lanes: 3 });
        let batch = delivery(json!({"format": "Batch", "batch": {"maxWait": "50ms"}})).format;
        assert_eq!(batch, Format::Batch { max_events: 100, max_wait: Duration::from_millis(50) });
        assert_eq!(plain.retry.statuses, StatusRules::default());
        let statuses = delivery(json!({"retry": {"retryOn": ["404", "409"], "finalOn": ["5xx"]}})).retry.statuses;
        let (retried, final_) = (vec![StatusMatch::Code(404), StatusMatch::Code(409)], vec![StatusMatch::Class(5)]);
        assert_eq!(statuses, StatusRules { retried, final_ });
        let rate = delivery(json!({"rateLimit": {"events": 5, "per": "1m"}})).rate;
        assert_eq!(rate, Some(Rate { events: 5, per: Duration::from_secs(60) }));
        assert_eq!(plain.expiry, None);
        let max_age = Duration::from_secs(3600);
        for (on_expired, expected) in [
            (json!(null), OnExpired::DeadLetter),
            (json!("DeadLetter"), OnExpired::DeadLetter),
            (json!("Skip"), OnExpired::Skip),
        ] {
            let expiry = delivery(json!({"maxEventAge": "1h", "onExpired": on_expired})).expiry;
            assert_eq!(expiry, Some(Expiry { max_age, on_expired: expected }));
        }
    }

    #[test]
    fn a_pod_is_planned_with_the_slots_it_has() {
        let slots = |delivery: Value| {
            let autoscaled = of(json!({"delivery": delivery, "autoscaling": {}})).unwrap();
            (autoscaled.policy.unwrap().slots, autoscaled.delivery.slots())
        };
        let batch = |concurrency, events| json!({"format": "Batch", "concurrency": concurrency, "batch": {"maxEvents": events}});
        assert_eq!(slots(json!({"concurrency": 64})), (64, 64));
        assert_eq!(slots(batch(4, 100)), (400, 400));
        assert_eq!(slots(batch(64, 1000)), (4096, 4096), "a pod has at most 4,096 events in flight");
    }

    #[test]
    fn no_port_is_refused_with_the_remedy() {
        let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        let error = settings(json!({"topic": "t", "template": template})).unwrap_err();
        assert!(error.to_string().contains("containerPort"), "{error}");
    }
}
