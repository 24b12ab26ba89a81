//! The way of spans to the Collector: a queue of what is written already, and a task that sends it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use crate::otlp::Fields;
use crate::target::Target;

const EXPORT: PathAndQuery = PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");

/// How much waits, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Spans that wait at most; more are dropped.
    pub queue: usize,
    /// Spans that are sent at once.
    pub batch: usize,
    /// How long a smaller batch waits.
    pub delay: Duration,
}

/// The queue of all spans, those of events and those that are made with `tracing`.
#[derive(Clone, Debug)]
pub struct SpanQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    waiting: Mutex<Waiting>,
    /// A batch is full, or somebody waits for all of them.
    due: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    full: VecDeque<Batch>,
    next: Batch,
    /// Spans in all of them.
    spans: usize,
    dropped: u64,
    is_shut_down: bool,
    /// Told when everything that waits now was sent.
    flushes: Vec<mpsc::Sender<Result<(), String>>>,
}

/// Spans that are sent together, by their scopes, of which there are few.
#[derive(Debug, Default)]
struct Batch {
    scopes: Vec<(InstrumentationScope, Fields)>,
    spans: usize,
}

impl Batch {
    fn add(&mut self, span: &SpanData) {
        let scope = &span.instrumentation_scope;
        let fields = match self.scopes.iter().position(|(known, _)| known == scope) {
            Some(index) => &mut self.scopes[index].1,
            None => {
                let mut fields = Fields::default();
                fields.scope(scope);
                self.scopes.push((scope.clone(), fields));
                let last = self.scopes.len() - 1;
                &mut self.scopes[last].1
            }
        };
        fields.span(span);
        self.spans += 1;
    }
}

impl SpanQueue {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared { limits, waiting: Mutex::default(), due: Notify::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, limit: Duration) -> OTelSdkResult {
        let (done, flushed) = mpsc::channel();
        self.lock().flushes.push(done);
        self.0.due.notify_one();
        let sent = flushed.recv_timeout(limit).map_err(|_| OTelSdkError::Timeout(limit))?;
        sent.map_err(OTelSdkError::InternalFailure)
    }

    /// Sends what comes, for ever.
    pub async fn export(self, channel: Channel, target: Target, resource: Resource) {
        let mut fields = Fields::default();
        fields.resource(&resource);
        let mut collector = Collector { grpc: tonic::client::Grpc::new(channel), target, resource: fields };
        loop {
            // What is due earlier says so; both ways there may be something.
            let is_due = timeout(self.0.limits.delay, self.0.due.notified()).await.is_ok();
            let flushes = std::mem::take(&mut self.lock().flushes);
            let mut sent = Ok(());
            while let Some(batch) = self.take(!is_due || !flushes.is_empty()) {
                let spans = batch.spans;
                if let Err(status) = collector.send(batch).await {
                    tracing::warn!(spans, error = status.message(), "spans are not exported");
                    sent = Err(status.message().to_owned());
                }
            }
            // Whoever waits may have given up.
            flushes.into_iter().for_each(|flush| drop(flush.send(sent.clone())));
        }
    }

