//! What the status of brokers, topics and handlers says, as metrics. It is read from what is watched: nothing is asked of
//! a broker for it, and only the operator that leads has any.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::Store;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use tidegate_crds::conditions::kind;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::kubernetes::watches::Stores;

/// Name, unit and description of a metric of a resource, and its value; `None`: it is not known.
type Figure<K> = (&'static str, &'static str, &'static str, fn(&K) -> Option<f64>);

const TOPIC_FIGURES: [Figure<EventTopic>; 5] = [
    ("tidegate.topic.events", "{event}", "Events that are stored, handled or not", |topic| {
        topic.status.as_ref()?.events.map(number)
    }),
    ("tidegate.topic.size", "By", "Bytes that the stored events take", |topic| {
        topic.status.as_ref()?.bytes.map(number)
    }),
    ("tidegate.topic.fill", "1", "Share of the room for events that is in use", |topic| {
        share(topic.status.as_ref()?.fill.as_deref()?)
    }),
    ("tidegate.topic.promised", "By", "Bytes that the broker has promised to the topic", |topic| {
        topic.status.as_ref()?.promised.map(number)
    }),
    ("tidegate.topic.dead_letters", "{event}", "Dead letters that are kept", |topic| {
        topic.status.as_ref()?.dead_letters.map(number)
    }),
];

const BROKER_FIGURES: [Figure<EventBroker>; 6] = [
    ("tidegate.broker.servers", "{server}", "Servers that there should be", |broker| Some(broker.spec.replicas.into())),
    ("tidegate.broker.servers.ready", "{server}", "Servers whose pod is ready", |broker| {
        Some(broker.status.as_ref()?.ready_replicas.into())
    }),
    ("tidegate.broker.topics", "{topic}", "Topics on the broker", |broker| {
        Some(number(broker.status.as_ref()?.topics))
    }),
    ("tidegate.broker.storage.promised", "By", "Bytes that are promised to topics", |broker| {
        Some(number(broker.status.as_ref()?.storage.as_ref()?.promised_bytes))
    }),
    ("tidegate.broker.storage.usable", "By", "Bytes that can be promised", |broker| {
        Some(number(broker.status.as_ref()?.storage.as_ref()?.usable_bytes))
    }),
    ("tidegate.broker.groups", "{group}", "Raft groups of the servers", |broker| {
        Some(number(broker.status.as_ref()?.groups.as_ref()?.used))
    }),
];

const HANDLER_FIGURES: [Figure<EventHandler>; 4] = [
    ("tidegate.handler.oldest_event.age", "s", "Age of the oldest event that is not acknowledged", |handler| {
        let age = handler.status.as_ref()?.lag.as_ref()?.oldest_event_age.as_ref()?;
        Some(age.get().ok()?.as_secs_f64())
    }),
    ("tidegate.handler.replicas", "{pod}", "Pods that there are", |handler| {
        Some(handler.status.as_ref()?.replicas.into())
    }),
    ("tidegate.handler.replicas.ready", "{pod}", "Pods that are ready", |handler| {
        Some(handler.status.as_ref()?.ready_replicas.into())
    }),
    ("tidegate.handler.replicas.desired", "{pod}", "Pods that there should be", |handler| {
        Some(handler.status.as_ref()?.scaling.as_ref()?.desired.into())
    }),
];

/// Exports whether this operator leads, as `tidegate.operator.leader`: the others of its release have 0.
pub fn export_leader(leads: &Arc<AtomicBool>) {
    let leads = Arc::clone(leads);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.operator.leader")
        .with_description("1 while this operator leads, else 0")
        .with_callback(move |gauge| gauge.observe(leads.load(Ordering::Relaxed).into(), &[]))
        .build();
}

/// Exports them all.
pub fn export(stores: &Stores) {
    export_on(&opentelemetry::global::meter("tidegate-operator"), stores);
}

fn export_on(meter: &Meter, stores: &Stores) {
    let topic = |topic: &EventTopic| {
        let (namespace, name) = place(topic);
        vec![KeyValue::new("messaging.destination.name", name), KeyValue::new("tidegate.topic.namespace", namespace)]
    };
    let broker = |broker: &EventBroker| named("tidegate.broker", place(broker));
    let handler = |handler: &EventHandler| named("messaging.consumer.group.name", place(handler));
    for figure in TOPIC_FIGURES {
        gauge(meter, &stores.topics, figure, topic);
    }
    for figure in BROKER_FIGURES {
        gauge(meter, &stores.brokers, figure, broker);
    }
    for figure in HANDLER_FIGURES {
        gauge(meter, &stores.handlers, figure, handler);
    }
    readiness(meter, &stores.topics, "tidegate.topic.ready", topic, |topic| {
        topic.status.as_ref().map(|status| status.conditions.as_slice())
    });
    readiness(meter, &stores.brokers, "tidegate.broker.ready", broker, |broker| {
        broker.status.as_ref().map(|status| status.conditions.as_slice())
    });
    readiness(meter, &stores.handlers, "tidegate.handler.ready", handler, |handler| {
        handler.status.as_ref().map(|status| status.conditions.as_slice())
    });
}

fn gauge<K>(meter: &Meter, store: &Store<K>, figure: Figure<K>, attributes: fn(&K) -> Vec<KeyValue>)
where
    K: kube::Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (store, (name, unit, description, value)) = (store.clone(), figure);
    meter
        .f64_observable_gauge(name)
        .with_unit(unit)
        .with_description(description)
        .with_callback(move |gauge| {
            for resource in store.state() {
                if let Some(value) = value(&resource) {
                    gauge.observe(value, &attributes(&resource));
                }
            }
        })
        .build();
}

