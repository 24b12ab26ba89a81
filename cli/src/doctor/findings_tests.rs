use k8s_openapi::api::core::v1::{Event, Pod};
use serde_json::{Value, json};
use tidegate_crds::conditions::{Finding as Condition, Status, kind, merge};

use super::*;

/// What a condition says.
type Said<'a> = (&'static str, Status, &'a str, &'a str);

/// Conditions with the one that sums up, as the operator writes them.
fn conditions(said: &[Said<'_>]) -> Value {
    let parts: Vec<Condition> =
        said.iter().map(|(kind, status, reason, message)| Condition::new(kind, *status, *reason, *message)).collect();
    // What no one knows of a handler's answers is no reason not to be ready.
    let counts = |part: &Condition| {
        let all = BROKER.iter().chain(&TOPIC).chain(&HANDLER);
        let is_needed = all.into_iter().any(|rule| rule.is_needed && rule.kind == part.kind);
        let is_optional = [kind::HANDLER_AVAILABLE, kind::DELIVERING].contains(&part.kind);
        is_needed && !(is_optional && part.status == Status::Unknown)
    };
    let bad = parts.iter().find(|part| counts(part) && part.status != Status::True);
    let ready = match bad {
        None => Condition::new(kind::READY, Status::True, "Ready", ""),
        Some(part) => Condition::new(kind::READY, Status::False, part.reason.clone(), part.message.clone()),
    };
    let is_said = parts.iter().any(|part| part.kind == kind::READY);
    let all = parts.into_iter().chain((!is_said).then_some(ready)).collect();
    serde_json::to_value(merge(all, &[], Some(1), jiff::Timestamp::UNIX_EPOCH)).unwrap()
}

fn resource<K: serde::de::DeserializeOwned>(name: &str, mut spec: Value, status: Value) -> Named<K> {
    let is_handler = spec.get("topic").is_some();
    if is_handler {
        spec["template"] = json!({});
    }
    let object =
        json!({"metadata": {"name": name, "namespace": "shop", "generation": 1}, "spec": spec, "status": status});
    Named { shown: format!("Some shop/{name}"), seen: Seen::There(serde_json::from_value(object).unwrap()) }
}

const TRUE: Status = Status::True;
const FALSE: Status = Status::False;
const UNKNOWN: Status = Status::Unknown;

fn broker_with(more: &[Said<'_>], status: Value) -> Named<EventBroker> {
    let mut said = vec![
        (kind::BROKER_AVAILABLE, TRUE, "AllReady", "1 of 1 broker pods are ready"),
        (kind::CERTIFICATES_CURRENT, TRUE, "FarFromEnd", "certificates are renewed 30 days before they end"),
    ];
    said.retain(|(kind, ..)| !more.iter().any(|(other, ..)| other == kind));
    said.extend(more);
    let mut all = json!({"conditions": conditions(&said)});
    all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    resource("default", json!({}), all)
}

fn topic_with(more: &[Said<'_>]) -> Named<EventTopic> {
    let mut said = vec![
        (kind::STREAM_READY, TRUE, "Configured", "the streams are as configured"),
        (kind::ADDRESSABLE, TRUE, "Served", "every ingress takes events"),
        (kind::STORAGE_HEALTHY, TRUE, "Storing", "what is given is stored"),
        (kind::HAS_ROOM, TRUE, "Room", "there is room for new events"),
        (kind::DATA_LOST, FALSE, "NothingLost", "no loss is known"),
    ];
    said.retain(|(kind, ..)| !more.iter().any(|(other, ..)| other == kind));
    said.extend(more);
    resource("orders", json!({}), json!({"conditions": conditions(&said)}))
}

fn handler_with(more: &[Said<'_>], spec: Value, status: Value) -> Named<EventHandler> {
    let mut said = vec![
        (kind::TOPIC_READY, TRUE, "TopicReady", "EventTopic orders takes handlers"),
        (kind::SUBSCRIBED, TRUE, "Subscribed", "no event is missed"),
        (kind::PODS_READY, TRUE, "PodsReady", "1 of 1 pods are ready"),
        (kind::HANDLER_AVAILABLE, TRUE, "Answering", "the containers answer"),
        (kind::DELIVERING, TRUE, "Delivering", "events are handled"),
        (kind::EXPOSED, FALSE, "ListensOnLoopback", ""),
    ];
    said.retain(|(kind, ..)| !more.iter().any(|(other, ..)| other == kind));
    said.extend(more);
    let mut all = json!({"conditions": conditions(&said), "deadLetters": 0});
    all.as_object_mut().unwrap().extend(status.as_object().unwrap().clone());
    let mut whole = json!({"topic": "orders"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    resource("billing", whole, all)
}

/// Of a handler with which everything is right.
fn fine() -> Facts {
    Facts {
        broker: Some(broker_with(&[], json!({}))),
        broker_pods: Some(Seen::There(vec![pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}))])),
        topic: Some(topic_with(&[])),
        handler: Some(handler_with(&[], json!({}), json!({}))),
        pods: Some(Seen::There(vec![pod(json!({"conditions": [{"type": "Ready", "status": "True"}]}))])),
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
        ..Facts::default()
    }
}

fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": status})).unwrap()
}

fn first_red(facts: &Facts) -> (&'static str, String) {
    let found = of(facts);
    let red = found
        .iter()
        .find(|finding| finding.state == State::Red)
        .unwrap_or_else(|| panic!("nothing is red: {found:#?}"));
    (red.link, red.message.clone())
}

fn states(facts: &Facts) -> Vec<(&'static str, State)> {
    of(facts).iter().map(|finding| (finding.link, finding.state)).collect()
}

fn on_handler(said: &[Said<'_>]) -> Facts {
    Facts { handler: Some(handler_with(said, json!({}), json!({}))), ..fine() }
}

#[test]
fn where_all_is_right_each_link_says_so() {
    let expected = [
        "broker",
        "broker pods",
        "topic",
        "publishers",
        "storage",
        "room",
        "handler's topic",
        "subscription",
        "pods",
        "answers",
        "deliveries",
        "dead letters",
    ];
    assert_eq!(states(&fine()), expected.map(|link| (link, State::Ok)));
}

/// What a newcomer gets wrong, in the operator's words.
#[test]
fn the_first_red_line_names_cause_and_remedy() {
    let listens = "nothing listens on 127.0.0.1:9999 or [::1]:9999, delivery.port: the pod listens on port 8080; is delivery.port right?";
    let path = "the last 20 events were refused: 404 Not Found from POST http://127.0.0.1:8080/. Is delivery.path the one that the program takes events at, and is it the right image?";
    let image = "0 of 1 pods are ready: pod p, container main: ErrImagePull: not found. Is the image's name right, and may the node pull it (imagePullSecrets)?";
    let fails = "one event after the other fails, and one at a time is tried; its log may say why. The last answer: 500 Internal Server Error";
    let quota =
        "0 of 1 pods are ready: pods \"p\" is forbidden: exceeded quota: tight. Raise that quota, or ask for less";
    let full = "publishers are refused with 429: EventHandler billing still needs the oldest event. Let it catch up";
    let no_topic = "there is no EventTopic orders in namespace shop: make it, or name another in a new handler";
    let no_broker = "there is no EventBroker default in namespace shop: make it";
    let ended = "the certificate that default-broker-0 uses ended at 2026-01-01T00:00:00Z: nothing that checks it connects any more. Does the operator run";
    let later = (kind::SUBSCRIBED, UNKNOWN, "WaitingForTopic", "comes after the topic");
    let outage = |why| {
        on_handler(&[
            (kind::PODS_READY, TRUE, "PodsReady", "1 of 1 pods are ready"),
            (kind::HANDLER_AVAILABLE, FALSE, "Outage", why),
            (kind::DELIVERING, FALSE, "Failing", "the last 3 events failed"),
        ])
    };
    let failing = |why| on_handler(&[(kind::PODS_READY, FALSE, "PodsFailing", why)]);
    let table: Vec<(Facts, &str, &str)> = vec![
        (outage(listens), "answers", listens),
        (on_handler(&[(kind::DELIVERING, FALSE, "Refused", path)]), "deliveries", path),
        (failing(image), "pods", image),
        (outage(fails), "answers", fails),
        (failing(quota), "pods", quota),
        (Facts { topic: Some(topic_with(&[(kind::HAS_ROOM, FALSE, "Full", full)])), ..fine() }, "room", full),
        (
            Facts {
                topic: Some(Named { shown: "EventTopic shop/orders".into(), seen: Seen::Missing }),
                broker: None,
                broker_pods: None,
                ..on_handler(&[(kind::TOPIC_READY, FALSE, "TopicNotFound", no_topic), later])
            },
            "topic",
            no_topic,
        ),
        (
            Facts {
                broker: Some(Named { shown: "EventBroker shop/default".into(), seen: Seen::Missing }),
                topic: Some(topic_with(&[(kind::READY, FALSE, "BrokerNotFound", no_broker)])),
                ..fine()
            },
            "broker",
            no_broker,
        ),
        (
            Facts {
                topic: Some(topic_with(&[
                    (kind::READY, FALSE, "BrokerFull", "2Gi would fit; or name another broker"),
                    (kind::STREAM_READY, UNKNOWN, "NotReached", "not looked at yet"),
                ])),
                ..fine()
            },
            "topic",
            "2Gi would fit; or name another broker",
        ),
        (
            Facts {
                broker: Some(broker_with(&[(kind::CERTIFICATES_CURRENT, FALSE, "Expired", ended)], json!({}))),
                ..fine()
            },
            "certificates",
            ended,
        ),
    ];
    for (facts, link, message) in table {
        assert_eq!(first_red(&facts), (link, message.to_owned()));
    }
}

#[test]
fn a_certificate_ends_even_if_no_operator_says_so() {
    for (end, is_red) in [("2027-01-15T08:00:00Z", true), ("2027-01-15T08:00:01Z", false), ("soon", false)] {
        let status = json!({"certificates": {"expire": "2030-01-01T00:00:00Z", "authoritiesExpire": end}});
        let facts = Facts { broker: Some(broker_with(&[], status)), ..fine() };
        assert_eq!(states(&facts).contains(&("certificates", State::Red)), is_red, "{end}");
    }
    let facts = Facts {
        broker: Some(broker_with(&[(kind::CERTIFICATES_CURRENT, FALSE, "NearEnd", "soon")], json!({}))),
        ..fine()
    };
    assert!(states(&facts).contains(&("certificates", State::Warning)), "events flow");
}

#[test]
fn what_cannot_be_read_is_unknown_and_the_rest_is_looked_at() {
    let no_right = || Seen::Unread("pods is forbidden: User \"eve\" cannot list resource \"pods\": ask".into());
    let facts = Facts { pods: Some(no_right()), broker_pods: Some(no_right()), ..fine() };
    let found = of(&facts);
    let unread: Vec<_> = found.iter().filter(|finding| finding.is_unread).map(|finding| finding.link).collect();
    assert_eq!(unread, ["broker pods", "pods"]);
    assert!(found.iter().any(|finding| finding.link == "deliveries" && finding.state == State::Ok));
    let red = Facts { pods: Some(no_right()), ..on_handler(&[(kind::PODS_READY, FALSE, "PodsFailing", "no image")]) };
    assert_eq!(first_red(&red), ("pods", "no image".into()), "the operator has seen them");
    let named = |shown: &str| shown.to_owned();
    let facts = Facts {
        broker: Some(Named { shown: named("EventBroker a/b"), seen: Seen::Unread("no right".into()) }),
        topic: Some(Named { shown: named("EventTopic a/c"), seen: Seen::Unread("no right".into()) }),
        ..fine()
    };
    assert!(of(&facts).iter().filter(|finding| finding.is_unread).map(|finding| finding.link).eq(["broker", "topic"]));
}

#[test]
fn what_no_operator_has_looked_at_is_unknown() {
    let facts = Facts { handler: Some(resource("billing", json!({"topic": "orders"}), json!({}))), ..fine() };
    let found = of(&facts);
    assert!(found.last().unwrap().is_unread && found.last().unwrap().message.contains("tidegate check"), "{found:?}");
    let mut facts = fine();
    if let Some(Named { seen: Seen::There(topic), .. }) = &mut facts.topic {
        topic.metadata.generation = Some(2);
    }
    let found = of(&facts);
    assert!(
        found.iter().any(|finding| finding.is_unread && finding.message.contains("of the one before")),
        "{found:?}"
    );
}

/// The operator failed before it came to the parts: what they say is of the specification before.
#[test]
fn what_was_not_looked_at_since_a_change_is_unknown_and_no_cause() {
    for part in [
        (kind::SUBSCRIBED, TRUE, "Subscribed", "no event is missed"),
        (kind::SUBSCRIBED, FALSE, "BrokerError", "the broker was away"),
    ] {
        let wrong = (kind::READY, FALSE, "InvalidFilter", "spec.filter.expression: correct it");
        let mut facts = on_handler(&[part, wrong]);
        let Some(Named { seen: Seen::There(handler), .. }) = &mut facts.handler else { panic!("no handler") };
        handler.metadata.generation = Some(2);
        for condition in &mut handler.status.as_mut().unwrap().conditions {
            condition.observed_generation = Some(if condition.type_ == kind::READY { 2 } else { 1 });
        }
        assert_eq!(first_red(&facts), ("handler", wrong.3.to_owned()), "{part:?}");
        let found = of(&facts);
        let subscription = found.iter().find(|finding| finding.link == "subscription").unwrap();
        assert_eq!((subscription.state, subscription.is_unread), (State::Unknown, false));
        assert!(subscription.message.ends_with(&format!("before: {}", part.3)), "{}", subscription.message);
    }
}

#[test]
fn warnings_are_said_and_are_not_red() {
    let said = [
        (kind::SUSPENDED, TRUE, "Suspended", "spec.suspend is true"),
        (kind::EXPOSED, TRUE, "ListensOnPodAddress", "others can post to it"),
        (kind::KEYS_HELD, TRUE, "KeysHeld", "release them"),
        (kind::PODS_READY, TRUE, "SomePodsFailing", "1 of 2 pods are ready: no node"),
        (kind::HANDLER_AVAILABLE, UNKNOWN, "NotReported", "there are no pods"),
    ];
    let mut facts = on_handler(&said);
    facts.topic = Some(topic_with(&[
        (kind::DATA_LOST, TRUE, "EventsLost", "7 are gone"),
        (kind::HAS_ROOM, TRUE, "Filling", "80 %"),
    ]));
    let found = states(&facts);
    for link in ["suspension", "exposure", "held keys", "pods", "losses", "room"] {
        assert!(found.contains(&(link, State::Warning)), "{link}: {found:?}");
    }
    assert!(found.contains(&("answers", State::Unknown)) && !found.iter().any(|(_, state)| *state == State::Red));
}

#[test]
fn dead_letters_are_counted_with_the_last_failure() {
    let last = json!({"time": "", "eventId": "17", "eventType": "t", "error": "404 Not Found", "url": "http://127.0.0.1:8080/"});
    for (spec, status, state, says) in [
        (json!({}), json!({"deadLetters": 0}), State::Ok, "there are none"),
        (
            json!({}),
            json!({"deadLetters": 3, "lastFailure": last}),
            State::Warning,
            "3 are kept; the last failure is that of event 17: 404 Not Found from POST http",
        ),
        (
            json!({}),
            json!({"deadLetters": 1}),
            State::Warning,
            "1 is kept. tidegate dead list billing --context 'a b' --namespace shop shows them; repair what refused them",
        ),
        (json!({"deadLetter": {"topic": "failed"}}), json!({}), State::Ok, "events of EventTopic failed"),
    ] {
        let location = Location { namespace: "own".into(), context: Some("a b".into()) };
        let found = of(&Facts { handler: Some(handler_with(&[], spec, status)), location, ..fine() });
        let last = found.last().unwrap();
        assert!(last.link == "dead letters" && last.state == state && last.message.contains(says), "{last:?}");
    }
}

#[test]
fn pods_say_what_conditions_do_not() {
    let waiting = |reason: &str| {
        pod(json!({"containerStatuses": [{
            "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}},
        }]}))
    };
    let warning = |second: u8, note: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "type": "Warning", "reason": "FailedMount",
            "message": note, "lastTimestamp": format!("2026-01-31T12:00:0{second}Z"), "eventTime": null,
        }))
        .unwrap()
    };
    let starting = || on_handler(&[(kind::PODS_READY, FALSE, "PodsStarting", "0 of 1 pods are ready")]);
    let facts = Facts {
        pods: Some(Seen::There(vec![waiting("ContainerCreating")])),
        warnings: Some(Seen::There(vec![warning(1, "older"), warning(2, "configmap \"settings\" not found\u{1b}[2J")])),
        ..starting()
    };
    let says = "0 of 1 pods are ready: pod p: FailedMount: configmap \"settings\" not found [2J";
    assert_eq!(first_red(&facts), ("pods", says.to_owned()));
    let unread = Facts { warnings: Some(Seen::Unread("no right".into())), ..starting() };
    assert!(first_red(&unread).1.ends_with("are not read: no right"));
    let later = Facts { pods: Some(Seen::There(vec![waiting("ErrImagePull")])), ..fine() };
    assert!(states(&later).contains(&("pods", State::Warning)), "it was ready when the operator looked");
}

