//! The exporter of spans: OTLP over gRPC, of requests that are encoded from the spans without messages in between.
//!
//! The SDK's own makes a message of owned strings of every span first, which took more time than all else about it.
//! It is configured by the same variables (`OTEL_EXPORTER_OTLP_*`, those of traces before those of all signals).

use std::env;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt as _, Full, Limited};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};

use super::encode::{self, EncodedResource};
use crate::Error;

const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Before each message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Bytes of a response that are read.
const MAX_RESPONSE: usize = 4096;
/// The largest buffer that is kept for the next request.
const MAX_KEPT_BUFFER: usize = 1 << 20;
/// Without `OTEL_EXPORTER_OTLP_TIMEOUT`. All attempts of an export share it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts after the first one, at twice the distance each time.
const MAX_RETRIES: u32 = 3;
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Exports spans over one connection, which is made when it is needed.
#[derive(Debug)]
pub struct OtlpSpanExporter {
    channel: Channel,
    headers: HeaderMap,
    timeout: Duration,
    /// A buffer of hundreds of kilobytes that is made for each request costs more in page faults than what is written
    /// into it.
    buffer: Arc<Mutex<Vec<u8>>>,
    resource: EncodedResource,
    /// The runtime of the connection: the caller has none.
    runtime: Handle,
}

impl OtlpSpanExporter {
    /// An exporter as the environment wants it, whose connection lives on the current runtime.
    ///
    /// # Errors
    /// The endpoint is not an `http://` address.
    pub fn from_environment() -> Result<Self, Error> {
        let variable = |name: &str| {
            let set = |name: String| env::var(name).ok().filter(|value| !value.is_empty());
            set(format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| set(format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let address = variable("ENDPOINT").unwrap_or_default();
        let endpoint = Endpoint::from_shared(address.clone()).ok();
        let endpoint = endpoint.filter(|endpoint| endpoint.uri().scheme_str() == Some("http"));
        let channel = endpoint.ok_or(Error::TracesEndpoint(address))?.connect_lazy();
        let limit = variable("TIMEOUT").and_then(|text| text.parse().ok());
        Ok(Self {
            channel,
            headers: headers(&variable("HEADERS").unwrap_or_default()),
            buffer: Arc::default(),
            timeout: limit.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
            resource: EncodedResource::default(),
            runtime: Handle::current(),
        })
    }
}

impl SpanExporter for OtlpSpanExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let message = self.message(&batch);
        drop(batch);
        let (channel, headers, limit) = (self.channel.clone(), self.headers.clone(), self.timeout);
        let exported = self.runtime.spawn(async move {
            match timeout(limit, send(channel, &headers, message)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(status)) => Err(OTelSdkError::InternalFailure(format!("spans are not exported: {status}"))),
                Err(_) => Err(OTelSdkError::Timeout(limit)),
            }
        });
        // It is only cancelled with the runtime.
        exported.await.unwrap_or(Err(OTelSdkError::AlreadyShutdown))
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = EncodedResource::from(resource);
    }
}

impl OtlpSpanExporter {
    /// A message of gRPC, in the buffer of the last one if that is free.
    fn message(&self, batch: &[SpanData]) -> Bytes {
        let mut buffer = std::mem::take(&mut *self.buffer.lock().unwrap_or_else(PoisonError::into_inner));
        buffer.clear();
        buffer.extend_from_slice(&[0; PREFIX]);
        encode::request(&mut buffer, batch, &self.resource);
        // A batch is bounded far below 4 GiB; one beyond it would be refused for its length.
        let length = u32::try_from(buffer.len() - PREFIX).unwrap_or(u32::MAX);
        buffer[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        Bytes::from_owner(Lent { buffer, owner: Arc::clone(&self.buffer) })
    }
}

/// A buffer that goes back when nothing refers to it.
struct Lent {
    buffer: Vec<u8>,
    owner: Arc<Mutex<Vec<u8>>>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.buffer.capacity() <= MAX_KEPT_BUFFER {
            *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.buffer);
        }
    }
}

