//! The trace of a publish: a PRODUCER span, by the OpenTelemetry conventions of messaging and CloudEvents.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::trace::SpanKind;
use opentelemetry::{KeyValue, StringValue};
use tidegate_broker_client::TopicId;
use tidegate_cloudevents::Event;
use tidegate_telemetry::{Operation, Parent, Server, Span, TraceParent, trace_state};
use tidegate_wire::nats::{HeaderBlock, Message};

use crate::outcome::Failure;

/// The longest `baggage` that is carried: what W3C Baggage, section 3.3.2, asks for. A longer one is left out.
const MAX_BAGGAGE: usize = 8192;
const BAGGAGE: &str = "baggage";
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// The attribute with the namespace of a topic.
pub const NAMESPACE: &str = "tidegate.topic.namespace";

/// What a request or an event says of the trace that it belongs to, as it came.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Only valid ones.
    parent: Option<String>,
    state: Option<String>,
    /// Nothing here reads it.
    baggage: Option<String>,
}

/// The context a request came with (`traceparent`, `tracestate`, `baggage`); empty if it has none.
pub fn of_request(headers: &http::HeaderMap) -> Context {
    Context::from_values(|name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()))
}

/// The context a NATS message came with; empty if it has none. Its names are compared without regard to case.
pub fn of_message(message: &Message) -> Context {
    Context::from_values(|name| {
        let all = message.headers().into_iter().flat_map(|headers| headers.iter());
        all.filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    })
}

impl Context {
    /// `tracestate` and `baggage` may come in several headers, which are one list (Trace Context, section 3.3.1;
    /// Baggage, section 3.2).
    fn from_values<'h, I: Iterator<Item = &'h str>>(values: impl Fn(&'static str) -> I) -> Self {
        let parent = values(PARENT).next().filter(|parent| TraceParent::parse(parent).is_some());
        let state = parent.and_then(|_| list(values(STATE))).filter(|state| trace_state(Some(state)).is_some());
        let printable = |baggage: &Cow<'_, str>| baggage.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let baggage = list(values(BAGGAGE)).filter(|baggage| baggage.len() <= MAX_BAGGAGE).filter(printable);
        Self {
            parent: parent.map(str::to_owned),
            state: state.map(Cow::into_owned),
            baggage: baggage.map(Cow::into_owned),
        }
    }

    /// Writes it into the headers of a message.
    pub fn inject(&self, headers: &mut HeaderBlock) {
        self.parent.iter().for_each(|value| add(headers, PARENT, value));
        self.state.iter().for_each(|value| add(headers, STATE, value));
        self.baggage.iter().for_each(|value| add(headers, BAGGAGE, value));
    }

    fn get(&self, name: &str) -> Option<&str> {
        match name {
            PARENT => self.parent.as_deref(),
            STATE => self.state.as_deref(),
            BAGGAGE => self.baggage.as_deref(),
            _ => None,
        }
    }
}

/// What cannot be a header is left out.
fn add(headers: &mut HeaderBlock, name: &str, value: &str) {
    let _ = headers.append(name, value);
}

/// Several values as one, which is not empty.
fn list<'h>(mut values: impl Iterator<Item = &'h str>) -> Option<Cow<'h, str>> {
    let first = Cow::Borrowed(values.next()?);
    let joined = values.fold(first, |list, value| Cow::Owned(format!("{list},{value}")));
    (!joined.is_empty()).then_some(joined)
}

/// Where events go: what all spans of a topic's ingress have in common.
#[derive(Clone, Debug)]
pub struct Destination(Operation);

impl Destination {
    /// The topic, and the broker's address if it is known.
    pub fn new(topic: &TopicId, server: Option<Server>) -> Self {
        let shared = |value: &str| StringValue::from(Arc::<str>::from(value));
        let mut attributes = vec![
            KeyValue::new("messaging.system", "nats"),
            KeyValue::new("messaging.operation.name", "publish"),
            KeyValue::new("messaging.operation.type", "send"),
            KeyValue::new("messaging.destination.name", shared(topic.name())),
            KeyValue::new(NAMESPACE, shared(topic.namespace())),
        ];
        if let Some(Server { address, port }) = server {
            attributes.push(KeyValue::new("server.address", shared(&address)));
            attributes.push(KeyValue::new("server.port", port));
        }
        Self(Operation::new(format!("publish {}", topic.name()), SpanKind::Producer, attributes))
    }
}