#[test]
fn what_belongs_to_a_topic_is_counted_and_what_is_not_ready_named() {
    let there = |named: Named<EventHandler>| match named.seen {
        Seen::There(handler) => handler,
        _ => unreachable!(),
    };
    let handlers = vec![
        there(handler_with(&[], json!({}), json!({}))),
        there(handler_with(&[(kind::PODS_READY, FALSE, "PodsFailing", "no image")], json!({}), json!({}))),
    ];
    let facts = Facts { handlers: Some(Seen::There(handlers)), handler: None, pods: None, ..fine() };
    let found = of(&facts);
    let said: Vec<_> = found.iter().rev().take(2).map(|finding| (finding.state, finding.message.as_str())).collect();
    assert_eq!(said[1], (State::Ok, "1 of 2 in this namespace are ready"));
    assert_eq!(said[0], (State::Warning, "it is not ready: tidegate doctor handler/billing --namespace shop says why"));
    assert_eq!(found.last().unwrap().object, "EventHandler shop/billing");
}

#[test]
fn nothing_of_the_cluster_is_an_escape() {
    let bad = "a\u{1b}[2Jb\u{9b}c\u{202e}\nd";
    let mut facts = on_handler(&[(kind::PODS_READY, FALSE, bad, bad)]);
    facts.broker = Some(Named { shown: bad.into(), seen: Seen::Unread(bad.into()) });
    let is_plain = |text: &str| !text.chars().any(|c| c.is_control() || c == '\u{202e}');
    for finding in of(&facts) {
        assert!([&finding.object, &finding.reason, &finding.message].iter().all(|text| is_plain(text)), "{finding:?}");
    }
}
