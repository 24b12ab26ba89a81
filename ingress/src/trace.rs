//! The trace of a publish: a PRODUCER span, by the OpenTelemetry conventions of messaging and CloudEvents.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tidegate_cloudevents::Event;
use tidegate_telemetry::Server;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::outcome::Failure;

/// The longest `baggage` that is carried: what W3C Baggage, section 3.3.2, asks for. A longer one is left out.
const MAX_BAGGAGE: usize = 8192;
const BAGGAGE: &str = "baggage";
const STATE: &str = "tracestate";

/// The `baggage` of a request, as it came: nothing here reads it.
#[derive(Clone)]
struct Baggage(String);

/// The context a request came with (`traceparent`, `tracestate`, `baggage`); empty if it has none.
pub fn of_request(headers: &http::HeaderMap) -> Context {
    let values = |name: &str| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    context(&values)
}

/// The context a NATS message came with; empty if it has none. Its names are compared without regard to case.
pub fn of_message(headers: Option<&HeaderMap>) -> Context {
    let named = |name: &str| {
        let named = headers.into_iter().flat_map(HeaderMap::iter);
        let named = named.filter(|(other, _)| AsRef::<str>::as_ref(*other).eq_ignore_ascii_case(name));
        named.flat_map(|(_, values)| values.iter().map(HeaderValue::as_str)).collect()
    };
    context(&named)
}

/// `tracestate` and `baggage` may come in several headers, which are one list (Trace Context, section 3.3.1; Baggage,
/// section 3.2).
fn context<'h>(values: &impl Fn(&str) -> Vec<&'h str>) -> Context {
    let state = values(STATE).join(",");
    let parent = values("traceparent");
    let context = tidegate_telemetry::context_from(&|name| match name {
        STATE => Some(&*state).filter(|state| !state.is_empty()),
        _ => parent.first().copied(),
    });
    let baggage = values(BAGGAGE).join(",");
    let printable = baggage.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if baggage.is_empty() || baggage.len() > MAX_BAGGAGE || !printable {
        return context;
    }
    context.with_value(Baggage(baggage))
}

/// Where events go: what all spans of a topic's ingress have in common.
#[derive(Clone)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The broker.
    pub server: Option<Server>,
}

/// A publish in progress, as a span and as what is sent on.
pub struct Publish {
    /// Runs from the wait for its turn to the broker's acknowledgement.
    pub span: Span,
    context: Context,
    baggage: Option<Baggage>,
}

impl Publish {
    /// Starts the span of an event: a child of the request's context, else of the event's own (its
    /// `traceparent` extension).
    pub fn start(place: &Place, event: &Event, partition: u32, request: &Context) -> Self {
        let topic = &*place.topic;
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
            messaging.message.id = event.id(),
            messaging.message.body.size = event.data().map_or(0, bytes::Bytes::len),
            server.address = place.server.as_ref().map(|server| &*server.address),
            server.port = place.server.as_ref().map(|server| server.port),
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
        Self { span, context, baggage: request.get::<Baggage>().cloned() }
    }

    /// Writes the context into the headers of the stored message.
    pub fn inject(&self, headers: &mut HeaderMap) {
        tidegate_telemetry::inject(&self.context, |name, value| {
            if let Ok(value) = value.parse::<HeaderValue>() {
                headers.insert(name, value);
            }
        });
        if let Some(Baggage(value)) = &self.baggage {
            headers.insert(BAGGAGE, &**value);
        }
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
    use std::sync::{Arc, LazyLock, Mutex};

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

    /// What all tests of this program export. A subscriber for one thread alone would not do: a span that another
    /// test's thread is the first to make would be of no interest to any thread after that.
    static EXPORTED: LazyLock<Exported> = LazyLock::new(|| {
        let exported = Exported::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exported.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
        // What was asked between the making of the subscriber and now is asked again.
        tracing::callsite::rebuild_interest_cache();
        exported
    });

    /// The header that is stored, and the span that is exported.
    fn published(outcome: Result<(), Failure>) -> (String, SpanData) {
        LazyLock::force(&EXPORTED);
        let event = Event::builder("1", "/s", "t").build().unwrap();
        let request = http::HeaderMap::from_iter([("traceparent".parse().unwrap(), PARENT.parse().unwrap())]);
        let mut headers = HeaderMap::new();
        let place = Place { topic: "orders".into(), server: Server::parse("tls://localhost:4222") };
        let publish = Publish::start(&place, &event, 7, &of_request(&request));
        publish.inject(&mut headers);
        publish.end(outcome);
        drop(publish);
        let stored = headers.get("traceparent").unwrap().to_string();
        let spans = EXPORTED.0.lock().unwrap();
        let own = |span: &&SpanData| stored.contains(&span.span_context.span_id().to_string());
        (stored.clone(), spans.iter().find(own).unwrap().clone())
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
        assert_eq!(value("messaging.message.id").as_deref(), Some("1"), "as on the span of the processing");
        assert_eq!(value("server.address").as_deref(), Some("localhost"));
        assert_eq!(value("server.port").as_deref(), Some("4222"));
        assert_eq!(value("error.type"), None);
    }

    /// W3C Trace Context, section 3.3.1: several `tracestate` headers are one list. W3C Baggage, section 3.2. Issue 8, H9.
    #[test]
    fn all_of_the_state_and_the_baggage_go_on() {
        // As where no spans are exported, whatever the other tests do.
        let _guard = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::default());
        let stored = |context: &Context| {
            let event = Event::builder("1", "/s", "t").build().unwrap();
            let mut headers = HeaderMap::new();
            Publish::start(&Place { topic: "orders".into(), server: None }, &event, 0, context).inject(&mut headers);
            ["traceparent", STATE, BAGGAGE].map(|name| headers.get(name).map(ToString::to_string))
        };
        let pairs =
            [("traceparent", PARENT), (STATE, "a=1"), (STATE, "b=2,c=3"), (BAGGAGE, "k=v;p"), (BAGGAGE, "l=%20")];
        let expected = [PARENT, "a=1,b=2,c=3", "k=v;p,l=%20"].map(|value| Some(value.to_owned()));
        let (mut http, mut nats) = (http::HeaderMap::new(), HeaderMap::new());
        for (name, value) in pairs {
            http.append(name, value.parse().unwrap());
            nats.append(name.to_ascii_uppercase(), value);
        }
        assert_eq!(stored(&of_request(&http)), expected);
        assert_eq!(stored(&of_message(Some(&nats))), expected);

        let only =
            |value: &str| of_request(&http::HeaderMap::from_iter([(BAGGAGE.parse().unwrap(), value.parse().unwrap())]));
        assert_eq!(stored(&only("k=v"))[2].as_deref(), Some("k=v"), "without a trace");
        assert_eq!(stored(&only(&"v".repeat(MAX_BAGGAGE + 1)))[2], None);
        assert_eq!(stored(&of_message(None)), [None, None, None]);
    }

    #[test]
    fn a_failure_is_on_the_span() {
        let (_, span) = published(Err(Failure::Full));
        assert!(matches!(span.status, Status::Error { .. }));
        assert!(span.attributes.iter().any(|a| a.key.as_str() == "error.type" && a.value.to_string() == "full"));
    }
}
