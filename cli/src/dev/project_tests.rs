use serde_json::{Value, json};

use super::*;

fn topic(name: &str, spec: Value) -> EventTopic {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).unwrap()
}

fn handler(name: &str, more: Value) -> EventHandler {
    let container = json!({"name": "a", "image": "b", "ports": [{"containerPort": 8080}], "env": [
        {"name": "MODE", "value": "test"}, {"name": "POD", "valueFrom": {}}, {"name": "URL", "value": "a$(B)"},
    ]});
    let mut spec = json!({"topic": "orders", "template": {"spec": {"containers": [container]}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec})).unwrap()
}

fn project(topics: Vec<EventTopic>, handlers: Vec<EventHandler>) -> Result<Project, String> {
    let resources = Resources { topics, handlers, ..Resources::default() };
    Project::new(resources, &BTreeMap::new()).map_err(|error| {
        assert_eq!(error.code(), 2, "{error}");
        error.to_string()
    })
}

#[test]
fn what_a_cluster_has_and_this_machine_has_not_is_a_note() {
    let scaled = handler("billing", json!({"autoscaling": {"maxReplicas": 4}}));
    let project = project(vec![topic("orders", json!({}))], vec![scaled]).unwrap();
    let [note] = &project.notes[..] else { panic!("{:?}", project.notes) };
    assert!(note.contains("so env with valueFrom or $(…), autoscaling has no effect"), "{note}");
    let billing = &project.handlers[0];
    assert_eq!(billing.environment().collect::<Vec<_>>(), [("MODE".to_owned(), "test".to_owned())]);
    assert_eq!((billing.uid().as_str(), billing.known_as.as_str()), ("dev-default-billing", "billing"));
    assert_eq!(project.topics[0].service_account(), Some(("default".into(), "default".into())));
    assert!(project.broker.file_store >= project.topics[0].settings.promised * 2);
}

#[test]
fn what_cannot_run_says_what_to_write() {
    let orders = || vec![topic("orders", json!({}))];
    let billing = |more| vec![handler("billing", more)];
    for (topics, handlers, said) in [
        (Vec::new(), billing(json!({})), "no EventTopic in these files"),
        (orders(), billing(json!({"topic": "order"})), "no EventTopic default/order; there is default/orders"),
        (orders(), billing(json!({"deadLetter": {"topic": "failed"}})), "EventTopic failed, which is not in"),
        (orders(), billing(json!({"deadLetter": {"topic": "orders"}})), "deadLetter.topic"),
        (orders(), billing(json!({"template": {"spec": {"containers": [{"name": "a"}]}}})), "containerPort"),
        ([orders(), orders()].concat(), Vec::new(), "orders is there twice"),
        (orders(), [billing(json!({})), billing(json!({}))].concat(), "billing is there twice"),
        (vec![topic("orders", json!({"retention": {"maxAge": "soon"}}))], Vec::new(), "spec.retention.maxAge"),
    ] {
        let error = project(topics, handlers).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_port_may_be_another_one_here() {
    let resources = || Resources {
        topics: vec![topic("orders", json!({}))],
        handlers: vec![handler("billing", json!({})), handler("audit", json!({}))],
        ..Resources::default()
    };
    let same = Project::new(resources(), &BTreeMap::new()).unwrap();
    assert!(same.notes.iter().any(|note| note.contains("both deliver to port 8080")), "{:?}", same.notes);
    let ports = BTreeMap::from([("audit".to_owned(), 9000)]);
    let other = Project::new(resources(), &ports).unwrap();
    assert_eq!(other.handlers[0].settings.delivery.port, 9000);
    assert!(other.notes.iter().all(|note| !note.contains("both deliver")), "{:?}", other.notes);
    let ports = BTreeMap::from([("nobody".to_owned(), 9000)]);
    assert!(Project::new(resources(), &ports).unwrap_err().to_string().contains("no such EventHandler"));
}

#[test]
fn a_handler_of_another_namespace_needs_the_grant() {
    let mut elsewhere = handler("billing", json!({"topicNamespace": "default"}));
    elsewhere.metadata.namespace = Some("web".into());
    let with = |grant: Value| project(vec![topic("orders", json!({"handlers": grant}))], vec![elsewhere.clone()]);
    assert!(with(json!({})).unwrap_err().contains("spec.handlers.from"));
    assert_eq!(with(json!({"from": "All"})).unwrap().handlers[0].known_as, "billing=web");
}
