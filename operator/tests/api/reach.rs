//! Who may reach the pods, judged by the objects that are applied. (Whether a network enforces them is the network's
//! matter.)

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tidegate_crds::{EventHandler, EventTopic};
use tidegate_operator::context::Context;

use crate::grants::World;
use crate::handler::until_reason;
use crate::support::brokers::{Places, broker_on, server, sidecar_client, topic_at, topic_on, until_ready};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually};
use crate::validation_handler::{handler, spec};

type Labels = BTreeMap<String, String>;

fn labels(value: Value) -> Labels {
    serde_json::from_value(value).unwrap()
}

/// A pod that connects, and its namespace.
struct Client {
    namespace: String,
    pod: Labels,
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let fits = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let mut expressions = selector.match_expressions.iter().flatten();
    selector.match_labels.iter().flatten().all(fits)
        && expressions.all(|expression| match expression.operator.as_str() {
            "Exists" => labels.contains_key(&expression.key),
            "DoesNotExist" => !labels.contains_key(&expression.key),
            "In" => {
                let values = expression.values.iter().flatten();
                labels.get(&expression.key).is_some_and(|value| values.clone().any(|wanted| wanted == value))
            }
            operator => panic!("not judged here: {operator}"),
        })
}

fn is_peer(peer: &NetworkPolicyPeer, client: &Client, own: &str) -> bool {
    assert!(peer.ip_block.is_none(), "not judged here");
    let namespace = labels(json!({"kubernetes.io/metadata.name": client.namespace}));
    let is_there = match &peer.namespace_selector {
        Some(selector) => selects(selector, &namespace),
        None => client.namespace == own,
    };
    is_there && peer.pod_selector.as_ref().is_none_or(|selector| selects(selector, &client.pod))
}

fn is_port(allowed: &NetworkPolicyPort, port: i32) -> bool {
    assert!(allowed.end_port.is_none() && allowed.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    match &allowed.port {
        None => true,
        Some(IntOrString::Int(allowed)) => *allowed == port,
        Some(IntOrString::String(name)) => panic!("not judged here: {name}"),
    }
}

/// As networks enforce it: a pod that no policy selects takes everything, another one what any of them allows.
fn may_reach(policies: &[NetworkPolicy], own: &str, server: &Labels, client: &Client, port: i32) -> bool {
    let specs: Vec<_> = policies
        .iter()
        .filter_map(|policy| policy.spec.as_ref())
        .filter(|spec| spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, server)))
        .filter(|spec| spec.policy_types.iter().flatten().any(|kind| kind == "Ingress"))
        .collect();
    let mut rules = specs.iter().flat_map(|spec| spec.ingress.iter().flatten());
    specs.is_empty()
        || rules.any(|rule| {
            let peers = rule.from.as_deref().unwrap_or_default();
            let ports = rule.ports.as_deref().unwrap_or_default();
            (peers.is_empty() || peers.iter().any(|peer| is_peer(peer, client, own)))
                && (ports.is_empty() || ports.iter().any(|allowed| is_port(allowed, port)))
        })
}

/// The policies of the namespace, when there are as many, and the labels of each handler's pods.
async fn applied(space: &Space, handlers: &[&str]) -> (Vec<NetworkPolicy>, BTreeMap<String, Labels>) {
    let policies: Api<NetworkPolicy> = space.api();
    let deployments: Api<Deployment> = space.api();
    let mut pods = BTreeMap::new();
    for handler in handlers {
        let template = eventually(handler, async || {
            deployments.get_opt(&format!("{handler}-handler")).await.ok()??.spec?.template.metadata?.labels
        })
        .await;
        pods.insert((*handler).to_owned(), template);
    }
    (policies.list(&ListParams::default()).await.unwrap().items, pods)
}

