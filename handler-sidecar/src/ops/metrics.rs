//! What is counted. Attribute values are few: names from the configuration, outcomes, HTTP statuses.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, UpDownCounter};
use tidegate_broker_client::contract::Sidecar;

use crate::deliver::brake::State;
use crate::settle::outcome::Answer;

/// Seconds, as the messaging conventions advise.
const BOUNDARIES: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// How an event left this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Handled.
    Acknowledged,
    /// Given to the broker for a later attempt.
    Retried,
    /// Kept aside.
    DeadLettered,
    /// Given back without an attempt, or without knowing its end.
    GivenBack,
    /// Not for this handler: acknowledged undelivered.
    Filtered,
    /// Of a Direct topic, and there was no room for it.
    Dropped,
    /// Of a Direct topic, and the handler did not take it.
    Failed,
}

impl Settled {
    const ALL: [Self; 7] = [
        Self::Acknowledged,
        Self::Retried,
        Self::DeadLettered,
        Self::GivenBack,
        Self::Filtered,
        Self::Dropped,
        Self::Failed,
    ];

    /// The value of `outcome` in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::Retried => "retried",
            Self::DeadLettered => "dead-lettered",
            Self::GivenBack => "given-back",
            Self::Filtered => "filtered",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// The instruments.
#[derive(Debug)]
pub struct Metrics {
    received: Counter<u64>,
    duration: Histogram<f64>,
    settled: Counter<u64>,
    in_flight: UpDownCounter<i64>,
    filter_errors: Counter<u64>,
    reachable: Gauge<u64>,
    available: Gauge<u64>,
    receive: [KeyValue; 4],
    process: [KeyValue; 4],
    outcomes: [[KeyValue; 3]; Settled::ALL.len()],
    scope: [KeyValue; 2],
}

impl Metrics {
    /// The instruments of this handler, on the process's meter.
    pub fn new(config: &Sidecar) -> Self {
        let meter = tidegate_telemetry::meter("tidegate-sidecar");
        let messaging = |operation: &'static str| {
            [
                KeyValue::new("messaging.system", "nats"),
                KeyValue::new("messaging.operation.name", operation),
                KeyValue::new("messaging.destination.name", config.topic.clone()),
                KeyValue::new("messaging.consumer.group.name", config.handler.clone()),
            ]
        };
        let scope = [
            KeyValue::new("tidegate.topic", config.topic.clone()),
            KeyValue::new("tidegate.handler", config.handler.clone()),
        ];
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
                .with_description("Events in hand")
                .build(),
            filter_errors: meter
                .u64_counter("tidegate.filter.errors")
                .with_unit("{event}")
                .with_description("Events for which the filter's expression has no value, or is too much work")
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
            outcomes: Settled::ALL.map(|how| {
                let [topic, handler] = scope.clone();
                [topic, handler, KeyValue::new("outcome", how.name())]
            }),
            scope,
        }
    }

    /// An event came. It is in flight until [`Self::left`].
    pub fn came(&self) {
        self.received.add(1, &self.receive);
        self.in_flight.add(1, &self.scope);
    }

    /// An attempt took this long.
    pub fn attempted(&self, took: Duration, answer: &Answer) {
        match error_type(answer) {
            None => self.duration.record(took.as_secs_f64(), &self.process),
            Some(error) => {
                let mut attributes = self.process.to_vec();
                attributes.push(KeyValue::new("error.type", error));
                self.duration.record(took.as_secs_f64(), &attributes);
            }
        }
    }

    /// The filter's expression has no value for an event, or none that is found in time.
    pub fn filter_failed(&self) {
        self.filter_errors.add(1, &self.scope);
    }

    /// An event left.
    pub fn left(&self, how: Settled) {
        self.settled.add(1, &self.outcomes[how as usize]);
        self.in_flight.add(-1, &self.scope);
    }

    /// What is thought of the handler.
    pub fn handler(&self, state: &State) {
        self.reachable.record(u64::from(!matches!(state, State::Unreachable(_))), &self.scope);
        self.available.record(u64::from(*state == State::Up), &self.scope);
    }
}

/// `error.type` of the semantic conventions: the status, or a word; `None` for success.
pub fn error_type(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Status { code, .. } if code.is_success() => None,
        Answer::Status { code, .. } => Some(code.as_str().to_owned()),
        Answer::Timeout(_) => Some("timeout".to_owned()),
        Answer::Broken(_) => Some("connection".to_owned()),
    }
}
