//! Where spans and log events of this process go.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::trace::Tracer;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::export::Otlp;
use crate::format::Line;

/// What the way to the Collector is made of: exported, its own spans and logs would never end.
const TRANSPORT: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

/// Makes the process's subscriber of them.
pub fn install(otlp: Option<&Otlp>) -> Result<(), TryInitError> {
    Registry::default().with(layers(otlp, std::io::stdout)).try_init()
}

/// Only those that have something to do: one that is absent is still asked, and wants every span.
fn layers<W>(otlp: Option<&Otlp>, writer: W) -> Vec<Box<dyn Layer<Registry> + Send + Sync>>
where
    W: for<'w> MakeWriter<'w> + 'static + Send + Sync,
{
    let mut layers = Vec::new();
    if let Some(otlp) = otlp {
        let bridge = OpenTelemetryTracingBridge::new(&otlp.logs);
        layers.push(traces(otlp.traces.tracer_with_scope(crate::scope("tidegate"))).boxed());
        layers.push(bridge.with_filter(level().and(filter_fn(|of| !transport(of.target())))).boxed());
    }
    layers.push(lines(writer).boxed());
    layers
}

/// Spans only: log events are exported as logs, with the span they belong to.
fn traces<S: Subscriber + for<'a> LookupSpan<'a>>(tracer: Tracer) -> impl Layer<S> {
    OpenTelemetryLayer::new(tracer)
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(exported_span).with_max_level_hint(LevelFilter::INFO))
}

fn exported_span(of: &Metadata<'_>) -> bool {
    of.is_span() && *of.level() <= LevelFilter::INFO && !transport(of.target())
}

fn lines<S, W>(writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static + Send + Sync,
{
    tracing_subscriber::fmt::layer()
        .fmt_fields(JsonFields::new())
        .event_format(Line::new())
        .with_writer(writer)
        .with_filter(level())
}

/// The targets of the SDK, which says at `info` that it starts and stops.
const SDK: &str = "opentelemetry";

/// What `RUST_LOG` says, `info` without it. Only a filter that names the SDK shows what it says at `info`.
fn level() -> EnvFilter {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let filter = EnvFilter::new(wanted);
    if filter.max_level_hint() <= Some(LevelFilter::WARN) {
        return filter;
    }
    if wanted.contains(SDK) { filter } else { EnvFilter::new(format!("{wanted},{SDK}=warn")) }
}

fn transport(target: &str) -> bool {
    TRANSPORT.iter().any(|name| target.starts_with(name))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use opentelemetry::Context;
    use opentelemetry::trace::SpanKind;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor};

    use super::*;
    use crate::{EventTracer, Instrument as _, Operation, Sampling};

    #[derive(Debug)]
    struct Discard;

    impl SpanProcessor for Discard {
        fn on_start(&self, _: &mut Span, _: &Context) {}

        fn on_end(&self, _: SpanData) {}

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[derive(Clone, Debug, Default)]
    struct Spans(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Spans {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    /// Runs `work` under the layers of a program and returns the exported spans' names and ids, and the lines.
    fn observed(work: impl FnOnce()) -> (Vec<(String, String)>, Vec<serde_json::Value>) {
        let spans = Spans::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
        let output = Output::default();
        let writer = output.clone();
        let subscriber = Registry::default().with(traces(provider.tracer("test"))).with(lines(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, work);
        let spans = std::mem::take(&mut *spans.0.lock().unwrap()).into_iter();
        let spans = spans.map(|span| (span.name.to_string(), span.span_context.trace_id().to_string())).collect();
        let written = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        (spans, written.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[test]
    fn a_line_names_the_trace_it_belongs_to() {
        let (spans, lines) = observed(|| {
            tracing::info_span!("deliver", handler = "billing")
                .in_scope(|| tracing::info!(attempt = 2, "handler answered"));
            tracing::info!("outside");
        });
        assert_eq!(spans[0].0, "deliver");
        assert_eq!(lines[0]["message"], "handler answered");
        assert_eq!(lines[0]["attempt"], 2);
        assert_eq!(lines[0]["span"]["handler"], "billing");
        assert_eq!(lines[0]["trace_id"], spans[0].1);
        assert_eq!(lines[0]["span_id"].as_str().unwrap().len(), 16);
        assert_eq!(lines[1]["message"], "outside");
        assert!(lines[1].get("trace_id").is_none());
    }

    #[tokio::test]
    async fn a_line_names_the_trace_of_an_events_span() {
        let tracer = Box::leak(Box::new(EventTracer::new(Discard, Sampling::default())));
        let operation = Operation::of(tracer, "process".to_owned(), SpanKind::Consumer);
        let span = operation.start(|| None, |_| {});
        let mut parent = String::new();
        span.inject(|_, value| parent = value.to_owned());
        let output = Output::default();
        let writer = output.clone();
        let subscriber = Registry::default().with(lines(move || writer.clone()));
        let _guard = tracing::subscriber::set_default(subscriber);
        async { tracing::info!("dead-lettered") }.instrument(span).await;
        let line: serde_json::Value = serde_json::from_slice(&output.0.lock().unwrap()).unwrap();
        assert_eq!(
            format!("00-{}-{}-01", line["trace_id"].as_str().unwrap(), line["span_id"].as_str().unwrap()),
            parent
        );
        assert!(line.get("span").is_none(), "{line}");
    }

    #[test]
    fn neither_details_nor_the_transport_are_exported() {
        let (spans, _) = observed(|| {
            let _debug = tracing::debug_span!("detail").entered();
            let _transport = tracing::info_span!(target: "h2::client", "connection").entered();
            let _ours = tracing::info_span!("publish").entered();
        });
        let names: Vec<_> = spans.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["publish"]);
    }
}