#[tokio::test]
async fn a_handlers_pods_are_reached_by_whom_the_specification_names_and_by_nothing_else() {
    let _turn = turn().await;
    let (space, places) = (Space::new("reach").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let observability = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}});
    let rule = |rule: Value| json!({"replicas": 1, "networkPolicy": {"ingress": [rule]}});
    for (name, changes) in [
        ("closed", json!({"replicas": 1})),
        ("metrics", rule(json!({"from": [observability], "ports": [{"port": 9090}]}))),
        ("friends", rule(json!({"from": [observability]}))),
        ("open", rule(json!({}))),
    ] {
        space.create::<EventHandler>(handler(name, spec(changes))).await;
    }
    let (policies, pods) = applied(&space, &["closed", "metrics", "friends", "open"]).await;
    let own = space.name.as_str();
    let client = |namespace: &str, pod: Value| Client { namespace: namespace.into(), pod: labels(pod) };
    let clients = [
        client(own, json!({"app": "any"})),
        client(own, json!({"app.kubernetes.io/component": "broker", "tidegate.io/broker": "orders"})),
        client(
            own,
            json!({"tidegate.io/handler": "closed", "tidegate.io/topic": "orders", "tidegate.io/broker": "orders"}),
        ),
        client("elsewhere", json!({"app": "any"})),
        client("observability", json!({"app": "collector"})),
    ];
    for (number, client) in clients.iter().enumerate() {
        let is_friend = client.namespace == "observability";
        // The program's port, the sidecar's, one for metrics.
        for port in [8080, 15480, 9090] {
            for (handler, expected) in
                [("closed", false), ("metrics", is_friend && port == 9090), ("friends", is_friend), ("open", true)]
            {
                let found = may_reach(&policies, own, &pods[handler], client, port);
                assert_eq!(found, expected, "client {number} on port {port} of {handler}");
            }
        }
    }
    // Somebody opens it beside the specification, and the specification is changed.
    let policies: Api<NetworkPolicy> = space.api();
    let reached = async |handler: &str, client: &Client, port| {
        let all = policies.list(&ListParams::default()).await.ok()?.items;
        Some(may_reach(&all, own, &pods[handler], client, port))
    };
    space.merge::<NetworkPolicy>("closed-handler", json!({"spec": {"ingress": [{}]}})).await;
    eventually("it is closed again", async || (!reached("closed", &clients[0], 8080).await?).then_some(())).await;
    space.merge::<EventHandler>("open", json!({"spec": {"networkPolicy": null}})).await;
    eventually("it is closed", async || (!reached("open", &clients[0], 8080).await?).then_some(())).await;
    operator.stop().await;
}

