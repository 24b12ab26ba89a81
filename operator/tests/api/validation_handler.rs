//! What the API server refuses in an EventHandler, and whether it says where and what to write instead.

use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tidegate_crds::EventHandler;

use crate::support::{Space, merged};

/// A handler's specification that is right, with these fields changed.
pub fn spec(changes: Value) -> Value {
    let container = json!({"name": "billing", "image": "registry.test/billing:1", "ports": [{"containerPort": 8080}]});
    merged(&json!({"topic": "orders", "template": {"spec": {"containers": [container]}}}), &changes)
}

/// A whole handler.
pub fn handler(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventHandler", "metadata": {"name": name}, "spec": spec})
}

/// With this container, and the template's other fields.
fn template(container: Value, others: Value) -> Value {
    let spec = merged(&json!({"containers": [container]}), &others);
    json!({"template": {"spec": spec}})
}

pub fn container(changes: Value) -> Value {
    merged(&json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]}), &changes)
}

fn wrong() -> Vec<(Value, &'static str, &'static str)> {
    let delivery = |delivery: Value| json!({"delivery": delivery});
    let backoff = |backoff: Value| json!({"delivery": {"retry": {"backoff": backoff}}});
    let autoscaling = |autoscaling: Value| json!({"autoscaling": autoscaling});
    let retry = |retry: Value| json!({"delivery": {"retry": retry}});
    let release =
        |release: Value| json!({"delivery": {"order": "Key"}, "release": merged(&json!({"request": "1"}), &release)});
    vec![
        (json!({"topic": null}), "spec.topic", "Required"),
        (json!({"topic": ""}), "spec.topic", "at least 1"),
        (json!({"template": null}), "spec.template", "Required"),
        (json!({"template": {"spec": {"containers": []}}}), "spec.template.spec.containers", "at least 1"),
        (delivery(json!({"port": 15480})), "spec.delivery", "choose another"),
        (delivery(json!({"port": 70000})), "spec.delivery.port", "less than or equal to 65535"),
        (delivery(json!({"path": "events"})), "spec.delivery.path", "begin with /"),
        (delivery(json!({"path": "/my events"})), "spec.delivery.path", "no spaces"),
        (delivery(json!({"path": "/a#b"})), "spec.delivery.path", "percent-encode"),
        (json!({"topic": "Orders"}), "spec.topic", "lower-case letters"),
        (json!({"topicNamespace": "Shop"}), "spec.topicNamespace", "not the name of a namespace"),
        (json!({"topicNamespace": ""}), "spec.topicNamespace", "at least 1"),
        (json!({"reply": {"topic": "orders/status"}}), "spec.reply.topic", "lower-case letters"),
        (delivery(json!({"timeout": "2h"})), "spec.delivery.timeout", "between 10ms and 1h"),
        (delivery(json!({"timeout": "fast"})), "spec.delivery.timeout", "30s"),
        (delivery(json!({"concurrency": 0})), "spec.delivery.concurrency", "greater than or equal to 1"),
        (
            delivery(json!({"retry": {"maxAttempts": 0}})),
            "spec.delivery.retry.maxAttempts",
            "greater than or equal to 1",
        ),
        (
            delivery(json!({"retry": {"retryOn": ["200"]}})),
            "spec.delivery.retry.retryOn",
            "a status from 300 to 599, such as \"404\", or one of 3xx, 4xx and 5xx",
        ),
        (delivery(json!({"retry": {"retryOn": ["4XX"]}})), "spec.delivery.retry.retryOn", "one of 3xx, 4xx and 5xx"),
        (delivery(json!({"retry": {"finalOn": ["600"]}})), "spec.delivery.retry.finalOn", "such as \"501\""),
        (delivery(json!({"retry": {"retryOn": [404]}})), "spec.delivery.retry.retryOn", "must be of type string"),
        (delivery(json!({"retry": {"finalOn": ["4040"]}})), "spec.delivery.retry.finalOn", "more than 3"),
        (delivery(json!({"retry": {"finalOn": vec!["404"; 33]}})), "spec.delivery.retry.finalOn", "at most 32"),
        (
            delivery(json!({"retry": {"retryOn": ["404", "5xx"], "finalOn": ["5xx"]}})),
            "spec.delivery.retry",
            "must not name the same status or class",
        ),
        (backoff(json!({"initial": "2m"})), "spec.delivery.retry.backoff", "not be longer than backoff.max"),
        (backoff(json!({"initial": "a while"})), "spec.delivery.retry.backoff.initial", "30s"),
        (backoff(json!({"factor": 0.5})), "spec.delivery.retry.backoff.factor", "greater than or equal to 1"),
        (backoff(json!({"jitter": 2})), "spec.delivery.retry.backoff.jitter", "less than or equal to 1"),
        (delivery(json!({"format": "Json"})), "spec.delivery.format", "\"Binary\", \"Structured\", \"Batch\""),
        (delivery(json!({"format": "Batch"})), "spec.delivery", "batch: {} takes the defaults"),
        (delivery(json!({"batch": {}})), "spec.delivery", "belongs to format: Batch"),
        (delivery(json!({"format": "Batch", "batch": {"maxEvents": 0}})), "maxEvents", "greater than or equal to 1"),
        (delivery(json!({"format": "Batch", "batch": {"maxWait": "1m"}})), "maxWait", "at most 10s"),
        (delivery(json!({"order": "Strict"})), "spec.delivery.order", "\"None\", \"Key\""),
        (delivery(json!({"order": "Key", "format": "Batch", "batch": {}})), "spec.delivery", "one at a time"),
        (delivery(json!({"lanes": 4})), "spec.delivery", "set order: Key"),
        (delivery(json!({"order": "Key", "lanes": 33})), "spec.delivery.lanes", "less than or equal to 32"),
        (json!({"suspend": "yes"}), "spec.suspend", "boolean"),
        (delivery(json!({"maxEventAge": "0s"})), "spec.delivery.maxEventAge", "between 1s and 8760h"),
        (delivery(json!({"maxEventAge": "8761h"})), "spec.delivery.maxEventAge", "between 1s and 8760h"),
        (delivery(json!({"maxEventAge": "1d"})), "spec.delivery.maxEventAge", "30s"),
        (delivery(json!({"onExpired": "Skip"})), "spec.delivery", "belongs to maxEventAge"),
        (
            delivery(json!({"maxEventAge": "1h", "onExpired": "Drop"})),
            "spec.delivery.onExpired",
            "\"DeadLetter\", \"Skip\"",
        ),
        (delivery(json!({"rateLimit": {}})), "spec.delivery.rateLimit.events", "Required"),
        (delivery(json!({"rateLimit": {"events": 5, "per": "1ms"}})), "rateLimit.per", "between 1s and 1h"),
        (
            json!({"delivery": {"order": "Key"}, "autoscaling": {"maxReplicas": 9}}),
            "spec.autoscaling",
            "not be larger than delivery.lanes",
        ),
        (json!({"filter": {"types": ["*"]}}), "spec.filter.types", "leave types out for all"),
        (json!({"filter": {"types": ["a.*.b"]}}), "spec.filter.types", "com.shop.order.*"),
        (json!({"filter": {"types": ["a*"]}}), "spec.filter.types", "com.shop.order.*"),
        (json!({"filter": {"types": [""]}}), "spec.filter.types[0]", "at least 1"),
        (json!({"filter": {"expression": ""}}), "spec.filter.expression", "at least 1"),
        (json!({"startFrom": "Yesterday"}), "spec.startFrom", "Latest, Earliest, a time such as"),
        (json!({"startFrom": "0"}), "spec.startFrom", "Latest, Earliest, a time such as"),
        (json!({"startFrom": 12}), "spec.startFrom", "string"),
        (backoff(json!({"max": "2h"})), "spec.delivery.retry.backoff.max", "at most 1h"),
        (json!({"deadLetter": {"topic": "orders"}}), "spec.deadLetter", "must be another topic"),
        (json!({"reply": {}}), "spec.reply.topic", "Required"),
        (
            json!({"reply": {"topic": "t"}, "delivery": {"format": "Batch", "batch": {}}}),
            "spec.reply",
            "a batch has one answer",
        ),
        (json!({"redrive": {"request": "1"}, "deadLetter": {"topic": "t"}}), "spec.redrive", "kept beside the topic"),
        (json!({"redrive": {"request": "1", "since": "noon"}}), "spec.redrive.since", "date-time"),
        (json!({"redrive": {"request": "1", "count": 0}}), "spec.redrive.count", "greater than or equal to 1"),
        (retry(json!({"onExhausted": "Park"})), "spec.delivery", "set order: Key"),
        (retry(json!({"onExhausted": "Drop"})), "spec.delivery.retry.onExhausted", "\"DeadLetter\", \"Park\""),
        (json!({"release": {"request": "1"}}), "spec.release", "belongs to delivery.order: Key"),
        (json!({"replay": {"request": "1"}}), "spec.replay.from", "Required"),
        (json!({"replay": {"from": "Latest"}}), "spec.replay.request", "Required"),
        (json!({"replay": {"request": "", "from": "Latest"}}), "spec.replay.request", "at least 1"),
        (json!({"replay": {"request": "r".repeat(65), "from": "Latest"}}), "spec.replay.request", "more than 64"),
        (json!({"replay": {"request": "1", "from": "0"}}), "spec.replay.from", "Latest, Earliest, a time such as"),
        (json!({"replay": {"request": "1", "from": "noon"}}), "spec.replay.from", "Latest, Earliest, a time such as"),
        (json!({"replay": {"request": "1", "from": 17}}), "spec.replay.from", "string"),
        (release(json!({"request": ""})), "spec.release.request", "at least 1"),
        (release(json!({"request": "r".repeat(65)})), "spec.release.request", "more than 64"),
        (release(json!({"request": null})), "spec.release.request", "Required"),
        (release(json!({"keys": []})), "spec.release.keys", "at least 1"),
        (release(json!({"keys": [""]})), "spec.release.keys[0]", "at least 1"),
        (release(json!({"keys": ["k".repeat(1025)]})), "spec.release.keys[0]", "more than 1024"),
        (release(json!({"keys": vec!["k"; 1001]})), "spec.release.keys", "at most 1000"),
        (json!({"replicas": 2, "autoscaling": {}}), "spec.replicas", "remove one of them"),
        (json!({"replicas": -1}), "spec.replicas", "greater than or equal to 0"),
        (autoscaling(json!({"minReplicas": 11})), "spec.autoscaling.minReplicas", "not be larger than maxReplicas"),
        (autoscaling(json!({"maxReplicas": 0})), "spec.autoscaling.maxReplicas", "greater than or equal to 1"),
        (autoscaling(json!({"targetEventAge": "1ms"})), "spec.autoscaling.targetEventAge", "at least 100ms"),
        (autoscaling(json!({"idleAfter": "never"})), "spec.autoscaling.idleAfter", "30s"),
    ]
}

