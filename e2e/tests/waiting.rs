//! Every wait is explained, and ends by itself when what it waits for comes.

use std::time::Instant;

use serde_json::json;
use tidegate_crds::EventHandler;

use crate::harness::objects::{broker, handler, topic};
use crate::harness::world;

#[tokio::test]
async fn a_handler_without_its_topic_waits_says_so_and_recovers() {
    world("waiting", async |world| {
        world.ledger().await;
        world.accept(handler("worker", &[], json!({}))).await;
        let (reason, message) = world.condition::<EventHandler>("worker", "Ready", "False", 20).await;
        assert_eq!(reason, "TopicNotFound");
        assert!(message.contains("there is no EventTopic events"), "{message}");

        let began = Instant::now();
        world.accept(topic("events")).await;
        world.topic_ready("events").await;
        println!("e2e: from applying a namespace's first topic to Ready: {:.1} s", began.elapsed().as_secs_f64());
        let began = Instant::now();
        // It shares the broker that the operator made for the first one.
        world.accept(topic("another")).await;
        world.topic_ready("another").await;
        world.broker_ready("default").await;
        println!("e2e: the same of a second one on the same broker: {:.1} s", began.elapsed().as_secs_f64());
        world.handler_ready("worker").await;
        world.publish("one", 1, 0).await;
        world.all_received(1, 60).await;
    })
    .await;
}

#[tokio::test]
async fn an_image_that_cannot_start_is_named_in_the_handlers_condition() {
    world("image", async |world| {
        world.accept(broker("default", 1)).await;
        world.accept(topic("events")).await;
        world.topic_ready("events").await;
        let mut broken = handler("worker", &[], json!({}));
        broken["spec"]["template"]["spec"]["containers"][0]["image"] = json!("localhost/tidegate/no-such-image:dev");
        world.accept(broken).await;
        world
            .until("the image in the condition", 60, async || {
                let (reason, message) = world.condition::<EventHandler>("worker", "PodsReady", "False", 60).await;
                (reason == "PodsFailing" && message.contains("no-such-image") && message.contains("Image"))
                    .then_some(())
            })
            .await;
        // Repaired, it continues.
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
    })
    .await;
}

/// The API server asks the operator, over the webhook's Service and the certificate that the operator made.
#[tokio::test]
async fn an_expression_that_does_not_compile_is_refused_at_apply() {
    world("refused", async |world| {
        let wrong = handler("worker", &[], json!({"filter": {"expression": "data.value >"}}));
        let refused = world.until("a refusal", 60, async || world.refusal(wrong.clone()).await).await;
        assert!(refused.contains("spec.filter.expression"), "{refused}");
        world.accept(handler("worker", &[], json!({"filter": {"expression": "data.value > 1.0"}}))).await;
    })
    .await;
}

#[tokio::test]
async fn a_template_that_the_api_server_refuses_is_refused_with_its_words() {
    world("template", async |world| {
        world.accept(broker("default", 1)).await;
        world.accept(topic("events")).await;
        world.topic_ready("events").await;
        let mut wrong = handler("worker", &[], json!({}));
        wrong["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = json!("Always");
        let message = world.refusal(wrong).await.unwrap_or_default();
        assert!(message.contains("imagePolicy"), "{message}");
    })
    .await;
}