/// The condition Ready, and its reason, which is one of those in the code.
fn readiness<K>(
    meter: &Meter,
    store: &Store<K>,
    name: &'static str,
    attributes: fn(&K) -> Vec<KeyValue>,
    conditions: fn(&K) -> Option<&[Condition]>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let store = store.clone();
    meter
        .u64_observable_gauge(name)
        .with_description("1 while the condition Ready is True, else 0")
        .with_callback(move |gauge| {
            let all: Vec<Arc<K>> = store.state();
            for resource in all {
                let ready =
                    conditions(&resource).into_iter().flatten().find(|condition| condition.type_ == kind::READY);
                let Some(ready) = ready else { continue };
                let mut attributes = attributes(&resource);
                attributes.push(KeyValue::new("reason", ready.reason.clone()));
                gauge.observe(u64::from(ready.status == "True"), &attributes);
            }
        })
        .build();
}

fn named(key: &'static str, (namespace, name): (String, String)) -> Vec<KeyValue> {
    vec![KeyValue::new("k8s.namespace.name", namespace), KeyValue::new(key, name)]
}

fn place<K: kube::Resource<DynamicType = ()>>(resource: &K) -> (String, String) {
    (resource.meta().namespace.clone().unwrap_or_default(), resource.meta().name.clone().unwrap_or_default())
}

fn number(number: i64) -> f64 {
    number as f64
}

