//! What the API server refuses in an EventTopic, and whether it says where and what to write instead.

use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tidegate_crds::EventTopic;

use crate::support::Space;

/// A specification and what the refusal must name: the field, and the remedy.
type Wrong = (Value, &'static str, &'static str);

fn schedule(changes: Value) -> Value {
    let mut schedule = json!({"name": "nightly", "event": {"type": "report.due", "source": "/schedules"}});
    for (name, value) in changes.as_object().into_iter().flatten() {
        schedule[name] = value.clone();
    }
    schedule
}

fn wrong() -> Vec<Wrong> {
    vec![
        (json!({"deduplicationWindow": "soon"}), "spec.deduplicationWindow", "30s"),
        (json!({"deduplicationWindow": "1d"}), "spec.deduplicationWindow", "1h30m"),
        (json!({"retention": {"maxAge": "7 days"}}), "spec.retention.maxAge", "1h30m"),
        (json!({"retention": {"maxSize": "lots"}}), "spec.retention.maxSize", "20Gi"),
        (json!({"retention": {"maxSize": "2559Ki"}}), "spec.retention.maxSize", "two of the largest events"),
        (
            json!({"retention": {"whenFull": "Block"}}),
            "spec.retention.whenFull",
            "\"ReleaseHandled\", \"Reject\", \"DropOldest\"",
        ),
        (json!({"retention": {"maxAge": "0s"}}), "spec.retention.maxAge", "at least 1s"),
        (
            json!({"retention": {"maxAge": "1m"}}),
            "spec.retention.maxAge",
            "make maxAge longer, or deduplicationWindow shorter",
        ),
        (json!({"deduplicationWindow": "0s"}), "spec.deduplicationWindow", "between 1s and 24h"),
        (json!({"deduplicationWindow": "50ms"}), "spec.deduplicationWindow", "between 1s and 24h"),
        (json!({"deduplicationWindow": "25h"}), "spec.deduplicationWindow", "between 1s and 24h"),
        (json!({"maxEventSize": "9Mi"}), "spec.maxEventSize", "between 1Ki and 8Mi"),
        (json!({"maxEventSize": "10"}), "spec.maxEventSize", "between 1Ki and 8Mi"),
        (json!({"maxEventSize": "1.5Mi"}), "spec.maxEventSize", "512Ki"),
        (json!({"deletionPolicy": "Keep"}), "spec.deletionPolicy", "\"Retain\", \"Delete\""),
        (json!({"broker": {"name": ""}}), "spec.broker.name", "at least 1 chars long"),
        (json!({"broker": {"name": "a".repeat(41)}}), "spec.broker.name", "Too long"),
        (json!({"broker": {"name": 1}}), "spec.broker.name", "string"),
        (json!({"broker": {"namespace": "Shop"}}), "spec.broker.namespace", "not the name of a namespace"),
        (json!({"broker": {"namespace": "a".repeat(64)}}), "spec.broker.namespace", "Too long"),
        (json!({"handlers": {"from": "Selector"}}), "spec.handlers", "set both"),
        (json!({"routing": "Fast"}), "spec.routing", "\"Queued\", \"Direct\""),
        (json!({"routing": "Direct", "retention": {"maxAge": "1h"}}), "spec.retention", "stores nothing"),
        (json!({"routing": "Direct", "delayedEvents": {}}), "spec.delayedEvents", "routing: Queued"),
        (json!({"delayedEvents": {"maxDelay": "30s"}}), "spec.delayedEvents.maxDelay", "between 1m and 8760h"),
        (json!({"delayedEvents": {"maxDelay": "8761h"}}), "spec.delayedEvents.maxDelay", "between 1m and 8760h"),
        (json!({"delayedEvents": {"maxDelay": "30d"}}), "spec.delayedEvents.maxDelay", "1h30m"),
        (
            json!({"routing": "Direct", "schedules": [schedule(json!({"cron": "0 2 * * *"}))]}),
            "spec.schedules",
            "Queued",
        ),
        (json!({"schedules": [schedule(json!({}))]}), "spec.schedules[0]", "either cron"),
        (
            json!({"schedules": [schedule(json!({"cron": "0 2 * * *", "every": "1m"}))]}),
            "spec.schedules[0]",
            "or every",
        ),
        (json!({"schedules": [schedule(json!({"cron": "@daily"}))]}), "spec.schedules[0].cron", "\"0 2 * * *\""),
        (
            json!({"schedules": [schedule(json!({"every": "900ms"}))]}),
            "spec.schedules[0].every",
            "between 1s and 8760h",
        ),
        (
            json!({"schedules": [schedule(json!({"every": "1m", "timeZone": "UTC"}))]}),
            "spec.schedules[0].timeZone",
            "belongs to cron",
        ),
        (
            json!({"schedules": [schedule(json!({"every": "1m", "name": "A"}))]}),
            "spec.schedules[0].name",
            "should match",
        ),
        (json!({"schedules": vec![schedule(json!({"every": "1m"})); 2]}), "spec.schedules[1]", "Duplicate"),
        (json!({"schedules": vec![schedule(json!({"every": "1m"})); 17]}), "spec.schedules", "at most 16 items"),
    ]
}

