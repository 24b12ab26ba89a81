//! The operator's sessions with brokers: one that hangs delays no other, and each ends with its topic or broker.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tidegate_test_broker::{Door, TestBroker};

use crate::support::brokers::{Places, account, publish_as_ingress, server, topic_on, topic_with, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::until_reason;
use crate::validation_handler::{handler, spec};

fn signal(broker: &TestBroker, signal: Signal) {
    kill(Pid::from_raw(broker.pid().unwrap().cast_signed()), signal).unwrap();
}

async fn replicas(space: &Space, handler: &str) -> Option<i32> {
    space.api::<Deployment>().get_opt(&format!("{handler}-handler")).await.ok()??.spec?.replicas
}

/// A frozen broker accepts connections and says nothing.
#[tokio::test]
async fn a_broker_that_hangs_delays_no_other_topic() {
    let _turn = turn().await;
    let (space, places) = (Space::new("hang").await, Places::default());
    let (good, bad) = (server().await, server().await);
    topic_on(&space, &places, &good, "good").await;
    // With room for twenty handlers.
    topic_with(&space, &places, &bad, "bad", json!({"retention": {"maxSize": "600Mi"}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "good").await;
    until_ready(&space, "bad").await;
    let autoscaling = json!({"minReplicas": 0, "maxReplicas": 4, "idleAfter": "1s"});
    let sleeping = |topic: &str| spec(json!({"topic": topic, "autoscaling": autoscaling}));
    // More than are reconciled at a time.
    for number in 0..20 {
        space.create::<EventHandler>(handler(&format!("bad{number}"), sleeping("bad"))).await;
    }
    space.create::<EventHandler>(handler("good", sleeping("good"))).await;
    for name in ["good", "bad0", "bad19"] {
        eventually(&format!("{name} sleeps"), async || (replicas(&space, name).await? == 0).then_some(())).await;
    }
    signal(&bad, Signal::SIGSTOP);
    let change = json!({"spec": {"delivery": {"timeout": "31s"}}});
    for number in 0..20 {
        space.merge::<EventHandler>(&format!("bad{number}"), change.clone()).await;
    }
    // Each of them now wants something of the broker that hangs.
    let js = tidegate_test_broker::jetstream(account(&space, &good, "good").await.operator);
    let mut worst = Duration::ZERO;
    for _ in 0..2 {
        let begun = Instant::now();
        publish_as_ingress(&space, &good, "good").await;
        eventually("good is woken", async || (replicas(&space, "good").await? > 0).then_some(())).await;
        worst = worst.max(begun.elapsed());
        js.get_stream("events").await.unwrap().purge().await.unwrap();
        eventually("good sleeps again", async || (replicas(&space, "good").await? == 0).then_some(())).await;
    }
    signal(&bad, Signal::SIGCONT);
    // Nothing of it waited for one request to the other broker.
    assert!(worst < Duration::from_secs(5), "woken after {worst:?}");
    operator.stop().await;
}

/// Thousands of topics are not thousands of connections: what is asked of them at rest goes over those of their broker.
#[tokio::test]
async fn a_topic_at_rest_has_no_connection_and_its_handler_is_woken_all_the_same() {
    let _turn = turn().await;
    let (space, places) = (Space::new("idle").await, Places::default());
    let broker = server().await;
    let door = Door::of(&broker).await;
    topic_on(&space, &places, &broker, "orders").await;
    places.set(&space, "orders", vec![door.address.clone()]);
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let autoscaling = json!({"minReplicas": 0, "maxReplicas": 4, "idleAfter": "1s"});
    space.create::<EventHandler>(handler("billing", spec(json!({"autoscaling": autoscaling})))).await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
    let mut times = Vec::new();
    for _ in 0..5 {
        eventually("it sleeps", async || (replicas(&space, "billing").await? == 0).then_some(())).await;
        eventually("only its broker's are left", async || (door.passing() == 2).then_some(())).await;
        let begun = Instant::now();
        publish_as_ingress(&space, &broker, "orders").await;
        eventually("it is woken", async || (replicas(&space, "billing").await? > 0).then_some(())).await;
        times.push(begun.elapsed());
        js.get_stream("events").await.unwrap().purge().await.unwrap();
    }
    times.sort();
    eprintln!("woken after {times:?}");
    // By the event: the clock asks every ten seconds.
    assert!(times[2] < Duration::from_secs(2), "{times:?}");
    operator.stop().await;
}

/// As a namespace goes whose finalizers somebody removed: no reconcile sees the topic being deleted.
#[tokio::test]
async fn a_session_ends_with_its_topic_or_broker_however_that_went() {
    let _turn = turn().await;
    let (space, places) = (Space::new("gone").await, Places::default());
    let broker = server().await;
    let door = Door::of(&broker).await;
    topic_on(&space, &places, &broker, "orders").await;
    places.set(&space, "orders", vec![door.address.clone()]);
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let api: Api<EventTopic> = space.api();
    let free = json!({"metadata": {"finalizers": null}});
    space.merge::<EventTopic>("orders", free.clone()).await;
    api.delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("the topic is gone", async || {
        // The operator may have put its finalizer back in between.
        let patched = api.patch("orders", &PatchParams::default(), &Patch::Merge(free.clone())).await;
        (patched.is_err() && api.get_opt("orders").await.ok()?.is_none()).then_some(())
    })
    .await;
    // Those of the broker, in its system account and in that of the ingresses, last as long as it.
    eventually("its session has ended", async || (door.passing() == 2).then_some(())).await;
    let brokers: Api<EventBroker> = space.api();
    space.merge::<EventBroker>("orders", free.clone()).await;
    brokers.delete("orders", &DeleteParams::default()).await.unwrap();
    eventually("the broker is gone", async || {
        let patched = brokers.patch("orders", &PatchParams::default(), &Patch::Merge(free.clone())).await;
        (patched.is_err() && brokers.get_opt("orders").await.ok()?.is_none()).then_some(())
    })
    .await;
    eventually("its sessions have ended", async || (door.passing() == 0).then_some(())).await;
    door.set_open(false);
    door.take_knocks();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(door.take_knocks(), 0, "this broker is not needed any more");
    operator.stop().await;
}

/// A broker that is away is not asked for again and again.
#[tokio::test]
async fn a_session_backs_off() {
    let _turn = turn().await;
    let (space, places) = (Space::new("away").await, Places::default());
    let broker = server().await;
    let door = Door::of(&broker).await;
    topic_on(&space, &places, &broker, "orders").await;
    places.set(&space, "orders", vec![door.address.clone()]);
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    door.set_open(false);
    // The library's own attempts are used up after 20 s.
    tokio::time::sleep(Duration::from_secs(25)).await;
    door.take_knocks();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let in_vain = door.take_knocks();
    assert!(in_vain <= 8, "{in_vain} attempts in 12 s");
    door.set_open(true);
    eventually("it is reached again", async || (door.take_knocks() > 0).then_some(())).await;
    until_reason(&space, "orders", "Ready", "Ready").await;
    operator.stop().await;
}
