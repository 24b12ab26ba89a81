//! Events of a key stay in order while pods come and go.

use serde_json::json;

use crate::harness::objects::handler;
use crate::harness::world;

#[tokio::test]
async fn events_of_a_key_stay_in_order_while_pods_come_go_and_die() {
    world("order", async |world| {
        world.begin(1).await;
        let ordered = |replicas: i32| {
            let delivery = json!({"order": "Key", "lanes": 4});
            handler("worker", &["--delay-ms", "5"], json!({"replicas": replicas, "delivery": delivery}))
        };
        world.accept(ordered(1)).await;
        world.handler_ready("worker").await;
        world.publish_keys("keyed", 4000, 50).await;
        let received = async |share: u64| {
            let what = format!("{share} events");
            world.until(&what, 120, async || (world.report().await?.seen >= share).then_some(())).await;
        };
        received(300).await;
        world.accept(ordered(4)).await;
        received(1200).await;
        let pods = world.pods("tidegate.io/handler=worker").await;
        world.delete_pod(&pods[0]).await;
        received(2000).await;
        world.accept(ordered(2)).await;
        let report = world.all_received(4000, 240).await;
        println!("e2e: ordered: {report:?}");
        assert_eq!((report.missing, report.unknown, report.disordered, report.repeated), (0, 0, 0, 0));
    })
    .await;
}
