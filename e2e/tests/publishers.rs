//! The ways into a topic besides HTTPS, with the clients that people use: Eclipse Paho for MQTT, nats.go for NATS. And who
//! may go them.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{LogParams, PostParams};
use serde_json::json;

use crate::harness::objects::{broker, example, handler, topic};
use crate::harness::{World, world};

#[tokio::test]
async fn devices_publish_over_mqtt_and_services_over_nats() {
    world("publishers", async |world| {
        world.accept(broker("default", 1)).await;
        let mut events = topic("events");
        events["spec"]["publishers"] = json!([{"serviceAccount": {}}, {"nats": "example"}]);
        world.accept(events.clone()).await;
        world.ledger().await;
        world.topic_ready("events").await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        for file in ["publishers/mqtt.yaml", "publishers/nats.yaml"] {
            world.accept(example(&world.namespace, file, 60)).await;
        }
        let report = world.until("the events of both", 90, async || {
            let report = world.report().await?;
            (report.seen == 120).then_some(report)
        });
        assert_eq!(report.await.repeated, 0);

        // A publisher that is no longer named is out, and its Secret is gone.
        events["spec"].as_object_mut().unwrap().remove("publishers");
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

#[tokio::test]
async fn only_the_service_account_that_a_topic_names_publishes() {
    world("admitted", async |world| {
        world.accept(broker("default", 1)).await;
        let mut events = topic("events");
        events["spec"]["publishers"] = json!([{"serviceAccount": {"name": "checkout"}, "types": ["test.*"]}]);
        world.accept(events).await;
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "checkout"}})).unwrap();
        world.api().create(&PostParams::default(), &account).await.unwrap();
        world.ledger().await;
        world.topic_ready("events").await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        world.publish_as("default", "events", "stranger", 5, &[]).await;
        world.publish_as("checkout", "events", "wrong", 5, &["--type", "other.event"]).await;
        for prefix in ["stranger", "wrong"] {
            let log = refused(&world, prefix).await;
            assert!(log.contains("403"), "{prefix}: {log}");
        }
        world.publish_as("checkout", "events", "right", 20, &[]).await;
        let report = world.all_received(20, 60).await;
        assert_eq!((report.seen, report.unknown), (20, 0), "{report:?}");
    })
    .await;
}

/// The last words of a publisher that gave up.
async fn refused(world: &World, prefix: &str) -> String {
    let (jobs, pods) = (world.api::<Job>(), world.api::<Pod>());
    let name = format!("publish-{prefix}");
    let what = format!("{name} to fail");
    let failed = async || jobs.get(&name).await.unwrap().status?.failed.filter(|failed| *failed > 0);
    world.until(&what, 60, failed).await;
    let labels = format!("batch.kubernetes.io/job-name={name}");
    // A pod that has ended is still listed.
    let pod = world.pods(&labels).await.remove(0);
    pods.logs(&pod, &LogParams::default()).await.unwrap()
}
