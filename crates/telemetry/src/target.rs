//! Where spans are sent, as the variables of the OTLP exporter's specification say.

use std::time::Duration;

use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};

use crate::span_export::Limits;

/// The Collector's address where no variable names one.
const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
/// How long an export may take, by default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a batch waits that is not full, by default.
const DEFAULT_DELAY: Duration = Duration::from_secs(5);
/// Spans that wait for export at most. The SDK's own default, 2048, costs twice the memory.
const DEFAULT_QUEUE: usize = 1024;
const DEFAULT_BATCH: usize = 256;
const COMPRESSION: &str = "OTEL_EXPORTER_OTLP_COMPRESSION";
const USER_AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// It is not the address of a Collector.
    #[error("{0:?} is not an address of the form http://host:4317")]
    Endpoint(String),
    /// What it asks for is not built in.
    #[error("{0}={1} is not supported: leave it out")]
    Unsupported(&'static str, String),
}

/// Where spans are sent.
#[derive(Clone, Debug)]
pub struct Target {
    endpoint: String,
    /// What each request says beside its spans.
    pub metadata: MetadataMap,
    timeout: Duration,
}

impl Target {
    /// What these variables say: those for traces, or else those for all signals.
    ///
    /// # Errors
    /// They ask for what there is not.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidTarget> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |traces: &str, all: &str| set(traces).or_else(|| set(all));
        let compression = either("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", COMPRESSION).filter(|value| value != "none");
        if let Some(value) = compression {
            return Err(InvalidTarget::Unsupported(COMPRESSION, value));
        }
        let mut endpoint = either("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", crate::ENDPOINT)
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let insecure = either("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE");
        if !endpoint.contains("://") && insecure.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            endpoint.insert_str(0, "http://");
        }
        let timeout = either("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT");
        let headers = either("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS");
        Ok(Self {
            endpoint,
            metadata: metadata(&headers.unwrap_or_default()),
            timeout: timeout.and_then(|text| text.parse().ok()).map_or(DEFAULT_TIMEOUT, Duration::from_millis),
        })
    }

    /// A channel there, which connects when it is used. To be called on a runtime.
    ///
    /// # Errors
    /// It is no address.
    pub fn channel(&self) -> Result<Channel, InvalidTarget> {
        let invalid = || InvalidTarget::Endpoint(self.endpoint.clone());
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|_| invalid())?;
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(invalid());
        }
        let endpoint = endpoint.user_agent(USER_AGENT).map_err(|_| invalid())?;
        Ok(endpoint.timeout(self.timeout).connect_lazy())
    }
}

/// `name=value,…`, the values percent-encoded (W3C Baggage). What is none is left out.
fn metadata(headers: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers.split(',').filter_map(|header| header.split_once('=')) {
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
        let name = AsciiMetadataKey::from_bytes(name.trim().to_ascii_lowercase().as_bytes());
        if let (Ok(name), Some(value)) = (name, value.ok().and_then(|value| AsciiMetadataValue::try_from(&*value).ok()))
        {
            metadata.append(name, value);
        }
    }
    metadata
}

impl Limits {
    /// Small ones, unless these variables (`OTEL_BSP_…`) say otherwise.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| variable(name)?.parse::<usize>().ok().filter(|number| *number > 0);
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE").unwrap_or(DEFAULT_QUEUE);
        let batch = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").unwrap_or(DEFAULT_BATCH).min(queue);
        let delay = number("OTEL_BSP_SCHEDULE_DELAY").and_then(|millis| u64::try_from(millis).ok());
        Self { queue, batch, delay: delay.map_or(DEFAULT_DELAY, Duration::from_millis) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |asked| set.iter().find(|(name, _)| *name == asked).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_variables_of_traces_come_before_those_of_all_signals() {
        let all = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20YQ==, x-a = b ,nonsense,bad name=1"),
        ];
        let target = Target::from_variables(variable(&all)).unwrap();
        assert_eq!((&*target.endpoint, target.timeout), ("http://collector:4317", Duration::from_millis(500)));
        assert_eq!(target.metadata.get("authorization").unwrap(), "Basic YQ==");
        assert_eq!(target.metadata.get("x-a").unwrap(), "b");
        assert_eq!(target.metadata.len(), 2);
        let traces = [
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b"),
        ];
        let target = Target::from_variables(variable(&[&all[..], &traces].concat())).unwrap();
        assert_eq!((&*target.endpoint, target.timeout), ("http://traces:1", Duration::from_millis(7)));
        assert_eq!(target.metadata.len(), 1);
        let insecure = [(crate::ENDPOINT, "collector:4317"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")];
        assert_eq!(Target::from_variables(variable(&insecure)).unwrap().endpoint, "http://collector:4317");
        let target = Target::from_variables(variable(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")])).unwrap();
        assert_eq!((&*target.endpoint, target.timeout), (DEFAULT_ENDPOINT, DEFAULT_TIMEOUT));
    }

    #[tokio::test]
    async fn what_there_is_not_is_refused() {
        for endpoint in ["https://collector:4317", "collector", "http://", "ftp://a:1", "http://a b"] {
            let target = Target::from_variables(variable(&[(crate::ENDPOINT, endpoint)])).unwrap();
            assert!(matches!(target.channel(), Err(InvalidTarget::Endpoint(_))), "{endpoint}");
        }
        let gzip = Target::from_variables(variable(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")]));
        assert!(matches!(gzip, Err(InvalidTarget::Unsupported(..))));
        assert!(Target::from_variables(variable(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "none")])).is_ok());
    }

    #[test]
    fn limits_are_small_unless_others_are_asked_for() {
        let small = Limits { queue: DEFAULT_QUEUE, batch: DEFAULT_BATCH, delay: DEFAULT_DELAY };
        for (set, expected) in [
            (&[][..], small),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "0"), ("OTEL_BSP_SCHEDULE_DELAY", "x")], small),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "9")], Limits { queue: 9, batch: 9, ..small }),
            (&[("OTEL_BSP_SCHEDULE_DELAY", "50")], Limits { delay: Duration::from_millis(50), ..small }),
            (&[("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3")], Limits { batch: 3, ..small }),
        ] {
            assert_eq!(Limits::from_variables(variable(set)), expected, "{set:?}");
        }
    }
}
