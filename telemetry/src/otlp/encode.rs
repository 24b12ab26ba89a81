//! Spans as OTLP, written into one buffer.
//!
//! Field numbers: opentelemetry-proto, `trace/v1/trace.proto`, `common/v1/common.proto`, `resource/v1/resource.proto`.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{Event, Link, SpanId, SpanKind, Status};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;

/// The wire types of Protocol Buffers.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// Bytes for the length of a message: below 128 bytes, 16 KiB, 4 GiB.
const SHORT: usize = 1;
const MEDIUM: usize = 2;
const LONG: usize = 5;

/// `SpanFlags`: whether the parent is remote is known, and is so.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// A `Resource` and its schema, the same for all requests of a process.
#[derive(Clone, Debug, Default)]
pub struct EncodedResource {
    resource: Vec<u8>,
    schema_url: String,
}

impl From<&Resource> for EncodedResource {
    fn from(resource: &Resource) -> Self {
        let mut encoded = Vec::new();
        for (key, value) in resource.iter() {
            attribute(&mut encoded, 1, key.as_str(), value);
        }
        Self { resource: encoded, schema_url: resource.schema_url().unwrap_or_default().to_owned() }
    }
}

/// Writes an `ExportTraceServiceRequest` of these spans, grouped by scope.
pub fn request(out: &mut Vec<u8>, spans: &[SpanData], resource: &EncodedResource) {
    let mut scopes: Vec<&InstrumentationScope> = Vec::new();
    for span in spans {
        if !scopes.contains(&&span.instrumentation_scope) {
            scopes.push(&span.instrumentation_scope);
        }
    }
    nested::<LONG>(out, 1, |out| {
        bytes(out, 1, &resource.resource);
        for scope in scopes {
            nested::<LONG>(out, 2, |out| scope_spans(out, scope, spans));
        }
        text(out, 3, &resource.schema_url);
    });
}

/// A `ScopeSpans` of those spans that have this scope.
fn scope_spans(out: &mut Vec<u8>, scope: &InstrumentationScope, spans: &[SpanData]) {
    nested::<SHORT>(out, 1, |out| {
        text(out, 1, scope.name());
        text(out, 2, scope.version().unwrap_or_default());
        attributes(out, 3, scope.attributes());
    });
    for span in spans.iter().filter(|span| span.instrumentation_scope == *scope) {
        nested::<MEDIUM>(out, 2, |out| encode_span(out, span));
    }
    text(out, 3, scope.schema_url().unwrap_or_default());
}

fn encode_span(out: &mut Vec<u8>, span: &SpanData) {
    let context = &span.span_context;
    bytes(out, 1, &context.trace_id().to_bytes());
    bytes(out, 2, &context.span_id().to_bytes());
    text(out, 3, &context.trace_state().header());
    if span.parent_span_id != SpanId::INVALID {
        bytes(out, 4, &span.parent_span_id.to_bytes());
    }
    text(out, 5, &span.name);
    number(out, 6, kind(&span.span_kind));
    nanoseconds(out, 7, span.start_time);
    nanoseconds(out, 8, span.end_time);
    attributes(out, 9, span.attributes.iter());
    number(out, 10, u64::from(span.dropped_attributes_count));
    for event in span.events.iter() {
        nested::<SHORT>(out, 11, |out| encode_event(out, event));
    }
    number(out, 12, u64::from(span.events.dropped_count));
    for link in span.links.iter() {
        nested::<SHORT>(out, 13, |out| encode_link(out, link));
    }
    number(out, 14, u64::from(span.links.dropped_count));
    nested::<SHORT>(out, 15, |out| encode_status(out, &span.status));
    flags(out, 16, context.trace_flags().to_u8(), span.parent_span_is_remote);
}

fn encode_event(out: &mut Vec<u8>, event: &Event) {
    nanoseconds(out, 1, event.timestamp);
    text(out, 2, &event.name);
    attributes(out, 3, event.attributes.iter());
    number(out, 4, u64::from(event.dropped_attributes_count));
}

