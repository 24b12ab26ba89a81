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

use crate::PER_EVENT;
use crate::export::Providers;
use crate::format::Line;

/// What the way to the Collector is made of: exported, its own spans and logs would never end.
const TRANSPORT: [&str; 5] = ["h2", "hyper", "opentelemetry", "tonic", "tower"];

/// Makes the process's subscriber of them.
pub fn install(providers: Option<&Providers>) -> Result<(), TryInitError> {
    Registry::default().with(layers(providers, std::io::stdout)).try_init()
}

/// Only those that have something to do: one that is absent is still asked, and wants every span.
fn layers<W>(providers: Option<&Providers>, writer: W) -> Vec<Box<dyn Layer<Registry> + Send + Sync>>
where
    W: for<'w> MakeWriter<'w> + 'static + Send + Sync,
{
    let mut layers = Vec::new();
    if let Some(providers) = providers {
        let bridge = OpenTelemetryTracingBridge::new(&providers.logs);
        layers.push(traces(providers.traces.tracer_with_scope(crate::scope("tidegate"))).boxed());
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
        .with_filter(level().and(filter_fn(|of| !(of.is_span() && of.target() == PER_EVENT))))
}

/// What `RUST_LOG` says, `info` without it. Only a filter that names them shows the SDK start and stop, at `info`, and
/// what the NATS client says of connections without saying whose: the programs say it themselves.
fn level() -> EnvFilter {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let filter = EnvFilter::new(wanted);
    if filter.max_level_hint() <= Some(LevelFilter::WARN) {
        return filter;
    }
    let quiet = ["opentelemetry=warn", "async_nats=off"];
    let unnamed = quiet.iter().filter(|quiet| !wanted.contains(quiet.split('=').next().unwrap_or_default()));
    EnvFilter::new(unnamed.fold(wanted.to_owned(), |wanted, quiet| format!("{wanted},{quiet}")))
}

fn transport(target: &str) -> bool {
    TRANSPORT.iter().any(|name| target.starts_with(name))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

    use super::*;

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
    fn an_events_span_is_nothing_where_nothing_is_exported() {
        let subscriber = Registry::default().with(layers(None, std::io::sink));
        tracing::subscriber::with_default(subscriber, || {
            assert!(tracing::info_span!(target: PER_EVENT, "process").is_disabled());
            assert!(!tracing::info_span!("other").is_disabled());
        });
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

    #[test]
    fn an_events_span_is_exported_and_only_its_trace_is_in_the_lines() {
        let (spans, lines) = observed(|| {
            tracing::info_span!(target: PER_EVENT, "process", id = "1").in_scope(|| tracing::info!("dead-lettered"));
        });
        assert_eq!(spans[0].0, "process");
        assert_eq!(lines[0]["trace_id"], spans[0].1);
        assert!(lines[0].get("span").is_none(), "{}", lines[0]);
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