/// Sends a message, again while that can help.
async fn send(mut channel: Channel, headers: &HeaderMap, message: Bytes) -> Result<(), Status> {
    let mut delay = FIRST_RETRY_DELAY;
    for _ in 0..MAX_RETRIES {
        match attempt(&mut channel, headers, message.clone()).await {
            Err(status) if is_retryable(status.code()) => sleep(delay.mul_f64(1.0 + fastrand::f64() / 4.0)).await,
            ended => return ended,
        }
        delay *= 2;
    }
    attempt(&mut channel, headers, message).await
}

/// One call. It is written by hand because a client of tonic would copy the message.
async fn attempt(channel: &mut Channel, headers: &HeaderMap, message: Bytes) -> Result<(), Status> {
    let unavailable = |error: tonic::transport::Error| Status::unavailable(format!("{error:?}"));
    let mut request = http::Request::new(Body::new(Full::new(message)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static(PATH);
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers.clone();
    let response = channel.ready().await.map_err(unavailable)?.call(request).await.map_err(unavailable)?;
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(Status::unavailable(format!("HTTP status {}", head.status)));
    }
    // The status is in the headers if there is nothing else, in the trailers otherwise.
    if let Some(status) = Status::from_header_map(&head.headers) {
        return as_result(status);
    }
    let body = Limited::new(body, MAX_RESPONSE).collect().await;
    let body = body.map_err(|error| Status::unavailable(error.to_string()))?;
    let status = body.trailers().and_then(Status::from_header_map);
    as_result(status.ok_or_else(|| Status::unknown("the Collector's answer has no status"))?)?;
    // An ExportTraceServiceResponse says nothing but what it did not take. That is not sent again (OTLP, "Partial
    // success").
    let message = body.to_bytes();
    if let Some(rejected) = message.get(PREFIX..).filter(|rejected| !rejected.is_empty()) {
        tracing::warn!(response = %String::from_utf8_lossy(rejected), "the Collector did not take all spans");
    }
    Ok(())
}

fn as_result(status: Status) -> Result<(), Status> {
    if status.code() == Code::Ok { Ok(()) } else { Err(status) }
}

/// OTLP specification, "OTLP/gRPC response", "Failures".
fn is_retryable(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// The headers of a call: those of gRPC, and what the variable says (`key=value,key=value`, values percent-encoded). What
/// can be no header is left out.
fn headers(text: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name.trim()), HeaderValue::try_from(&*value)) {
            headers.append(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_from_the_variable() {
        let read = headers("api-key=secret, X-Tenant = a%20b,,broken,bad key=1,empty=,te=none");
        let mut pairs: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        pairs.sort_unstable();
        let grpc = [("content-type", "application/grpc"), ("empty", ""), ("te", "trailers"), ("x-tenant", "a b")];
        assert_eq!(pairs, [&[("api-key", "secret")][..], &grpc].concat());
    }

    #[test]
    fn a_buffer_goes_back_unless_it_is_too_large() {
        let owner = Arc::new(Mutex::new(Vec::new()));
        let lend =
            |capacity| Bytes::from_owner(Lent { buffer: Vec::with_capacity(capacity), owner: Arc::clone(&owner) });
        let message = lend(MAX_KEPT_BUFFER);
        let clone = message.clone();
        drop(message);
        assert_eq!(owner.lock().unwrap().capacity(), 0, "it is in use");
        drop(clone);
        assert_eq!(std::mem::take(&mut *owner.lock().unwrap()).capacity(), MAX_KEPT_BUFFER);
        drop(lend(MAX_KEPT_BUFFER + 1));
        assert_eq!(owner.lock().unwrap().capacity(), 0);
    }

    #[test]
    fn only_what_may_pass_is_sent_again() {
        for (code, retried) in [
            (Code::Unavailable, true),
            (Code::DataLoss, true),
            (Code::ResourceExhausted, false),
            (Code::InvalidArgument, false),
            (Code::Unimplemented, false),
            (Code::Unauthenticated, false),
        ] {
            assert_eq!(is_retryable(code), retried, "{code:?}");
        }
    }
}
