//! The operator dies at every single write while a topic and its broker are being made, before and after the API server
//! did it; the next operator always comes to the same end.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventTopic};

use crate::broker::broker_gone;
use crate::children::{self, OF_BROKER, OF_TOPIC, kinds, versions};
use crate::support::Space;
use crate::support::brokers::keys;
use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, turn};
use crate::topic::{gone, until_reason};
use crate::topic_trouble::volume;

/// Of the topic: the finalizer, its broker, what it is promised, the children, the status. Of the broker: the finalizer,
/// the children, the status. Each may be written once more where one was faster than the other; the first are enough.
const WRITES: usize = 1 + 1 + 1 + OF_TOPIC.len() + 1 + 1 + OF_BROKER.len() + 1;

#[tokio::test]
async fn a_crash_at_any_write_leaves_nothing_wrong() {
    let _turn = turn().await;
    let mut spaces = Vec::new();
    for number in 1..=WRITES {
        for moment in [Moment::Before, Moment::After] {
            spaces.push(crashed(number, moment).await);
        }
    }
    let operator = Operator::start(spaces[0].0.client.clone());
    for (space, authority) in &spaces {
        until_reason(space, "orders", "Ready", "PodsNotReady").await;
        assert_whole(space, authority.as_deref()).await;
    }
    // And now it is at rest.
    let (last, _) = spaces.last().unwrap();
    let before = versions(last).await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(versions(last).await, before);
    operator.stop().await;
}

/// More than any end needs: what is not reached has come to its end.
const LAST_WRITES: usize = 14;

/// The end of both, as often: what was to be kept is there, and what was to go is not.
#[tokio::test]
async fn a_crash_at_any_write_of_the_end_leaves_nothing_behind() {
    let _turn = turn().await;
    let mut spaces = Vec::new();
    for number in 1..=LAST_WRITES {
        for (moment, policy) in
            [Moment::Before, Moment::After].into_iter().flat_map(|moment| [(moment, "Retain"), (moment, "Delete")])
        {
            let space = Space::new("crash-end").await;
            space.topic("orders", json!({"deletionPolicy": policy})).await;
            spaces.push((space, number, moment, policy));
        }
    }
    let operator = Operator::start(spaces[0].0.client.clone());
    for (space, ..) in &spaces {
        until_reason(space, "orders", "Ready", "PodsNotReady").await;
        space.create::<PersistentVolumeClaim>(volume("default")).await;
    }
    operator.stop().await;
    let mut died = BTreeSet::new();
    for (space, number, moment, policy) in &spaces {
        let interruption = Interruption::new(&space.name, *number, *moment);
        space.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
        space.api::<EventTopic>().delete("orders", &DeleteParams::default()).await.unwrap();
        let operator = Operator::start(interruption.client());
        tokio::select! {
            reached = interruption.reached() => {
                assert!(reached);
                died.insert((*number, *policy));
            }
            () = broker_gone(space, "default") => {}
        }
        operator.kill().await;
    }
    assert!(died.len() >= 8 && !died.iter().any(|(number, _)| *number == LAST_WRITES), "{died:?}");
    let operator = Operator::start(spaces[0].0.client.clone());
    for (space, number, moment, policy) in &spaces {
        let told = format!("{policy}, write {number}, {moment:?}");
        gone(space, "orders").await;
        broker_gone(space, "default").await;
        let keys = keys(space, "default").await;
        let claim: Option<PersistentVolumeClaim> = space.api().get_opt("data-default-broker-0").await.unwrap();
        let claim_is_kept = claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none());
        assert_eq!((keys.is_some(), claim_is_kept), (*policy == "Retain", *policy == "Retain"), "{told}");
    }
    operator.stop().await;
}

/// A topic whose operator has died, and the certificate of its broker's authority if there was one by then.
async fn crashed(number: usize, moment: Moment) -> (Space, Option<String>) {
    let space = Space::new("crash").await;
    let interruption = Interruption::new(&space.name, number, moment);
    space.topic("orders", json!({})).await;
    let operator = Operator::start(interruption.client());
    assert!(interruption.reached().await, "write {number} was not reached");
    operator.kill().await;
    let authority = part(keys(&space, "default").await, "servers-ca.crt");
    (space, authority)
}

/// Every child once, and one authority behind all of them: the one there was.
async fn assert_whole(space: &Space, authority: Option<&str>) {
    let (of_topic, of_broker) =
        (children::of_topic(space, "orders").await, children::of_broker(space, "default").await);
    assert_eq!((kinds(&of_topic), kinds(&of_broker)), (OF_TOPIC.to_vec(), OF_BROKER.to_vec()), "{}", space.name);
    let brokers = space.api::<EventBroker>().list(&ListParams::default()).await.unwrap().items;
    assert_eq!(brokers.len(), 1, "{}", space.name);
    let secrets = space.api::<Secret>().list(&ListParams::default()).await.unwrap();
    let names: BTreeSet<_> = secrets.items.iter().filter_map(|secret| secret.metadata.name.as_deref()).collect();
    assert_eq!(names, BTreeSet::from(["default-broker", "default-ingress", "default-routes", "default-topics"]));
    let public = space.api::<ConfigMap>().get("orders-ca").await.unwrap().data.unwrap().remove("ca.crt");
    assert!(public.is_some());
    let ca = async |secret: &str| part(space.api().get_opt(secret).await.unwrap(), "ca.crt");
    assert_eq!(ca("default-ingress").await, public, "{}", space.name);
    let [servers, clients] = ["servers-ca.crt", "ca.crt"];
    assert_eq!(part(keys(space, "default").await, servers), public, "{}", space.name);
    assert_eq!(part(keys(space, "default").await, clients), ca("default-broker").await, "{}", space.name);
    if authority.is_some() {
        assert_eq!(authority, public.as_deref(), "{}: the authority was replaced", space.name);
    }
}

fn part(secret: Option<Secret>, name: &str) -> Option<String> {
    String::from_utf8(secret?.data?.remove(name)?.0).ok()
}
