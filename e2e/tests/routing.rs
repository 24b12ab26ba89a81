//! A Direct topic: no stream, nothing of its broker's room, and every event at once to one pod of each handler.

use serde_json::json;

use crate::harness::objects::{broker, handler, topic};
use crate::harness::world;

#[tokio::test]
async fn events_of_a_direct_topic_reach_each_handler_once() {
    world("direct", async |world| {
        world.accept(broker("default", 1)).await;
        let mut events = topic("events");
        events["spec"] = json!({"routing": "Direct"});
        world.accept(events).await;
        world.ledger().await;
        world.topic_ready("events").await;
        let wanted = json!({"replicas": 2, "filter": {"types": ["test.*"]}});
        world.accept(handler("worker", &[], wanted)).await;
        world.handler_ready("worker").await;
        // Slowly: what meets no free handler is gone.
        world.publish("direct", 200, 100).await;
        let report = world.all_received(200, 60).await;
        assert_eq!((report.missing, report.repeated), (0, 0), "{report:?}");
        let status = world.topic("events").await.status.unwrap();
        assert_eq!((status.promised, status.stream), (Some(0), None), "nothing is stored");
    })
    .await;
}
