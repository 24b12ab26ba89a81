//! What is counted. Attribute values are few: names from the configuration, outcomes, HTTP statuses.
//!
//! What happens to every event is counted by instruments that are bound to their attributes, at its first measurement
//! and for good: an instrument that hashes its attributes for each measurement took a twentieth of the sidecar's time.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    BoundCounter, BoundHistogram, BoundUpDownCounter, Counter, Gauge, Histogram, UpDownCounter,
};
use tidegate_broker_client::contract::Sidecar;
use tidegate_delivery_core::{Handler, Outcome};
use tidegate_telemetry::SeriesBy;

use crate::settle::outcome::Answer;
use crate::settle::shelf::Put;

/// Seconds, as the messaging conventions advise.
const BOUNDARIES: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The instruments.
#[derive(Debug)]
pub struct Metrics {
    received: Counter<u64>,
    duration: Histogram<f64>,
    settled: Counter<u64>,
    in_flight: UpDownCounter<i64>,
    filter_errors: Counter<u64>,
    shelved: Counter<u64>,
    reachable: Gauge<u64>,
    available: Gauge<u64>,
    receive: [KeyValue; 4],
    process: [KeyValue; 4],
    scope: [KeyValue; 2],
    bound: Bound,
}

/// Those instruments with their attributes.
#[derive(Debug, Default)]
struct Bound {
    received: OnceLock<BoundCounter<u64>>,
    in_flight: OnceLock<BoundUpDownCounter<i64>>,
    settled: [OnceLock<BoundCounter<u64>>; Outcome::ALL.len()],
    succeeded: OnceLock<BoundHistogram<f64>>,
    failed: SeriesBy<ErrorType, BoundHistogram<f64>>,
}

impl Metrics {
    /// The instruments of this handler, on the process's meter.
    pub fn new(config: &Sidecar) -> Self {
        Self::of(&config.topic, config.handler_name())
    }

    fn of(topic: &str, handler: &str) -> Self {
        let meter = tidegate_telemetry::meter("tidegate-sidecar");
        let messaging = |operation: &'static str| {
            [
                KeyValue::new("messaging.system", "nats"),
                KeyValue::new("messaging.operation.name", operation),
                KeyValue::new("messaging.destination.name", topic.to_owned()),
                KeyValue::new("messaging.consumer.group.name", handler.to_owned()),
            ]
        };
        let scope =
            [KeyValue::new("tidegate.topic", topic.to_owned()), KeyValue::new("tidegate.handler", handler.to_owned())];
        Self {
            received: meter.u64_counter("messaging.client.consumed.messages").with_unit("{message}").build(),
            duration: meter
                .f64_histogram("messaging.process.duration")
                .with_unit("s")
                .with_boundaries(BOUNDARIES.to_vec())
                .build(),
            settled: meter
                .u64_counter("tidegate.delivery.settled")
                .with_unit("{event}")
                .with_description("Events that left the sidecar, by outcome")
                .build(),
            in_flight: meter
                .i64_up_down_counter("tidegate.delivery.in_flight")
                .with_unit("{event}")
                .with_description("Events in flight")
                .build(),
            filter_errors: meter
                .u64_counter("tidegate.filter.errors")
                .with_unit("{event}")
                .with_description("Events for which the filter's expression has no value, or is too much work")
                .build(),
            shelved: meter
                .u64_counter("tidegate.delivery.shelved")
                .with_unit("{event}")
                .with_description("Events that were to wait on the retry shelf, by whether it took them")
                .build(),
            reachable: meter
                .u64_gauge("tidegate.handler.reachable")
                .with_description("1 while the handler's container takes connections and its own probes succeed")
                .build(),
            available: meter
                .u64_gauge("tidegate.handler.available")
                .with_description("0 while the handler is considered down as a whole: one event at a time tries it")
                .build(),
            receive: messaging("receive"),
            process: messaging("process"),
            scope,
            bound: Bound::default(),
        }
    }

    /// An event came. It is in flight until [`Self::left`].
    pub fn came(&self) {
        self.bound.received.get_or_init(|| self.received.bind(&self.receive)).add(1);
        self.in_flight().add(1);
    }

    /// An attempt took this long.
    pub fn attempted(&self, took: Duration, answer: &Answer) {
        let seconds = took.as_secs_f64();
        match error_type(answer) {
            None => self.bound.succeeded.get_or_init(|| self.duration.bind(&self.process)).record(seconds),
            Some(error) => {
                let bind = || {
                    let error = KeyValue::new("error.type", error.to_string());
                    self.duration.bind(&[&self.process[..], &[error]].concat())
                };
                self.bound.failed.get(error, bind).record(seconds);
            }
        }
    }

    /// The filter's expression has no value for an event, or none that is found in time.
    pub fn filter_failed(&self) {
        self.filter_errors.add(1, &self.scope);
    }

    /// An event was to wait on the shelf.
    pub fn shelved(&self, put: Put) {
        self.shelved.add(1, &[&self.scope[..], &[KeyValue::new("outcome", put.name())]].concat());
    }

    /// An event left.
    pub fn left(&self, how: Outcome) {
        let bind = || self.settled.bind(&[&self.scope[..], &[KeyValue::new("outcome", how.name())]].concat());
        self.bound.settled[how as usize].get_or_init(bind).add(1);
        self.in_flight().add(-1);
    }

    fn in_flight(&self) -> &BoundUpDownCounter<i64> {
        self.bound.in_flight.get_or_init(|| self.in_flight.bind(&self.scope))
    }

    /// What is thought of the handler.
    pub fn handler(&self, handler: Handler) {
        self.reachable.record(u64::from(handler != Handler::Away), &self.scope);
        self.available.record(u64::from(handler == Handler::Up), &self.scope);
    }
}

