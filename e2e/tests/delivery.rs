//! What a user measures, and what becomes of events that a handler refuses: kept aside, and given back on request.

use std::time::Instant;

use serde_json::json;
use tidegate_crds::handler::RedrivePhase;

use crate::harness::objects::{handler, topic};
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
            .until("seven dead letters in the topic's status", 90, async || {
                (world.topic("events").await.status?.dead_letters? == 7).then_some(())
            })
            .await;
        assert_eq!(world.report().await.unwrap().received, 100);
        let letters = world.stored("admin", "eventhandlers/worker/deadletters").await.unwrap();
        let types: Vec<_> =
            letters["items"].as_array().unwrap().iter().map(|letter| &letter["event"]["type"]).collect();
        assert_eq!(types, [&json!("test.bad"); 7], "{letters}");
        // The handler is mended, and gets what it refused before.
        world.accept(handler("worker", &[], json!({"redrive": {"request": "mended"}}))).await;
        let report = world.all_received(107, 90).await;
        assert_eq!((report.missing, report.repeated, report.unknown), (0, 0, 0));
        let done = world.until("the redrive in the handler's status", 30, async || {
            let redrive = world.handler("worker").await.status?.redrive?;
            (redrive.phase == RedrivePhase::Done).then_some(redrive)
        });
        assert_eq!(done.await.redriven, 7);
        world
            .until("no dead letters left", 90, async || {
                (world.topic("events").await.status?.dead_letters? == 0).then_some(())
            })
            .await;
    })
    .await;
}

/// Events may hold what not everybody should see who may see a topic.
#[tokio::test]
async fn whoever_may_view_a_namespace_sees_no_event_until_that_is_granted() {
    world("data", async |world| {
        world.begin(1).await;
        world.bind("ann", "view").await;
        world.publish("seen", 3, 0).await;
        world
            .until("three stored events", 60, async || {
                let stored = world.stored("admin", "eventtopics/events/events").await.ok()?;
                (stored["items"].as_array()?.len() == 3).then_some(())
            })
            .await;
        let refused = world.stored("ann", "eventtopics/events/events").await.unwrap_err().to_string();
        assert!(refused.contains("tidegate-data-reader") || refused.contains("forbidden"), "{refused}");
        world.bind("ann", "tidegate-data-reader").await;
        world
            .until("the right to be known", 30, async || world.stored("ann", "eventtopics/events/events").await.ok())
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_handler_gets_what_its_filter_asks_for_and_its_replies_are_events() {
    world("reply", async |world| {
        world.begin(1).await;
        world.accept(topic("replies")).await;
        world.topic_ready("replies").await;
        let asked = json!({"filter": {"types": ["test.asked"]}, "reply": {"topic": "replies"}});
        world.accept(handler("asked", &["--reply-type", "test.reply"], asked)).await;
        world.accept(handler("heard", &[], json!({"topic": "replies", "delivery": {"order": "Key"}}))).await;
        for name in ["asked", "heard"] {
            world.handler_ready(name).await;
        }
        world.publish_type("asked", 50, 0, "test.asked").await;
        world.all_received(50, 90).await;
        // Nobody wants these.
        world.publish_type("other", 20, 0, "test.other").await;
        // Nobody has published the replies to the ledger, so they are unknown to it.
        let report = world.until("fifty replies", 60, async || {
            let report = world.report().await?;
            (report.unknown == 50 && report.accepted == 70).then_some(report)
        });
        let report = report.await;
        assert_eq!((report.received, report.repeated), (50, 0), "{report:?}");
    })
    .await;
}
