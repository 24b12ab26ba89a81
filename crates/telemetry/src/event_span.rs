//! Spans of events: of each event, so that they are made without `tracing`, whose spans cost four times as much.
//!
//! Whether a trace is exported is decided from the parent's bytes. If it is not, there is no span, and what came in is
//! passed on as it came. If it is, the span is given to the SDK's processor when it ends.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{self, Poll};
use std::time::SystemTime;

use opentelemetry::trace::{
    Event, Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanProcessor};
use pin_project_lite::pin_project;

use crate::TraceParent;
use crate::propagation::{self, trace_state};
use crate::sampling::Sampling;

/// Where the spans of events go, and which of them.
#[derive(Debug)]
pub struct EventTracer {
    processor: Box<dyn SpanProcessor>,
    sampling: Sampling,
    scope: InstrumentationScope,
}

static INSTALLED: OnceLock<EventTracer> = OnceLock::new();

impl EventTracer {
    /// A tracer that gives its spans to this processor.
    pub fn new(processor: impl SpanProcessor + 'static, sampling: Sampling) -> Self {
        Self { processor: Box::new(processor), sampling, scope: crate::scope("tidegate") }
    }

    /// Makes it the one that [`Operation::new`] uses; the first one stays. [`crate::init`] does so where there is an
    /// endpoint.
    pub fn install(self) -> &'static Self {
        INSTALLED.get_or_init(|| self)
    }
}

/// An operation on events: what all its spans have in common, made once.
#[derive(Clone, Debug)]
pub struct Operation {
    tracer: Option<&'static EventTracer>,
    name: String,
    kind: SpanKind,
    attributes: Vec<KeyValue>,
}

/// What a span is to be a child of.
#[derive(Clone, Copy, Debug)]
pub struct Parent<'h> {
    identity: TraceParent,
    state: Option<&'h str>,
}

impl<'h> Parent<'h> {
    /// The parent that these headers name, or the extensions of an event; `None` if there is no valid one.
    pub fn from_headers(header: impl Fn(&str) -> Option<&'h str>) -> Option<Self> {
        let identity = TraceParent::parse(header(propagation::TRACEPARENT)?)?;
        Some(Self { identity, state: header(propagation::TRACESTATE) })
    }
}

impl Operation {
    /// An operation whose spans go to the installed tracer, if there is one by now.
    pub fn new(name: String, kind: SpanKind, attributes: Vec<KeyValue>) -> Self {
        Self { tracer: INSTALLED.get(), name, kind, attributes }
    }

    /// The same operation, of which nothing is exported.
    pub fn unexported(self) -> Self {
        Self { tracer: None, ..self }
    }

    #[cfg(test)]
    pub(crate) fn of(tracer: &'static EventTracer, name: String, kind: SpanKind) -> Self {
        Self { tracer: Some(tracer), name, kind, attributes: Vec::new() }
    }

    /// Starts a span. `parent` is asked where spans are exported, and `own` for its own attributes where this trace is.
    pub fn start<'h>(&self, parent: impl FnOnce() -> Option<Parent<'h>>, own: impl FnOnce(&mut Vec<KeyValue>)) -> Span {
        match self.decide(parent) {
            Decision::PassOn => Span::none(),
            Decision::Begin(context) => Span(Some(Context::new().with_remote_span_context(context))),
            Decision::Export(tracer, context, parent) => {
                let data = self.data(tracer, context.clone(), parent, own);
                Span(Some(Context::new().with_span(EventSpan { context, data: Some(data), tracer })))
            }
        }
    }

    fn decide<'h>(&self, parent: impl FnOnce() -> Option<Parent<'h>>) -> Decision {
        let Some(tracer) = self.tracer else { return Decision::PassOn };
        let parent = parent();
        let identity = parent.map(|parent| parent.identity);
        let trace_id = identity.map_or_else(|| fastrand::u128(1..), |parent| parent.trace_id);
        let is_sampled = tracer.sampling.samples(trace_id, identity.as_ref());
        if !is_sampled && identity.is_some() {
            return Decision::PassOn;
        }
        let flags = if is_sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        let state = parent.and_then(|parent| trace_state(parent.state)).unwrap_or(TraceState::NONE);
        let span_id = SpanId::from(fastrand::u64(1..));
        let context = SpanContext::new(TraceId::from(trace_id), span_id, flags, false, state);
        if is_sampled { Decision::Export(tracer, context, identity) } else { Decision::Begin(context) }
    }

    fn data(
        &self,
        tracer: &EventTracer,
        span_context: SpanContext,
        parent: Option<TraceParent>,
        own: impl FnOnce(&mut Vec<KeyValue>),
    ) -> SpanData {
        let now = opentelemetry::time::now();
        let mut attributes = Vec::with_capacity(self.attributes.len() + OWN_ATTRIBUTES);
        attributes.extend_from_slice(&self.attributes);
        own(&mut attributes);
        SpanData {
            span_context,
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span_id)),
            parent_span_is_remote: parent.is_some(),
            span_kind: self.kind.clone(),
            name: Cow::Owned(self.name.clone()),
            start_time: now,
            end_time: now,
            attributes,
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: tracer.scope.clone(),
        }
    }
}

