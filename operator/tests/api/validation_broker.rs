//! What the API server refuses in an EventBroker, and whether it says where and what to write instead.

use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tidegate_crds::EventBroker;

use crate::support::Space;

#[tokio::test]
async fn a_wrong_broker_is_refused_with_field_and_remedy() {
    let space = Space::new("wrong-broker").await;
    let expression =
        |expression: Value| json!({"topics": {"from": "Selector", "selector": {"matchExpressions": [expression]}}});
    let storage = |size: &str| json!({"storage": {"size": size}});
    let access = |access: Value| json!({"access": [access]});
    let replicas = |replicas: Value| json!({"replicas": replicas});
    for (spec, field, remedy) in [
        (json!({"durability": "Maybe"}), "spec.durability", "\"Fsync\", \"Relaxed\""),
        (storage("1Ki"), "spec.storage.size", "at least 64Mi"),
        (storage("-1Gi"), "spec.storage.size", "20Gi"),
        (replicas(json!(2)), "spec.replicas", "1, 3 or 5"),
        (replicas(json!(4)), "spec.replicas", "1, 3 or 5"),
        (replicas(json!(0)), "spec.replicas", "greater than or equal to 1"),
        (replicas(json!(7)), "spec.replicas", "less than or equal to 5"),
        (replicas(json!("three")), "spec.replicas", "integer"),
        (json!({"pods": {"tolerations": {"key": "a"}}}), "spec.pods.tolerations", "array"),
        (access(json!({"name": "Outside"})), "spec.access[0].name", "[a-z0-9]"),
        (access(json!({"name": "sixteen-letters-"})), "spec.access[0].name", "15"),
        (access(json!({})), "spec.access[0].name", "Required"),
        (access(json!({"name": "a", "type": "ExternalName"})), "spec.access[0].type", "\"NodePort\""),
        (access(json!({"name": "a", "hostnames": ["localhost"]})), "spec.access[0].hostnames[0]", "should match"),
        (access(json!({"name": "a", "hostnames": ["*.*.com"]})), "spec.access[0].hostnames[0]", "should match"),
        (
            access(json!({"name": "a", "hostnames": ["events.example.com", "orders-topic.shop.svc"]})),
            "spec.access[0].hostnames",
            "the cluster's own Services",
        ),
        (
            access(json!({"name": "a", "hostnames": ["*.shop.svc.cluster.local"]})),
            "spec.access[0].hostnames",
            "remove them",
        ),
        (
            access(json!({"name": "a", "certificate": {"secretName": "s"}})),
            "spec.access[0].certificate",
            "name in hostnames which",
        ),
        (
            access(json!({"name": "a", "type": "ClusterIP", "nodePorts": {"https": 30443}})),
            "spec.access[0].nodePorts",
            "type: NodePort or LoadBalancer",
        ),
        (
            access(json!({"name": "a", "type": "NodePort", "loadBalancerClass": "c"})),
            "spec.access[0].loadBalancerClass",
            "type: LoadBalancer",
        ),
        (
            access(json!({"name": "a", "type": "NodePort", "sourceRanges": ["10.0.0.0/8"]})),
            "spec.access[0].sourceRanges",
            "type: LoadBalancer",
        ),
        (
            access(json!({"name": "a", "type": "ClusterIP", "externalTrafficPolicy": "Local"})),
            "spec.access[0].externalTrafficPolicy",
            "type: NodePort or LoadBalancer",
        ),
        (json!({"access": [{"name": "a"}, {"name": "a"}]}), "spec.access[1]", "Duplicate"),
        (json!({"topics": {"from": "Some"}}), "spec.topics.from", "\"Same\", \"All\", \"Selector\""),
        (json!({"topics": {"from": "Selector"}}), "spec.topics", "set both"),
        (json!({"topics": {"selector": {}}}), "spec.topics", "without a selector"),
        (expression(json!({"key": "team", "operator": "Is"})), "matchExpressions[0].operator", "\"DoesNotExist\""),
        (expression(json!({"key": "team", "operator": "In"})), "matchExpressions[0]", "need at least one"),
        (
            expression(json!({"key": "team", "operator": "Exists", "values": ["a"]})),
            "matchExpressions[0]",
            "remove them with Exists",
        ),
        (expression(json!({"key": "a b", "operator": "Exists"})), "matchExpressions[0].key", "should match"),
        (
            json!({"topics": {"from": "Selector", "selector": {"matchLabels": {"team": "a b"}}}}),
            "spec.topics.selector.matchLabels.team",
            "should match",
        ),
        (json!({"ingress": {"maxConnections": 15}}), "spec.ingress.maxConnections", "greater than or equal to 16"),
        (json!({"ingress": {"maxRequestMemory": "5Gi"}}), "spec.ingress.maxRequestMemory", "between 16Mi and 4Gi"),
    ] {
        let refusal = refusal(&space, "default", spec.clone()).await.unwrap_or_else(|| panic!("taken: {spec}"));
        assert!(
            refusal.contains(field) && refusal.contains(remedy),
            "{spec}\nmust name {field} and say {remedy}:\n{refusal}"
        );
    }
}

