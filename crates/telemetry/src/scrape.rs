//! The process's metrics in the text format of Prometheus, for a server that scrapes them.
//!
//! The port that answers is open to the pod network, so what a stranger can cause has a bound: the metrics are collected
//! once a second at most, and whoever asks more often gets the text of before.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_prometheus::PrometheusExporter;
use prometheus::{Registry, TextEncoder};

use crate::Error;

/// `Content-Type` of [`exposition`].
pub const EXPOSITION_CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// How long a text is given again.
const TEXT_AGE: Duration = Duration::from_secs(1);

/// Suffixes that the exporter adds to names which have them already: those of `controller_runtime_…`, which are the
/// names that dashboards for controllers expect.
const DOUBLED: [(&str, &str); 2] = [("_total_total", "_total"), ("_seconds_seconds", "_seconds")];

/// The scrape of this process, as its meter provider is: absent where nobody asked for it.
static SCRAPE: OnceLock<Scrape> = OnceLock::new();

struct Scrape {
    registry: Registry,
    last: Mutex<Option<(Instant, Bytes)>>,
}

/// The metrics of this process as text, at most a second old; `None`: `OTEL_METRICS_EXPORTER` does not name
/// `prometheus`.
pub fn exposition() -> Option<Bytes> {
    SCRAPE.get().map(Scrape::text)
}

/// The reader by which [`exposition`] collects. Once per process: a second one is not collected.
pub fn reader() -> Result<PrometheusExporter, Error> {
    let registry = Registry::new();
    let exporter = exporter(&registry)?;
    SCRAPE.get_or_init(|| Scrape { registry, last: Mutex::new(None) });
    Ok(exporter)
}

fn exporter(registry: &Registry) -> Result<PrometheusExporter, Error> {
    let exporter = opentelemetry_prometheus::exporter().with_registry(registry.clone()).scope_info_enabled(false);
    exporter.build().map_err(Error::Scrape)
}

impl Scrape {
    fn text(&self) -> Bytes {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, text)) = &*last
            && at.elapsed() < TEXT_AGE
        {
            return text.clone();
        }
        let text = Bytes::from(collect(&self.registry));
        *last = Some((Instant::now(), text.clone()));
        text
    }
}

fn collect(registry: &Registry) -> String {
    let mut families = registry.gather();
    for family in &mut families {
        for (doubled, suffix) in DOUBLED {
            if let Some(name) = family.name().strip_suffix(doubled) {
                family.set_name(format!("{name}{suffix}"));
            }
        }
    }
    TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
        tracing::warn!(%error, "the metrics cannot be written as text");
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    use super::*;

    #[test]
    fn names_are_those_of_the_standard_translation() {
        let registry = Registry::new();
        let provider = SdkMeterProvider::builder().with_reader(exporter(&registry).unwrap()).build();
        let meter = provider.meter("test");
        let topic = [KeyValue::new("messaging.destination.name", "or\"ders\n")];
        meter.u64_counter("tidegate.delivery.settled").with_unit("{event}").build().add(2, &topic);
        meter.u64_counter("controller_runtime_reconcile_total").build().add(1, &[]);
        let seconds = |name| meter.f64_histogram(name).with_unit("s").with_boundaries(vec![0.5]).build();
        seconds("messaging.process.duration").record(0.25, &[]);
        seconds("controller_runtime_reconcile_time_seconds").record(0.25, &[]);
        meter.u64_gauge("tidegate.topic.size").with_unit("By").build().record(7, &[]);
        meter.f64_gauge("tidegate.topic.fill").with_unit("1").build().record(0.5, &[]);
        meter.i64_gauge("tidegate.broker.certificates.expire").with_unit("s").build().record(9, &[]);
        let text = collect(&registry);
        for line in [
            r#"tidegate_delivery_settled_total{messaging_destination_name="or\"ders\n"} 2"#,
            "controller_runtime_reconcile_total 1",
            r#"messaging_process_duration_seconds_bucket{le="0.5"} 1"#,
            "messaging_process_duration_seconds_count 1",
            "controller_runtime_reconcile_time_seconds_sum 0.25",
            "tidegate_topic_size_bytes 7",
            "tidegate_topic_fill_ratio 0.5",
            "tidegate_broker_certificates_expire_seconds 9",
        ] {
            assert!(text.lines().any(|of| of == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("otel_scope"), "{text}");
    }

    #[test]
    fn a_text_is_given_again_for_a_second() {
        let registry = Registry::new();
        let provider = SdkMeterProvider::builder().with_reader(exporter(&registry).unwrap()).build();
        let gauge = provider.meter("test").u64_gauge("tidegate.test").build();
        gauge.record(1, &[]);
        let scrape = Scrape { registry, last: Mutex::new(None) };
        let first = scrape.text();
        gauge.record(2, &[]);
        assert_eq!(scrape.text(), first);
        scrape.last.lock().unwrap().as_mut().unwrap().0 -= TEXT_AGE;
        assert!(String::from_utf8_lossy(&scrape.text()).contains("tidegate_test 2"));
    }
}
