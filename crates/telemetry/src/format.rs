//! The lines on standard output: tracing-subscriber's JSON, with the trace they belong to.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::registry::LookupSpan;

/// One JSON object per event: `timestamp`, `level`, `target`, the event's own fields, `span` with its fields,
/// and `trace_id` and `span_id` where the event happens inside a span that is exported.
pub struct Line(Format<Json>);

impl Line {
    pub fn new() -> Self {
        Self(tracing_subscriber::fmt::format().json().flatten_event(true).with_span_list(false))
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, JsonFields> for Line {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(trace) = trace() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        match line.trim_end().strip_suffix('}') {
            Some(open) => writeln!(writer, "{open},{trace}}}"),
            None => writer.write_str(&line),
        }
    }
}

fn trace() -> Option<String> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| format!(r#""trace_id":"{}","span_id":"{}""#, span.trace_id(), span.span_id()))
    })
}