#[tokio::test]
async fn brokers_are_reached_by_publishers_and_by_the_handlers_of_their_topics() {
    let _turn = turn().await;
    let (space, places) = (Space::new("reach-broker").await, Places::default());
    let broker = server().await;
    broker_on(&space, &places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    topic_at(&space, "default", "orders", json!({})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let own = space.name.as_str();
    let server = labels(json!({"app.kubernetes.io/component": "broker", "tidegate.io/broker": "default"}));
    let client = |namespace: &str, pod: Value| Client { namespace: namespace.into(), pod: labels(pod) };
    let operators = json!({"app.kubernetes.io/name": "tidegate", "app.kubernetes.io/component": "operator"});
    let handler =
        |broker: &str| json!({"tidegate.io/handler": "a", "tidegate.io/topic": "orders", "tidegate.io/broker": broker});
    // HTTPS, MQTT, NATS, routes, probes, NATS's monitoring.
    let ports = [8443, 8883, 4222, 6222, 8081, 8222];
    let policies = space.api::<NetworkPolicy>();
    let reached = async |client: &Client| -> Vec<i32> {
        let policies = policies.list(&ListParams::default()).await.unwrap().items;
        ports.into_iter().filter(|port| may_reach(&policies, own, &server, client, *port)).collect()
    };
    for (client, expected) in [
        (client(own, json!({"app": "any"})), vec![8443, 8883]),
        (client(own, handler("default")), vec![8443, 8883, 4222]),
        (client(own, handler("large")), vec![8443, 8883]),
        (client(own, json!({"tidegate.io/broker": "default"})), vec![8443, 8883]),
        (client(own, json!(server)), vec![8443, 8883, 4222, 6222]),
        (client("default", operators.clone()), vec![4222]),
        (client("elsewhere", operators), vec![]),
        (client("elsewhere", handler("default")), vec![]),
    ] {
        assert_eq!(reached(&client).await, expected, "{:?} of {}", client.pod, client.namespace);
    }
    // A topic with publishers over NATS opens its broker's port to the namespace, and to no other.
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": [{"nats": "web"}]}})).await;
    let (near, far) = (client(own, json!({"app": "any"})), client("elsewhere", json!({"app": "any"})));
    eventually("it is open", async || (reached(&near).await == [8443, 8883, 4222]).then_some(())).await;
    assert_eq!(reached(&far).await, [] as [i32; 0]);
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": null}})).await;
    eventually("it is closed", async || (reached(&near).await == [8443, 8883]).then_some(())).await;
    // One that admits ServiceAccounts of another namespace lets the pods of that namespace publish.
    let publishers = json!([{"serviceAccount": {"namespace": "elsewhere"}}, {"serviceAccount": {}}]);
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": publishers}})).await;
    eventually("it is open", async || (reached(&far).await == [8443, 8883]).then_some(())).await;
    assert_eq!(reached(&near).await, [8443, 8883]);
    assert_eq!(reached(&client("third", json!({"app": "any"}))).await, [] as [i32; 0]);
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": null}})).await;
    eventually("it is closed", async || reached(&far).await.is_empty().then_some(())).await;
    operator.stop().await;
}

/// Where metrics are scraped, the scraper reaches the two ports that have them, and nobody else does.
#[tokio::test]
async fn scrapers_reach_the_metrics_and_nothing_else() {
    let _turn = turn().await;
    let (space, places) = (Space::new("reach-metrics").await, Places::default());
    let broker = server().await;
    broker_on(&space, &places, &broker, "default", json!({"storage": {"size": "1Gi"}})).await;
    topic_at(&space, "default", "orders", json!({})).await;
    let mut args = args("operator-0", "default");
    args.metrics_exporter = Some("otlp,prometheus".to_owned());
    args.metrics_from =
        vec![json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}})];
    let context = Context::new(space.client.clone(), args).with_broker_addresses(places.addresses());
    let operator = Operator::run(context);
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let (policies, pods) = applied(&space, &["billing"]).await;
    let own = space.name.as_str();
    let servers = labels(json!({"app.kubernetes.io/component": "broker", "tidegate.io/broker": "default"}));
    let client = |namespace: &str| Client { namespace: namespace.into(), pod: labels(json!({"app": "prometheus"})) };
    for (namespace, expected) in [("monitoring", vec![8081, 15480]), ("elsewhere", vec![])] {
        let ports = |server: &Labels| {
            let all = [8443, 8883, 4222, 6222, 8222, 8081, 8080, 15480].into_iter();
            all.filter(|port| may_reach(&policies, own, server, &client(namespace), *port)).collect::<Vec<_>>()
        };
        assert_eq!([ports(&servers), ports(&pods["billing"])].concat(), expected, "{namespace}");
    }
    let deployment = space.api::<Deployment>().get("billing-handler").await.unwrap();
    let set = space.api::<StatefulSet>().get("default-broker").await.unwrap();
    let told = json!({"name": "OTEL_METRICS_EXPORTER", "value": "otlp,prometheus"}).to_string();
    for pod in [deployment.spec.unwrap().template.spec, set.spec.unwrap().template.spec] {
        assert_eq!(json!(pod).to_string().matches(&told).count(), 1, "one container of ours is told");
    }
    operator.stop().await;
}

