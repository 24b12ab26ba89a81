//! A Direct topic: no stream, no volume, and every event at once to one pod of each handler.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use serde_json::json;

use crate::harness::objects::{handler, topic};
use crate::harness::world;

#[tokio::test]
async fn events_of_a_direct_topic_reach_each_handler_once() {
    world("direct", async |world| {
        let mut events = topic("events", 1);
        events["spec"]["routing"] = json!("Direct");
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
        let volumes = world.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap();
        assert!(volumes.items.is_empty(), "nothing is stored");
    })
    .await;
}
