//! Metrics, by the OpenTelemetry conventions. Every label has a small fixed set of values.
//!
//! The instruments are bound to their attributes at the first measurement and for good, so that an event is counted
//! without a look-up by attributes.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram};
use tidegate_broker_client::TopicId;
use tidegate_telemetry::SeriesBy;

use crate::outcome::Failure;
use crate::problem::Problem;
use crate::trace::NAMESPACE;

/// Boundaries of durations in seconds, as the conventions advise.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The instruments, which all topics share, and what is counted of no topic.
pub struct Instruments {
    sent: Counter<u64>,
    publish: Histogram<f64>,
    requests: Histogram<f64>,
    refused: Counter<u64>,
    publishers: Counter<u64>,
    unreadable: Counter<u64>,
    answered: SeriesBy<(&'static str, StatusCode), BoundHistogram<f64>>,
    unknown: SeriesBy<(&'static str, &'static str), BoundCounter<u64>>,
}

/// The series of a topic. Those of a topic that is removed end, and stay as they are until the program does.
pub struct Metrics {
    instruments: Arc<Instruments>,
    /// Which topic.
    topic: [KeyValue; 2],
    /// The attributes of a publish that went well.
    stored: [KeyValue; 5],
    bound: Bound,
}

/// Those instruments with their attributes.
#[derive(Default)]
struct Bound {
    stored: OnceLock<PublishInstruments>,
    failed: SeriesBy<Failure, PublishInstruments>,
    refused: SeriesBy<(&'static str, &'static str), BoundCounter<u64>>,
    publishers: SeriesBy<(&'static str, Option<&'static str>), BoundCounter<u64>>,
}

/// How many publishes ended in one way, and how long they took.
#[derive(Clone)]
struct PublishInstruments {
    count: BoundCounter<u64>,
    seconds: BoundHistogram<f64>,
}

impl Instruments {
    /// Those of an ingress.
    pub fn new() -> Self {
        let meter = tidegate_telemetry::meter("tidegate-ingress");
        Self {
            sent: meter
                .u64_counter("messaging.client.sent.messages")
                .with_description("Events given to the broker, by how that ended")
                .with_unit("{message}")
                .build(),
            publish: meter
                .f64_histogram("messaging.client.operation.duration")
                .with_description("From an event's turn to the broker's acknowledgement of it")
                .with_unit("s")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            requests: meter
                .f64_histogram("http.server.request.duration")
                .with_description("Requests of publishers, by how they were answered")
                .with_unit("s")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            refused: meter
                .u64_counter("tidegate.ingress.refused")
                .with_description("Events over MQTT and NATS that were not taken, by why")
                .with_unit("{event}")
                .build(),
            publishers: meter
                .u64_counter("tidegate.ingress.publisher.events")
                .with_description("Events by how their publisher is known, and why they were not published if so")
                .with_unit("{event}")
                .build(),
            unreadable: meter
                .u64_counter("tidegate.ingress.topics.unreadable")
                .with_description("States of the file of topics that could not be used")
                .with_unit("{file}")
                .build(),
            answered: SeriesBy::new(),
            unknown: SeriesBy::new(),
        }
    }

    /// One request was answered.
    pub fn answered(&self, method: &Method, status: StatusCode, duration: Duration) {
        let method = match *method {
            Method::POST => "POST",
            Method::OPTIONS => "OPTIONS",
            _ => "_OTHER",
        };
        let bind = || {
            self.requests.bind(&[
                KeyValue::new("http.request.method", method),
                KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
                KeyValue::new("url.scheme", "https"),
            ])
        };
        self.answered.get((method, status), bind).record(duration.as_secs_f64());
    }

    /// An event came by this protocol, or a device, that names no topic.
    pub fn without_topic(&self, protocol: &'static str, problem: &Problem) {
        let bind = || self.refused.bind(&refusal(protocol, problem.kind));
        self.unknown.get((protocol, problem.kind), bind).add(1);
    }

    /// The file of topics is of no use.
    pub fn unreadable(&self) {
        self.unreadable.add(1, &[]);
    }
}

impl Default for Instruments {
    fn default() -> Self {
        Self::new()
    }
}

fn refusal(protocol: &'static str, kind: &'static str) -> [KeyValue; 2] {
    [KeyValue::new("network.protocol.name", protocol), KeyValue::new("error.type", kind)]
}

impl Metrics {
    /// The series of a topic.
    pub fn new(instruments: Arc<Instruments>, topic: &TopicId) -> Self {
        let topic = [
            KeyValue::new("messaging.destination.name", topic.name().to_owned()),
            KeyValue::new(NAMESPACE, topic.namespace().to_owned()),
        ];
        let [name, namespace] = topic.clone();
        let stored = [
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            name,
            namespace,
        ];
        Self { instruments, topic, stored, bound: Bound::default() }
    }

    /// One publish has ended.
    pub fn published(&self, outcome: Result<(), Failure>, duration: Duration) {
        let failed;
        let published = match outcome {
            Ok(()) => self.bound.stored.get_or_init(|| self.bind_published(&self.stored)),
            Err(failure) => {
                let error = KeyValue::new("error.type", failure.error_type());
                let bind = || self.bind_published(&[&self.stored[..], &[error]].concat());
                failed = self.bound.failed.get(failure, bind);
                &failed
            }
        };
        published.count.add(1);
        published.seconds.record(duration.as_secs_f64());
    }

