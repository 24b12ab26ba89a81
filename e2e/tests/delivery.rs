//! What a user measures and what becomes of events that a handler refuses.

use std::time::Instant;

use serde_json::json;

use crate::harness::objects::handler;
use crate::harness::world;

#[tokio::test]
async fn refused_events_become_dead_letters_and_the_rest_is_delivered() {
    world("delivery", async |world| {
        world.begin(1).await;
        let began = Instant::now();
        world.accept(handler("worker", &["--refuse-type", "test.bad"], json!({}))).await;
        // Published at once: the handler's place in the topic begins when it is subscribed, so wait for that only.
        world.condition::<tidegate_crds::EventHandler>("worker", "Subscribed", "True", 60).await;
        world.publish("good", 100, 0).await;
        world.all_received(100, 90).await;
        println!("e2e: from applying a handler to 100 events delivered: {:.1} s", began.elapsed().as_secs_f64());
        world.publish_type("bad", 7, 0, "test.bad").await;
        world
            .until("seven dead letters in the topic's status", 60, async || {
                (world.topic("events").await.status?.dead_letters? == 7).then_some(())
            })
            .await;
        assert_eq!(world.report().await.unwrap().received, 100);
    })
    .await;
}