fn wrong_publishers() -> Vec<Wrong> {
    let with = |name: &str, value: Value| json!([{"nats": "a", name: value}]);
    let patterns = |count: usize| (0..count).map(|number| format!("p{number}")).collect::<Vec<_>>();
    let one = "spec.publishers[0]";
    let wrong = [
        (json!([]), "spec.publishers", "remove it to admit every ServiceAccount"),
        (json!([{}]), one, "exactly one of serviceAccount"),
        (json!([{"sources": ["/a"]}]), one, "exactly one of serviceAccount"),
        (json!([{"nats": "a", "anonymous": true}]), one, "an entry of its own"),
        (json!([{"serviceAccount": {}, "certificate": {"uri": "a:b"}}]), one, "an entry of its own"),
        (json!([{"anonymous": false}]), "spec.publishers[0].anonymous", "remove this entry"),
        (json!([{"nats": "Checkout"}]), "spec.publishers[0].nats", "should match"),
        (json!([{"nats": "a"}, {"nats": "b"}, {"nats": "a"}]), "spec.publishers", "more than once"),
        (json!([{"nats": "a"}, {"serviceAccount": {"name": "A"}}]), "spec.publishers[1].serviceAccount.name", "match"),
        (json!([{"serviceAccount": {"namespace": "a.b"}}]), "spec.publishers[0].serviceAccount.namespace", "match"),
        (json!([{"certificate": {}}]), "spec.publishers[0].certificate.uri", "Required"),
        (json!([{"certificate": {"uri": "till"}}]), "spec.publishers[0].certificate.uri", "such as spiffe://"),
        (json!([{"certificate": {"uri": "a:b c"}}]), "spec.publishers[0].certificate.uri", "such as spiffe://"),
        (with("sources", json!([])), "spec.publishers[0].sources", "at least 1 items"),
        (with("sources", json!(["*/shop"])), "spec.publishers[0].sources", "such as /shop/*"),
        (with("types", json!(["com.*.order"])), "spec.publishers[0].types", "such as com.example.order.*"),
        (with("types", json!(["com.**"])), "spec.publishers[0].types", "must be the last character"),
        (with("types", json!(["a", ""])), "spec.publishers[0].types[1]", "at least 1 chars"),
        (with("types", json!(["ä".repeat(129)])), "spec.publishers[0].types", "at most 256 bytes"),
        (with("types", json!(["a".repeat(257)])), "spec.publishers[0].types[0]", "Too long"),
        (with("sources", json!(patterns(17))), "spec.publishers[0].sources", "at most 16 items"),
        (
            json!((0..65).map(|n| json!({"nats": format!("p{n}")})).collect::<Vec<_>>()),
            "spec.publishers",
            "at most 64 items",
        ),
    ];
    wrong.into_iter().map(|(publishers, field, remedy)| (json!({"publishers": publishers}), field, remedy)).collect()
}

#[tokio::test]
async fn a_wrong_topic_is_refused_with_field_and_remedy() {
    let space = Space::new("wrong-topic").await;
    for (spec, field, remedy) in wrong().into_iter().chain(wrong_publishers()) {
        let refusal = refusal(&space, "orders", spec.clone()).await.unwrap_or_else(|| panic!("taken: {spec}"));
        assert!(
            refusal.contains(field) && refusal.contains(remedy),
            "{spec}\nmust name {field} and say {remedy}:\n{refusal}"
        );
    }
}