    fn bind_published(&self, attributes: &[KeyValue]) -> PublishInstruments {
        let Instruments { sent, publish, .. } = &*self.instruments;
        PublishInstruments { count: sent.bind(attributes), seconds: publish.bind(attributes) }
    }

    /// So many events of a publisher that is known in this way were published, or refused for this reason.
    pub fn publisher(&self, kind: &'static str, refused: Option<&'static str>, events: u64) {
        let bind = || {
            let error = refused.map(|reason| KeyValue::new("error.type", reason));
            let kind = KeyValue::new("tidegate.publisher.kind", kind);
            let attributes: Vec<_> = [kind].into_iter().chain(error).chain(self.topic.clone()).collect();
            self.instruments.publishers.bind(&attributes)
        };
        self.bound.publishers.get((kind, refused), bind).add(events);
    }

    /// An event that came by this protocol was not taken. (Over HTTP the answer's status says so.)
    pub fn refused(&self, protocol: &'static str, problem: &Problem) {
        let bind = || {
            let attributes = [&refusal(protocol, problem.kind)[..], &self.topic].concat();
            self.instruments.refused.bind(&attributes)
        };
        self.bound.refused.get((protocol, problem.kind), bind).add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};

    use super::*;

    /// How often each series was measured: a counter's value, or how many values a histogram has.
    fn counts(exported: &[ResourceMetrics]) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let Some(last) = exported.last() else { return counts };
        for metric in last.scope_metrics().flat_map(|scope| scope.metrics()) {
            let mut add = |attributes: &mut dyn Iterator<Item = &KeyValue>, count: u64| {
                let mut pairs: Vec<_> =
                    attributes.map(|attribute| format!("{}={}", attribute.key, attribute.value)).collect();
                pairs.sort();
                counts.insert(format!("{} {}", metric.name(), pairs.join(" ")), count);
            };
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                    sum.data_points().for_each(|point| add(&mut point.attributes(), point.value()));
                }
                AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                    histogram.data_points().for_each(|point| {
                        assert_eq!(point.bounds().collect::<Vec<_>>(), SECONDS);
                        add(&mut point.attributes(), point.count());
                    });
                }
                other => panic!("{}: {other:?}", metric.name()),
            }
        }
        counts
    }

    #[test]
    fn every_way_in_which_something_ends_is_a_series() {
        let exported = InMemoryMetricExporter::default();
        let meters = SdkMeterProvider::builder().with_periodic_exporter(exported.clone()).build();
        opentelemetry::global::set_meter_provider(meters.clone());
        let instruments = Arc::new(Instruments::new());
        let metrics = Metrics::new(Arc::clone(&instruments), &TopicId::new("shop", "orders").unwrap());
        let (second, problem) = (Duration::from_secs(1), Problem::no_topic());
        for outcome in [Ok(()), Err(Failure::Full), Ok(()), Err(Failure::Timeout), Err(Failure::Full)] {
            metrics.published(outcome, second);
        }
        instruments.answered(&Method::POST, StatusCode::ACCEPTED, second);
        instruments.answered(&Method::POST, StatusCode::ACCEPTED, second);
        instruments.answered(&Method::from_bytes(b"ANY").unwrap(), StatusCode::NOT_FOUND, second);
        metrics.refused("mqtt", &problem);
        metrics.refused("nats", &problem);
        metrics.refused("nats", &problem);
        metrics.publisher("nats", None, 3);
        metrics.publisher("nats", None, 1);
        metrics.publisher("none", Some("unauthenticated"), 1);
        instruments.without_topic("nats", &problem);
        instruments.without_topic("nats", &Problem::overloaded());
        instruments.unreadable();
        meters.force_flush().unwrap();

        let publish = "messaging.destination.name=orders messaging.operation.name=publish messaging.operation.type=send \
                       messaging.system=nats tidegate.topic.namespace=shop";
        let request = "http.server.request.duration http.request.method";
        let refused = "tidegate.ingress.refused error.type=no-topic messaging.destination.name=orders";
        let publishers = "tidegate.ingress.publisher.events messaging.destination.name=orders";
        let mut expected = BTreeMap::from([
            (format!("{request}=POST http.response.status_code=202 url.scheme=https"), 2),
            (format!("{request}=_OTHER http.response.status_code=404 url.scheme=https"), 1),
            (format!("{refused} network.protocol.name=mqtt tidegate.topic.namespace=shop"), 1),
            (format!("{refused} network.protocol.name=nats tidegate.topic.namespace=shop"), 2),
            ("tidegate.ingress.refused error.type=no-topic network.protocol.name=nats".to_owned(), 1),
            ("tidegate.ingress.refused error.type=overloaded network.protocol.name=nats".to_owned(), 1),
            ("tidegate.ingress.topics.unreadable ".to_owned(), 1),
            (format!("{publishers} tidegate.publisher.kind=nats tidegate.topic.namespace=shop"), 4),
            (
                "tidegate.ingress.publisher.events error.type=unauthenticated messaging.destination.name=orders \
                 tidegate.publisher.kind=none tidegate.topic.namespace=shop"
                    .to_owned(),
                1,
            ),
        ]);
        for name in ["messaging.client.sent.messages", "messaging.client.operation.duration"] {
            expected.insert(format!("{name} {publish}"), 2);
            expected.insert(format!("{name} error.type=full {publish}"), 2);
            expected.insert(format!("{name} error.type=timeout {publish}"), 1);
        }
        assert_eq!(counts(&exported.get_finished_metrics().unwrap()), expected);
    }
}