fn encode_link(out: &mut Vec<u8>, link: &Link) {
    let context = &link.span_context;
    bytes(out, 1, &context.trace_id().to_bytes());
    bytes(out, 2, &context.span_id().to_bytes());
    text(out, 3, &context.trace_state().header());
    attributes(out, 4, link.attributes.iter());
    number(out, 5, u64::from(link.dropped_attributes_count));
    flags(out, 6, context.trace_flags().to_u8(), context.is_remote());
}

fn encode_status(out: &mut Vec<u8>, status: &Status) {
    match status {
        Status::Unset => {}
        Status::Ok => number(out, 3, 1),
        Status::Error { description } => {
            text(out, 2, description);
            number(out, 3, 2);
        }
    }
}

fn kind(kind: &SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

fn flags(out: &mut Vec<u8>, field: u64, trace_flags: u8, is_remote: bool) {
    let remote = if is_remote { HAS_IS_REMOTE | IS_REMOTE } else { HAS_IS_REMOTE };
    tag(out, field, FIXED32);
    out.extend_from_slice(&(u32::from(trace_flags) | remote).to_le_bytes());
}

fn attributes<'a>(out: &mut Vec<u8>, field: u64, attributes: impl Iterator<Item = &'a KeyValue>) {
    attributes.for_each(|KeyValue { key, value, .. }| attribute(out, field, key.as_str(), value));
}

/// A `KeyValue`. Most have values whose length is known at once.
fn attribute(out: &mut Vec<u8>, field: u64, key: &str, value: &Value) {
    nested::<SHORT>(out, field, |out| {
        text(out, 1, key);
        nested::<SHORT>(out, 2, |out| any_value(out, value));
    });
}

fn any_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        // A member of a oneof is written whatever its value.
        Value::Bool(value) => varint_field(out, 2, u64::from(*value)),
        Value::I64(value) => varint_field(out, 3, value.cast_unsigned()),
        Value::F64(value) => {
            tag(out, 4, FIXED64);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::String(value) => bytes(out, 1, value.as_str().as_bytes()),
        Value::Array(array) => nested::<SHORT>(out, 5, |out| encode_array(out, array)),
        // There is no other.
        _ => {}
    }
}

fn encode_array(out: &mut Vec<u8>, array: &Array) {
    let mut each = |value: Value| nested::<SHORT>(out, 1, |out| any_value(out, &value));
    match array {
        Array::Bool(values) => values.iter().for_each(|value| each(Value::Bool(*value))),
        Array::I64(values) => values.iter().for_each(|value| each(Value::I64(*value))),
        Array::F64(values) => values.iter().for_each(|value| each(Value::F64(*value))),
        Array::String(values) => values.iter().for_each(|value| each(Value::String(value.clone()))),
        // There is no other.
        _ => {}
    }
}

/// A field that is a message, with `N` bytes for its length: a number may be written with more bytes than it needs
/// (Protocol Buffers, "Encoding", varints). If it needs more, what follows is moved.
fn nested<const N: usize>(out: &mut Vec<u8>, field: u64, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    let start = out.len();
    out.extend_from_slice(&[0; N]);
    write(out);
    let length = (out.len() - start - N) as u64;
    if length >> (7 * N) == 0 {
        for (index, byte) in out[start..start + N].iter_mut().enumerate() {
            let more = if index + 1 < N { 0x80 } else { 0 };
            *byte = (length >> (7 * index) & 0x7f) as u8 | more;
        }
    } else {
        let mut prefix = Vec::with_capacity(10);
        varint(&mut prefix, length);
        out.splice(start..start + N, prefix);
    }
}

/// A string field, unless it is empty, which is what a field is that is not there.
fn text(out: &mut Vec<u8>, field: u64, value: &str) {
    if !value.is_empty() {
        bytes(out, field, value.as_bytes());
    }
}

/// A field of bytes, or a message that is encoded already.
fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    tag(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        varint_field(out, field, value);
    }
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

