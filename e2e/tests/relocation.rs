//! A handler's place in its topic changes while events are published: other lanes, and a replay.

use serde_json::{Value, json};
use tidegate_crds::handler::ReplayPhase;

use crate::harness::objects::handler;
use crate::harness::world;

#[tokio::test]
async fn lanes_and_place_of_a_handler_change_while_events_are_published() {
    world("relocation", async |world| {
        world.begin(1).await;
        let ordered = |lanes: i32, more: Value| {
            let mut fields = json!({"replicas": 2, "delivery": {"order": "Key", "lanes": lanes}});
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            handler("worker", &["--delay-ms", "5"], fields)
        };
        world.accept(ordered(2, json!({}))).await;
        world.handler_ready("worker").await;
        world.publish_keys("keyed", 3000, 50).await;
        let has_lanes = async |count: i32| {
            world
                .until(&format!("{count} lanes"), 180, async || {
                    let lanes = world.handler("worker").await.status?.lanes?;
                    (lanes.count == count && lanes.change.is_none()).then_some(())
                })
                .await;
        };
        let received = async |share: u64| {
            let what = format!("{share} events");
            world.until(&what, 180, async || (world.report().await?.seen >= share).then_some(())).await;
        };
        for (share, lanes) in [(200, 6), (800, 3)] {
            received(share).await;
            world.accept(ordered(lanes, json!({}))).await;
            has_lanes(lanes).await;
        }
        let report = world.all_received(3000, 300).await;
        println!("e2e: other lanes: {report:?}");
        assert_eq!((report.missing, report.unknown, report.disordered), (0, 0, 0));
        let repeated = report.repeated;

        let again = json!({"replay": {"request": "again-1", "from": "1001"}});
        world.accept(ordered(3, again)).await;
        world
            .until("the replay is done", 180, async || {
                let replay = world.handler("worker").await.status?.replay?;
                (replay.phase == ReplayPhase::Done && replay.sequence == Some(1001)).then_some(())
            })
            .await;
        let report = world
            .until("each of the last 2000 events came again", 300, async || {
                world.report().await.filter(|report| report.repeated >= repeated + 2000)
            })
            .await;
        assert_eq!((report.missing, report.unknown, report.disordered), (0, 0, 0));
        assert_eq!((repeated, report.repeated), (0, 2000), "once for the replay, and never for the lanes");
    })
    .await;
}
