//! Many topics on one broker: each has its own events and handlers, and one that goes takes nothing of the others.

use std::collections::BTreeMap;
use std::time::Instant;

use kube::api::DeleteParams;
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{World, world};

const TOPICS: usize = 10;
/// Events that are published to each topic at first.
const EVENTS: u64 = 20;
const BROKER_PODS: &str = "app.kubernetes.io/component=broker";

#[tokio::test]
async fn ten_topics_and_thirty_handlers_share_one_broker_pod_and_nothing_else() {
    world("brokers", async |world| {
        world.ledger().await;
        world.accept(broker("default", 1)).await;
        let names: Vec<String> = (0..TOPICS).map(|number| format!("topic-{number}")).collect();
        world.make(&names).await;
        world.each_gets_its_own(&names).await;
        world.one_goes(&names[0], &names[1]).await;
        world.the_broker_stays_for_the_others(&names[1..]).await;
    })
    .await;
}

impl World {
    /// Topics, and three handlers of each: one that its first event wakes, and two without pods.
    async fn make(&self, names: &[String]) {
        let began = Instant::now();
        for name in names {
            let mut small = topic(name);
            small["spec"]["retention"]["maxSize"] = json!("48Mi");
            self.accept(small).await;
            let scaled = json!({"minReplicas": 0, "maxReplicas": 1, "idleAfter": "10m"});
            let (awake, asleep) =
                (json!({"topic": name, "autoscaling": scaled}), json!({"topic": name, "replicas": 0}));
            for (suffix, more) in [("a", &awake), ("b", &asleep), ("c", &asleep)] {
                let receiver = format!("{name}-{suffix}");
                self.accept(handler(&receiver, &["--name", &receiver], more.clone())).await;
            }
        }
        for name in names {
            self.topic_ready(name).await;
            for suffix in ["a", "b", "c"] {
                self.handler_ready(&format!("{name}-{suffix}")).await;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("e2e: {TOPICS} topics and {} handlers on one broker Ready after {seconds:.1} s", 3 * TOPICS);
        assert_eq!(self.pods(BROKER_PODS).await, ["default-broker-0"]);
        self.until("all topics in the broker's status", 30, async || {
            let broker = self.api::<EventBroker>().get("default").await.unwrap();
            (usize::try_from(broker.status?.topics) == Ok(TOPICS)).then_some(())
        })
        .await;
    }

    /// Handlers with pods receive the events of their topic, and to those without pods so many are pending.
    async fn each_gets_its_own(&self, names: &[String]) {
        for name in names {
            self.publish_with(name, name, EVENTS, &[]).await;
        }
        let report = self.all_received(EVENTS * TOPICS as u64, 180).await;
        let own = |name: &String| (format!("{name}-a"), BTreeMap::from([(name.clone(), EVENTS)]));
        assert_eq!(report.received_by, names.iter().map(own).collect());
        for name in names {
            for (suffix, events) in [("a", 0), ("b", EVENTS), ("c", EVENTS)] {
                self.pending(&format!("{name}-{suffix}"), events).await;
            }
        }
    }

    /// Waits until a handler says that exactly so many events wait for it.
    async fn pending(&self, name: &str, events: u64) {
        self.until(&format!("{events} events that wait for {name}"), 90, async || {
            let pending = self.handler(name).await.status?.lag?.pending;
            (u64::try_from(pending) == Ok(events)).then_some(())
        })
        .await;
    }

    /// A topic that is deleted disappears, and another one works while it does.
    async fn one_goes(&self, gone: &str, other: &str) {
        self.publish_with(other, "meanwhile", 200, &["--rate", "50"]).await;
        self.api::<EventTopic>().delete(gone, &DeleteParams::default()).await.unwrap();
        self.gone::<EventTopic>(gone, 60).await;
        let handler = format!("{gone}-a");
        self.until("its handler to say so", 30, async || {
            let (reason, _) = self.condition::<EventHandler>(&handler, "Ready", "False", 30).await;
            (reason == "TopicNotFound").then_some(())
        })
        .await;
        let report = self.all_received(EVENTS * TOPICS as u64 + 200, 120).await;
        assert_eq!(report.received_by[&format!("{other}-a")]["meanwhile"], 200);
        self.topic_ready(other).await;
    }

    /// A broker that is deleted says which topics keep it, serves them, and goes with the last one.
    async fn the_broker_stays_for_the_others(&self, names: &[String]) {
        self.api::<EventBroker>().delete("default", &DeleteParams::default()).await.unwrap();
        let (reason, message) = self.condition::<EventBroker>("default", "InUse", "True", 30).await;
        assert_eq!(reason, "TopicsOnBroker", "{message}");
        assert!(message.contains("4 more"), "{message}");
        self.publish_with(&names[0], "late", 5, &[]).await;
        let report = self.all_received(EVENTS * TOPICS as u64 + 205, 60).await;
        assert_eq!(report.received_by[&format!("{}-a", names[0])]["late"], 5);
        self.topic_ready(&names[0]).await;
        for name in names {
            self.api::<EventTopic>().delete(name, &DeleteParams::default()).await.unwrap();
        }
        self.gone::<EventBroker>("default", 120).await;
        self.until("its pod to be gone", 120, async || self.pods(BROKER_PODS).await.is_empty().then_some(())).await;
    }
}