/// A publish in progress, as a span and as what is sent on.
pub struct Publish {
    /// Runs from the wait for its turn to the broker's acknowledgement.
    pub span: Span,
    /// What is passed on where there is no span.
    context: Context,
}

impl Publish {
    /// Starts the span of an event: a child of the request's context, else of the event's own (its
    /// `traceparent` extension).
    pub fn start(place: &Destination, event: &Event, partition: u32, request: &Context) -> Self {
        let context = if request.parent.is_some() { request.clone() } else { own_context(event, request) };
        let parent = || Parent::from_headers(|name| context.get(name));
        let span = place.0.start(parent, |attributes| {
            let id = StringValue::from(Arc::<str>::from(event.id()));
            let size = event.data().map_or(0, bytes::Bytes::len);
            attributes.extend([
                KeyValue::new("messaging.destination.partition.id", i64::from(partition)),
                KeyValue::new("messaging.message.id", id.clone()),
                KeyValue::new("cloudevents.event_id", id),
                KeyValue::new("cloudevents.event_source", event.source().to_owned()),
                KeyValue::new("cloudevents.event_type", event.event_type().to_owned()),
            ]);
            attributes.extend(i64::try_from(size).map(|size| KeyValue::new("messaging.message.body.size", size)));
        });
        Self { span, context }
    }

    /// Writes the context into the headers of the stored message: that of the span, or what came in as it came.
    pub fn inject(&self, headers: &mut HeaderBlock) {
        if self.span.inject(|name, value| add(headers, if name == PARENT { PARENT } else { STATE }, value)) {
            self.context.baggage.iter().for_each(|value| add(headers, BAGGAGE, value));
        } else {
            self.context.inject(headers);
        }
    }

    /// Notes how it ended.
    pub fn end(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.span.set_error(failure.error_type());
        }
    }
}

