//! The spans of an event, and the trace context that goes on to the handler.

use async_nats::HeaderMap as StoredHeaders;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{Status, TraceContextExt as _};
use tidegate_broker_client::contract::Sidecar;
use tidegate_cloudevents::{Event, Invalid};
use tidegate_telemetry::Server;
use tracing::{Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::event::request::Place;
use crate::ops::metrics;
use crate::settle::outcome::Answer;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";

/// The span of an operation: what all of them say, and what is its own.
macro_rules! operation {
    ($config:ident, $name:literal, $kind:literal $(, $($own:tt)*)?) => {
        tracing::info_span!(
            target: tidegate_telemetry::PER_EVENT,
            $name,
            otel.name = format_args!(concat!($name, " {}"), $config.topic),
            otel.kind = $kind,
            messaging.system = "nats",
            messaging.operation.name = $name,
            messaging.operation.type = $name,
            messaging.destination.name = $config.topic.as_str(),
            messaging.consumer.group.name = $config.handler.as_str(),
            server.address = server($config).as_ref().map(|server| &*server.address),
            server.port = server($config).as_ref().map(|server| server.port),
            $($($own)*)?
        )
    };
}

/// A consumer span, child of the publish (or, without one, of what the event itself carries).
///
/// A child rather than a link: a topic's event is processed alone, so that one trace shows its whole way.
pub fn process(config: &Sidecar, stored: Option<&StoredHeaders>, event: &Event, place: Place) -> Span {
    let span = operation!(
        config,
        "process",
        "consumer",
        messaging.message.id = event.id(),
        cloudevents.event_id = event.id(),
        cloudevents.event_source = event.source(),
        cloudevents.event_type = event.event_type(),
        tidegate.attempt = place.attempt,
        tidegate.sequence = place.sequence,
        http.response.status_code = field::Empty,
        error.type = field::Empty,
    );
    below(&span, || {
        let published = publish(stored);
        let is_known = published.span().span_context().is_valid();
        if is_known { published } else { tidegate_telemetry::context_from(&|name| event.attribute(name)) }
    });
    span
}

/// Notes that an event came from the broker: a span without a duration, child of the publish.
pub fn received(config: &Sidecar, stored: Option<&StoredHeaders>, event: &Event) {
    let span = operation!(config, "receive", "consumer", messaging.message.id = event.id());
    below(&span, || publish(stored));
}

/// The span of telling the broker what became of an event (`how`: the outcome of metrics), child of the publish.
pub fn settle(config: &Sidecar, stored: Option<&StoredHeaders>, how: &'static str) -> Span {
    let span = operation!(config, "settle", "client", tidegate.outcome = how);
    below(&span, || publish(stored));
    span
}

/// The context in which an event was published.
fn publish(stored: Option<&StoredHeaders>) -> Context {
    tidegate_telemetry::context_from(&|name| header(stored, name))
}

/// Makes a span the child of what is found, which is looked for only where spans are exported.
fn below(span: &Span, parent: impl FnOnce() -> Context) {
    if span.is_disabled() {
        return;
    }
    let parent = parent();
    if parent.span().span_context().is_valid() {
        // Only fails where nothing is exported.
        let _ = span.set_parent(parent);
    }
}

/// Only asked where spans are exported.
fn server(config: &Sidecar) -> Option<Server> {
    Server::parse(config.servers.first()?)
}

/// Notes on the span how the attempt ended.
pub fn record(span: &Span, answer: &Answer) {
    if let Answer::Status { code, .. } = answer {
        span.record("http.response.status_code", code.as_u16());
    }
    if let Some(error) = metrics::error_type(answer) {
        let error = error.to_string();
        span.record("error.type", error.as_str());
        span.set_status(Status::error(error));
    }
}

/// The event with the publish context as extension, unless it has one of its own (CloudEvents distributed
/// tracing extension: the context in which the event came to be); and with the baggage of the publish.
///
/// # Errors
/// None that is known: what would not be a valid value is left out.
pub fn with_publish_context(event: Event, stored: Option<&StoredHeaders>) -> Result<Event, Invalid> {
    let names = if event.attribute(PARENT).is_some() { &[BAGGAGE][..] } else { &[PARENT, STATE, BAGGAGE] };
    let names = names.iter().filter(|name| event.attribute(name).is_none()).copied().collect::<Vec<_>>();
    let printable = |value: &&str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    names.into_iter().try_fold(event, |event, name| match header(stored, name).filter(printable) {
        Some(value) => event.with_extension(name, value),
        None => Ok(event),
    })
}

/// Adds the HTTP headers by which the handler's own spans join the trace: the process span, or, where nothing
/// is exported, what the event came with.
pub fn headers(span: &Span, event: &Event, headers: &mut HeaderMap) {
    let context: Context = span.context();
    if context.span().span_context().is_valid() {
        tidegate_telemetry::inject(&context, |name, value| set(headers, name, &value));
    } else {
        for name in [PARENT, STATE] {
            if let Some(value) = event.attribute(name) {
                set(headers, name, value);
            }
        }
    }
    if let Some(value) = event.attribute(BAGGAGE) {
        set(headers, BAGGAGE, value);
    }
}

fn header<'a>(stored: Option<&'a StoredHeaders>, name: &str) -> Option<&'a str> {
    stored?.get(name).map(|value| value.as_str())
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        headers.insert(name, value);
    }
}
