//! What becomes of a specification: numbers in the words of the contract, or a refusal that says where.

use serde_json::json;

use super::*;

fn settings(spec: Value) -> Result<Settings, Error> {
    Settings::of(&serde_json::from_value(spec).unwrap())
}

#[test]
fn the_port_is_the_first_containers_unless_named() {
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]});
    let template = json!({"spec": {"containers": [container]}});
    for (delivery, port, source) in
        [(json!({}), 8080, PortSource::Container), (json!({"port": 9090}), 9090, PortSource::Setting)]
    {
        let found = settings(json!({"topic": "t", "template": template, "delivery": delivery})).unwrap().delivery;
        assert_eq!((found.port, found.port_source), (port, source));
    }
}

fn of(changes: Value) -> Result<Settings, Error> {
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 8080}]});
    let mut spec = json!({"topic": "t", "template": {"spec": {"containers": [container]}}});
    spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    settings(spec)
}

#[test]
fn an_expression_that_is_none_is_refused_in_words() {
    let filter = |expression: &str| of(json!({"filter": {"expression": expression}}));
    assert!(filter("data.amount > 100 && has(event.subject)").is_ok());
    for (expression, says) in [("data.amount >", "spec.filter.expression"), ("amount > 1", "amount"), ("f(data)", "f")]
    {
        let error = filter(expression).unwrap_err();
        assert_eq!(error.reason(), "InvalidFilter");
        assert!(error.to_string().contains(says), "{expression}: {error}");
    }
}

#[test]
fn what_the_sidecar_or_the_broker_could_not_take_is_refused_in_words() {
    let long = |character: &str, number: usize, count: usize| -> Vec<String> {
        (0..count).map(|index| format!("{index}{}", character.repeat(number))).collect()
    };
    for (changes, says) in [
        (json!({"delivery": {"path": "/a<b"}}), "spec.delivery.path"),
        (json!({"delivery": {"path": "/a#b"}}), "spec.delivery.path"),
        (json!({"delivery": {"retry": {"onExhausted": "Park"}}}), "spec.delivery.retry.onExhausted"),
        (json!({"filter": {"sources": long("\u{1F600}", 1000, 64)}}), "spec.filter"),
        (json!({"filter": {"types": long("ö", 200, 16)}, "delivery": {"order": "Key", "lanes": 2}}), "once for each"),
    ] {
        let error = of(changes.clone()).unwrap_err();
        assert_eq!(error.reason(), "InvalidSpec", "{changes}");
        assert!(error.to_string().contains(says), "{error}");
    }
    for changes in [
        json!({"delivery": {"path": "/~a-_/%20?b=[c]&d={e}|f^"}}),
        json!({"filter": {"sources": long("s", 1000, 64)}}),
        json!({"filter": {"types": long("ö", 200, 16)}}),
        json!({"filter": {"types": long("t", 200, 16)}, "delivery": {"order": "Key", "lanes": 2}}),
    ] {
        assert!(of(changes.clone()).is_ok(), "{changes}");
    }
}

#[test]
fn a_number_that_the_schema_would_refuse_is_not_another_number() {
    for (changes, field) in [
        (json!({"delivery": {"concurrency": -1}}), "spec.delivery.concurrency"),
        (json!({"delivery": {"retry": {"maxAttempts": -1}}}), "spec.delivery.retry.maxAttempts"),
        (json!({"delivery": {"retry": {"retryOn": ["2xx"]}}}), "spec.delivery.retry.retryOn: \"2xx\" is neither"),
        (json!({"delivery": {"retry": {"finalOn": ["404", "all"]}}}), "spec.delivery.retry.finalOn: \"all\""),
        (json!({"delivery": {"order": "Key", "lanes": 70_000}}), "spec.delivery.lanes"),
        (json!({"delivery": {"format": "Batch", "batch": {"maxEvents": -1}}}), "spec.delivery.batch.maxEvents"),
        (json!({"delivery": {"rateLimit": {"events": -1, "per": "1s"}}}), "spec.delivery.rateLimit.events"),
        (json!({"autoscaling": {"minReplicas": -1}}), "spec.autoscaling.minReplicas"),
        (json!({"autoscaling": {"maxReplicas": -1}}), "spec.autoscaling.maxReplicas"),
        (json!({"replicas": -1}), "spec.replicas"),
    ] {
        let error = of(changes.clone()).unwrap_err();
        assert_eq!(error.reason(), "InvalidSpec", "{changes}");
        assert!(error.to_string().contains(field), "{error}");
    }
}

