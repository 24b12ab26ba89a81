//! The ways into a topic besides HTTPS, with the clients that people use: Eclipse Paho for MQTT, nats.go for NATS.

use serde_json::json;

use crate::harness::objects::{broker, example, handler, topic};
use crate::harness::world;

#[tokio::test]
async fn devices_publish_over_mqtt_and_services_over_nats() {
    world("publishers", async |world| {
        world.accept(broker("default", 1)).await;
        let mut events = topic("events");
        events["spec"]["natsPublishers"] = json!(["example"]);
        world.accept(events.clone()).await;
        world.ledger().await;
        world.topic_ready("events").await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        for file in ["publishers/mqtt.yaml", "publishers/nats.yaml"] {
            world.accept(example(file, 60)).await;
        }
        let report = world.until("the events of both", 90, async || {
            let report = world.report().await?;
            (report.seen == 120).then_some(report)
        });
        assert_eq!(report.await.repeated, 0);

        // A publisher that is no longer named is out, and its Secret is gone.
        events["spec"].as_object_mut().unwrap().remove("natsPublishers");
        world.accept(events).await;
        let secrets = world.api::<k8s_openapi::api::core::v1::Secret>();
        world
            .until("the publisher's Secret to go", 60, async || {
                secrets.get_opt("events-publisher-example").await.unwrap().is_none().then_some(())
            })
            .await;
    })
    .await;
}
