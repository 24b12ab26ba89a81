//! Nothing is lost when pods go: handler, operator, broker; and when a new template rolls out.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::objects::handler;
use crate::harness::{world, world_alone};

const EVENTS: u64 = 10_000;

#[tokio::test]
async fn ten_thousand_events_survive_the_loss_of_handler_operator_and_broker_pods() {
    world_alone("loss", async |world| {
        world.begin(3).await;
        world.accept(handler("worker", &["--delay-ms", "5"], json!({"replicas": 2}))).await;
        world.handler_ready("worker").await;

        let began = Instant::now();
        world.publish("load", EVENTS, 400).await;
        let pause = || tokio::time::sleep(Duration::from_secs(5));
        pause().await;
        let handlers = world.pods("tidegate.io/handler=worker").await;
        world.delete_pod(&handlers[0]).await;
        pause().await;
        let killed = world.kill_operator().await;
        pause().await;
        world.delete_pod("default-broker-1").await;

        let report = world.all_received(EVENTS, 240).await;
        println!(
            "e2e: {EVENTS} events, a handler pod deleted, the operator killed, one of three broker pods deleted: 0 lost, {} duplicates, {:.0} s",
            report.repeated,
            began.elapsed().as_secs_f64()
        );
        assert_eq!(report.unknown, 0);
        // Everything is whole again without anybody's help; what the killed operator had written does not count.
        world.operator_leads_again(&killed).await;
        world.brokers_ready(3).await;
        world.accept(handler("worker", &["--delay-ms", "5"], json!({"replicas": 3}))).await;
        world.handler_ready("worker").await;
        world.topic_ready("events").await;
    })
    .await;
}

#[tokio::test]
async fn a_changed_template_rolls_out_without_loss_or_repetition() {
    world("rollout", async |world| {
        world.begin(1).await;
        world.accept(handler("worker", &["--delay-ms", "20"], json!({"replicas": 2}))).await;
        world.handler_ready("worker").await;
        world.publish("load", 3000, 300).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.accept(handler("worker", &["--delay-ms", "21"], json!({"replicas": 2}))).await;
        let report = world.all_received(3000, 120).await;
        println!("e2e: 3000 events while a new template rolled out: 0 lost, {} duplicates", report.repeated);
        assert_eq!((report.repeated, report.unknown), (0, 0));
        world.handler_ready("worker").await;
    })
    .await;
}
