//! What stays and what goes.

use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Secret};
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{OPERATOR_NAMESPACE, World, world};

impl World {
    async fn delete_topic(&self, name: &str) {
        self.api::<EventTopic>().delete(name, &DeleteParams::default()).await.unwrap();
        self.gone::<EventTopic>(name, 60).await;
    }

    async fn delete_default_broker(&self) {
        self.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
        self.gone::<EventBroker>("default", 60).await;
        self.until("its pods to be gone", 120, async || {
            self.pods("app.kubernetes.io/component=broker").await.is_empty().then_some(())
        })
        .await;
    }

    async fn volumes(&self) -> usize {
        self.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items.len()
    }

    /// Whether the keys of the broker `default` are there. They are in the operator's namespace.
    async fn has_keys(&self) -> bool {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), OPERATOR_NAMESPACE);
        secrets.get_opt(&format!("broker.{}.default", self.namespace)).await.unwrap().is_some()
    }

    /// Makes the topic `events` and waits until it says that it has so many events.
    async fn has_events(&self, policy: &str, events: i64) {
        let mut wanted = topic("events");
        wanted["spec"]["deletionPolicy"] = json!(policy);
        self.accept(wanted).await;
        self.topic_ready("events").await;
        assert_eq!(self.topic("events").await.status.unwrap().events, Some(events));
    }
}

#[tokio::test]
async fn a_deleted_handler_leaves_no_consumer_behind() {
    world("handler", async |world| {
        world.accept(broker("default", 1)).await;
        world.accept(topic("events")).await;
        world.topic_ready("events").await;
        world.accept(handler("worker", &[], json!({"replicas": 0}))).await;
        world.handler_ready("worker").await;
        let handlers: Api<EventHandler> = world.api();
        let consumers = async || world.topic("events").await.status.unwrap_or_default().handlers;
        world
            .until("its consumer in the topic's status", 60, async || (consumers().await == Some(1)).then_some(()))
            .await;
        handlers.delete("worker", &DeleteParams::default()).await.unwrap();
        world.gone::<EventHandler>("worker", 60).await;
        world.until("its consumer to be gone", 60, async || (consumers().await == Some(0)).then_some(())).await;
    })
    .await;
}

/// A topic's events outlive it on its broker, and with `Retain` they outlive that, too.
#[tokio::test]
async fn retained_events_are_there_for_a_topic_of_the_same_name_and_deleted_ones_are_not() {
    world("retain", async |world| {
        world.ledger().await;
        world.accept(broker("default", 1)).await;
        world.has_events("Retain", 0).await;
        world.publish("kept", 50, 0).await;
        world.until("50 events", 60, async || (world.report().await?.accepted == 50).then_some(())).await;
        world.delete_topic("events").await;
        world.has_events("Retain", 50).await;
        world.delete_topic("events").await;
        world.delete_default_broker().await;
        assert_eq!((world.volumes().await, world.has_keys().await), (1, true));

        world.accept(broker("default", 1)).await;
        world.has_events("Delete", 50).await;
        world.delete_topic("events").await;
        world.has_events("Delete", 0).await;
        world.delete_topic("events").await;
        world.delete_default_broker().await;
        world
            .until("volumes and keys to be gone", 90, async || {
                (world.volumes().await == 0 && !world.has_keys().await).then_some(())
            })
            .await;
    })
    .await;
}

/// The namespace controller deletes all at once, in no order: the broker's pods go while its topic and handler have yet to be
/// cleaned up.
#[tokio::test]
async fn a_namespace_that_is_deleted_goes_with_all_that_was_in_it() {
    world("namespace", async |world| {
        world.begin(1).await;
        world.accept(handler("worker", &[], json!({}))).await;
        world.handler_ready("worker").await;
        world.publish("before", 20, 0).await;
        world.all_received(20, 60).await;
        assert!(world.has_keys().await);
        let namespaces: Api<Namespace> = Api::all(world.client.clone());
        namespaces.delete(&world.namespace, &DeleteParams::default()).await.unwrap();
        world
            .until("the namespace to be gone", 120, async || {
                namespaces.get_opt(&world.namespace).await.unwrap().is_none().then_some(())
            })
            .await;
        world.until("its broker's keys to be gone", 60, async || (!world.has_keys().await).then_some(())).await;
    })
    .await;
}
