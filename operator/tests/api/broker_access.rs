//! Ways to a broker from outside of the cluster.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tidegate_crds::EventBroker;

use crate::broker::until_broker;
use crate::support::brokers::{Places, broker_on, pods_are_ready, server};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};

async fn change(space: &Space, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    space.api::<EventBroker>().patch("default", &PatchParams::default(), &patch).await.unwrap();
}

/// A Secret with a certificate for this host.
async fn certificate(space: &Space, host: &str) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![host.to_owned()]).unwrap().self_signed(&key).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": "cert"},
        "stringData": {"tls.crt": certificate.pem(), "tls.key": key.serialize_pem()},
    });
    let apply = PatchParams::apply("user").force();
    space.api::<Secret>().patch("cert", &apply, &Patch::Apply(&secret)).await.unwrap();
}

#[tokio::test]
async fn a_way_from_outside_is_a_service_for_as_long_as_it_is_named() {
    let _turn = turn().await;
    let (space, places) = (Space::new("access").await, Places::default());
    let broker = server().await;
    let way = json!({
        "name": "outside", "type": "NodePort", "hostnames": ["events.example.com"],
        "annotations": {"dns.example.com/name": "events", "tidegate.io/owner": "someone"},
        "certificate": {"secretName": "cert"},
    });
    broker_on(
        &space,
        &places,
        &broker,
        "default",
        json!({"access": [way.clone(), {"name": "inside", "type": "ClusterIP"}]}),
    )
    .await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    pods_are_ready(&space, "default").await;
    until_broker(&space, "default", "AccessReady", "CertificateMissing").await;
    let service = space.api::<Service>().get("default-access-outside").await.unwrap();
    let spec = service.spec.clone().unwrap();
    assert_eq!(spec.type_.as_deref(), Some("NodePort"));
    assert_eq!(service.annotations()["dns.example.com/name"], "events");
    assert_ne!(service.annotations()["tidegate.io/owner"], "someone", "whose it is, is not for its annotations to say");
    let ports: Vec<_> = spec.ports.unwrap().into_iter().map(|port| (port.name.unwrap(), port.port)).collect();
    assert_eq!(ports, [("https".to_owned(), 443), ("mqtts".to_owned(), 8883)]);
    let pods = space.api::<StatefulSet>().get("default-broker").await.unwrap();
    let pods = serde_json::to_value(pods.spec.unwrap().template.spec.unwrap()).unwrap();
    let volume = pods["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "access").unwrap().clone();
    assert_eq!(volume["projected"]["sources"][0]["secret"]["optional"], true, "{volume}");
    let policy = space.api::<NetworkPolicy>().get("default-broker").await.unwrap();
    let publishing = policy.spec.unwrap().ingress.unwrap().remove(0);
    assert!(publishing.from.is_none(), "from everywhere: {publishing:?}");

    certificate(&space, "other.example.com").await;
    until_broker(&space, "default", "AccessReady", "CertificateInvalid").await;
    certificate(&space, "events.example.com").await;
    let open = until_broker(&space, "default", "AccessReady", "Open").await;
    let shown = open.status.unwrap().access;
    assert!(shown[0].node_ports.is_some_and(|ports| ports.https.is_some() && ports.mqtts.is_some()), "{shown:?}");
    until_broker(&space, "default", "Ready", "Ready").await;

    change(&space, json!({"access": [{"name": "inside", "type": "ClusterIP"}]})).await;
    eventually("the Service of the other way is gone", async || {
        space.api::<Service>().get_opt("default-access-outside").await.ok()?.is_none().then_some(())
    })
    .await;
    assert!(space.api::<Service>().get_opt("default-access-inside").await.unwrap().is_some());
    change(&space, json!({"access": [way]})).await;
    until_broker(&space, "default", "AccessReady", "Open").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_load_balancer_is_waited_for_and_its_address_is_shown() {
    let _turn = turn().await;
    let (space, places) = (Space::new("balancer").await, Places::default());
    let broker = server().await;
    broker_on(
        &space,
        &places,
        &broker,
        "default",
        json!({"access": [{"name": "outside", "hostnames": ["events.example.com"]}]}),
    )
    .await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    pods_are_ready(&space, "default").await;
    let waits = until_broker(&space, "default", "Ready", "LoadBalancerPending").await;
    assert_eq!(waits.status.unwrap().ready_replicas, 1);
    let status = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}});
    crate::support::brokers::status::<Service>(&space, "default-access-outside", status).await;
    let open = until_broker(&space, "default", "Ready", "Ready").await;
    assert_eq!(open.status.unwrap().access[0].addresses, ["203.0.113.7"]);
    operator.stop().await;
}