#[tokio::test]
async fn names_that_no_child_could_have_are_refused() {
    let space = Space::new("broker-names").await;
    let (long, longest) = ("a".repeat(41), "a".repeat(40));
    for name in ["or.ders", "1st", long.as_str()] {
        let refusal = refusal(&space, name, json!({})).await.unwrap_or_else(|| panic!("taken: {name}"));
        assert!(refusal.contains("metadata.name: use at most 40 lower-case letters"), "{name}: {refusal}");
    }
    for name in ["a", "large-2", longest.as_str()] {
        assert_eq!(refusal(&space, name, json!({})).await, None, "{name}");
    }
}

#[tokio::test]
async fn right_brokers_are_taken() {
    let space = Space::new("right-broker").await;
    for spec in [
        json!({}),
        json!({"topics": {"from": "All"}}),
        json!({"topics": {"from": "Selector", "selector": {}}}),
        json!({"topics": {"from": "Selector", "selector": {
            "matchLabels": {"kubernetes.io/metadata.name": "web"},
            "matchExpressions": [
                {"key": "team", "operator": "In", "values": ["a", "b"]}, {"key": "x.io/old", "operator": "DoesNotExist"},
            ],
        }}}),
        json!({"replicas": 3, "durability": "Relaxed", "storage": {"size": "64Mi", "className": "fast"}}),
        json!({
            "pods": {
                "resources": {"limits": {"memory": "1Gi"}}, "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "a", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}}, "topologySpreadConstraints": [{"maxSkew": 1}],
            },
            "ingress": {"maxConnections": 60000, "maxRequestMemory": "4Gi"},
        }),
        json!({"access": [
            {"name": "outside"},
            {
                "name": "fifteen-letters", "type": "NodePort", "nodePorts": {"https": 30443},
                "hostnames": ["events.example.com", "*.example.com", "events.svc.example.com"], "annotations": {"a": "b"},
                "certificate": {"secretName": "cert"}, "externalTrafficPolicy": "Local",
            },
            {"name": "gateway", "type": "ClusterIP"},
        ]}),
    ] {
        assert_eq!(refusal(&space, "default", spec.clone()).await, None, "{spec}");
    }
}

#[tokio::test]
async fn what_cannot_be_changed_says_so() {
    let space = Space::new("broker-changes").await;
    space.broker("default", json!({})).await;
    let api: Api<EventBroker> = space.api();
    for (change, field, remedy) in [
        (json!({"replicas": 2}), "spec.replicas", "1, 3 or 5"),
        (json!({"storage": {"size": "9Gi"}}), "spec.storage", "can only grow"),
        (json!({"storage": {"className": "fast"}}), "spec.storage", "make a second broker"),
    ] {
        let patch = Patch::Merge(json!({"spec": change}));
        let refusal = api.patch("default", &PatchParams::default(), &patch).await.unwrap_err().to_string();
        assert!(refusal.contains(field) && refusal.contains(remedy), "{change}: {refusal}");
    }
    let allowed = json!({"storage": {"size": "20Gi"}, "topics": {"from": "All"}, "durability": "Relaxed", "pods": {"nodeSelector": {"disk": "ssd"}}, "ingress": {"maxConnections": 16}});
    space.merge::<EventBroker>("default", json!({"spec": allowed})).await;
}

/// The API server's message, without anything being stored; `None` if it takes it.
async fn refusal(space: &Space, name: &str, spec: Value) -> Option<String> {
    // As plain JSON: our own types would refuse some of it before it is sent.
    let value =
        json!({"apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": name}, "spec": spec});
    let resource = kube::api::ApiResource::erase::<EventBroker>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.name, &resource);
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry_run, &serde_json::from_value(value).unwrap()).await.err().map(|error| error.to_string())
}
