//! The exporter of spans: OTLP over gRPC, of requests that are encoded from the spans without messages in between.
//!
//! The SDK's own makes a message of owned strings of every span first, which took more time than all else about it.
//! It is configured by the same variables (`OTEL_EXPORTER_OTLP_*`, those of traces before those of all signals).

use std::env;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, AsciiMetadataValue, MetadataKey, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::encode::{self, EncodedResource};
use crate::Error;

const PATH: PathAndQuery = PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
/// Without `OTEL_EXPORTER_OTLP_TIMEOUT`. All attempts of an export share it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts after the first one, at twice the distance each time.
const MAX_RETRIES: u32 = 3;
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Exports spans over one connection, which is made when it is needed.
#[derive(Debug)]
pub struct OtlpSpanExporter {
    client: Grpc<Channel>,
    metadata: MetadataMap,
    timeout: Duration,
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
            client: Grpc::new(channel),
            metadata: metadata(&variable("HEADERS").unwrap_or_default()),
            timeout: limit.map_or(DEFAULT_TIMEOUT, Duration::from_millis),
            resource: EncodedResource::default(),
            runtime: Handle::current(),
        })
    }
}

impl SpanExporter for OtlpSpanExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let request = Bytes::from(encode::request(&batch, &self.resource));
        drop(batch);
        let (client, metadata, limit) = (self.client.clone(), self.metadata.clone(), self.timeout);
        let exported = self.runtime.spawn(async move {
            match timeout(limit, send(client, &metadata, request)).await {
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

/// Sends a request, again while that can help.
async fn send(mut client: Grpc<Channel>, metadata: &MetadataMap, request: Bytes) -> Result<(), Status> {
    let mut delay = FIRST_RETRY_DELAY;
    for _ in 0..MAX_RETRIES {
        match attempt(&mut client, metadata, request.clone()).await {
            Err(status) if is_retryable(status.code()) => sleep(delay.mul_f64(1.0 + fastrand::f64() / 4.0)).await,
            ended => return ended,
        }
        delay *= 2;
    }
    attempt(&mut client, metadata, request).await
}

async fn attempt(client: &mut Grpc<Channel>, metadata: &MetadataMap, message: Bytes) -> Result<(), Status> {
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut request = Request::new(message);
    *request.metadata_mut() = metadata.clone();
    let response = client.unary(request, PATH, Raw).await?.into_inner();
    // An ExportTraceServiceResponse says nothing but what it did not take. That is not sent again (OTLP, "Partial
    // success").
    if !response.is_empty() {
        tracing::warn!(response = %String::from_utf8_lossy(&response), "the Collector did not take all spans");
    }
    Ok(())
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

/// `key=value,key=value`, values percent-encoded. What can be no header is left out.
fn metadata(text: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (key, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8_lossy();
        let key = key.trim().to_ascii_lowercase().parse::<MetadataKey<Ascii>>();
        if let (Ok(key), Ok(value)) = (key, value.parse::<AsciiMetadataValue>()) {
            metadata.append(key, value);
        }
    }
    metadata
}

/// Messages are bytes that are encoded already.
#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::KeyAndValueRef;

    use super::*;

    #[test]
    fn headers_are_read_from_the_variable() {
        let read = metadata("api-key=secret, X-Tenant = a%20b,,broken,bad key=1,empty=");
        let mut pairs: Vec<_> = read
            .iter()
            .filter_map(|pair| match pair {
                KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().unwrap().to_owned())),
                KeyAndValueRef::Binary(..) => None,
            })
            .collect();
        pairs.sort();
        let expected = [("api-key", "secret"), ("empty", ""), ("x-tenant", "a b")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
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
