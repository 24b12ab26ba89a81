//! One operator leads, another one takes over.

use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use serde_json::json;
use tidegate_operator::args::Args;
use tidegate_operator::context::Context;
use tidegate_operator::health::Health;
use tidegate_operator::kubernetes::claim;
use tidegate_operator::kubernetes::leader::Leadership;
use tidegate_operator::run::run;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually, server_config};

/// Longer than any takeover: the lease (15 s), the time between two looks, and what a busy machine adds.
const TAKEOVER: Duration = Duration::from_secs(60);

async fn join(space: &Space, pod: &str) -> Leadership {
    Leadership::join(space.client.clone(), &args(pod, &space.name)).await.unwrap()
}

async fn holder(space: &Space) -> Option<String> {
    let lease: Lease = space.api().get("tidegate-operator").await.unwrap();
    lease.spec.unwrap().holder_identity
}

#[tokio::test]
async fn one_of_many_leads_and_gives_way_at_once() {
    let space = Space::new("leaders").await;
    let (mut first, mut second) = (join(&space, "operator-1").await, join(&space, "operator-2").await);
    let first_won = tokio::select! {
        () = first.won() => true,
        () = second.won() => false,
    };
    let (leader, mut waiter, next) =
        if first_won { (first, second, "operator-2") } else { (second, first, "operator-1") };
    assert_ne!(holder(&space).await.as_deref(), Some(next));
    assert!(timeout(Duration::from_secs(6), waiter.won()).await.is_err(), "two lead");
    let started = Instant::now();
    leader.leave().await;
    timeout(TAKEOVER, waiter.won()).await.expect("the next one leads");
    // A lease that was not given back lasts this long at least: the waiter has seen it renewed since.
    assert!(started.elapsed() < Duration::from_secs(8), "a rolling update waited {:?}", started.elapsed());
    assert_eq!(holder(&space).await.as_deref(), Some(next));
    assert!(timeout(Duration::from_secs(1), waiter.lost()).await.is_err());
}

#[tokio::test]
async fn a_killed_leader_is_followed_when_its_lease_ends() {
    let space = Space::new("killed-leader").await;
    // Its own runtime, so that it can be ended as a process is: without a word.
    let process = Runtime::new().unwrap();
    // A thread of the test asks where its API server is; connections belong to the runtime that makes them.
    let (config, name) = (server_config(), space.name.clone());
    let joined = process.spawn(async move {
        let client = Client::try_from(config).unwrap();
        let mut first = Leadership::join(client, &args("operator-1", &name)).await.unwrap();
        first.won().await;
        first
    });
    let first = joined.await.unwrap();
    let mut second = join(&space, "operator-2").await;
    process.shutdown_background();
    let started = Instant::now();
    timeout(TAKEOVER, second.won()).await.expect("the next one leads");
    assert!(started.elapsed() > Duration::from_secs(8), "taken from one that may still lead: {:?}", started.elapsed());
    assert_eq!(holder(&space).await.as_deref(), Some("operator-2"));
    drop(first);
}

#[tokio::test]
async fn a_leader_whose_lease_was_taken_stops() {
    let space = Space::new("usurped").await;
    let mut leader = join(&space, "operator-1").await;
    timeout(TAKEOVER, leader.won()).await.unwrap();
    space.merge::<Lease>("tidegate-operator", serde_json::json!({"spec": {"holderIdentity": "operator-2"}})).await;
    timeout(TAKEOVER, leader.lost()).await.expect("it notices");
    leader.leave().await;
    assert_eq!(holder(&space).await.as_deref(), Some("operator-2"), "what is not ours is not given back");
}

/// The arguments of a release in a namespace of its own, beside others that know the same namespace for the lease.
fn release(namespace: &Space, lease: &Space, pod: &str) -> Args {
    let mut args = args(pod, &namespace.name);
    args.cluster_lease_namespace = lease.name.clone();
    args
}

/// What `main` does with its arguments, without its signals.
async fn operate(client: Client, args: Args, health: Health) {
    let mut own = Leadership::join(client.clone(), &args).await.unwrap();
    own.won().await;
    let claim = claim::take(client.clone(), &args, &health).await.unwrap();
    Box::pin(run(Context::new(client, args), CancellationToken::new())).await;
    drop(claim);
}

#[tokio::test]
async fn of_two_releases_the_second_says_so_and_does_nothing() {
    let _turn = turn().await;
    let (first, second, lease) = (Space::new("release").await, Space::new("release").await, Space::new("lease").await);
    let start = |space: &Space, image: &str| {
        let mut args = release(space, &lease, "operator-0");
        args.broker_image = image.to_owned();
        let health = Health::default();
        health.set_ready(true);
        let task = tokio::spawn(operate(space.client.clone(), args, health.clone()));
        (AbortOnDropHandle::new(task), health)
    };
    let (first_task, first_health) = start(&first, "first:1");
    first.topic("orders", json!({})).await;
    let image = async || {
        let set: StatefulSet = first.api().get_opt("default-broker").await.ok()??;
        Some((set.spec?.template.spec?.containers[0].image.clone()?, set.metadata.generation?))
    };
    eventually("the first makes it", image).await;
    let (_second_task, second_health) = start(&second, "second:1");
    let note = eventually("the second says so", async || second.events("AnotherRelease").await.pop()).await;
    assert!(note.contains(&first.name) && note.contains("uninstall one of the two"), "{note}");
    assert!(first_health.is_ready() && !second_health.is_ready());
    let (made, generation) = image().await.unwrap();
    assert_eq!(made, "first:1");
    // Both would touch it again after a few seconds if both worked: it is not ready.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(image().await, Some((made, generation)));
    drop(first_task);
    second.topic("orders", json!({})).await;
    eventually("the second takes over when the first is gone", async || {
        let set: StatefulSet = second.api().get_opt("default-broker").await.ok()??;
        (set.spec?.template.spec?.containers[0].image.as_deref() == Some("second:1")).then_some(())
    })
    .await;
    assert!(second_health.is_ready());
}

/// The grace of the chart's pod is 30 s. Who needs longer is killed, and the next operator waits for the lease to run out.
#[tokio::test]
async fn an_operator_that_waits_for_an_answer_ends_within_its_grace() {
    let _turn = turn().await;
    let space = Space::new("grace").await;
    let unanswered = Interruption::new(&space.name, 1, Moment::Before);
    let operator = Operator::start(unanswered.client());
    space.topic("orders", json!({})).await;
    assert!(unanswered.reached().await, "a write that is never answered");
    let told = Instant::now();
    operator.stop().await;
    assert!(told.elapsed() < Duration::from_secs(27), "it took {:?}", told.elapsed());
}