/// A share such as `73%`.
fn share(text: &str) -> Option<f64> {
    Some(text.strip_suffix('%')?.parse::<f64>().ok()? / 100.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::runtime::watcher::Event;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, GaugeDataPoint, MetricData};
    use opentelemetry_sdk::metrics::{InMemoryMetricExporter, SdkMeterProvider};
    use serde_json::json;

    use super::*;

    fn series<T: Copy>(point: &GaugeDataPoint<T>) -> String {
        let mut attributes: Vec<_> =
            point.attributes().map(|attribute| format!("{}={}", attribute.key, attribute.value)).collect();
        attributes.sort();
        attributes.join(" ")
    }

    #[test]
    fn what_a_status_says_is_a_series_and_what_it_does_not_say_is_none() {
        let exported = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exported.clone()).build();
        let (mut stores, _feeds) = Stores::new();
        let (topics, mut topic_writer) = kube::runtime::reflector::store();
        let (brokers, mut broker_writer) = kube::runtime::reflector::store();
        let (handlers, mut handler_writer) = kube::runtime::reflector::store();
        (stores.topics, stores.brokers, stores.handlers) = (topics, brokers, handlers);
        let condition = |status: &str, reason: &str| json!([{"type": "Ready", "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        let status = json!({"events": 7, "bytes": 900, "fill": "73%", "deadLetters": 2, "conditions": condition("False", "Filling")});
        for (name, status) in [("orders", status), ("new", json!(null))] {
            let topic = json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic",
                "metadata": {"namespace": "shop", "name": name}, "spec": {}, "status": status});
            topic_writer.apply_watcher_event(&Event::Apply(serde_json::from_value(topic).unwrap()));
        }
        let broker = json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker",
            "metadata": {"namespace": "shop", "name": "default"}, "spec": {"replicas": 3},
            "status": {"replicas": 3, "readyReplicas": 2, "formed": true, "topics": 2, "conditions": condition("True", "Ready"),
                       "storage": {"promised": "50%", "promisedBytes": 500, "usableBytes": 1000}}});
        broker_writer.apply_watcher_event(&Event::Apply(serde_json::from_value(broker).unwrap()));
        let handler = json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler",
            "metadata": {"namespace": "shop", "name": "billing"}, "spec": {"topic": "orders", "template": {"spec": {}}},
            "status": {"replicas": 3, "readyReplicas": 2, "scaling": {"desired": 4, "reason": "lag"},
                       "lag": {"pending": 9, "inFlight": 1, "oldestEventAge": "1m30s"}}});
        handler_writer.apply_watcher_event(&Event::Apply(serde_json::from_value(handler).unwrap()));
        export_on(&provider.meter("test"), &stores);
        provider.force_flush().unwrap();

        let exported = exported.get_finished_metrics().unwrap();
        let mut found = BTreeMap::new();
        for metric in exported.last().unwrap().scope_metrics().flat_map(|scope| scope.metrics()) {
            match metric.data() {
                AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                    found.extend(
                        gauge.data_points().map(|it| (format!("{} {}", metric.name(), series(it)), it.value())),
                    );
                }
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => {
                    let value = |it: &GaugeDataPoint<u64>| if it.value() == 1 { 1.0 } else { 0.0 };
                    found
                        .extend(gauge.data_points().map(|it| (format!("{} {}", metric.name(), series(it)), value(it))));
                }
                other => panic!("{other:?}"),
            }
        }
        let topic = "messaging.destination.name=orders";
        let of_topic = |name: &str, value| (format!("{name} {topic} tidegate.topic.namespace=shop"), value);
        let of_broker = |name: &str, value| (format!("{name} k8s.namespace.name=shop tidegate.broker=default"), value);
        let of_handler = |name: &str, value| {
            (format!("{name} k8s.namespace.name=shop messaging.consumer.group.name=billing"), value)
        };
        let expected = BTreeMap::from([
            of_handler("tidegate.handler.oldest_event.age", 90.0),
            of_handler("tidegate.handler.replicas", 3.0),
            of_handler("tidegate.handler.replicas.ready", 2.0),
            of_handler("tidegate.handler.replicas.desired", 4.0),
            of_topic("tidegate.topic.events", 7.0),
            of_topic("tidegate.topic.size", 900.0),
            of_topic("tidegate.topic.fill", 0.73),
            of_topic("tidegate.topic.dead_letters", 2.0),
            (format!("tidegate.topic.ready {topic} reason=Filling tidegate.topic.namespace=shop"), 0.0),
            of_broker("tidegate.broker.servers", 3.0),
            of_broker("tidegate.broker.servers.ready", 2.0),
            of_broker("tidegate.broker.topics", 2.0),
            of_broker("tidegate.broker.storage.promised", 500.0),
            of_broker("tidegate.broker.storage.usable", 1000.0),
            ("tidegate.broker.ready k8s.namespace.name=shop reason=Ready tidegate.broker=default".to_owned(), 1.0),
        ]);
        assert_eq!(found, expected);
    }
}
