//! What stays and what goes.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use tidegate_crds::{EventHandler, EventTopic};

use crate::harness::objects::{handler, topic};
use crate::harness::{World, world};

async fn delete_topic(world: &World) {
    world.api::<EventTopic>().delete("events", &DeleteParams::default()).await.unwrap();
    let topics: Api<EventTopic> = world.api();
    world
        .until("the topic to be gone", 60, async || topics.get_opt("events").await.unwrap().is_none().then_some(()))
        .await;
    world
        .until("its broker to be gone", 120, async || {
            world.pods("app.kubernetes.io/component=broker").await.is_empty().then_some(())
        })
        .await;
}

async fn volumes(world: &World) -> usize {
    world.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items.len()
}

#[tokio::test]
async fn a_deleted_handler_leaves_no_consumer_behind() {
    world("handler", async |world| {
        world.accept(topic("events", 1)).await;
        world.topic_ready("events").await;
        world.accept(handler("worker", &[], json!({"replicas": 0}))).await;
        world.handler_ready("worker").await;
        let handlers: Api<EventHandler> = world.api();
        let consumers = async || world.topic("events").await.status.unwrap_or_default().handlers;
        world
            .until("its consumer in the topic's status", 60, async || (consumers().await == Some(1)).then_some(()))
            .await;
        handlers.delete("worker", &DeleteParams::default()).await.unwrap();
        world
            .until("the handler to be gone", 60, async || {
                handlers.get_opt("worker").await.unwrap().is_none().then_some(())
            })
            .await;
        world.until("its consumer to be gone", 60, async || (consumers().await == Some(0)).then_some(())).await;
    })
    .await;
}

#[tokio::test]
async fn retained_events_are_there_for_a_topic_of_the_same_name_and_deleted_ones_are_not() {
    world("retain", async |world| {
        world.ledger().await;
        let mut kept = topic("events", 1);
        kept["spec"]["deletionPolicy"] = json!("Retain");
        world.accept(kept.clone()).await;
        world.topic_ready("events").await;
        world.publish("kept", 50, 0).await;
        world.until("50 events", 60, async || (world.report().await?.accepted == 50).then_some(())).await;
        delete_topic(&world).await;
        assert_eq!(volumes(&world).await, 1);
        assert!(world.api::<Secret>().get_opt("events-authority").await.unwrap().is_some());

        kept["spec"]["deletionPolicy"] = json!("Delete");
        world.accept(kept).await;
        world.topic_ready("events").await;
        assert_eq!(world.topic("events").await.status.unwrap().events, Some(50));
        delete_topic(&world).await;
        world
            .until("volumes and keys to be gone", 90, async || {
                let secret = world.api::<Secret>().get_opt("events-authority").await.unwrap();
                (volumes(&world).await == 0 && secret.is_none()).then_some(())
            })
            .await;
    })
    .await;
}
