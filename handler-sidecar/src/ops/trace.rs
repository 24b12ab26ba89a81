//! The spans of an event, and the trace context that is passed to the handler.

use std::sync::Arc;

use opentelemetry::trace::SpanKind;
use opentelemetry::{KeyValue, StringValue};
use tidegate_broker_client::contract::Sidecar;
use tidegate_cloudevents::{Attributes, Event, Invalid};
use tidegate_telemetry::{Operation, Parent, Server, Span};
use tidegate_wire::nats::Headers;

use crate::event::request::Place;
use crate::ops::metrics;
use crate::settle::outcome::Answer;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";
const CONTEXT: [&str; 3] = [PARENT, STATE, BAGGAGE];

/// The operations of a handler on its events.
#[derive(Debug)]
pub struct Traces {
    process: Operation,
    receive: Operation,
    settle: Operation,
}

impl Traces {
    /// The operations of this sidecar.
    pub fn new(config: &Sidecar) -> Self {
        let server = config.servers.first().and_then(|url| Server::parse(url));
        let operation = |name: &'static str, kind: SpanKind| {
            let shared = |value: &str| StringValue::from(Arc::<str>::from(value));
            let mut attributes = vec![
                KeyValue::new("messaging.system", "nats"),
                KeyValue::new("messaging.operation.name", name),
                KeyValue::new("messaging.operation.type", name),
                KeyValue::new("messaging.destination.name", shared(&config.topic)),
                KeyValue::new("messaging.consumer.group.name", shared(&config.handler)),
            ];
            if let Some(Server { address, port }) = &server {
                attributes.push(KeyValue::new("server.address", shared(address)));
                attributes.push(KeyValue::new("server.port", *port));
            }
            Operation::new(format!("{name} {}", config.topic), kind, attributes)
        };
        Self {
            process: operation("process", SpanKind::Consumer),
            receive: operation("receive", SpanKind::Consumer),
            settle: operation("settle", SpanKind::Client),
        }
    }

    /// A consumer span, child of the publish (or, without one, of what the event itself carries).
    ///
    /// A child rather than a link: a topic's event is processed alone, so that one trace shows its whole way.
    pub fn process(&self, stored: Option<Headers<'_>>, event: &impl Attributes, place: Place) -> Span {
        let parent = || publish(stored).or_else(|| Parent::from_headers(|name| event.attribute(name)));
        self.process.start(parent, |attributes| {
            let id = StringValue::from(Arc::<str>::from(event.id()));
            attributes.extend([
                KeyValue::new("messaging.message.id", id.clone()),
                KeyValue::new("cloudevents.event_id", id),
                KeyValue::new("cloudevents.event_source", event.source().to_owned()),
                KeyValue::new("cloudevents.event_type", event.event_type().to_owned()),
                KeyValue::new("tidegate.attempt", i64::from(place.attempt)),
            ]);
            let sequence = place.sequence.and_then(|sequence| i64::try_from(sequence).ok());
            attributes.extend(sequence.map(|sequence| KeyValue::new("tidegate.sequence", sequence)));
        })
    }

    /// Notes that an event came from the broker: a span without a duration, child of the publish.
    pub fn received(&self, stored: Option<Headers<'_>>, event: &impl Attributes) {
        self.receive.note(
            || publish(stored),
            |attributes| attributes.push(KeyValue::new("messaging.message.id", event.id().to_owned())),
        );
    }

    /// The span of telling the broker what became of an event (`how`: the outcome of metrics), child of the publish.
    pub fn settle(&self, stored: Option<Headers<'_>>, how: &'static str) -> Span {
        self.settle.start(|| publish(stored), |attributes| attributes.push(KeyValue::new("tidegate.outcome", how)))
    }
}

/// The context in which an event was published.
fn publish(stored: Option<Headers<'_>>) -> Option<Parent<'_>> {
    Parent::from_headers(|name| header(stored, name))
}

/// Notes on the span how the attempt ended.
pub fn record(span: &Span, answer: &Answer) {
    if span.is_none() {
        return;
    }
    if let Answer::Status { code, .. } = answer {
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(code.as_u16())));
    }
    if let Some(error) = metrics::error_type(answer) {
        span.set_error(error.to_string());
    }
}

/// What an event gets of the context of its publish: the trace context, unless it has one of its own (CloudEvents
/// distributed tracing extension: the context in which the event came to be), and the baggage. What would not be a valid
/// value is left out.
pub fn publish_context<'a, E: Attributes>(
    event: &E,
    stored: Option<Headers<'a>>,
) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a, E> {
    let names = if event.attribute(PARENT).is_some() { [None, None, Some(BAGGAGE)] } else { CONTEXT.map(Some) };
    let names = names.map(|name| name.filter(|name| event.attribute(name).is_none()));
    let printable = |value: &&str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    names.into_iter().flatten().filter_map(move |name| Some((name, header(stored, name).filter(printable)?)))
}

/// The event with the context of its publish as extensions.
///
/// # Errors
/// None that is known.
pub fn with_publish_context(event: Event, stored: Option<Headers<'_>>) -> Result<Event, Invalid> {
    let mut context = publish_context(&event, stored);
    context.try_fold(event, |event, (name, value)| event.with_extension(name, value))
}

/// Adds the HTTP headers by which the handler's own spans join the trace: the process span, or, where this trace is
/// not exported, what the event came with.
pub fn headers(span: &Span, event: &impl Attributes, mut set: impl FnMut(&str, &str)) {
    if !span.inject(&mut set) {
        for name in [PARENT, STATE] {
            if let Some(value) = event.attribute(name) {
                set(name, value);
            }
        }
    }
    if let Some(value) = event.attribute(BAGGAGE) {
        set(BAGGAGE, value);
    }
}

fn header<'a>(stored: Option<Headers<'a>>, name: &str) -> Option<&'a str> {
    stored?.get(name)
}
