//! What an observer sees: the spans and the counters of deliveries, with a real broker.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SimpleSpanProcessor, SpanData};
use support::{Container, HANDLER, Running, all_settled, config, publish_with};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_telemetry::{EventTracer, Sampling};
use tidegate_test_broker::TestBroker;

const ACK_WAIT: Duration = Duration::from_secs(10);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const UNSAMPLED_TRACE: &str = "1af7651916cd43dd8448eb211c80319c";
const PUBLISH: &str = "b7ad6b7169203331";

/// One test, because the tracer and the meter are those of the process.
#[tokio::test]
async fn a_delivery_is_a_span_in_the_publishers_trace_and_is_counted() {
    let spans = InMemorySpanExporter::default();
    EventTracer::new(SimpleSpanProcessor::new(spans.clone()), Sampling::default()).install();
    let exported = InMemoryMetricExporter::default();
    let meters = SdkMeterProvider::builder().with_periodic_exporter(exported.clone()).build();
    opentelemetry::global::set_meter_provider(meters.clone());

    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|request| {
        let first = request.header("ce-tidegateattempt") == "1";
        (
            if request.id() == "refused" {
                422
            } else if first {
                503
            } else {
                200
            },
            Duration::ZERO,
        )
    })
    .await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.filter.expression = Some("event.id != 'other'".to_owned());
    let sidecar = Running::ready(config).await;
    let parent = format!("00-{TRACE}-{PUBLISH}-01");
    for id in ["good", "refused", "other"] {
        publish_with(&broker, id, &[("traceparent", &parent)]).await;
    }
    // Of a flag that means nothing yet, to be passed on nevertheless.
    let unsampled = format!("00-{UNSAMPLED_TRACE}-{PUBLISH}-02");
    publish_with(&broker, "unsampled", &[("traceparent", &unsampled), ("tracestate", "b=2, a=1")]).await;
    all_settled(&broker).await;
    sidecar.terminate().await;
    for request in container.received().iter().filter(|request| request.id() == "unsampled") {
        assert_eq!(request.header("traceparent"), unsampled, "as it came");
        assert_eq!(request.header("tracestate"), "b=2, a=1");
    }

    let exporter = spans;
    let spans = exporter.get_finished_spans().unwrap();
    assert!(spans.iter().all(|span| span.span_context.trace_id().to_string() == TRACE), "nothing of the other trace");
    let processed: Vec<_> = spans.iter().filter(|span| span.name == "process orders").collect();
    assert_eq!(processed.len(), 3, "two attempts of one event, one of the other");
    for span in &processed {
        assert_eq!(span.span_kind, SpanKind::Consumer);
        assert_eq!(span.span_context.trace_id().to_string(), TRACE);
        assert_eq!(span.parent_span_id.to_string(), PUBLISH);
        let sent = format!("00-{TRACE}-{}-01", span.span_context.span_id());
        let request = container.received().into_iter().find(|request| request.header("traceparent") == sent).unwrap();
        assert_eq!(request.header("ce-traceparent"), parent, "the event keeps the context it came to be in");
        let is = |name: &str, value: &str| assert_eq!(attribute(span, name), value, "{name}");
        is("messaging.system", "nats");
        is("messaging.operation.type", "process");
        is("messaging.destination.name", "orders");
        is("messaging.consumer.group.name", HANDLER);
        is("messaging.message.id", &request.id());
        is("server.address", "localhost");
        assert_ne!(attribute(span, "server.port"), "");
        is("cloudevents.event_type", "temperature");
        is("tidegate.attempt", request.header("ce-tidegateattempt"));
        let code = attribute(span, "http.response.status_code");
        assert_eq!(span.status == Status::Unset, code == "200", "{code} {:?}", span.status);
        is("error.type", if code == "200" { "" } else { &code });
    }

    let outcomes: Vec<_> = processed.iter().map(|span| attribute(span, "tidegate.outcome")).collect();
    assert_eq!(sorted(outcomes), ["acknowledged", "dead-lettered", "retried"]);
    // An attempt that the broker hears of without an answer has no other span. What had none is settled by one.
    let others: Vec<_> = spans.iter().filter(|span| span.name != "process orders").collect();
    let [filtered] = &*others else { panic!("{others:?}") };
    assert_eq!((&*filtered.name, &filtered.span_kind), ("settle orders", &SpanKind::Client));
    assert_eq!(filtered.parent_span_id.to_string(), PUBLISH);
    assert_eq!(attribute(filtered, "tidegate.outcome"), "filtered");
    assert_eq!(attribute(filtered, "server.address"), "localhost");

    meters.force_flush().unwrap();
    let metrics = exported.get_finished_metrics().unwrap();
    let last = metrics.last().unwrap();
    let outcomes = BTreeMap::from([("acknowledged", 2), ("dead-lettered", 1), ("filtered", 1), ("retried", 2)]);
    let expected = outcomes.into_iter().map(|(outcome, count)| (outcome.to_owned(), count)).collect();
    assert_eq!(sums(last, "tidegate.delivery.settled", "outcome"), expected);
    let received = sums(last, "messaging.client.consumed.messages", "messaging.destination.name");
    assert_eq!(received, BTreeMap::from([("orders".to_owned(), 6)]));
    let in_flight = sums(last, "tidegate.delivery.in_flight", "tidegate.handler");
    assert_eq!(in_flight, BTreeMap::from([(HANDLER.to_owned(), 0)]));

    lanes_tell_the_same(&exporter).await;
}

