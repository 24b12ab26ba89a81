//! Every mutable field of a topic's streams, changed at random: what the API server takes, the broker does.

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_admin::{handler_streams, streams};
use tidegate_crds::EventTopic;
use tidegate_operator::broker::{self, room};
use tidegate_operator::topic::settings::Settings;
use tidegate_test_broker::TestBroker;

use crate::support::{Space, merged};

const TRANSITIONS: usize = 300;

/// Values of each field: its bounds, what is just beyond them, and some between. `null` leaves the field out.
fn fields() -> Vec<(&'static str, Vec<Value>)> {
    let values = |all: &[&str]| all.iter().map(|&value| json!(value)).chain([Value::Null]).collect();
    vec![
        ("/retention/maxAge", values(&["0s", "999ms", "1s", "1m", "2m", "1h30m", "24h", "168h", "99999h99999h"])),
        // The broker has 1Gi; 696Mi and a quarter of it are what it may promise.
        (
            "/retention/maxSize",
            values(&["1", "1Mi", "2560Ki", "5Mi", "64Mi", "100Mi", "500Mi", "600Mi", "696Mi", "697Mi", "1Gi", "2Ti"]),
        ),
        ("/retention/whenFull", values(&["ReleaseHandled", "Reject", "DropOldest"])),
        ("/deduplicationWindow", values(&["0s", "50ms", "999ms", "1s", "30s", "2m", "10m", "24h", "25h"])),
        ("/maxEventSize", values(&["1023", "1Ki", "64Ki", "1Mi", "4Mi", "8Mi", "9Mi"])),
        ("/deletionPolicy", values(&["Retain", "Delete"])),
        ("/publishers", vec![json!([{"nats": "a"}, {"nats": "b"}]), json!([{"serviceAccount": {}}]), Value::Null]),
    ]
}

/// A merge patch that sets one to three fields.
fn change(random: &mut fastrand::Rng) -> Value {
    let fields = fields();
    let mut patch = json!({});
    for _ in 0..random.usize(1..4) {
        let (path, values) = &fields[random.usize(..fields.len())];
        let value = values[random.usize(..values.len())].clone();
        let nested = path.split('/').skip(1).collect::<Vec<_>>();
        let one = nested.iter().rev().fold(value, |inner, key| json!({*key: inner}));
        patch = with(&patch, &one);
    }
    patch
}

/// Both patches as one; a null stays one.
fn with(base: &Value, more: &Value) -> Value {
    let (Value::Object(base), Value::Object(more)) = (base, more) else { return more.clone() };
    let mut both = base.clone();
    for (key, value) in more {
        let before = base.get(key).cloned().unwrap_or_else(|| json!({}));
        both.insert(key.clone(), if value.is_object() { with(&before, value) } else { value.clone() });
    }
    Value::Object(both)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_is_done_by_the_broker() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let space = Space::new("transitions").await;
    let api: Api<EventTopic> = space.api();
    let resource = space.broker("default", json!({"storage": {"size": "1Gi"}})).await;
    let mut topic = space.topic("orders", json!({"retention": {"maxSize": "64Mi"}})).await;
    let first = Settings::of(&topic.spec, 1).unwrap();
    let store = broker::settings::Settings::of(&resource.spec).unwrap().file_store;
    let broker = TestBroker::start_empty(store).await;
    streams::ensure(&broker.admin(), &first.streams).await.unwrap();
    for handler in ["billing", "shipping", "stock"] {
        handler_streams::ensure(&broker.admin(), handler, "u").await.unwrap();
    }
    let (mut accepted, mut refused, mut too_large) = (0, 0, 0);
    for number in 0..TRANSITIONS {
        let patch = change(&mut random);
        let told = format!("SEED={seed}, change {number}: {patch}, of {}", serde_json::to_string(&topic.spec).unwrap());
        let outcome = api.patch("orders", &PatchParams::default(), &Patch::Merge(json!({"spec": patch}))).await;
        match outcome {
            Ok(changed) => {
                let settings = Settings::of(&changed.spec, 1).unwrap_or_else(|error| panic!("{told}\nstuck: {error}"));
                topic = changed;
                if let Err(error) = room::check(&resource, &settings, 0) {
                    // What was admitted before stays in force.
                    too_large += 1;
                    assert!(error.to_string().contains("would fit"), "{told}: {error}");
                    continue;
                }
                accepted += 1;
                let made = streams::ensure(&broker.admin(), &settings.streams)
                    .await
                    .unwrap_or_else(|error| panic!("{told}\n{error}"));
                assert_eq!(made.refused, None, "{told}");
                assert_eq!(made.events.config.max_bytes, settings.streams.max_bytes, "{told}");
            }
            Err(kube::Error::Api(status)) => {
                refused += 1;
                assert_eq!(status.code, 422, "{told}: {}", status.message);
                assert!(status.message.contains("spec."), "{told}: {}", status.message);
                // The webhook, which says the same where the schema is older, is not laxer or stricter.
                let wanted = merged(&serde_json::to_value(&topic.spec).unwrap(), &patch);
                if let Ok(spec) = serde_json::from_value(wanted) {
                    let also =
                        Settings::of(&spec, 1).is_err() || status.message.contains("maxEventSize must be between");
                    assert!(also, "{told}: only the schema refuses it: {}", status.message);
                }
            }
            Err(error) => panic!("{told}: {error}"),
        }
    }
    eprintln!("{accepted} accepted and done, {refused} refused, {too_large} did not fit");
    assert!(accepted > TRANSITIONS / 5 && refused > TRANSITIONS / 10, "{accepted} accepted, {refused} refused");
    assert!(too_large > 0, "all of them fit: the values say nothing");
}
