//! What may reach the broker pods, where the cluster's network enforces it.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};
use tidegate_broker_client::layout::BROKER_PORT;
use tidegate_crds::GrantedNamespaces;

use super::{Input, child};
use crate::broker::topics::Topic;
use crate::kubernetes::apply::Child;
use crate::kubernetes::names;
use crate::kubernetes::scrapers::scrapers;
use crate::topic::rules;

/// The label that the API server gives each namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Publishing: any pod of the broker's namespace, of those of its topics, and of those of which a topic admits ServiceAccounts
/// (the ingress admits whom the topic names); everybody where there is a way from outside: what comes through a load balancer
/// has the address of a node, or one that is not known here. The broker itself: the handlers of its topics, its peers, the
/// operator, and, where there are publishers over NATS, any pod of their topic's namespace (the broker admits those with
/// credentials). The ingress's admin port: whoever scrapes metrics. Probes come from the node, which every network lets
/// through.
pub fn broker(input: &Input<'_>) -> Child {
    let broker = &input.owner.name;
    let name = names::broker(broker);
    let brokers = json!({"podSelector": {"matchLabels": names::broker_selector(broker)}});
    let operator = json!({
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: input.args.pod_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "tidegate", names::COMPONENT_LABEL: "operator"}},
    });
    let port = |port: i32| json!({"port": port, "protocol": "TCP"});
    let over_nats = |topic: &Topic| !rules::nats_names(&topic.publishers).is_empty();
    let mut from = elsewhere(input, |_| true);
    let named = input.topics.iter().flat_map(|topic| rules::namespaces(&topic.publishers));
    from.extend(named.filter(|namespace| *namespace != input.owner.namespace));
    let mut publishers = vec![json!({"podSelector": {}})];
    publishers.extend(pods_of_namespaces(&from));
    let mut clients = vec![brokers.clone(), operator];
    clients.extend(handlers(input));
    if input.topics.iter().any(|topic| over_nats(topic) && is_in(topic, &input.owner.namespace)) {
        clients.push(json!({"podSelector": {}}));
    }
    clients.extend(pods_of_namespaces(&elsewhere(input, over_nats)));
    let ports = json!([port(names::INGRESS_PORT), port(names::MQTT_PORT)]);
    let publishing = if input.broker.spec.access.is_empty() {
        json!({"from": publishers, "ports": ports})
    } else {
        json!({"ports": ports})
    };
    let mut ingress = vec![
        publishing,
        json!({"from": clients, "ports": [port(i32::from(BROKER_PORT))]}),
        json!({"from": [brokers], "ports": [port(names::ROUTE_PORT)]}),
    ];
    ingress.extend(scrapers(input.args, names::INGRESS_ADMIN_PORT));
    let value = json!({
        "metadata": input.owner.metadata(&name, &names::broker_labels(broker)),
        "spec": {
            "podSelector": {"matchLabels": names::broker_selector(broker)},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    });
    child::<NetworkPolicy>(&name, value)
}

fn is_in(topic: &Topic, namespace: &str) -> bool {
    topic.id.namespace() == namespace
}

/// The other namespaces of which there are such topics.
fn elsewhere<'a>(input: &Input<'a>, counts: fn(&Topic) -> bool) -> BTreeSet<&'a str> {
    let found = input.topics.iter().filter(|topic| counts(topic) && !is_in(topic, &input.owner.namespace));
    found.map(|topic| topic.id.namespace()).collect()
}

/// Any pod of these namespaces; `None`: there are none.
fn pods_of_namespaces(namespaces: &BTreeSet<&str>) -> Option<Value> {
    (!namespaces.is_empty()).then(|| json!({"namespaceSelector": by_name(namespaces)}))
}

fn by_name(namespaces: &BTreeSet<&str>) -> Value {
    json!({"matchExpressions": [{"key": NAMESPACE_NAME, "operator": "In", "values": namespaces}]})
}

/// The pods of handlers, by our own labels only: the others are the user's. Those of the broker's namespace, and those of the
/// namespaces of topics and of whom these grant.
fn handlers(input: &Input<'_>) -> Vec<Value> {
    let (broker, namespace) = (&input.owner.name, &input.owner.namespace);
    let is_handler = json!({"key": names::HANDLER_LABEL, "operator": "Exists"});
    let near = json!({"podSelector": {
        "matchLabels": {names::BROKER_LABEL: broker},
        "matchExpressions": [is_handler, {"key": names::BROKER_NAMESPACE_LABEL, "operator": "DoesNotExist"}],
    }});
    let far = json!({
        "matchLabels": {names::BROKER_LABEL: broker, names::BROKER_NAMESPACE_LABEL: namespace},
        "matchExpressions": [is_handler],
    });
    let topics = elsewhere(input, |_| true);
    let mut selectors: Vec<Value> = Vec::new();
    if !topics.is_empty() {
        selectors.push(by_name(&topics));
    }
    for grant in input.topics.iter().map(|topic| &topic.handlers) {
        let selector = match grant.from {
            GrantedNamespaces::Same => continue,
            GrantedNamespaces::All => json!({}),
            GrantedNamespaces::Selector => json!(grant.selector),
        };
        if !selectors.contains(&selector) {
            selectors.push(selector);
        }
    }
    // One that selects all makes the others needless.
    if selectors.contains(&json!({})) {
        selectors = vec![json!({})];
    }
    let elsewhere =
        selectors.into_iter().map(|selector| json!({"namespaceSelector": selector, "podSelector": far.clone()}));
    std::iter::once(near).chain(elsewhere).collect()
}