/// Attributes that a span has for its event, at most.
const OWN_ATTRIBUTES: usize = 8;

enum Decision {
    /// Nothing is exported, or not this trace.
    PassOn,
    /// The trace begins here and is not exported; whoever comes later has to know.
    Begin(SpanContext),
    Export(&'static EventTracer, SpanContext, Option<TraceParent>),
}

/// A span of an event, or none. It ends when its last clone is dropped.
#[derive(Clone, Debug)]
pub struct Span(Option<Context>);

impl Span {
    /// No span.
    pub const fn none() -> Self {
        Self(None)
    }

    /// The span that the code runs in.
    pub fn current() -> Self {
        Self(Context::map_current(|context| context.span().span_context().is_valid().then(|| context.clone())))
    }

    /// Whether there is no span.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Adds an attribute.
    pub fn set_attribute(&self, attribute: KeyValue) {
        if let Self(Some(context)) = self {
            context.span().set_attribute(attribute);
        }
    }

    /// Notes that the operation failed: `error.type` and the status.
    pub fn set_error(&self, error_type: impl Into<Cow<'static, str>>) {
        if let Self(Some(context)) = self {
            let error_type = error_type.into();
            context.span().set_attribute(KeyValue::new("error.type", error_type.clone()));
            context.span().set_status(Status::error(error_type));
        }
    }

    /// Gives `traceparent` and `tracestate` of this span to `set`. False if there is none, so that what came in is to
    /// be passed on as it came.
    pub fn inject(&self, set: impl FnMut(&str, &str)) -> bool {
        let Self(Some(context)) = self else { return false };
        propagation::inject(context.span().span_context(), set);
        true
    }
}

/// Runs futures inside spans.
pub trait Instrument: Future + Sized {
    /// The future, of which every poll happens inside the span: log lines name its trace.
    fn instrument(self, span: Span) -> Instrumented<Self> {
        Instrumented { span, inner: self }
    }
}

impl<F: Future> Instrument for F {}

pin_project! {
    /// A future inside a span.
    #[derive(Debug)]
    pub struct Instrumented<F> {
        span: Span,
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for Instrumented<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = this.span.0.clone().map(Context::attach);
        this.inner.poll(task)
    }
}

/// A span that is exported when it is dropped.
#[derive(Debug)]
struct EventSpan {
    context: SpanContext,
    data: Option<SpanData>,
    tracer: &'static EventTracer,
}

impl opentelemetry::trace::Span for EventSpan {
    fn add_event_with_timestamp<T: Into<Cow<'static, str>>>(
        &mut self,
        name: T,
        timestamp: SystemTime,
        attributes: Vec<KeyValue>,
    ) {
        if let Some(data) = &mut self.data {
            data.events.events.push(Event::new(name, timestamp, attributes, 0));
        }
    }

    fn span_context(&self) -> &SpanContext {
        &self.context
    }

    fn is_recording(&self) -> bool {
        self.data.is_some()
    }

    fn set_attribute(&mut self, attribute: KeyValue) {
        if let Some(data) = &mut self.data {
            data.attributes.push(attribute);
        }
    }

    fn set_status(&mut self, status: Status) {
        if let Some(data) = &mut self.data {
            data.status = status;
        }
    }

