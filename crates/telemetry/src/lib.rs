//! OpenTelemetry for Tidegate's programs: one call at the start, one at the end.
//!
//! Logs always go to standard output, a JSON object per line, at the level `RUST_LOG` names (`info` without it).
//! Where `OTEL_EXPORTER_OTLP_ENDPOINT` is set, traces, metrics and logs also go there by OTLP over gRPC; the
//! other `OTEL_*` variables of the specification (sampler, intervals, headers, timeouts, resource) apply.
//! Without it nothing of the exporters exists: no thread, no queue. Where `OTEL_METRICS_EXPORTER` names `prometheus`,
//! [`exposition`] gives the same metrics as text for a server that scrapes them; that needs neither.
//!
//! # Threads
//! A sidecar runs on one thread and must stay small, and an export must not wait for an event nor an event for
//! an export. So the gRPC connections live on a small runtime of their own (one thread, in [`export`]), which also
//! sends the spans, and the SDK's processors of metrics and logs keep their two threads, which sleep between exports.
//! The program's own runtime is not needed for any of it: [`init`] may be called before there is one, and
//! [`Guard::shutdown`] after it has ended.

mod event_span;
mod export;
mod format;
mod otlp;
mod propagation;
mod resource;
mod sampling;
mod scrape;
mod series;
mod server;
mod span_export;
mod subscriber;
mod target;

pub use event_span::{EventTracer, Instrument, Instrumented, Operation, Parent, Span};
pub use export::Guard;
pub use propagation::{TraceParent, trace_state};
pub use sampling::Sampling;
pub use scrape::{EXPOSITION_CONTENT_TYPE, exposition};
pub use series::SeriesBy;
pub use server::Server;
pub use target::InvalidTarget;

use export::Exporters;
use opentelemetry::metrics::Meter;
use opentelemetry::{InstrumentationScope, KeyValue, global};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The variable that switches the export on: the Collector's address, `http://host:4317`.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The instruments of a program: a scope whose names are those of the semantic conventions of this version.
pub fn meter(name: &'static str) -> Meter {
    global::meter_with_scope(scope(name))
}

fn scope(name: &'static str) -> InstrumentationScope {
    InstrumentationScope::builder(name).with_schema_url(opentelemetry_semantic_conventions::SCHEMA_URL).build()
}

/// The program that reports: becomes the resource of everything that is exported.
#[derive(Clone, Debug)]
pub struct Service {
    /// `service.name`, unless `OTEL_SERVICE_NAME` says otherwise.
    pub name: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// What else describes this process, for example the topic it serves. `OTEL_RESOURCE_ATTRIBUTES` wins
    /// over them.
    pub attributes: Vec<KeyValue>,
}

/// Why there is no telemetry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An `OTEL_EXPORTER_OTLP_*` variable cannot be used: correct it.
    #[error("telemetry endpoint: {0}")]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The variables ask for what cannot be used, of the traces' endpoint or of the metrics' exporters: correct them.
    #[error("telemetry: {0}")]
    Target(#[from] InvalidTarget),
    /// The metrics cannot be made ready for a scrape.
    #[error("telemetry: metrics for Prometheus: {0}")]
    Scrape(opentelemetry_sdk::error::OTelSdkError),
    /// The thread of the exporters did not start.
    #[error("telemetry thread: {0}")]
    Thread(#[from] std::io::Error),
    /// [`init`] was called before in this process.
    #[error("telemetry is already set up: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logs, and the export of traces, metrics and logs if there is an endpoint for them. Once per process.
///
/// # Errors
/// The endpoint is not an `http://` address, there is no such exporter of metrics, a thread cannot be started, or there was a call before.
pub fn init(service: Service) -> Result<Guard, Error> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let variable = |name: &str| std::env::var(name).ok();
    let exporters = Exporters::from_variables(variable)?;
    let providers = export::start(resource::of(service, variable), exporters)?;
    subscriber::install(providers.as_ref().and_then(|providers| providers.otlp.as_ref()))?;
    Ok(Guard::new(providers))
}