/// What an event's extensions say of its trace, with the baggage of its request.
fn own_context(event: &Event, request: &Context) -> Context {
    let of_event = Context::from_values(|name| event.attribute(name).filter(|_| name != BAGGAGE).into_iter());
    Context { baggage: request.baggage.clone(), ..of_event }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use opentelemetry::trace::Status;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor, SpanData};
    use tidegate_telemetry::{EventTracer, Sampling};

    use super::*;

    const TRACE_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// What all tests of this program export: there is one tracer in a process.
    static EXPORTED: LazyLock<InMemorySpanExporter> = LazyLock::new(|| {
        let exported = InMemorySpanExporter::default();
        EventTracer::new(SimpleSpanProcessor::new(exported.clone()), Sampling::default()).install();
        exported
    });

    fn message(headers: Option<&HeaderBlock>) -> Message {
        Message::compose("events.0.t", None, headers, b"").unwrap()
    }

    /// The one value of a header.
    fn value_of(headers: &HeaderBlock, name: &str) -> Option<String> {
        let message = message(Some(headers));
        let values: Vec<_> = message.headers().unwrap().get_all(name).map(str::to_owned).collect();
        assert!(values.len() < 2, "{name}");
        values.into_iter().next()
    }

    fn topic() -> TopicId {
        TopicId::new("shop", "orders").unwrap()
    }

    /// The header that is stored, and the span that is exported.
    fn published(outcome: Result<(), Failure>) -> (String, SpanData) {
        LazyLock::force(&EXPORTED);
        let event = Event::builder("1", "/s", "t").build().unwrap();
        let request = http::HeaderMap::from_iter([("traceparent".parse().unwrap(), TRACE_PARENT.parse().unwrap())]);
        let mut headers = HeaderBlock::new();
        let place = Destination::new(&topic(), Server::parse("tls://localhost:4222"));
        let publish = Publish::start(&place, &event, 7, &of_request(&request));
        publish.inject(&mut headers);
        publish.end(outcome);
        drop(publish);
        let stored = value_of(&headers, PARENT).unwrap();
        let spans = EXPORTED.get_finished_spans().unwrap();
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
        assert_eq!(value(NAMESPACE).as_deref(), Some("shop"));
        assert_eq!(value("cloudevents.event_id").as_deref(), Some("1"));
        assert_eq!(value("messaging.message.id").as_deref(), Some("1"), "as on the span of the processing");
        assert_eq!(value("server.address").as_deref(), Some("localhost"));
        assert_eq!(value("server.port").as_deref(), Some("4222"));
        assert_eq!(value("error.type"), None);
    }

    /// What is stored where no spans are exported.
    fn passed_on(event: &Event, context: &Context) -> [Option<String>; 3] {
        let Destination(operation) = Destination::new(&topic(), None);
        let mut headers = HeaderBlock::new();
        Publish::start(&Destination(operation.unexported()), event, 0, context).inject(&mut headers);
        [PARENT, STATE, BAGGAGE].map(|name| value_of(&headers, name))
    }

    #[test]
    fn what_is_not_sampled_is_passed_on_byte_for_byte() {
        LazyLock::force(&EXPORTED);
        // A flag that has no meaning yet, and a version that does not exist yet.
        for parent in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02",
            "7f-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-later",
        ] {
            let pairs = [(PARENT, parent), (STATE, "b=2, a=1"), (BAGGAGE, "k = v")];
            let request =
                http::HeaderMap::from_iter(pairs.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())));
            let event = Event::builder("1", "/s", "t").attribute(PARENT, TRACE_PARENT).build().unwrap();
            let mut headers = HeaderBlock::new();
            let publish = Publish::start(&Destination::new(&topic(), None), &event, 0, &of_request(&request));
            publish.inject(&mut headers);
            assert!(publish.span.is_none());
            let stored = pairs.map(|(name, _)| value_of(&headers, name));
            assert_eq!(stored, pairs.map(|(_, value)| Some(value.to_owned())));
        }
    }

    #[test]
    fn an_event_that_comes_without_a_context_has_its_own() {
        let event = Event::builder("1", "/s", "t").attribute(PARENT, TRACE_PARENT).attribute(STATE, "a=1");
        let event = event.build().unwrap();
        let expected = [Some(TRACE_PARENT.to_owned()), Some("a=1".to_owned()), None];
        assert_eq!(passed_on(&event, &Context::default()), expected);
        let malformed = Event::builder("1", "/s", "t").attribute(PARENT, "00-1-2").attribute(STATE, "a=1");
        assert_eq!(passed_on(&malformed.build().unwrap(), &Context::default()), [None, None, None]);
    }

    /// W3C Trace Context, section 3.3.1: several `tracestate` headers are one list. W3C Baggage, section 3.2. Issue 8,
    /// H9.
    #[test]
    fn all_of_the_state_and_the_baggage_go_on() {
        let stored = |context: &Context| {
            let event = Event::builder("1", "/s", "t").build().unwrap();
            passed_on(&event, context)
        };
        let pairs =
            [(PARENT, TRACE_PARENT), (STATE, "a=1"), (STATE, "b=2,c=3"), (BAGGAGE, "k=v;p"), (BAGGAGE, "l=%20")];
        let expected = [TRACE_PARENT, "a=1,b=2,c=3", "k=v;p,l=%20"].map(|value| Some(value.to_owned()));
        let (mut http, mut nats) = (http::HeaderMap::new(), HeaderBlock::new());
        for (name, value) in pairs {
            http.append(name, value.parse().unwrap());
            nats.append(&name.to_ascii_uppercase(), value).unwrap();
        }
        assert_eq!(stored(&of_request(&http)), expected);
        assert_eq!(stored(&of_message(&message(Some(&nats)))), expected);

        let only =
            |value: &str| of_request(&http::HeaderMap::from_iter([(BAGGAGE.parse().unwrap(), value.parse().unwrap())]));
        assert_eq!(stored(&only("k=v"))[2].as_deref(), Some("k=v"), "without a trace");
        assert_eq!(stored(&only(&"v".repeat(MAX_BAGGAGE + 1)))[2], None);
        assert_eq!(stored(&of_message(&message(None))), [None, None, None]);
    }

    #[test]
    fn a_failure_is_on_the_span() {
        let (_, span) = published(Err(Failure::Full));
        assert!(matches!(span.status, Status::Error { .. }));
        assert!(span.attributes.iter().any(|a| a.key.as_str() == "error.type" && a.value.to_string() == "full"));
    }
}
