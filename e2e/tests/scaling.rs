//! Pods follow the events: none, one, several, none.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::objects::handler;
use crate::harness::world;

#[tokio::test]
async fn a_handler_at_zero_wakes_grows_with_the_backlog_and_goes_back_to_zero() {
    world("scaling", async |world| {
        world.begin(1).await;
        let autoscaling = json!({"minReplicas": 0, "maxReplicas": 4, "targetEventAge": "2s", "idleAfter": "8s"});
        let delivery = json!({"concurrency": 4});
        world
            .accept(handler("worker", &["--delay-ms", "50"], json!({"autoscaling": autoscaling, "delivery": delivery})))
            .await;
        world.handler_ready("worker").await;
        let pods = "tidegate.io/handler=worker";
        world.until("no pods without events", 30, async || world.pods(pods).await.is_empty().then_some(())).await;

        let began = Instant::now();
        world.publish("first", 1, 0).await;
        world.all_received(1, 60).await;
        println!(
            "e2e: the first event at zero was handled {:.1} s after its publisher was applied",
            began.elapsed().as_secs_f64()
        );

        world.publish("backlog", 3000, 0).await;
        let most = world.until("several pods for a backlog", 60, async || {
            let desired = world.handler("worker").await.status?.scaling?.desired;
            (desired >= 3).then_some(desired)
        });
        println!("e2e: a backlog of 3000 took the handler to {} replicas", most.await);
        let report = world.all_received(3001, 180).await;
        println!("e2e: {report:?}");
        assert_eq!((report.missing, report.unknown), (0, 0));

        world.until("no pods after the last event", 90, async || world.pods(pods).await.is_empty().then_some(())).await;
        // Going down must not have delivered anything again.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.all_received(3001, 10).await.repeated, 0, "events delivered twice by scaling down");
    })
    .await;
}