    fn update_name<T: Into<Cow<'static, str>>>(&mut self, new_name: T) {
        if let Some(data) = &mut self.data {
            data.name = new_name.into();
        }
    }

    fn add_link(&mut self, span_context: SpanContext, attributes: Vec<KeyValue>) {
        if let Some(data) = &mut self.data {
            data.links.links.push(Link::new(span_context, attributes, 0));
        }
    }

    fn end_with_timestamp(&mut self, timestamp: SystemTime) {
        if let Some(mut data) = self.data.take() {
            data.end_time = timestamp;
            self.tracer.processor.on_end(data);
        }
    }
}

impl Drop for EventSpan {
    fn drop(&mut self) {
        self.end_with_timestamp(opentelemetry::time::now());
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor};

    use super::*;

    const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn traced(sampler: &'static str) -> (Operation, InMemorySpanExporter) {
        let spans = InMemorySpanExporter::default();
        let sampling = Sampling::from_variables(|name| (name == "OTEL_TRACES_SAMPLER").then(|| sampler.to_owned()));
        let tracer = EventTracer::new(SimpleSpanProcessor::new(spans.clone()), sampling);
        let operation = Operation::of(Box::leak(Box::new(tracer)), "process orders".into(), SpanKind::Consumer);
        (Operation { attributes: vec![KeyValue::new("common", "c")], ..operation }, spans)
    }

    fn parent(text: &'static str) -> impl FnOnce() -> Option<Parent<'static>> {
        move || Parent::from_headers(|name| Some(if name == "traceparent" { text } else { "vendor=1" }))
    }

    fn own(attributes: &mut Vec<KeyValue>) {
        attributes.push(KeyValue::new("own", 1));
    }

    fn injected(span: &Span) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        span.inject(|name, value| headers.push((name.to_owned(), value.to_owned())));
        headers
    }

    #[tokio::test]
    async fn a_sampled_trace_has_a_span_and_the_code_runs_inside_it() {
        let (operation, spans) = traced("parentbased_always_on");
        let span = operation.start(parent(SAMPLED), own);
        let headers = injected(&span);
        let inside = async {
            Span::current().set_error("503");
            injected(&Span::current())
        };
        assert_eq!(inside.instrument(span.clone()).await, headers);
        assert!(injected(&Span::current()).is_empty());
        assert!(spans.get_finished_spans().unwrap().is_empty(), "it has not ended");
        drop(span);
        let finished = spans.get_finished_spans().unwrap();
        let [span] = &*finished else { panic!("{finished:?}") };
        assert_eq!((&*span.name, &span.span_kind), ("process orders", &SpanKind::Consumer));
        assert_eq!(span.parent_span_id.to_string(), "b7ad6b7169203331");
        assert!(span.parent_span_is_remote && span.end_time >= span.start_time);
        assert_eq!(span.status, Status::error("503"));
        let names: Vec<_> = span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        assert_eq!(names, ["common", "own", "error.type"]);
        let id = span.span_context.span_id();
        let expected = format!("00-0af7651916cd43dd8448eb211c80319c-{id}-01");
        assert_eq!(headers, [("traceparent".into(), expected), ("tracestate".into(), "vendor=1".to_owned())]);
    }

    #[test]
    fn what_is_not_sampled_is_no_span_and_its_attributes_are_not_asked_for() {
        let (operation, spans) = traced("parentbased_always_on");
        let never = |_: &mut Vec<KeyValue>| panic!("no span");
        assert!(injected(&operation.start(parent(UNSAMPLED), never)).is_empty());
        let off = operation.unexported();
        let not_asked = || panic!("nothing is exported");
        assert!(injected(&off.start(not_asked, never)).is_empty());
        assert!(spans.get_finished_spans().unwrap().is_empty());
    }

    #[test]
    fn a_trace_that_begins_unsampled_says_so_to_those_who_come_later() {
        let (operation, spans) = traced("parentbased_always_off");
        let headers = injected(&operation.start(|| None, |_| panic!("no span")));
        let [(_, parent)] = &*headers else { panic!("{headers:?}") };
        assert!(!TraceParent::parse(parent).unwrap().is_sampled, "{parent}");
        assert!(spans.get_finished_spans().unwrap().is_empty());
    }
}
