//! Spans as OTLP: messages of `trace/v1/trace.proto` and `common/v1/common.proto`, written into one buffer as the spans
//! end.
//!
//! The SDK's exporter makes a tree of messages of each span, with a string for every key and value, and writes that: it
//! took three microseconds a span, more than everything else that is done for a span.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

/// A buffer of protobuf fields.
#[derive(Debug, Default)]
pub struct Fields(Vec<u8>);

/// How the value of a field is written (protobuf's encoding, "Message structure").
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Delimited = 2,
    Fixed32 = 5,
}

/// `SpanFlags`: whether the parent is remote is known, and whether it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

impl Fields {
    /// The fields as they are sent.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// A message of those fields.
    pub fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        self.tag(number, Wire::Delimited);
        let at = self.0.len();
        // Room for the length of a short message; a longer one is moved on.
        self.0.push(0);
        write(self);
        let mut length = Self::default();
        length.varint((self.0.len() - at - 1) as u64);
        if let [short] = length.0[..] {
            self.0[at] = short;
        } else {
            self.0.splice(at..=at, length.0);
        }
    }

    /// Fields that are written already, as a message.
    pub fn nested(&mut self, number: u32, fields: &Self) {
        self.bytes(number, &fields.0);
    }

    /// Adds fields that are written already.
    pub fn append(&mut self, fields: &Self) {
        self.0.extend_from_slice(&fields.0);
    }

    fn tag(&mut self, number: u32, wire: Wire) {
        self.varint(u64::from(number << 3 | wire as u32));
    }

    #[allow(clippy::cast_possible_truncation, reason = "seven bits are meant")]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u32, value: &[u8]) {
        self.tag(number, Wire::Delimited);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn text(&mut self, number: u32, value: &str) {
        if !value.is_empty() {
            self.bytes(number, value.as_bytes());
        }
    }

    fn number(&mut self, number: u32, value: u64) {
        if value != 0 {
            self.tag(number, Wire::Varint);
            self.varint(value);
        }
    }

    fn fixed64(&mut self, number: u32, value: u64) {
        self.tag(number, Wire::Fixed64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn fixed32(&mut self, number: u32, value: u32) {
        self.tag(number, Wire::Fixed32);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn time(&mut self, number: u32, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.fixed64(number, u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    }

    fn attributes<'a>(&mut self, number: u32, attributes: impl IntoIterator<Item = &'a KeyValue>) {
        for KeyValue { key, value, .. } in attributes {
            self.attribute(number, key.as_str(), value);
        }
    }

    /// `KeyValue`
    fn attribute(&mut self, number: u32, key: &str, value: &Value) {
        self.message(number, |fields| {
            fields.text(1, key);
            fields.message(2, |fields| fields.value(value));
        });
    }

    /// `AnyValue`
    #[allow(clippy::cast_sign_loss, reason = "protobuf writes the two's complement")]
    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.bytes(1, text.as_str().as_bytes()),
            Value::Bool(value) => {
                self.tag(2, Wire::Varint);
                self.varint(u64::from(*value));
            }
            Value::I64(value) => {
                self.tag(3, Wire::Varint);
                self.varint(*value as u64);
            }
            Value::F64(value) => self.fixed64(4, value.to_bits()),
            Value::Array(array) => self.message(5, |fields| fields.array(array)),
            // There are no others.
            _ => {}
        }
    }

    /// `ArrayValue`
    fn array(&mut self, array: &Array) {
        let mut add = |value: Value| self.message(1, |fields| fields.value(&value));
        match array {
            Array::Bool(values) => values.iter().for_each(|value| add(Value::Bool(*value))),
            Array::I64(values) => values.iter().for_each(|value| add(Value::I64(*value))),
            Array::F64(values) => values.iter().for_each(|value| add(Value::F64(*value))),
            Array::String(values) => values.iter().for_each(|value| add(Value::String(value.clone()))),
            // There are no others.
            _ => {}
        }
    }

    /// A `Span`, as a field of `ScopeSpans`.
    pub fn span(&mut self, span: &SpanData) {
        self.message(2, |fields| fields.span_fields(span));
    }

    fn span_fields(&mut self, span: &SpanData) {
        self.identity(&span.span_context);
        if span.parent_span_id != SpanId::INVALID {
            self.bytes(4, &span.parent_span_id.to_bytes());
        }
        self.text(5, &span.name);
        self.number(6, kind(&span.span_kind));
        self.time(7, span.start_time);
        self.time(8, span.end_time);
        self.attributes(9, &span.attributes);
        self.number(10, span.dropped_attributes_count.into());
        for event in span.events.iter() {
            self.message(11, |fields| {
                fields.time(1, event.timestamp);
                fields.text(2, &event.name);
                fields.attributes(3, &event.attributes);
                fields.number(4, event.dropped_attributes_count.into());
            });
        }
        self.number(12, span.events.dropped_count.into());
        for link in span.links.iter() {
            self.message(13, |fields| fields.link(link));
        }
        self.number(14, span.links.dropped_count.into());
        self.message(15, |fields| fields.status(&span.status));
        self.fixed32(16, flags(&span.span_context, span.parent_span_is_remote));
    }

    fn link(&mut self, link: &Link) {
        self.identity(&link.span_context);
        self.attributes(4, &link.attributes);
        self.number(5, link.dropped_attributes_count.into());
        self.fixed32(6, flags(&link.span_context, link.span_context.is_remote()));
    }

    /// What a `Span` and a `Link` begin with.
    fn identity(&mut self, context: &SpanContext) {
        self.bytes(1, &context.trace_id().to_bytes());
        self.bytes(2, &context.span_id().to_bytes());
        self.text(3, &context.trace_state().header());
    }

    fn status(&mut self, status: &Status) {
        match status {
            Status::Unset => {}
            Status::Ok => self.number(3, 1),
            Status::Error { description } => {
                self.text(2, description);
                self.number(3, 2);
            }
        }
    }

    /// The `Resource` and its schema, as fields of `ResourceSpans`.
    pub fn resource(&mut self, resource: &Resource) {
        self.message(1, |fields| {
            for (key, value) in resource.iter() {
                fields.attribute(1, key.as_str(), value);
            }
        });
        self.text(3, resource.schema_url().unwrap_or_default());
    }

    /// The `InstrumentationScope` and its schema, as fields of `ScopeSpans`.
    pub fn scope(&mut self, scope: &InstrumentationScope) {
        self.message(1, |fields| {
            fields.text(1, scope.name());
            fields.text(2, scope.version().unwrap_or_default());
            fields.attributes(3, scope.attributes());
        });
        self.text(3, scope.schema_url().unwrap_or_default());
    }
}

