//! The exporters: providers for the three signals, one gRPC runtime below them, and their orderly end.

use std::env;
use std::sync::mpsc;
use std::time::Duration;

use opentelemetry::{Context, global};
use opentelemetry_otlp::{LogExporter, MetricExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::{BatchConfigBuilder as LogBatch, BatchLogProcessor, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::oneshot;

use crate::sampling::Sampling;
use crate::span_export::{Limits, SpanQueue};
use crate::target::Target;
use crate::{Error, EventTracer};

/// Log records that wait for export at most: they are rare beside spans, and on standard output anyway.
const LOG_QUEUE: usize = 256;
const LOG_BATCH: usize = 64;
/// How long the end may take, with a Collector that does not answer.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// The providers of the three signals, and the thread on which their connections live.
pub struct Providers {
    pub traces: SdkTracerProvider,
    pub metrics: SdkMeterProvider,
    pub logs: SdkLoggerProvider,
    /// Dropped, it ends the connection's thread.
    _connection: oneshot::Sender<()>,
}

/// Builds the exporters and makes their providers the global ones.
///
/// # Errors
/// The endpoint cannot be used, or the thread does not start. That nothing listens there is not an error.
pub fn start(resource: Resource) -> Result<Providers, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let providers = build(resource)?;
    drop(entered);
    let (connection, ended) = oneshot::channel();
    std::thread::Builder::new().name("telemetry".to_owned()).spawn(move || {
        // What the connection itself logs or traces is never exported: it would cause the next export.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        // Both a message and a dropped sender end it.
        let _ = runtime.block_on(ended);
    })?;
    let (traces, metrics, logs) = providers;
    global::set_tracer_provider(traces.clone());
    global::set_meter_provider(metrics.clone());
    Ok(Providers { traces, metrics, logs, _connection: connection })
}

fn build(resource: Resource) -> Result<(SdkTracerProvider, SdkMeterProvider, SdkLoggerProvider), Error> {
    let variable = |name: &str| env::var(name).ok();
    let (target, spans) = (Target::from_variables(variable)?, SpanQueue::new(Limits::from_variables(variable)));
    tokio::spawn(spans.clone().export(target.channel()?, target, resource.clone()));
    EventTracer::new(spans.clone(), Sampling::from_variables(variable)).install();
    let records = BatchLogProcessor::builder(LogExporter::builder().with_tonic().build()?);
    let metrics = MetricExporter::builder().with_tonic().build()?;
    Ok((
        SdkTracerProvider::builder().with_span_processor(spans).with_resource(resource.clone()).build(),
        SdkMeterProvider::builder().with_periodic_exporter(metrics).with_resource(resource.clone()).build(),
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
            let results = [
                ("traces", providers.traces.shutdown_with_timeout(SHUTDOWN)),
                ("logs", providers.logs.shutdown_with_timeout(SHUTDOWN)),
                ("metrics", providers.metrics.shutdown()),
            ];
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
