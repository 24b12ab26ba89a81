//! What becomes of events: the spans of ingress and sidecars, which they export to this program.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// The largest export.
const MAX_EXPORT: usize = 16 << 20;
/// Where spans are sent.
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// Length and kind of a gRPC message are before it.
const PREFIX: usize = 5;

/// Something that happened to an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// In milliseconds since 1970, when it was over.
    pub at: i64,
    /// The topic's name.
    pub topic: String,
    /// The event's id; empty: it is not known.
    pub id: String,
    /// Its type.
    pub event_type: String,
    /// What it was.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was published: `None`, or not, and why.
    Published(Option<String>),
    /// A handler was given it.
    Attempt(Attempt),
}

/// One delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The handler's name.
    pub handler: String,
    /// The event's number in the topic; 0: it has none.
    pub sequence: i64,
    /// The first is 1.
    pub number: i64,
    /// The status of the answer, if there was one.
    pub status: Option<i64>,
    /// What was wrong.
    pub error: String,
    /// What became of the event: acknowledged, retried, dead-lettered…
    pub outcome: String,
    /// How long it took.
    pub millis: u64,
}

/// Receives spans for as long as the program runs.
///
/// # Errors
/// The port is in use.
pub async fn receive(port: u16, happened: mpsc::Sender<Happened>) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(Failure::failed)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let happened = happened.clone();
            let answer = service_fn(move |request| take(request, happened.clone()));
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), answer).await });
        }
    });
    Ok(())
}

async fn take(
    request: Request<Incoming>,
    happened: mpsc::Sender<Happened>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let is_of_traces = request.uri().path() == TRACES;
    if let Ok(body) = Limited::new(request.into_body(), MAX_EXPORT).collect().await
        && is_of_traces
    {
        for one in read(body.to_bytes()) {
            // Whoever shows it is slower than the events: the exporter waits, and drops what is too much.
            if happened.send(one).await.is_err() {
                break;
            }
        }
    }
    let trailers = HeaderMap::from_iter(
        [("grpc-status".parse().ok(), http::HeaderValue::from_static("0"))]
            .into_iter()
            .filter_map(|(name, value)| Some((name?, value))),
    );
    let body = Full::new(Bytes::from_static(&[0; PREFIX])).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// What an export tells, in the order of time.
fn read(mut body: Bytes) -> Vec<Happened> {
    if body.len() < PREFIX {
        return Vec::new();
    }
    body.advance(PREFIX);
    let Ok(export) = ExportTraceServiceRequest::decode(body) else { return Vec::new() };
    let spans = export.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
    let mut all: Vec<Happened> = spans.flat_map(|scope| scope.spans).filter_map(|span| of_span(&span)).collect();
    all.sort_by_key(|happened| happened.at);
    all
}

fn of_span(span: &Span) -> Option<Happened> {
    let text = |name: &str| match value(&span.attributes, name) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    let number = |name: &str| match value(&span.attributes, name) {
        Some(Value::IntValue(number)) => Some(*number),
        _ => None,
    };
    let error = span.status.as_ref().filter(|status| status.code == 2).map(|status| status.message.clone());
    let what = match text("messaging.operation.name").as_str() {
        "publish" => What::Published(error),
        "process" => What::Attempt(Attempt {
            handler: text("messaging.consumer.group.name"),
            sequence: number("tidegate.sequence").unwrap_or_default(),
            number: number("tidegate.attempt").unwrap_or_default(),
            status: number("http.response.status_code"),
            error: error.unwrap_or_default(),
            outcome: text("tidegate.outcome"),
            millis: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) / 1_000_000,
        }),
        _ => return None,
    };
    Some(Happened {
        at: i64::try_from(span.end_time_unix_nano / 1_000_000).unwrap_or_default(),
        topic: text("messaging.destination.name"),
        id: text("cloudevents.event_id"),
        event_type: text("cloudevents.event_type"),
        what,
    })
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    attributes.iter().find(|attribute| attribute.key == name)?.value.as_ref()?.value.as_ref()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Status};

    use super::*;

    fn attributes(of: &[(&str, Value)]) -> Vec<KeyValue> {
        let attribute = |(name, value): &(&str, Value)| KeyValue {
            key: (*name).to_owned(),
            value: Some(AnyValue { value: Some(value.clone()) }),
            ..KeyValue::default()
        };
        of.iter().map(attribute).collect()
    }

    fn text(text: &str) -> Value {
        Value::StringValue(text.to_owned())
    }

    #[test]
    fn spans_tell_what_happened_in_the_order_of_time() {
        let attempt = Span {
            start_time_unix_nano: 5_000_000,
            end_time_unix_nano: 9_000_000,
            attributes: attributes(&[
                ("messaging.operation.name", text("process")),
                ("messaging.destination.name", text("orders")),
                ("messaging.consumer.group.name", text("billing")),
                ("cloudevents.event_id", text("a")),
                ("tidegate.sequence", Value::IntValue(7)),
                ("tidegate.attempt", Value::IntValue(2)),
                ("http.response.status_code", Value::IntValue(503)),
                ("tidegate.outcome", text("retried")),
            ]),
            status: Some(Status { code: 2, message: "503".into() }),
            ..Span::default()
        };
        let published = Span {
            end_time_unix_nano: 3_000_000,
            attributes: attributes(&[
                ("messaging.operation.name", text("publish")),
                ("messaging.destination.name", text("orders")),
                ("cloudevents.event_id", text("a")),
            ]),
            ..Span::default()
        };
        let other = Span { attributes: attributes(&[("messaging.operation.name", text("settle"))]), ..Span::default() };
        let scope = ScopeSpans { spans: vec![attempt, other, published], ..ScopeSpans::default() };
        let resource_spans = vec![ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() }];
        let export = ExportTraceServiceRequest { resource_spans };
        let body = [&[0; PREFIX][..], &export.encode_to_vec()].concat();
        let read = read(body.into());
        assert_eq!(read.len(), 2);
        assert_eq!((&read[0].what, read[0].at, read[0].id.as_str()), (&What::Published(None), 3, "a"));
        let What::Attempt(attempt) = &read[1].what else { panic!("{read:?}") };
        assert_eq!((attempt.handler.as_str(), attempt.sequence, attempt.number), ("billing", 7, 2));
        assert_eq!((attempt.status, attempt.outcome.as_str(), attempt.millis), (Some(503), "retried", 4));
    }

    #[test]
    fn what_is_no_export_tells_nothing() {
        for bad in [&b""[..], b"abc", b"\0\0\0\0\x05\xff\xff\xff\xff\xff"] {
            assert_eq!(read(Bytes::from_static(bad)), []);
        }
    }
}
