//! A change of the number of lanes that there is no room for, or that is taken back, on a real broker.

use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{Api, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tidegate_broker_admin::consumers;
use tidegate_crds::handler::EventHandlerStatus;
use tidegate_crds::{EventBroker, EventHandler};

use crate::handler::{condition, until_reason};
use crate::relocation::World;
use crate::support::brokers::{account, status};
use crate::support::eventually;
use crate::support::operator::turn;
use crate::support::workloads::roll_out;
use crate::validation_handler::{handler, spec};

fn lanes(lanes: u16) -> Value {
    json!({"spec": {"delivery": {"lanes": lanes}}})
}

/// A handler of two lanes, with its pod.
async fn with_two_lanes(world: &World) {
    let ordered = json!({"replicas": 1, "startFrom": "Earliest", "delivery": {"order": "Key", "lanes": 2}});
    world.space.create::<EventHandler>(handler("billing", spec(ordered))).await;
    until_reason(&world.space, "Subscribed", "Subscribed").await;
    roll_out(&world.space, "billing").await;
}

/// What the condition says, when it says this.
async fn until_told(world: &World, words: &str, is_there: bool) -> String {
    let api: Api<EventHandler> = world.space.api();
    eventually(words, async || {
        let told = condition(&api.get("billing").await.ok()?, "Subscribed")?;
        (told.status == "True" && told.message.contains(words) == is_there).then_some(told.message)
    })
    .await
}

/// The servers would refuse the consumers when those of before are gone.
#[tokio::test]
async fn more_lanes_than_there_are_raft_groups_for_end_no_pod() {
    let _turn = turn().await;
    let (world, operator) = World::new("lanes-groups").await;
    let space = &world.space;
    with_two_lanes(&world).await;
    // What a broker of several servers says. Its pod is not ready, so that its servers are not asked.
    let used = async |used: i64| {
        let groups = json!({"used": used, "bound": 2000, "usage": format!("{used} of 2000")});
        status::<EventBroker>(space, "orders", json!({"groups": groups})).await;
        // The operator sees it.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    used(1990).await;
    space.merge::<EventHandler>("billing", lanes(32)).await;
    let told = until_told(&world, "2 lanes become 32", true).await;
    let why = "EventBroker orders has 1990 of 2000 raft groups, and this change of delivery.lanes needs 30";
    assert!(told.contains(why) && told.contains("make delivery.lanes 2 again"), "{told}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(world.replicas().await, Some(1));
    let of_handler = async || {
        let admin = account(space, &world.broker, "orders").await.admin;
        tidegate_test_broker::consumers(&admin).await.len()
    };
    assert_eq!(of_handler().await, 2);
    // Taken back, and with as many as there is room for.
    space.merge::<EventHandler>("billing", lanes(2)).await;
    until_told(&world, "lanes become", false).await;
    space.merge::<EventHandler>("billing", lanes(12)).await;
    world.until_replicas(0).await;
    roll_out(space, "billing").await;
    world.until_status("twelve lanes", |status| status.lanes.clone().filter(|lanes| lanes.count == 12)).await;
    world.until_replicas(1).await;
    assert_eq!(of_handler().await, 12);
    operator.stop().await;
}

/// The broker refused the further lanes when the former ones were gone.
#[tokio::test]
async fn lanes_that_could_not_be_made_are_given_up_when_the_former_number_is_asked_for() {
    let _turn = turn().await;
    let (world, operator) = World::new("lanes-back").await;
    let space = &world.space;
    with_two_lanes(&world).await;
    operator.stop().await;
    let admin = account(space, &world.broker, "orders").await.admin;
    consumers::delete(&admin, "billing").await.unwrap();
    let change = json!({"count": 32, "after": 0, "settled": vec![0; 32]});
    world.write_lanes(json!({"count": 2, "drainingSince": "2026-01-31T12:00:00Z", "change": change})).await;

    let api: Api<EventHandler> = space.api();
    let version = api.get("billing").await.unwrap().metadata.resource_version.unwrap();
    let operator = world.operator();
    world.until_replicas(0).await;
    roll_out(space, "billing").await;
    let is_over =
        |status: &EventHandlerStatus| status.lanes.clone().filter(|lanes| lanes.change.is_none() && lanes.count == 2);
    world.until_status("two lanes", is_over).await;
    world.until_replicas(1).await;
    assert_eq!(tidegate_test_broker::consumers(&admin).await.len(), 2);
    operator.stop().await;
    // It has not had 32 in between, which would need what the broker refused.
    let params = WatchParams::default().fields("metadata.name=billing").timeout(1);
    let seen: Vec<_> = api.watch(&params, &version).await.unwrap().collect().await;
    let counts: Vec<i32> = seen
        .into_iter()
        .filter_map(|event| match event.unwrap() {
            WatchEvent::Modified(handler) => Some(handler.status?.lanes?.count),
            _ => None,
        })
        .collect();
    assert!(!counts.is_empty() && counts.iter().all(|count| *count == 2), "{counts:?}");
}
