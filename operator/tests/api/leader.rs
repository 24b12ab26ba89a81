//! One operator leads, another one takes over.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use tidegate_operator::leader::Leadership;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::support::operator::args;
use crate::support::{Space, server_client};

/// Longer than any takeover: the lease, and the time between two looks.
const TAKEOVER: Duration = Duration::from_secs(20);

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
    assert!(started.elapsed() < Duration::from_secs(5), "a rolling update waited {:?}", started.elapsed());
    assert_eq!(holder(&space).await.as_deref(), Some(next));
    assert!(timeout(Duration::from_secs(1), waiter.lost()).await.is_err());
}

#[tokio::test]
async fn a_killed_leader_is_followed_when_its_lease_ends() {
    let space = Space::new("killed-leader").await;
    // Its own runtime, so that it can be ended as a process is: without a word.
    let process = Runtime::new().unwrap();
    let name = space.name.clone();
    let joined = process.spawn(async move {
        let mut first = Leadership::join(server_client().await, &args("operator-1", &name)).await.unwrap();
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