/// Topics of another namespace, and handlers of a third.
#[tokio::test]
async fn namespaces_that_are_granted_reach_the_broker_and_no_others() {
    let _turn = turn().await;
    let world = World::start("reach-granted", json!({"from": "All"})).await;
    let (own, topics) = (world.shop.name.as_str(), world.web.name.as_str());
    let third = json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "third"}}});
    world.far_topic("orders", json!({"handlers": third})).await;
    world.until_far_ready("orders").await;
    let server = labels(json!({"app.kubernetes.io/component": "broker", "tidegate.io/broker": "default"}));
    let client = |namespace: &str, pod: Value| Client { namespace: namespace.into(), pod: labels(pod) };
    let handler = |of: &str| json!({"tidegate.io/handler": "a", "tidegate.io/broker": "default", "tidegate.io/broker-namespace": of});
    let any = json!({"app": "any"});
    let policies = world.shop.api::<NetworkPolicy>();
    let reached = async |client: &Client| -> Vec<i32> {
        let policies = policies.list(&ListParams::default()).await.unwrap().items;
        let ports = [8443, 8883, 4222, 6222].into_iter();
        ports.filter(|port| may_reach(&policies, own, &server, client, *port)).collect()
    };
    let all = [
        (client(topics, any.clone()), vec![8443, 8883]),
        (client(topics, handler(own)), vec![8443, 8883, 4222]),
        (client(topics, handler("another")), vec![8443, 8883]),
        (client("third", any.clone()), vec![]),
        (client("third", handler(own)), vec![4222]),
        (client("third", handler("another")), vec![]),
        (client("elsewhere", handler(own)), vec![]),
        // A handler of the broker's namespace whose topic is on a broker of the same name elsewhere.
        (client(own, handler("another")), vec![8443, 8883]),
    ];
    for (client, expected) in &all {
        eventually(&format!("{:?} of {}", client.pod, client.namespace), async || {
            (reached(client).await == *expected).then_some(())
        })
        .await;
    }
    world.far_topic("letters", json!({"publishers": [{"nats": "cli"}]})).await;
    let publisher = client(topics, any);
    eventually("its publishers over NATS", async || (reached(&publisher).await == [8443, 8883, 4222]).then_some(()))
        .await;
    world.web.merge::<EventTopic>("orders", json!({"spec": {"handlers": {"from": "All", "selector": null}}})).await;
    let elsewhere = client("elsewhere", handler(own));
    eventually("handlers of all", async || (reached(&elsewhere).await == [4222]).then_some(())).await;
    world.operator.stop().await;
}

#[tokio::test]
async fn who_can_connect_to_the_program_is_said_and_so_is_that_it_is_not_known() {
    let _turn = turn().await;
    let (space, places) = (Space::new("exposed").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(handler("billing", spec(json!({"replicas": 1})))).await;
    let unknown = until_reason(&space, "Exposed", "NotReported").await;
    assert_eq!(crate::handler::condition(&unknown, "Exposed").unwrap().status, "Unknown");
    let client = sidecar_client(&space, &broker, "billing").await;
    for (report, reason, status) in [
        (json!({"pod": "p", "loopbackOnly": true}), "ListensOnLoopback", "False"),
        (json!({"pod": "p", "exposed": "0.0.0.0:8080"}), "ListensOnPodAddress", "True"),
        (json!({"pod": "p"}), "NotReported", "Unknown"),
    ] {
        // As often as a sidecar that has something new to say.
        let reports = async {
            loop {
                client.publish("reports.billing", report.to_string().into()).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        };
        let found = tokio::select! {
            found = until_reason(&space, "Exposed", reason) => found,
            () = reports => unreachable!("it reports for ever"),
        };
        let exposed = crate::handler::condition(&found, "Exposed").unwrap();
        assert_eq!((exposed.status.as_str(), exposed.observed_generation), (status, found.metadata.generation));
    }
    operator.stop().await;
}