fn nanoseconds(out: &mut Vec<u8>, field: u64, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Enough until the year 2554.
    let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    tag(out, field, FIXED64);
    out.extend_from_slice(&nanoseconds.to_le_bytes());
}

fn tag(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::{SpanContext, TraceFlags, TraceId, TraceState};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
    use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
    use prost::Message as _;

    use super::*;

    fn context(id: u64, state: TraceState, is_remote: bool) -> SpanContext {
        SpanContext::new(TraceId::from(u128::from(id) << 40), SpanId::from(id), TraceFlags::SAMPLED, is_remote, state)
    }

    fn values() -> Vec<KeyValue> {
        vec![
            KeyValue::new("empty", ""),
            KeyValue::new("text", "täxt"),
            KeyValue::new("long", "x".repeat(20_000)),
            KeyValue::new("k".repeat(200), "y".repeat(130)),
            KeyValue::new("no", false),
            KeyValue::new("yes", true),
            KeyValue::new("zero", 0),
            KeyValue::new("negative", i64::MIN),
            KeyValue::new("large", i64::MAX),
            KeyValue::new("float", 0.25),
            KeyValue::new("bools", Value::Array(vec![true, false].into())),
            KeyValue::new("integers", Value::Array(vec![1, -1, 1 << 40].into())),
            KeyValue::new("floats", Value::Array(vec![0.0, f64::MAX].into())),
            KeyValue::new("texts", Value::Array(Array::String(vec!["a".into(), "".into()]))),
        ]
    }

    fn span(id: u64, scope: &InstrumentationScope, status: Status, kind: SpanKind) -> SpanData {
        let at = |milliseconds| UNIX_EPOCH + Duration::from_millis(milliseconds);
        let state = TraceState::from_key_value([("vendor", "value")]).unwrap();
        let mut span = SpanData {
            span_context: context(id, state.clone(), false),
            parent_span_id: if id.is_multiple_of(2) { SpanId::INVALID } else { SpanId::from(7) },
            parent_span_is_remote: id % 2 == 1,
            span_kind: kind,
            name: format!("span {id}").into(),
            start_time: at(1_700_000_000_000 + id),
            end_time: at(1_700_000_000_001 + id),
            attributes: values(),
            dropped_attributes_count: u32::try_from(id).unwrap(),
            events: Default::default(),
            links: Default::default(),
            status,
            instrumentation_scope: scope.clone(),
        };
        span.events.events = vec![Event::new("event", at(5), values(), 3), Event::with_name("bare")];
        span.events.dropped_count = 9;
        span.links.links = vec![Link::new(context(3, state, true), values(), 1)];
        span.links.dropped_count = 200;
        span
    }

    /// The encoding of the SDK's own exporter, message for message.
    #[test]
    fn a_request_is_what_the_sdk_would_send() {
        let plain = InstrumentationScope::builder("plain").build();
        let full = InstrumentationScope::builder("full").with_version("1").with_schema_url("https://schema");
        let full = full.with_attributes(values()).build();
        let spans = [
            span(1, &plain, Status::Unset, SpanKind::Consumer),
            span(2, &full, Status::Ok, SpanKind::Producer),
            span(3, &plain, Status::error("503"), SpanKind::Client),
            span(4, &plain, Status::error(""), SpanKind::Internal),
            span(5, &full, Status::Unset, SpanKind::Server),
        ];
        for resource in [
            Resource::builder_empty().build(),
            Resource::builder_empty().with_schema_url(values(), "https://resource").build(),
        ] {
            for count in 1..=spans.len() {
                let mut encoded = Vec::new();
                request(&mut encoded, &spans[..count], &EncodedResource::from(&resource));
                let ours = ExportTraceServiceRequest::decode(&*encoded).unwrap();
                let attributes = ResourceAttributesWithSchema::from(&resource);
                let theirs = group_spans_by_resource_and_scope(spans[..count].to_vec(), &attributes);
                assert_eq!(ours, ExportTraceServiceRequest { resource_spans: theirs });
            }
        }
    }
}