#[tokio::test]
async fn names_that_no_child_could_have_are_refused() {
    let space = Space::new("topic-names").await;
    let long = "a".repeat(41);
    for name in ["or.ders", "1st", long.as_str()] {
        let refusal = refusal(&space, name, json!({})).await.unwrap_or_else(|| panic!("taken: {name}"));
        assert!(refusal.contains("metadata.name: use at most 40 lower-case letters"), "{name}: {refusal}");
    }
    let longest = "a".repeat(40);
    for name in ["a", "orders-2", longest.as_str()] {
        assert_eq!(refusal(&space, name, json!({})).await, None, "{name}");
    }
}

#[tokio::test]
async fn right_topics_are_taken() {
    let space = Space::new("right-topic").await;
    let right = [
        json!({"retention": {"maxAge": "168h", "maxSize": "8704Mi", "whenFull": "DropOldest"}}),
        json!({"deduplicationWindow": "1h30m", "maxEventSize": "8Mi", "deletionPolicy": "Delete"}),
        json!({"maxEventSize": "1Ki", "broker": {"name": "large"}}),
        json!({"retention": {"maxSize": "900M"}, "broker": {}}),
        json!({"retention": {"maxSize": "2560Ki"}}),
        json!({"broker": {"name": "large", "namespace": "platform"}}),
        json!({"broker": {"namespace": "platform"}, "handlers": {"from": "All"}}),
        json!({"retention": {"maxAge": "1m"}, "deduplicationWindow": "1m"}),
        json!({"retention": {"maxAge": "24h"}, "deduplicationWindow": "24h"}),
        json!({"retention": {"maxAge": "1s"}, "deduplicationWindow": "1s"}),
        json!({"maxEventSize": "8Mi"}),
        json!({"routing": "Direct", "publishers": [{"nats": "checkout"}, {"nats": "b2"}]}),
        json!({"publishers": [
            {"serviceAccount": {}},
            {"serviceAccount": {"name": "check.out", "namespace": "web"}, "sources": ["/shop/*", "*"], "types": ["a"]},
            {"certificate": {"uri": "spiffe://example.com/ns/shop/sa/checkout"}, "types": ["com.größe.*"]},
            {"nats": "a", "types": ["a"]}, {"nats": "a", "types": ["b"]},
            {"anonymous": true},
        ]}),
        largest_publishers(),
    ];
    for spec in right {
        assert_eq!(refusal(&space, "orders", spec.clone()).await, None, "{spec}");
    }
}

/// As many entries as there may be, each as large as it may be.
fn largest_publishers() -> Value {
    let pattern = |number: usize| format!("{number:02}{}*", "x".repeat(253));
    let patterns: Vec<_> = (0..16).map(pattern).collect();
    let entry = |number: usize| json!({"nats": format!("p{number}"), "sources": patterns, "types": patterns});
    json!({"publishers": (0..64).map(entry).collect::<Vec<_>>()})
}

#[tokio::test]
async fn what_cannot_be_changed_says_so() {
    let space = Space::new("topic-changes").await;
    space.topic("orders", json!({})).await;
    let changes = [
        (json!({"routing": "Direct"}), "spec.routing", "make a second topic"),
        (json!({"broker": {"name": "large"}}), "spec.broker", "make a second topic on the other broker"),
        (json!({"broker": {"namespace": "platform"}}), "spec.broker", "make a second topic on the other broker"),
    ];
    let api: Api<EventTopic> = space.api();
    for (change, field, remedy) in changes {
        let patch = Patch::Merge(json!({"spec": change}));
        let refusal = api.patch("orders", &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(refusal.contains(field) && refusal.contains(remedy), "{change}: {refusal}");
    }
    let allowed = json!({"handlers": {"from": "All"}, "retention": {"maxAge": "1h", "maxSize": "1Gi"}, "deletionPolicy": "Delete"});
    space.merge::<EventTopic>("orders", json!({"spec": allowed})).await;
}

/// The API server's message, without anything being stored; `None` if it takes it.
async fn refusal(space: &Space, name: &str, spec: Value) -> Option<String> {
    // As plain JSON: our own types would refuse some of it before it is sent.
    let value =
        json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventTopic", "metadata": {"name": name}, "spec": spec});
    let resource = kube::api::ApiResource::erase::<EventTopic>(&());
    let api: Api<kube::api::DynamicObject> = Api::namespaced_with(space.client.clone(), &space.name, &resource);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry_run, &serde_json::from_value(value).unwrap()).await.err().map(|error| error.to_string())
}