/// `error.type` of the semantic conventions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorType {
    /// The status of the answer, which the HTTP client lets be 100 to 999.
    Status(u16),
    /// There was no answer in time.
    Timeout,
    /// There was no answer that could be read.
    Connection,
}

impl fmt::Display for ErrorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(f, "{code}"),
            Self::Timeout => f.write_str("timeout"),
            Self::Connection => f.write_str("connection"),
        }
    }
}

/// What went wrong with an attempt; `None` for success.
pub fn error_type(answer: &Answer) -> Option<ErrorType> {
    match answer {
        Answer::Status { code, .. } if code.is_success() => None,
        Answer::Status { code, .. } => Some(ErrorType::Status(code.as_u16())),
        Answer::Timeout(_) => Some(ErrorType::Timeout),
        Answer::Broken(_) => Some(ErrorType::Connection),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};

    use super::*;

    #[test]
    fn attempts_and_shelved_events_are_a_series_for_each_way_to_end() {
        let exported = InMemoryMetricExporter::default();
        let meters = SdkMeterProvider::builder().with_periodic_exporter(exported.clone()).build();
        opentelemetry::global::set_meter_provider(meters.clone());
        let metrics = Metrics::of("orders", "billing");
        let status =
            |code| Answer::Status { code: StatusCode::from_u16(code).unwrap(), retry_after: None, text: String::new() };
        let timeout = || Answer::Timeout(Duration::from_secs(1));
        for answer in [status(200), status(503), status(204), timeout(), status(999), status(503), timeout()] {
            metrics.attempted(Duration::from_millis(30), &answer);
        }
        for put in [Put::Stored, Put::Full, Put::Stored, Put::Failed] {
            metrics.shelved(put);
        }
        meters.force_flush().unwrap();

        let exported = exported.get_finished_metrics().unwrap();
        let named = |name: &str| {
            let mut all = exported.last().unwrap().scope_metrics().flat_map(|scope| scope.metrics());
            all.find(|metric| metric.name() == name).unwrap()
        };
        let shelved = named("tidegate.delivery.shelved");
        let AggregatedMetrics::U64(MetricData::Sum(shelved)) = shelved.data() else { panic!("{shelved:?}") };
        let mut counts: Vec<_> = shelved
            .data_points()
            .map(|point| {
                let outcome = point.attributes().find(|attribute| attribute.key.as_str() == "outcome").unwrap();
                (outcome.value.to_string(), point.value())
            })
            .collect();
        counts.sort();
        assert_eq!(counts, [("failed", 1), ("full", 1), ("stored", 2)].map(|(name, count)| (name.to_owned(), count)));
        let duration = named("messaging.process.duration");
        let AggregatedMetrics::F64(MetricData::Histogram(histogram)) = duration.data() else { panic!("{duration:?}") };
        let mut series = Vec::new();
        for point in histogram.data_points() {
            let named = |name: &str| point.attributes().find(|attribute| attribute.key.as_str() == name);
            assert_eq!(named("messaging.consumer.group.name").unwrap().value.as_str(), "billing");
            assert_eq!(point.bounds().collect::<Vec<_>>(), BOUNDARIES);
            assert_eq!(point.bucket_counts().nth(3), Some(point.count()), "0.025 to 0.05 s");
            series.push((named("error.type").map(|error| error.value.to_string()), point.count()));
        }
        series.sort();
        let failed = |error: &str, count| (Some(error.to_owned()), count);
        assert_eq!(series, [(None, 2), failed("503", 2), failed("999", 1), failed("timeout", 2)]);
    }
}