#[tokio::test]
async fn a_wrong_handler_is_refused_with_field_and_remedy() {
    let space = Space::new("wrong-handler").await;
    for (changes, field, remedy) in wrong() {
        let refusal =
            refusal(&space, "billing", spec(changes.clone())).await.unwrap_or_else(|| panic!("taken: {changes}"));
        assert!(
            refusal.contains(field) && refusal.contains(remedy),
            "{changes}\nmust name {field} and say {remedy}:\n{refusal}"
        );
    }
}

#[tokio::test]
async fn names_that_no_child_could_have_are_refused() {
    let space = Space::new("handler-names").await;
    let long = "a".repeat(41);
    for name in ["bil.ling", "1st", long.as_str()] {
        let refusal = refusal(&space, name, spec(json!({}))).await.unwrap_or_else(|| panic!("taken: {name}"));
        assert!(refusal.contains("metadata.name: use at most 40 lower-case letters"), "{name}: {refusal}");
    }
}

#[tokio::test]
async fn right_handlers_are_taken() {
    let space = Space::new("right-handler").await;
    let right = [
        json!({}),
        json!({"replicas": 0}),
        json!({
            "startFrom": "2026-01-31T12:00:00Z", "filter": {"types": ["com.shop.order.*", "a"], "sources": ["/s"]},
            "delivery": {"order": "Key", "lanes": 32, "rateLimit": {"events": 10}},
            "autoscaling": {"maxReplicas": 32}, "reply": {"topic": "invoices"}, "redrive": {"request": "1"},
            "release": {"request": "1"},
        }),
        json!({
            "delivery": {"order": "Key", "retry": {"onExhausted": "Park"}},
            "release": {"request": "r".repeat(64), "keys": vec!["k".repeat(1024); 1000]},
        }),
        json!({"startFrom": "17", "delivery": {"format": "Batch", "batch": {}}, "deadLetter": {"topic": "failed"}}),
        json!({"autoscaling": {"minReplicas": 0, "maxReplicas": 50, "targetEventAge": "500ms", "idleAfter": "10m"}}),
        json!({"delivery": {"path": "/events?from=tidegate", "port": 9090, "concurrency": 4096, "timeout": "1h"}}),
        json!({"delivery": {"retry": {"maxAttempts": 1, "backoff": {"initial": "0s", "max": "0s", "factor": 1, "jitter": 0}}}}),
        template(container(json!({"ports": null})), json!({})),
        template(
            container(
                json!({"env": [{"name": "A", "value": "b"}], "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}}),
            ),
            json!({"serviceAccountName": "billing", "volumes": [{"name": "data", "emptyDir": {}}], "initContainers": [{"name": "first", "image": "i"}]}),
        ),
        json!({"delivery": {"retry": {"retryOn": ["404", "409", "3xx"], "finalOn": ["501", "5xx"]}}}),
        json!({"replay": {"request": "1", "from": "Earliest"}}),
        json!({"replay": {"request": "r".repeat(64), "from": "17"}}),
        json!({"replay": {"request": "1", "from": "2026-01-31T12:00:00.5+01:00"}}),
    ];
    for (number, mut changes) in right.into_iter().enumerate() {
        if number == 8 {
            changes["delivery"] = json!({"port": 8080});
        }
        assert_eq!(refusal(&space, "billing", spec(changes.clone())).await, None, "{changes}");
    }
}

#[tokio::test]
async fn a_handlers_place_in_its_topic_stays() {
    let space = Space::new("handler-changes").await;
    space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    space.create::<EventHandler>(handler("ordered", spec(json!({"delivery": {"order": "Key", "lanes": 4}})))).await;
    let far = spec(json!({"topicNamespace": "shop", "deadLetter": {"topic": "orders"}}));
    space.create::<EventHandler>(handler("far", far)).await;
    let api: Api<EventHandler> = space.api();
    for (name, change, field, remedy) in [
        ("billing", json!({"topic": "payments"}), "spec.topic", "make another EventHandler"),
        ("billing", json!({"startFrom": "Earliest"}), "spec.startFrom", "set spec.replay"),
        ("billing", json!({"delivery": {"order": "Key"}}), "spec.delivery.order", "make another EventHandler"),
        ("billing", json!({"topicNamespace": "shop"}), "spec.topicNamespace", "make another EventHandler"),
        ("far", json!({"topicNamespace": "web"}), "spec.topicNamespace", "make another EventHandler"),
        ("far", json!({"topicNamespace": null}), "spec.topicNamespace", "make another EventHandler"),
    ] {
        let patch = Patch::Merge(json!({"spec": change}));
        let refusal = api.patch(name, &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(refusal.contains(field) && refusal.contains(remedy), "{change}: {refusal}");
    }
    space
        .merge::<EventHandler>("billing", json!({"spec": {"filter": {"types": ["a"]}, "reply": {"topic": "b"}}}))
        .await;
    for lanes in [json!(5), json!(32), json!(null), json!(1)] {
        space.merge::<EventHandler>("ordered", json!({"spec": {"delivery": {"lanes": lanes}}})).await;
    }
    space.merge::<EventHandler>("billing", json!({"spec": {"delivery": {"concurrency": 4}, "replicas": 2}})).await;
}

/// The API server's message, without anything being stored; `None` if it takes it.
async fn refusal(space: &Space, name: &str, spec: Value) -> Option<String> {
    // As plain JSON: our own types would refuse some of it before it is sent.
    let api: Api<DynamicObject> =
        Api::namespaced_with(space.client.clone(), &space.name, &ApiResource::erase::<EventHandler>(&()));
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry_run, &serde_json::from_value(handler(name, spec)).unwrap())
        .await
        .err()
        .map(|error| error.to_string())
}
