//! A broker gets other certificate authorities and a handler another key while events flow, and the operator is killed in
//! each stage of it.

use std::time::Instant;

use serde_json::{Value, json};
use tidegate_crds::EventBroker;
use tidegate_crds::broker::RolloverStage;

use crate::harness::objects::{broker, handler};
use crate::harness::{World, world_alone};

/// They last for seven minutes, longer than all of it.
const EVENTS: u64 = 210_000;
const RATE: &str = "500";
/// The publisher makes a connection for so many events, and reads the certificate authorities again for it. So it takes part
/// in what changes; kubelets bring it that within a minute and a half.
const EVENTS_PER_CONNECTION: &str = "1000";
const PUBLISHER_GRACE: &str = "2m";
const ROTATE: &str = "tidegate.io/rotate";

#[tokio::test]
#[ignore = "takes eight minutes; make soak-cluster"]
async fn nothing_is_lost_and_no_delivery_fails_while_authorities_and_a_key_are_replaced() {
    world_alone("rollover", async |world| {
        world.begin(1).await;
        world.accept(worker()).await;
        world.handler_ready("worker").await;
        let more = ["--rate", RATE, "--events-per-connection", EVENTS_PER_CONNECTION];
        world.publish_with("events", "rolled", EVENTS, &more).await;
        world.received(1000).await;
        let began = Instant::now();
        world.accept(asked(broker("default", 1))).await;
        world.accept(asked(worker())).await;
        for stage in [RolloverStage::Trusting, RolloverStage::Signing, RolloverStage::Dropping] {
            world.until_stage(stage).await;
            println!("e2e: {stage:?} after {:.1} s: the operator is killed", began.elapsed().as_secs_f64());
            let killed = world.kill_operator().await;
            world.operator_leads_again(&killed).await;
        }
        world.until_stage(RolloverStage::Settled).await;
        println!("e2e: the rollover is over after {:.1} s", began.elapsed().as_secs_f64());
        world
            .until("the former key to be refused", 240, async || {
                let key = world.handler("worker").await.status?.key?;
                (key.generation == 2 && key.handover_until.is_none()).then_some(())
            })
            .await;
        assert!(world.report().await.unwrap().seen < EVENTS, "events were published all the time");
        let report = world.all_received(EVENTS, 400).await;
        println!("e2e: {RATE} events a second while authorities and a key were replaced: {report:?}");
        assert_eq!((report.missing, report.unknown, report.repeated), (0, 0, 0));
    })
    .await;
}

fn worker() -> Value {
    handler("worker", &[], json!({}))
}

/// The same, with what asks for a rollover or another key; of a broker with the time that publishers have.
fn asked(mut object: Value) -> Value {
    object["metadata"]["annotations"] = json!({ROTATE: "once"});
    if object["kind"] == "EventBroker" {
        object["spec"]["rollover"] = json!({"publisherGrace": PUBLISHER_GRACE});
    }
    object
}

impl World {
    async fn received(&self, events: u64) {
        self.until(&format!("{events} events"), 120, async || (self.report().await?.seen >= events).then_some(()))
            .await;
    }

    async fn until_stage(&self, stage: RolloverStage) {
        self.until(&format!("the rollover at {stage:?}"), 300, async || {
            let status = self.api::<EventBroker>().get("default").await.unwrap().status?;
            let rollover = status.certificates?.rollover?;
            (rollover.stage == stage).then_some(())
        })
        .await;
    }
}
