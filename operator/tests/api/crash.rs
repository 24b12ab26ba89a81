//! The operator dies at every single write while a topic is being made, before and after the API server did
//! it; the next operator always comes to the same end.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::ListParams;
use serde_json::json;

use crate::support::Space;
use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, turn};
use crate::topic::until_reason;
use crate::topic_children::{CHILDREN, children, versions};

/// The finalizer, the children, the status.
const WRITES: usize = 1 + CHILDREN.len() + 1;

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
        until_reason(space, "orders", "StreamReady", "BrokerStarting").await;
        assert_whole(space, authority.as_deref()).await;
    }
    // And now it is at rest.
    let (last, _) = spaces.last().unwrap();
    let before = versions(last, "orders").await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    assert_eq!(versions(last, "orders").await, before);
    operator.stop().await;
}

/// A topic whose operator has died, and the certificate of its authority if there was one by then.
async fn crashed(number: usize, moment: Moment) -> (Space, Option<String>) {
    let space = Space::new("crash").await;
    let interruption = Interruption::new(&space.name, number, moment);
    space.topic("orders", json!({})).await;
    let operator = Operator::start(interruption.client());
    assert!(interruption.reached().await, "write {number} was not reached");
    operator.kill().await;
    let authority = ca_of_secret(&space, "orders-authority").await;
    (space, authority)
}

/// Every child once, and one authority behind all of them: the one there was.
async fn assert_whole(space: &Space, authority: Option<&str>) {
    let made = children(space, "orders").await;
    assert_eq!(made.keys().copied().collect::<Vec<_>>(), CHILDREN, "{}", space.name);
    let secrets = space.api::<Secret>().list(&ListParams::default()).await.unwrap();
    let names: BTreeSet<_> = secrets.items.iter().filter_map(|secret| secret.metadata.name.as_deref()).collect();
    assert_eq!(names, BTreeSet::from(["orders-authority", "orders-broker", "orders-ingress"]));
    let public = space.api::<ConfigMap>().get("orders-ca").await.unwrap().data.unwrap().remove("ca.crt");
    assert!(public.is_some());
    for secret in names {
        assert_eq!(ca_of_secret(space, secret).await, public, "{}: {secret}", space.name);
    }
    if authority.is_some() {
        assert_eq!(authority, public.as_deref(), "{}: the authority was replaced", space.name);
    }
}

async fn ca_of_secret(space: &Space, name: &str) -> Option<String> {
    let secret = space.api::<Secret>().get_opt(name).await.unwrap()?;
    String::from_utf8(secret.data?.remove("ca.crt")?.0).ok()
}
