//! The exporters: providers for the three signals, one gRPC runtime below those of a Collector, and their orderly end.

use std::env;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::{Context, global};
use opentelemetry_otlp::{LogExporter, MetricExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder as LogBatch, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::sampling::Sampling;
use crate::span_export::{Limits, SpanQueue};
use crate::target::{InvalidTarget, Target};
use crate::{Error, EventTracer, scrape};

/// Where metrics go: a list of names that the specification gives.
const METRICS_EXPORTER: &str = "OTEL_METRICS_EXPORTER";

/// Log records that wait for export at most: they are rare beside spans, and on standard output anyway.
const LOG_QUEUE: usize = 256;
const LOG_BATCH: usize = 64;
/// How long the end may take, with a Collector that does not answer.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// What this process exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exporters {
    /// Traces and logs to a Collector.
    otlp: bool,
    /// Metrics to a Collector.
    otlp_metrics: bool,
    /// Metrics to a Prometheus server that scrapes them.
    prometheus: bool,
}

impl Exporters {
    /// What these variables say. `OTEL_METRICS_EXPORTER` is a list of `otlp` (which needs an endpoint), `prometheus` and
    /// `none`; without it, `otlp`.
    ///
    /// # Errors
    /// The list has something else.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidTarget> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let otlp = set(crate::ENDPOINT).is_some();
        let listed = set(METRICS_EXPORTER).unwrap_or_else(|| "otlp".to_owned());
        let mut exporters = Self { otlp, otlp_metrics: false, prometheus: false };
        for name in listed.split(',').map(str::trim) {
            match name {
                "otlp" => exporters.otlp_metrics = otlp,
                "prometheus" => exporters.prometheus = true,
                "none" => {}
                _ => return Err(InvalidTarget::Unsupported(METRICS_EXPORTER, listed)),
            }
        }
        Ok(exporters)
    }
}

/// The providers of what is exported.
pub struct Providers {
    /// To the Collector; `None`: there is none.
    pub otlp: Option<Otlp>,
    metrics: SdkMeterProvider,
}

/// The providers of traces and logs, and the thread on which the connections to the Collector live.
pub struct Otlp {
    pub traces: SdkTracerProvider,
    pub logs: SdkLoggerProvider,
    /// Dropped, it ends the connection's thread.
    _connection: oneshot::Sender<()>,
}

/// Builds the exporters and makes their providers the global ones. `None`: nothing is exported.
///
/// # Errors
/// The endpoint cannot be used, or the thread does not start. That nothing listens there is not an error.
pub fn start(resource: Resource, exporters: Exporters) -> Result<Option<Providers>, Error> {
    let Exporters { otlp, otlp_metrics, prometheus } = exporters;
    if !otlp && !prometheus {
        return Ok(None);
    }
    let mut meters = SdkMeterProvider::builder().with_resource(resource.clone());
    if prometheus {
        meters = meters.with_reader(scrape::reader()?);
    }
    let mut connected = None;
    if otlp {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (traces, logs) = build(resource)?;
        if otlp_metrics {
            meters = meters.with_periodic_exporter(MetricExporter::builder().with_tonic().build()?);
        }
        drop(entered);
        global::set_tracer_provider(traces.clone());
        connected = Some(Otlp { traces, logs, _connection: keep(runtime)? });
    }
    let metrics = meters.build();
    global::set_meter_provider(metrics.clone());
    Ok(Some(Providers { otlp: connected, metrics }))
}

/// Runs the connections on a thread of their own, until what is returned is dropped.
fn keep(runtime: Runtime) -> Result<oneshot::Sender<()>, Error> {
    let (connection, ended) = oneshot::channel();
    std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
        // What the connection itself logs or traces is never exported: it would cause the next export.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        // Both a message and a dropped sender end it.
        let _ = runtime.block_on(ended);
    })?;
    Ok(connection)
}

fn build(resource: Resource) -> Result<(SdkTracerProvider, SdkLoggerProvider), Error> {
    let variable = |name: &str| env::var(name).ok();
    let (target, spans) = (Target::from_variables(variable)?, SpanQueue::new(Limits::from_variables(variable)));
    tokio::spawn(spans.clone().export(target.channel()?, target, resource.clone()));
    EventTracer::new(spans.clone(), Sampling::from_variables(variable)).install();
    let records = BatchLogProcessor::builder(LogExporter::builder().with_tonic().build()?);
    Ok((
        SdkTracerProvider::builder().with_span_processor(spans).with_resource(resource.clone()).build(),
        SdkLoggerProvider::builder()
            .with_log_processor(records.with_batch_config(log_batch().build()).build())
            .with_resource(resource)
            .build(),
    ))
}

/// Small queues, unless the user asked for others by the variables the specification gives.
fn log_batch() -> LogBatch {
    if env::var_os("OTEL_BLRP_MAX_QUEUE_SIZE").is_some() || env::var_os("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE").is_some() {
        return LogBatch::default();
    }
    LogBatch::default().with_max_queue_size(LOG_QUEUE).with_max_export_batch_size(LOG_BATCH)
}

/// Keeps the export alive; give it back by [`Guard::shutdown`] before the process ends.
#[must_use = "dropped, it ends the export"]
pub struct Guard(Option<Providers>);

impl Guard {
    pub(crate) fn new(providers: Option<Providers>) -> Self {
        Self(providers)
    }

    /// Sends what is still queued and ends the export. Blocks at most three seconds, and needs nothing of
    /// the caller's runtime, so it may be called from anywhere; best from `main`, after the runtime.
    pub fn shutdown(self) {
        let Some(providers) = self.0 else { return };
        let (done, finished) = mpsc::channel();
        // On a thread of its own because the metric reader has no limit of its own that we could set.
        let flush = std::thread::Builder::new().name("telemetry-end".to_owned()).spawn(move || {
            let Providers { otlp, metrics } = providers;
            let mut results = Vec::new();
            if let Some(Otlp { traces, logs, .. }) = &otlp {
                results.push(("traces", traces.shutdown_with_timeout(SHUTDOWN)));
                results.push(("logs", logs.shutdown_with_timeout(SHUTDOWN)));
            }
            results.push(("metrics", metrics.shutdown()));
            for (signal, result) in results {
                if let Err(error) = result {
                    tracing::warn!(signal, %error, "telemetry: the last export failed");
                }
            }
            // The caller may have stopped waiting; there is no other receiver.
            let _ = done.send(());
        });
        if flush.is_err() || finished.recv_timeout(SHUTDOWN).is_err() {
            tracing::warn!("telemetry: the last export was given up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_go_where_the_variables_say() {
        let exporters = |endpoint: &str, listed: &str| {
            Exporters::from_variables(|name| match name {
                crate::ENDPOINT => Some(endpoint.to_owned()),
                METRICS_EXPORTER => Some(listed.to_owned()),
                _ => None,
            })
        };
        let of = |otlp, otlp_metrics, prometheus| Ok(Exporters { otlp, otlp_metrics, prometheus });
        for (endpoint, listed, expected) in [
            ("", "", of(false, false, false)),
            ("http://a:1", "", of(true, true, false)),
            ("", "otlp", of(false, false, false)),
            ("", "prometheus", of(false, false, true)),
            ("http://a:1", "prometheus", of(true, false, true)),
            ("http://a:1", "otlp, prometheus", of(true, true, true)),
            ("http://a:1", "none", of(true, false, false)),
            ("", "console", Err(InvalidTarget::Unsupported(METRICS_EXPORTER, "console".to_owned()))),
        ] {
            assert_eq!(exporters(endpoint, listed), expected, "{endpoint} {listed}");
        }
    }
}
