//! A broker gets more pods and fewer again, while events flow through two of its topics, and the operator and one of the
//! servers are killed on the way.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt as _;
use kube::api::ListParams;
use serde_json::json;
use tidegate_crds::EventBroker;

use crate::harness::objects::{broker, handler, topic};
use crate::harness::{World, world_alone};

/// Events of each topic: they last for longer than both changes.
const EVENTS: u64 = 9000;
const RATE: &str = "40";
const BROKER_PODS: &str = "app.kubernetes.io/component=broker";

#[tokio::test]
async fn a_broker_of_one_pod_becomes_one_of_three_and_of_one_again_while_events_flow() {
    world_alone("growth", async |world| {
        world.begin(1).await;
        world.accept(topic("others")).await;
        world.topic_ready("others").await;
        let ordered = json!({"delivery": {"order": "Key", "lanes": 2}});
        world.accept(handler("worker", &["--name", "worker"], ordered)).await;
        world.accept(handler("other", &["--name", "other"], json!({"topic": "others"}))).await;
        world.handler_ready("worker").await;
        world.handler_ready("other").await;
        let first = world.first_pod().await;
        let keyed = ["--keys", "20", "--concurrency", "1", "--rate", RATE];
        world.publish_with("events", "keyed", EVENTS, &keyed).await;
        world.publish_with("others", "plain", EVENTS, &["--rate", RATE]).await;
        world.receive(400).await;
        world.become_one_of(3, Some("default-broker-1")).await;
        let seen = world.report().await.unwrap().seen;
        world.receive(seen + 400).await;
        world.become_one_of(1, None).await;
        assert_eq!(world.claims().await, ["data-default-broker-0"], "those of the pods that went are gone");
        let seen = world.report().await.unwrap().seen;
        assert!(seen < 2 * EVENTS, "events were published all the time");
        let report = world.all_received(2 * EVENTS, 400).await;
        println!("e2e: a broker that grew and shrank: {report:?}");
        assert_eq!((report.missing, report.unknown, report.disordered), (0, 0, 0));
        assert_eq!(world.first_pod().await, first, "no pod was restarted for it");
    })
    .await;
}

/// What the issue of shared brokers asks for. Each publisher of keyed events has keys of its own and one request at a time;
/// they last for longer than all changes.
const KEYED: u64 = 5;
const KEYED_RATE: u64 = 50;
const PLAIN_RATE: u64 = 250;
const SOAK_SECONDS: u64 = 560;

#[tokio::test]
#[ignore = "takes a quarter of an hour; make soak-cluster"]
async fn a_broker_becomes_one_of_five_and_of_one_again_at_500_events_a_second() {
    world_alone("growth-soak", async |world| {
        world.begin(1).await;
        world.accept(topic("others")).await;
        world.topic_ready("others").await;
        world.accept(handler("worker", &["--name", "worker"], json!({"delivery": {"order": "Key", "lanes": 2}}))).await;
        world.accept(handler("other", &["--name", "other"], json!({"topic": "others"}))).await;
        world.handler_ready("worker").await;
        world.handler_ready("other").await;
        let rate = KEYED_RATE.to_string();
        for number in 0..KEYED {
            let prefix = format!("keyed{number}");
            let more = ["--keys", "20", "--key-prefix", &prefix, "--concurrency", "1", "--rate", &rate];
            world.publish_with("events", &prefix, KEYED_RATE * SOAK_SECONDS, &more).await;
        }
        let rate = PLAIN_RATE.to_string();
        world.publish_with("others", "plain", PLAIN_RATE * SOAK_SECONDS, &["--rate", &rate]).await;
        let events = (KEYED * KEYED_RATE + PLAIN_RATE) * SOAK_SECONDS;
        let steps =
            [(3, Some("default-broker-1")), (5, Some("default-broker-0")), (3, Some("default-broker-2")), (1, None)];
        for (replicas, killed) in steps {
            let seen = world.report().await.unwrap().seen;
            world.receive(seen + 2000).await;
            world.become_one_of(replicas, killed).await;
        }
        assert!(world.report().await.unwrap().seen < events, "events were published all the time");
        let report = world.all_received(events, 600).await;
        println!("e2e: a broker of 1, 3, 5, 3 and 1 servers at 500 events a second: {report:?}");
        assert_eq!((report.missing, report.unknown, report.disordered), (0, 0, 0));
    })
    .await;
}

impl World {
    async fn receive(&self, events: u64) {
        let what = format!("{events} events");
        self.until(&what, 240, async || (self.report().await?.seen >= events).then_some(())).await;
    }

    /// Edits `replicas`, kills the operator in the middle of the change (and this pod, when it runs), and waits until the
    /// broker says that it is there.
    async fn become_one_of(&self, replicas: i32, server: Option<&str>) {
        let began = std::time::Instant::now();
        self.accept(broker("default", replicas)).await;
        let (reason, message) = self.condition::<EventBroker>("default", "Reconciling", "True", 60).await;
        assert_eq!(reason, "ChangingServers");
        println!("e2e: the operator is killed while it says: {message}");
        let killed = self.kill_operator().await;
        if let Some(server) = server {
            self.until("the server to run", 60, async || self.is_running(server).await.then_some(())).await;
            self.kill_pod(server).await;
        }
        self.operator_leads_again(&killed).await;
        self.condition::<EventBroker>("default", "Reconciling", "False", 300).await;
        println!("e2e: {replicas} broker pod(s) after {:.1} s", began.elapsed().as_secs_f64());
        let found = self.api::<EventBroker>().get("default").await.unwrap().status.unwrap();
        assert_eq!((found.replicas, found.ready_replicas), (replicas, replicas));
        assert_eq!(i32::try_from(self.pods(BROKER_PODS).await.len()), Ok(replicas));
        self.topic_ready("events").await;
        self.topic_ready("others").await;
    }

    async fn is_running(&self, pod: &str) -> bool {
        let pod = self.api::<Pod>().get_opt(pod).await.unwrap();
        let statuses = pod.and_then(|pod| pod.status?.container_statuses).unwrap_or_default();
        !statuses.is_empty() && statuses.iter().all(|status| status.started == Some(true))
    }

    async fn first_pod(&self) -> Option<String> {
        self.api::<Pod>().get("default-broker-0").await.unwrap().uid()
    }

    async fn claims(&self) -> Vec<String> {
        let claims = self.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap();
        claims.items.iter().map(|claim| claim.name_any()).collect()
    }
}
