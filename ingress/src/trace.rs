//! The trace of a publish: a PRODUCER span, by the OpenTelemetry conventions of messaging and CloudEvents.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tidegate_cloudevents::Event;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::outcome::Failure;

/// The context a request came with (`traceparent` and `tracestate`); empty if it has none.
pub fn of_request(headers: &http::HeaderMap) -> Context {
    tidegate_telemetry::context_from(&|name| headers.get(name).and_then(|value| value.to_str().ok()))
}

/// The context a NATS message came with; empty if it has none.
pub fn of_message(headers: Option<&HeaderMap>) -> Context {
    tidegate_telemetry::context_from(&|name| headers?.get(name).map(HeaderValue::as_str))
}

/// A publish in progress, as a span and as what is sent on.
pub struct Publish {
    /// Runs from the wait for its turn to the broker's acknowledgement.
    pub span: Span,
    context: Context,
}

impl Publish {
    /// Starts the span of an event: a child of the request's context, else of the event's own (its
    /// `traceparent` extension).
    pub fn start(topic: &str, event: &Event, message_id: &str, partition: u32, request: &Context) -> Self {
        let span = tracing::info_span!(
            target: tidegate_telemetry::PER_EVENT,
        "publish",
            otel.name = format!("publish {topic}"),
            otel.kind = "producer",
            otel.status_code = Empty,
            error.type = Empty,
            messaging.system = "nats",
            messaging.operation.name = "publish",
            messaging.operation.type = "send",
            messaging.destination.name = topic,
            messaging.destination.partition.id = partition,
            messaging.message.id = message_id,
            messaging.message.body.size = event.data().map_or(0, bytes::Bytes::len),
            cloudevents.event_id = event.id(),
            cloudevents.event_source = event.source(),
            cloudevents.event_type = event.event_type(),
        );
        let parent = if request.span().span_context().is_valid() {
            request.clone()
        } else {
            tidegate_telemetry::context_from(&|name| event.attribute(name))
        };
        // It fails where spans are not exported; the context is then passed on as it came.
        let exported = span.set_parent(parent.clone()).is_ok();
        let own = span.context();
        let context = if exported && own.span().span_context().is_valid() { own } else { parent };
        Self { span, context }
    }

    /// Writes the context into the headers of the stored message.
    pub fn inject(&self, headers: &mut HeaderMap) {
        tidegate_telemetry::inject(&self.context, |name, value| {
            if let Ok(value) = value.parse::<HeaderValue>() {
                headers.insert(name, value);
            }
        });
    }

    /// Notes how it ended.
    pub fn end(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.span.record("otel.status_code", "ERROR");
            self.span.record("error.type", failure.error_type());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{SpanKind, Status, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Clone, Debug, Default)]
    struct Exported(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Exported {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    /// The header that is stored, and the span that is exported.
    fn published(outcome: Result<(), Failure>) -> (String, SpanData) {
        let exported = Exported::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exported.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

        let event = Event::builder("1", "/s", "t").build().unwrap();
        let request = http::HeaderMap::from_iter([("traceparent".parse().unwrap(), PARENT.parse().unwrap())]);
        let mut headers = HeaderMap::new();
        let publish = Publish::start("orders", &event, "message", 7, &of_request(&request));
        publish.inject(&mut headers);
        publish.end(outcome);
        drop(publish);
        let span = exported.0.lock().unwrap().pop().unwrap();
        (headers.get("traceparent").unwrap().to_string(), span)
    }

    #[test]
    fn the_span_is_a_producer_below_the_request_and_above_what_is_stored() {
        let (stored, span) = published(Ok(()));
        assert_eq!((span.name.as_ref(), &span.span_kind), ("publish orders", &SpanKind::Producer));
        assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
        let context = &span.span_context;
        assert_eq!(stored, format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", context.span_id()));
        let value = |name: &str| {
            let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
            found.map(|attribute| attribute.value.to_string())
        };
        assert_eq!(value("messaging.system").as_deref(), Some("nats"));
        assert_eq!(value("messaging.operation.type").as_deref(), Some("send"));
        assert_eq!(value("messaging.destination.name").as_deref(), Some("orders"));
        assert_eq!(value("cloudevents.event_id").as_deref(), Some("1"));
        assert_eq!(value("error.type"), None);
    }

    #[test]
    fn a_failure_is_on_the_span() {
        let (_, span) = published(Err(Failure::Full));
        assert!(matches!(span.status, Status::Error { .. }));
        assert!(span.attributes.iter().any(|a| a.key.as_str() == "error.type" && a.value.to_string() == "full"));
    }
}
