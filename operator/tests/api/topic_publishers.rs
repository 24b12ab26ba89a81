//! Publishers over NATS, with a broker: the part of a topic's reconcile that none of the others needs.

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tidegate_broker_admin::push::System;
use tidegate_crds::EventTopic;
use tidegate_operator::context::{Context, Owner};
use tidegate_operator::topic::publishers::{self, Publishers};
use tidegate_test_broker::TestBroker;

use crate::support::Space;
use crate::support::operator::{args, turn};

async fn ensure(space: &Space, broker: &TestBroker, system: &System) -> Publishers {
    let topic: EventTopic = space.api().get("orders").await.unwrap();
    let context = Context::new(space.client.clone(), args("operator-0", "default"));
    let owner = Owner::of(&topic).unwrap();
    publishers::ensure(&context, &owner, &topic, broker.authority(), system).await.unwrap()
}

/// As another operator reads it, after this one has ended in the middle.
async fn written_down(space: &Space) -> Vec<String> {
    space.api::<EventTopic>().get("orders").await.unwrap().status.unwrap_or_default().nats_publishers
}

fn secret(publisher: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("orders-publisher-{publisher}")}})
}

#[tokio::test]
async fn one_that_cannot_be_made_stops_nobody_else() {
    let (_turn, broker) = (turn().await, TestBroker::start_direct().await);
    let (space, system) = (Space::new("publishers").await, broker.system().await);
    let _foreign: Secret = space.create(secret("a")).await;
    space.topic("orders", json!({"publishers": [{"nats": "a"}, {"nats": "b"}]})).await;
    let found = ensure(&space, &broker, &system).await;
    assert_eq!(found.names, ["a", "b"]);
    assert_eq!(found.troubles.len(), 1, "{:?}", found.troubles);
    assert!(found.troubles[0].contains("NATS publisher a: Secret orders-publisher-a exists"), "{:?}", found.troubles);
    let made: Secret = space.api().get("orders-publisher-b").await.unwrap();
    assert!(made.data.unwrap().contains_key("user.creds"));
}

#[tokio::test]
async fn whose_account_is_being_made_is_written_down_before_and_until_it_is_removed() {
    let (_turn, mut broker) = (turn().await, TestBroker::start_direct().await);
    let (space, system) = (Space::new("recorded").await, broker.system().await);
    space.topic("orders", json!({"publishers": [{"nats": "a"}]})).await;
    ensure(&space, &broker, &system).await;
    assert_eq!(written_down(&space).await, ["a"], "a crash right after it leaves no account that nobody knows of");
    space.merge::<EventTopic>("orders", json!({"spec": {"publishers": [{"nats": "b"}]}})).await;
    broker.stop();
    let found = ensure(&space, &broker, &system).await;
    assert_eq!((found.names, found.troubles.len()), (vec!["b".to_owned(), "a".to_owned()], 2));
    assert_eq!(written_down(&space).await, ["a", "b"]);
    broker.restart().await;
    let found = ensure(&space, &broker, &broker.system().await).await;
    assert_eq!((found.names, found.troubles), (vec!["b".to_owned()], Vec::new()));
}