    /// The next batch: a full one, or whatever waits.
    fn take(&self, is_partial: bool) -> Option<Batch> {
        let mut waiting = self.lock();
        let batch = match waiting.full.pop_front() {
            Some(full) => full,
            None if is_partial && waiting.next.spans > 0 => std::mem::take(&mut waiting.next),
            None => return None,
        };
        waiting.spans -= batch.spans;
        let dropped = std::mem::take(&mut waiting.dropped);
        drop(waiting);
        if dropped > 0 {
            tracing::warn!(dropped, "spans are dropped: the Collector takes too few of them");
        }
        Some(batch)
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let mut waiting = self.lock();
        if waiting.is_shut_down || waiting.spans >= self.0.limits.queue {
            waiting.dropped += 1;
            return;
        }
        waiting.next.add(&span);
        waiting.spans += 1;
        if waiting.next.spans >= self.0.limits.batch {
            let full = std::mem::take(&mut waiting.next);
            waiting.full.push_back(full);
            drop(waiting);
            self.0.due.notify_one();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush(self.0.limits.delay)
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        if std::mem::replace(&mut self.lock().is_shut_down, true) {
            return Err(OTelSdkError::AlreadyShutdown);
        }
        self.flush(limit)
    }
}

/// `ExportTraceServiceRequest`, of which the one `ResourceSpans` is written already.
#[derive(Clone, PartialEq, prost::Message)]
struct ExportRequest {
    #[prost(bytes = "bytes", tag = "1")]
    resource_spans: Bytes,
}

/// The Collector.
struct Collector {
    grpc: tonic::client::Grpc<Channel>,
    target: Target,
    resource: Fields,
}

impl Collector {
    async fn send(&mut self, batch: Batch) -> Result<(), tonic::Status> {
        let mut fields = Fields::default();
        fields.append(&self.resource);
        batch.scopes.iter().for_each(|(_, spans)| fields.nested(2, spans));
        let mut request = tonic::Request::new(ExportRequest { resource_spans: fields.into_bytes().into() });
        *request.metadata_mut() = self.target.metadata.clone();
        self.grpc.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<ExportRequest, ExportTraceServiceResponse>::default();
        let response = self.grpc.unary(request, EXPORT, codec).await?.into_inner();
        if let Some(partial) = response.partial_success.filter(|partial| partial.rejected_spans > 0) {
            let (rejected, why) = (partial.rejected_spans, partial.error_message);
            tracing::warn!(rejected, why, "the Collector refuses spans");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::SystemTime;

    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
    use opentelemetry_proto::tonic::trace::v1::ScopeSpans;
    use prost::Message as _;

    use super::*;

    fn span(id: u64, scope: &'static str, flags: TraceFlags) -> SpanData {
        SpanData {
            span_context: SpanContext::new(TraceId::from(1), SpanId::from(id), flags, false, TraceState::NONE),
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: Cow::Borrowed("s"),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder(scope).build(),
        }
    }

    /// The numbers of a batch's spans, by their scopes.
    fn numbers(batch: Option<Batch>) -> Vec<(String, Vec<u8>)> {
        let scopes = batch.into_iter().flat_map(|batch| batch.scopes);
        let decoded = scopes.map(|(_, fields)| ScopeSpans::decode(&*fields.into_bytes()).unwrap());
        decoded
            .map(|scope| (scope.scope.unwrap().name, scope.spans.iter().map(|span| span.span_id[7]).collect()))
            .collect()
    }

    #[test]
    fn what_waits_is_bounded_and_goes_in_batches() {
        let queue = SpanQueue::new(Limits { queue: 5, batch: 2, delay: Duration::from_secs(1) });
        queue.on_end(span(9, "a", TraceFlags::NOT_SAMPLED));
        for id in 1..=7 {
            queue.on_end(span(id, if id == 2 { "b" } else { "a" }, TraceFlags::SAMPLED));
        }
        let of = |scope: &str, ids: &[u8]| (scope.to_owned(), ids.to_vec());
        assert_eq!(queue.lock().dropped, 2, "there was no room for two");
        assert_eq!(numbers(queue.take(false)), [of("a", &[1]), of("b", &[2])]);
        assert_eq!(numbers(queue.take(false)), [of("a", &[3, 4])]);
        assert!(queue.take(false).is_none(), "the rest is no batch yet");
        assert_eq!(numbers(queue.take(true)), [of("a", &[5])]);
        assert!(queue.take(true).is_none());
        queue.on_end(span(8, "a", TraceFlags::SAMPLED));
        assert_eq!(numbers(queue.take(true)), [of("a", &[8])], "there is room again");
    }

    #[test]
    fn nothing_is_taken_after_the_end() {
        let queue = SpanQueue::new(Limits { queue: 5, batch: 2, delay: Duration::from_secs(1) });
        let unsent = queue.shutdown_with_timeout(Duration::ZERO);
        assert!(matches!(unsent, Err(OTelSdkError::Timeout(_))), "nothing is there that sends: {unsent:?}");
        assert!(matches!(queue.shutdown_with_timeout(Duration::ZERO), Err(OTelSdkError::AlreadyShutdown)));
        queue.on_end(span(1, "a", TraceFlags::SAMPLED));
        assert!(queue.take(true).is_none());
    }
}
