//! Every field of a handler that may change is changed, up, down and to its bounds, on the real API server and the real
//! nats-server: what is accepted takes effect, and what is not is refused in words. Nothing is accepted and stuck.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::consumers;
use tidegate_broker_admin::positions::Position;
use tidegate_crds::EventHandler;
use tidegate_operator::handler::settings::Settings;
use tidegate_operator::handler::subscribe::consumers_of;
use tidegate_test_broker::TestBroker;
use tokio::time::sleep;

use crate::admission::Webhook;
use crate::validation_handler::{handler, spec};

const TRANSITIONS: usize = 300;
/// How long a change may take to be listed.
const LISTED: Duration = Duration::from_secs(20);

/// A field, and what it may become: defaults, bounds, and some that must be refused. `null` removes it.
fn fields() -> Vec<(&'static str, Vec<Value>)> {
    let long = |character: &str, number: usize, count: usize| -> Value {
        (0..count).map(|index| format!("{index:02}{}", character.repeat(number))).collect()
    };
    let batch = |batch: Value| json!({"format": "Batch", "batch": batch});
    let plain = |format: &str| json!({"format": format, "batch": null});
    vec![
        ("/replicas", vec![json!(null), json!(0), json!(1), json!(4), json!(5), json!(1000), json!(1001)]),
        (
            "/autoscaling",
            vec![
                json!(null),
                json!({"minReplicas": 0, "maxReplicas": 5}),
                json!({"minReplicas": 1, "maxReplicas": 1000, "targetEventAge": "100ms"}),
                json!({"minReplicas": 4, "maxReplicas": 4, "idleAfter": "0s"}),
                json!({"minReplicas": 5, "maxReplicas": 4}),
            ],
        ),
        ("/delivery/concurrency", vec![json!(1), json!(16), json!(4096), json!(0), json!(4097)]),
        ("/delivery/timeout", vec![json!("10ms"), json!("30s"), json!("1h"), json!("0s"), json!("61m")]),
        ("/delivery/path", vec![json!("/"), json!("/a?b=c"), json!("/<"), json!(format!("/{}", "p".repeat(1023)))]),
        ("/delivery/port", vec![json!(null), json!(1), json!(65535), json!(15480)]),
        ("/suspend", vec![json!(true), json!(false)]),
        (
            "/delivery",
            vec![
                json!({"maxEventAge": "1s", "onExpired": "Skip"}),
                json!({"maxEventAge": "8760h", "onExpired": null}),
                json!({"maxEventAge": null, "onExpired": null}),
                json!({"maxEventAge": null, "onExpired": "Skip"}),
                plain("Binary"),
                plain("Structured"),
                batch(json!({})),
                batch(json!({"maxEvents": 1, "maxWait": "0s"})),
                batch(json!({"maxEvents": 1000, "maxWait": "10s"})),
                batch(json!(null)),
            ],
        ),
        (
            "/delivery/rateLimit",
            vec![json!(null), json!({"events": 1, "per": "1h"}), json!({"events": 1_000_000}), json!({"events": 0})],
        ),
        (
            "/delivery/retry",
            vec![
                json!({"maxAttempts": 1, "backoff": {"initial": "0s", "max": "0s", "factor": 1, "jitter": 0}}),
                json!({"maxAttempts": 1000, "backoff": {"initial": "1h", "max": "1h", "factor": 100, "jitter": 1}}),
                json!({"maxAttempts": 5, "backoff": {"initial": "1s", "max": "60s", "factor": 2, "jitter": 0.2}}),
                json!({"backoff": {"initial": "2s", "max": "1s"}}),
            ],
        ),
        (
            "/filter",
            vec![
                json!(null),
                json!({"types": ["a.*", "a.b", "a.b", "a.b.*", "ab"], "sources": null}),
                json!({"types": ["a b", ".", "ö.*", ">", "a..b"]}),
                json!({"types": long("t", 254, 16)}),
                json!({"types": long("\u{1F600}", 254, 16)}),
                json!({"types": ["*"]}),
                json!({"types": null, "sources": long("s", 1022, 64)}),
                json!({"sources": long("\u{1}", 1022, 64)}),
                json!({"expression": "data.a > 1"}),
                json!({"expression": "data.a >"}),
            ],
        ),
        (
            "/deadLetter",
            vec![json!(null), json!({"topic": "failed"}), json!({"topic": "orders"}), json!({"topic": "a/b"})],
        ),
        ("/reply", vec![json!(null), json!({"topic": "invoices"}), json!({"topic": "Invoices"})]),
        ("/redrive", vec![json!(null), json!({"request": "1", "count": 1}), json!({"request": "2", "rate": 10_000})]),
    ]
}

