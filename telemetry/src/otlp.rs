//! Spans to the Collector.

mod encode;
mod exporter;

pub use exporter::OtlpSpanExporter;
