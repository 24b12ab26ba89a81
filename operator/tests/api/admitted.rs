//! The publishers that a topic admits, as its ingresses are told: rules, authorities, and what has no room.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams};
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_broker_client::contract::Topics;
use tidegate_crds::{EventBroker, EventTopic};
use time::OffsetDateTime;

use crate::broker::{condition as broker_condition, until_broker};
use crate::support::brokers::{Places, broker_on, pods_are_ready, server, topic_at, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually, ingress};
use crate::topic::{condition, until_reason};

async fn file(space: &Space) -> Topics {
    ingress::topics(&space.api(), "default-topics").await
}

/// The rules of a topic in the file.
async fn rules(space: &Space, topic: &str) -> Option<Value> {
    let file = file(space).await;
    let found = file.topics.iter().find(|found| found.id.name() == topic)?;
    Some(serde_json::to_value(&found.publishers).unwrap())
}

async fn until_rules(space: &Space, topic: &str, expected: Value) {
    let mut last = None;
    eventually(&format!("the rules of {topic} are {expected}"), async || {
        let found = rules(space, topic).await;
        if last != found {
            eprintln!("{topic}: {found:?}");
            last.clone_from(&found);
        }
        (found.as_ref() == Some(&expected)).then_some(())
    })
    .await;
}

/// Nearly as much as a topic may write.
fn many(topic: &str) -> Value {
    let pattern = |number: usize| format!("/{number:02}{}*", "x".repeat(252));
    let patterns: Vec<_> = (0..16).map(pattern).collect();
    let entry = |number: usize| json!({"serviceAccount": {"name": format!("{topic}{number}")}, "sources": patterns, "types": patterns});
    json!((0..60).map(entry).collect::<Vec<_>>())
}

#[tokio::test]
async fn what_a_topic_says_is_what_its_ingresses_go_by() {
    let _turn = turn().await;
    let (space, places) = (Space::new("admitted").await, Places::default());
    let server = server().await;
    broker_on(&space, &places, &server, "default", json!({"storage": {"size": "1Gi"}})).await;
    topic_at(&space, "default", "orders", json!({})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let own = json!({"serviceAccount": {"namespace": space.name}});
    assert_eq!(rules(&space, "orders").await, Some(json!([own])));
    let publishers = json!([
        {"serviceAccount": {"name": "checkout", "namespace": "web"}, "sources": ["/shop/*"], "types": ["order.*"]},
        {"anonymous": true, "types": ["ping"]},
    ]);
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": publishers}})).await;
    let expected = json!([
        {"serviceAccount": {"name": "checkout", "namespace": "web"}, "sources": ["/shop/*"], "types": ["order.*"]},
        {"anonymous": {}, "types": ["ping"]},
    ]);
    until_rules(&space, "orders", expected).await;
    until_reason(&space, "orders", "Addressable", "Served").await;
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": null}})).await;
    until_rules(&space, "orders", json!([own])).await;
    operator.stop().await;
}

#[tokio::test]
async fn a_list_that_has_no_room_closes_its_topic_and_no_other() {
    let _turn = turn().await;
    let (space, places) = (Space::new("too-many").await, Places::default());
    let server = server().await;
    broker_on(&space, &places, &server, "default", json!({"storage": {"size": "1Gi"}})).await;
    // Direct: their lists are all that needs room.
    for (name, publishers) in [("small", Value::Null), ("first", many("a")), ("second", many("b"))] {
        topic_at(&space, "default", name, json!({"routing": "Direct", "publishers": publishers})).await;
    }
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    let closed = until_reason(&space, "second", "Addressable", "TooManyPublishers").await;
    let found = condition(&closed, "Addressable").unwrap();
    assert!(found.status == "False" && found.message.contains("name fewer publishers"), "{}", found.message);
    assert_eq!(condition(&closed, "Stalled").unwrap().status, "True");
    pods_are_ready(&space, "default").await;
    for name in ["small", "first"] {
        until_reason(&space, name, "Ready", "Ready").await;
    }
    assert_eq!(rules(&space, "second").await, Some(json!([])), "nobody may publish");
    assert_eq!(rules(&space, "first").await.unwrap().as_array().unwrap().len(), 60);
    // The other one's list becomes shorter, and there is room.
    space.merge::<EventTopic>("first", json!({"spec": {"publishers": [{"serviceAccount": {}}]}})).await;
    until_reason(&space, "second", "Ready", "Ready").await;
    operator.stop().await;
}

#[tokio::test]
async fn authorities_of_client_certificates_come_from_a_config_map() {
    let _turn = turn().await;
    let (space, places) = (Space::new("authorities").await, Places::default());
    let server = server().await;
    broker_on(&space, &places, &server, "default", json!({"storage": {"size": "1Gi"}})).await;
    let publishers = json!([{"certificate": {"uri": "spiffe://example.com/till"}}]);
    topic_at(&space, "default", "orders", json!({"publishers": publishers})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    let refused = until_reason(&space, "orders", "Addressable", "CertificatesNotAccepted").await;
    let message = condition(&refused, "Addressable").unwrap().message;
    assert!(message.contains("spec.clientCertificates"), "{message}");
    assert_eq!(file(&space).await.client_cas, None);
    let wanted = json!({"spec": {"clientCertificates": {"caConfigMap": {"name": "authorities"}}}});
    space.merge::<EventBroker>("default", wanted.clone()).await;
    let broker = until_broker(&space, "default", "CertificatesAccepted", "ConfigMapNotFound").await;
    let message = broker_condition(&broker, "CertificatesAccepted").unwrap().message;
    assert!(message.contains("ConfigMap authorities") && message.contains("ca.crt"), "{message}");
    let pem = Authority::generate("till", OffsetDateTime::now_utc()).unwrap().trusted_servers();
    space.create::<ConfigMap>(json!({"metadata": {"name": "authorities"}, "data": {"ca.crt": pem}})).await;
    // It is read again with the broker's next reconcile, at the latest after a minute.
    let touch = async |value: &str| {
        space.merge::<EventBroker>("default", json!({"metadata": {"annotations": {"touched": value}}})).await
    };
    touch("1").await;
    until_broker(&space, "default", "CertificatesAccepted", "AuthoritiesKnown").await;
    pods_are_ready(&space, "default").await;
    until_reason(&space, "orders", "Addressable", "Served").await;
    assert_eq!(file(&space).await.client_cas.as_ref(), Some(&pem));
    // Half of it is none, and changes nothing.
    space.merge::<ConfigMap>("authorities", json!({"data": {"ca.crt": &pem[..pem.len() / 2]}})).await;
    touch("2").await;
    until_broker(&space, "default", "CertificatesAccepted", "InvalidAuthorities").await;
    assert_eq!(file(&space).await.client_cas.as_ref(), Some(&pem));
    let maps: Api<ConfigMap> = space.api();
    maps.delete("authorities", &DeleteParams::default()).await.unwrap();
    touch("3").await;
    until_broker(&space, "default", "CertificatesAccepted", "ConfigMapNotFound").await;
    assert_eq!(file(&space).await.client_cas.as_ref(), Some(&pem));
    space.merge::<EventBroker>("default", json!({"spec": {"clientCertificates": null}})).await;
    eventually("no certificate is taken", async || file(&space).await.client_cas.is_none().then_some(())).await;
    operator.stop().await;
}