/// Small and reproducible (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// A merge patch that sets a field.
fn patch(pointer: &str, value: &Value) -> Value {
    pointer.rsplit('/').filter(|name| !name.is_empty()).fold(value.clone(), |inner, name| json!({name: inner}))
}

#[tokio::test]
async fn every_change_of_a_handler_takes_effect_or_is_refused() {
    let seed = std::env::var("TIDEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    eprintln!("TIDEGATE_SEED={seed}");
    let broker = TestBroker::start().await;
    let broker_api = broker.admin();
    let webhook = Webhook::start("changes").await;
    webhook.refuses().await;
    let names = ["billing", "ordered", "narrow"];
    for (name, delivery) in
        names.iter().zip([json!({}), json!({"order": "Key", "lanes": 4}), json!({"order": "Key", "lanes": 2})])
    {
        let spec = spec(json!({"delivery": delivery, "startFrom": "Earliest"}));
        webhook.space.create::<EventHandler>(handler(name, spec)).await;
    }
    let api: Api<EventHandler> = webhook.space.api();
    let (fields, mut chance, mut refused) = (fields(), Chance(seed), 0);
    for number in 0..TRANSITIONS {
        let name = names[chance.below(names.len())];
        let (pointer, values) = &fields[chance.below(fields.len())];
        let change = patch(pointer, &values[chance.below(values.len())]);
        match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"spec": change}))).await {
            Ok(accepted) => in_effect(&broker_api, name, &accepted).await.unwrap_or_else(|why| {
                panic!("seed {seed}, transition {number}: {name} was accepted and is stuck: {change}: {why}")
            }),
            Err(kube::Error::Api(status)) => {
                assert!(status.code == 422 && status.message.contains("spec."), "{change}: {status:?}");
                refused += 1;
            }
            Err(error) => panic!("seed {seed}, transition {number}: {change}: {error}"),
        }
    }
    eprintln!("{TRANSITIONS} transitions, {refused} refused in words, 0 stuck");
    assert!(refused > 0 && refused < TRANSITIONS, "{refused} of {TRANSITIONS} refused: the values say nothing");
}

/// What a reconcile does with the broker; then its consumers are looked at.
async fn in_effect(broker: &Broker, name: &str, handler: &EventHandler) -> Result<(), String> {
    let settings = Settings::of(&handler.spec).map_err(|error| error.to_string())?;
    let wanted = consumers_of(name, handler.metadata.uid.as_deref().unwrap(), &settings);
    consumers::ensure(broker, &wanted, &Position::default()).await.map_err(|error| error.to_string())?;
    // A cluster lists a change a moment after it has confirmed it.
    let begun = Instant::now();
    loop {
        match compare(broker, &wanted).await {
            Err(_) if begun.elapsed() < LISTED => sleep(Duration::from_millis(20)).await,
            outcome => return outcome,
        }
    }
}

/// How the consumers that there are differ from the wanted ones.
async fn compare(broker: &Broker, wanted: &consumers::Handler) -> Result<(), String> {
    let found = consumers::list(broker).await.map_err(|error| error.to_string())?;
    let mut different = String::new();
    for config in wanted.configs() {
        let consumer = config.durable_name.as_deref().unwrap();
        let Some(found) = found.iter().find(|found| found.name == consumer) else {
            return Err(format!("{consumer} is not there"));
        };
        if found.config.pause_until != config.pause_until {
            write!(different, "{consumer}: paused until {:?}", found.config.pause_until).unwrap();
        }
        if found.config.max_ack_pending != config.max_ack_pending {
            write!(different, "{consumer}: max_ack_pending {}", found.config.max_ack_pending).unwrap();
        }
        let mut subjects = found.config.filter_subjects.clone();
        subjects.extend(Some(found.config.filter_subject.clone()).filter(|subject| !subject.is_empty()));
        let mut expected = config.filter_subjects.clone();
        subjects.sort();
        expected.sort();
        if subjects != expected {
            write!(different, "{consumer}: {} filters instead of {}", subjects.len(), expected.len()).unwrap();
        }
    }
    if different.is_empty() { Ok(()) } else { Err(different) }
}