/// Events by key have the same spans of attempts. The broker confirms their acknowledgement, and that has a span, too.
async fn lanes_tell_the_same(exported: &InMemorySpanExporter) {
    const LANES_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let order = Order::Key { lanes: 1 };
    let broker = TestBroker::start().await;
    let identity = broker.handler_with(support::consumers_of(order, ACK_WAIT)).await;
    let container = Container::answering(|request| {
        let first = request.header("ce-tidegateattempt") == "1";
        (
            if request.id() == "refused" {
                422
            } else if first {
                503
            } else {
                200
            },
            Duration::ZERO,
        )
    })
    .await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.order = order;
    let sidecar = Running::ready(config).await;
    let parent = format!("00-{LANES_TRACE}-{PUBLISH}-01");
    for id in ["good", "refused"] {
        publish_with(&broker, id, &[("traceparent", &parent)]).await;
    }
    support::all_settled_by(&broker, &layout::lane_consumer(HANDLER, 0)).await;
    sidecar.terminate().await;
    let spans = exported.get_finished_spans().unwrap();
    let spans = spans.iter().filter(|span| span.span_context.trace_id().to_string() == LANES_TRACE);
    let mut told: Vec<_> = spans
        .map(|span| {
            assert_eq!(span.parent_span_id.to_string(), PUBLISH, "{}", span.name);
            assert_eq!(attribute(span, "server.address"), "localhost");
            (span.name.to_string(), span.span_kind.clone(), attribute(span, "tidegate.outcome"))
        })
        .collect();
    told.sort_by(|a, b| (&a.0, &a.2).cmp(&(&b.0, &b.2)));
    let of = |operation: &str, kind: &SpanKind, outcome: &str| {
        (format!("{operation} orders"), kind.clone(), outcome.to_owned())
    };
    let (consumer, client) = (SpanKind::Consumer, SpanKind::Client);
    let processed = ["acknowledged", "dead-lettered", "retried"].map(|outcome| of("process", &consumer, outcome));
    let settled = ["acknowledged", "dead-lettered"].map(|outcome| of("settle", &client, outcome));
    assert_eq!(told, [&processed[..], &settled[..]].concat());
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

/// A counter's values by one of its attributes.
fn sums(metrics: &ResourceMetrics, name: &str, by: &str) -> BTreeMap<String, i64> {
    let metric = metrics.scope_metrics().flat_map(|scope| scope.metrics()).find(|metric| metric.name() == name);
    let key = |attributes: Vec<&opentelemetry::KeyValue>| {
        attributes.into_iter().find(|attribute| attribute.key.as_str() == by).unwrap().value.to_string()
    };
    match metric.unwrap().data() {
        AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
            .data_points()
            .map(|point| (key(point.attributes().collect()), i64::try_from(point.value()).unwrap()))
            .collect(),
        AggregatedMetrics::I64(MetricData::Sum(sum)) => {
            sum.data_points().map(|point| (key(point.attributes().collect()), point.value())).collect()
        }
        other => panic!("{name}: {other:?}"),
    }
}
