//! Metrics, by the OpenTelemetry conventions. Every label has a small fixed set of values.

use std::time::Duration;

use http::{Method, StatusCode};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};

use crate::outcome::Failure;
use crate::problem::Problem;

/// Boundaries of durations in seconds, as the conventions advise.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// The instruments.
pub struct Metrics {
    sent: Counter<u64>,
    publish: Histogram<f64>,
    requests: Histogram<f64>,
    refused: Counter<u64>,
    topic: KeyValue,
    /// The attributes of a publish that went well, made once.
    stored: [KeyValue; 4],
}

impl Metrics {
    /// The instruments of a topic's ingress.
    pub fn new(topic: &str) -> Self {
        let meter = tidegate_telemetry::meter("tidegate-ingress");
        let topic = KeyValue::new("messaging.destination.name", topic.to_owned());
        let stored = [
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            topic.clone(),
        ];
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
            topic,
            stored,
        }
    }

    /// One publish has ended.
    pub fn published(&self, outcome: Result<(), Failure>, duration: Duration) {
        let failed;
        let attributes: &[KeyValue] = match outcome {
            Ok(()) => &self.stored,
            Err(failure) => {
                failed = [&self.stored[..], &[KeyValue::new("error.type", failure.error_type())]].concat();
                &failed
            }
        };
        self.sent.add(1, attributes);
        self.publish.record(duration.as_secs_f64(), attributes);
    }

    /// An event that came by this protocol was not taken. (Over HTTP the answer's status says so.)
    pub fn refused(&self, protocol: &'static str, problem: &Problem) {
        let attributes = [
            KeyValue::new("network.protocol.name", protocol),
            KeyValue::new("error.type", problem.kind),
            self.topic.clone(),
        ];
        self.refused.add(1, &attributes);
    }

    /// One request was answered.
    pub fn answered(&self, method: &Method, status: StatusCode, duration: Duration) {
        let method = match *method {
            Method::POST => "POST",
            Method::OPTIONS => "OPTIONS",
            _ => "_OTHER",
        };
        let attributes = [
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
            KeyValue::new("url.scheme", "https"),
        ];
        self.requests.record(duration.as_secs_f64(), &attributes);
    }
}