#[test]
fn it_starts_where_it_says() {
    let noon = OffsetDateTime::from_unix_timestamp(1_769_860_800).unwrap();
    for (from, start) in [
        ("Latest", Start::Latest),
        ("Earliest", Start::Earliest),
        ("1234", Start::Sequence(1234)),
        ("2026-01-31T12:00:00Z", Start::Time(noon)),
        ("2026-01-31T13:00:00.0+01:00", Start::Time(noon)),
    ] {
        assert_eq!(of(json!({"startFrom": from})).unwrap().start, start, "{from}");
    }
    assert_eq!(of(json!({})).unwrap().start, Start::Latest);
    let error = of(json!({"startFrom": "2026-02-30T00:00:00Z"})).unwrap_err();
    assert!(error.to_string().contains("spec.startFrom"), "{error}");
}

#[test]
fn delivery_is_in_the_words_of_the_contract() {
    let delivery = |delivery: Value| of(json!({"delivery": delivery})).unwrap().delivery;
    let plain = delivery(json!({}));
    assert_eq!((plain.format, plain.order, plain.rate), (Format::Binary, Order::None, None));
    assert_eq!(delivery(json!({"order": "Key"})).order, Order::Key { lanes: 8 });
    assert_eq!(delivery(json!({"order": "Key", "lanes": 3})).order, Order::Key { lanes: 3 });
    let batch = delivery(json!({"format": "Batch", "batch": {"maxWait": "50ms"}})).format;
    assert_eq!(batch, Format::Batch { max_events: 100, max_wait: Duration::from_millis(50) });
    assert_eq!(plain.retry.statuses, StatusRules::default());
    let statuses = delivery(json!({"retry": {"retryOn": ["404", "409"], "finalOn": ["5xx"]}})).retry.statuses;
    let (retried, final_) = (vec![StatusMatch::Code(404), StatusMatch::Code(409)], vec![StatusMatch::Class(5)]);
    assert_eq!(statuses, StatusRules { retried, final_ });
    assert_eq!(plain.on_exhausted, OnExhausted::DeadLetter);
    let parking = delivery(json!({"order": "Key", "retry": {"onExhausted": "Park"}}));
    assert_eq!(parking.on_exhausted, OnExhausted::Park);
    let rate = delivery(json!({"rateLimit": {"events": 5, "per": "1m"}})).rate;
    assert_eq!(rate, Some(Rate { events: 5, per: Duration::from_secs(60) }));
    assert_eq!(plain.expiry, None);
    let max_age = Duration::from_secs(3600);
    for (on_expired, expected) in [
        (json!(null), OnExpired::DeadLetter),
        (json!("DeadLetter"), OnExpired::DeadLetter),
        (json!("Skip"), OnExpired::Skip),
    ] {
        let expiry = delivery(json!({"maxEventAge": "1h", "onExpired": on_expired})).expiry;
        assert_eq!(expiry, Some(Expiry { max_age, on_expired: expected }));
    }
}

#[test]
fn a_pod_is_planned_with_the_slots_it_has() {
    let slots = |delivery: Value| {
        let autoscaled = of(json!({"delivery": delivery, "autoscaling": {}})).unwrap();
        (autoscaled.policy.unwrap().slots, autoscaled.delivery.slots())
    };
    let batch =
        |concurrency, events| json!({"format": "Batch", "concurrency": concurrency, "batch": {"maxEvents": events}});
    assert_eq!(slots(json!({"concurrency": 64})), (64, 64));
    assert_eq!(slots(batch(4, 100)), (400, 400));
    assert_eq!(slots(batch(64, 1000)), (4096, 4096), "a pod has at most 4,096 events in flight");
}

#[test]
fn no_port_is_refused_with_the_remedy() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    let error = settings(json!({"topic": "t", "template": template})).unwrap_err();
    assert!(error.to_string().contains("containerPort"), "{error}");
}