/// `SpanKind`
fn kind(kind: &SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn flags(context: &SpanContext, is_remote: bool) -> u32 {
    let remote = if is_remote { IS_REMOTE } else { 0 };
    u32::from(context.trace_flags().to_u8()) | HAS_IS_REMOTE | remote
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::Duration;

    use opentelemetry::StringValue;
    use opentelemetry::trace::{Event, TraceFlags, TraceId, TraceState};
    use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
    use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
    use prost::Message as _;

    use super::*;

    fn context(id: u64, state: &str) -> SpanContext {
        let state = state.parse::<TraceState>().unwrap();
        SpanContext::new(TraceId::from(u128::from(id) << 64 | 7), SpanId::from(id), TraceFlags::SAMPLED, id == 2, state)
    }

    fn attributes() -> Vec<KeyValue> {
        let texts = vec![StringValue::from("a"), StringValue::from("")];
        vec![
            KeyValue::new("text", "x".repeat(300)),
            KeyValue::new("empty", ""),
            KeyValue::new("yes", true),
            KeyValue::new("no", false),
            KeyValue::new("number", -5_i64),
            KeyValue::new("zero", 0_i64),
            KeyValue::new("real", 0.25),
            KeyValue::new("texts", Value::Array(Array::String(texts))),
            KeyValue::new("numbers", Value::Array(Array::I64(vec![0, -1, i64::MAX]))),
            KeyValue::new("flags", Value::Array(Array::Bool(vec![true, false]))),
            KeyValue::new("reals", Value::Array(Array::F64(vec![]))),
        ]
    }

    fn spans() -> Vec<SpanData> {
        let start = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let bare = SpanData {
            span_context: context(1, ""),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed(""),
            start_time: UNIX_EPOCH,
            end_time: UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("scope").build(),
        };
        let mut full = SpanData {
            span_context: context(2, "vendor=1,other=2"),
            parent_span_id: SpanId::from(9),
            parent_span_is_remote: true,
            name: Cow::Borrowed("process orders"),
            start_time: start,
            end_time: start + Duration::from_nanos(1),
            attributes: attributes(),
            dropped_attributes_count: 300,
            status: Status::error("503"),
            ..bare.clone()
        };
        full.events.events.push(Event::new("noted", start, attributes(), 4));
        full.events.dropped_count = 5;
        full.links.links.push(Link::new(context(2, "v=1"), attributes(), 6));
        full.links.links.push(Link::with_context(context(3, "")));
        full.links.dropped_count = 7;
        let kinds = [SpanKind::Server, SpanKind::Client, SpanKind::Producer, SpanKind::Consumer];
        let others = kinds.map(|span_kind| SpanData { span_kind, status: Status::Ok, ..bare.clone() });
        [bare, full].into_iter().chain(others).collect()
    }

    /// The reference is what the SDK's exporter sends.
    #[test]
    fn what_is_written_is_what_the_sdk_sends() {
        let resource = Resource::builder_empty()
            .with_attributes(attributes())
            .with_schema_url([], "https://example.com/schema")
            .build();
        let scope = InstrumentationScope::builder("scope").with_version("2").with_schema_url("https://example.com/s");
        let scope = scope.with_attributes(attributes()).build();
        let spans = spans().into_iter().map(|span| SpanData { instrumentation_scope: scope.clone(), ..span });
        let spans = spans.collect::<Vec<_>>();
        let mut scope_spans = Fields::default();
        scope_spans.scope(&scope);
        spans.iter().for_each(|span| scope_spans.span(span));
        let mut written = Fields::default();
        written.resource(&resource);
        written.nested(2, &scope_spans);
        let expected = group_spans_by_resource_and_scope(spans, &(&resource).into());
        assert_eq!(ResourceSpans::decode(&*written.into_bytes()).unwrap(), expected[0]);
    }
}
