//! The spans of an event, and the trace context that is passed to the handler.

use std::sync::Arc;

use opentelemetry::trace::SpanKind;
use opentelemetry::{KeyValue, StringValue};
use tidegate_broker_client::contract::Sidecar;
use tidegate_cloudevents::{Attributes, Event, Invalid};
use tidegate_delivery_core::Disposition;
use tidegate_telemetry::{Operation, Parent, Server, Span};
use tidegate_wire::nats::Headers;

use crate::event::request::AttemptInfo;
use crate::ops::metrics;
use crate::settle::outcome::Answer;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";
/// The attribute that says what became of an event, as in metrics.
const OUTCOME: &str = "tidegate.outcome";

/// The context in which an event was published, as its message has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishContext<'a> {
    parent: Option<&'a str>,
    state: Option<&'a str>,
    baggage: Option<&'a str>,
}

impl<'a> PublishContext<'a> {
    /// That of a message with these headers.
    pub fn read(headers: Option<Headers<'a>>) -> Self {
        let mut context = Self::default();
        headers.into_iter().flat_map(|headers| headers.iter()).for_each(|(name, value)| context.note(name, value));
        context
    }

    /// Takes note of a header, if it is one of the context. The first of a name counts.
    pub fn note(&mut self, name: &str, value: &'a str) {
        let of_this_name = match name.len() {
            11 if name.eq_ignore_ascii_case(PARENT) => &mut self.parent,
            10 if name.eq_ignore_ascii_case(STATE) => &mut self.state,
            7 if name.eq_ignore_ascii_case(BAGGAGE) => &mut self.baggage,
            _ => return,
        };
        of_this_name.get_or_insert(value);
    }

    /// What an event gets of it: the trace context, unless it has one of its own (CloudEvents distributed tracing
    /// extension: the context in which the event came to be), and the baggage. What would not be a valid value is left
    /// out.
    pub fn added_to<E: Attributes>(self, event: &E) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a, E> {
        let trace = if event.attribute(PARENT).is_some() { [None, None] } else { [self.parent, self.state] };
        let [parent, state] = trace;
        let added = [(PARENT, parent), (STATE, state), (BAGGAGE, self.baggage)].map(|(name, value)| {
            let is_printable = |value: &&str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            Some((name, value.filter(is_printable).filter(|_| event.attribute(name).is_none())?))
        });
        added.into_iter().flatten()
    }

    /// The span that a span of the event is a child of.
    fn span(self) -> Option<Parent<'a>> {
        Parent::from_headers(|name| match name {
            PARENT => self.parent,
            STATE => self.state,
            _ => None,
        })
    }
}

/// The operations of a handler on its events.
#[derive(Debug)]
pub struct Traces {
    process: Operation,
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
                KeyValue::new("messaging.consumer.group.name", shared(config.handler_name())),
            ];
            if let Some(Server { address, port }) = &server {
                attributes.push(KeyValue::new("server.address", shared(address)));
                attributes.push(KeyValue::new("server.port", *port));
            }
            Operation::new(format!("{name} {}", config.topic), kind, attributes)
        };
        Self { process: operation("process", SpanKind::Consumer), settle: operation("settle", SpanKind::Client) }
    }

    /// A consumer span, child of the publish (or, without one, of what the event itself carries).
    ///
    /// A child rather than a link: a topic's event is processed alone, so that one trace shows its whole way.
    pub fn process(&self, published: PublishContext<'_>, event: &impl Attributes, place: AttemptInfo) -> Span {
        let parent = || published.span().or_else(|| Parent::from_headers(|name| event.attribute(name)));
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

    /// The span of telling the broker what became of an event (`how`: the outcome of metrics), child of the publish. Where
    /// the span of its attempt says so and the broker does not answer, there is none: it would have no duration and say
    /// nothing else, and cost as much as the other.
    pub fn settle(&self, stored: Option<Headers<'_>>, how: &'static str) -> Span {
        self.settle
            .start(|| PublishContext::read(stored).span(), |attributes| attributes.push(KeyValue::new(OUTCOME, how)))
    }
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

/// Notes on the span of an attempt what became of its event. Whether there is one.
pub fn conclude(span: &Span, disposition: Disposition) -> bool {
    span.set_attribute(KeyValue::new(OUTCOME, disposition.settled().name()));
    !span.is_none()
}

/// The event with the context of its publish as extensions.
///
/// # Errors
/// None that is known.
pub fn with_publish_context(event: Event, published: PublishContext<'_>) -> Result<Event, Invalid> {
    let mut added = published.added_to(&event);
    added.try_fold(event, |event, (name, value)| event.with_extension(name, value))
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
