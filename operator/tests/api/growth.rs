//! A broker whose `replicas` change while events flow, on real nats-servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use tidegate_broker_client::layout;
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_operator::context::Context;
use tidegate_test_broker::{LIMIT, TestBroker, TopicHandle, answer, jetstream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::broker::{condition, until_broker};
use crate::restarts::formed;
use crate::support::Space;
use crate::support::brokers::{Places, account, topic_at, until_ready};
use crate::support::interrupted::{Interruption, Moment};
use crate::support::operator::{Operator, args, turn};
use crate::support::servers::{Servers, claim, claims};
use crate::topic::gone;

/// A change takes seconds here, and one of its steps up to half a minute on a busy machine.
const CHANGE: Duration = Duration::from_secs(150);
const ACK_TIMEOUT: Duration = Duration::from_secs(3);

/// A broker of one server that has formed, with a topic, and one that was deleted and whose events are retained.
struct Growing {
    space: Space,
    places: Places,
    servers: Servers,
    topic: TopicHandle,
    load: Load,
}

impl Growing {
    async fn start(purpose: &str) -> (Self, Operator) {
        let (space, places) = (Space::new(purpose).await, Places::default());
        let mut server = TestBroker::unformed_as("orders-broker", 1);
        server.seed().unwrap();
        server.wake();
        assert!(server.serves_within(LIMIT).await, "{}", server.log());
        server.push_ingress_account().await;
        let first = formed(&space, &places, &server, 1).await;
        first.stop().await;
        let servers = Servers::keep(&space, &places, server).await;
        let operator = Operator::start_with_servers(space.client.clone(), &places);
        for topic in ["orders", "old"] {
            topic_at(&space, "orders", topic, json!({"deletionPolicy": "Retain", "retention": {"maxSize": "64Mi"}}))
                .await;
            until_ready(&space, topic).await;
        }
        let (old, topic) = {
            let broker = servers.broker.lock().await;
            (account(&space, &broker, "old").await, account(&space, &broker, "orders").await)
        };
        let sent = jetstream(old.operator.clone()).publish(layout::event_subject(0, "t"), "{}".into()).await.unwrap();
        sent.await.unwrap();
        space.api::<EventTopic>().delete("old", &DeleteParams::default()).await.unwrap();
        gone(&space, "old").await;
        let load = Load::start(&topic);
        (Self { space, places, servers, topic, load }, operator)
    }

    async fn replicas(&self, replicas: usize) {
        self.space.merge::<EventBroker>("orders", json!({"spec": {"replicas": replicas}})).await;
    }

    /// Waits until there are so many servers, and nothing is to be done any more.
    async fn until(&self, servers: usize) {
        let begun = Instant::now();
        loop {
            let broker: EventBroker = self.space.api().get("orders").await.unwrap();
            let reconciling = condition(&broker, "Reconciling").unwrap();
            let shown = broker.status.as_ref().map(|status| status.replicas);
            let is_at_rest = reconciling.status == "False" && shown == i32::try_from(servers).ok();
            if is_at_rest && self.servers.are_whole(servers).await {
                assert_eq!(condition(&broker, "Ready").unwrap().status, "True");
                return;
            }
            assert!(begun.elapsed() < CHANGE, "{reconciling:#?}\n{:#?}", self.servers.observe().await);
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn first_pod(&self) -> Option<String> {
        self.space.api::<Pod>().get("orders-broker-0").await.unwrap().metadata.uid
    }

    /// Nothing that was acknowledged is missing, or there twice.
    async fn assert_nothing_is_lost(self) {
        let acknowledged = self.load.finish().await;
        let info = answer(async || self.topic.admin.stream(layout::EVENT_STREAM).await).await;
        assert_eq!((info.state.messages, info.state.last_sequence), (acknowledged, acknowledged));
        assert!(acknowledged > 20, "{acknowledged}");
    }
}

/// Events one after the other, each until it is acknowledged.
struct Load {
    stop: CancellationToken,
    acknowledged: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(topic: &TopicHandle) -> Self {
        let (stop, acknowledged) = (CancellationToken::new(), Arc::<AtomicU64>::default());
        let (js, stopped, count) = (jetstream(topic.operator.clone()), stop.clone(), acknowledged.clone());
        let task = tokio::spawn(async move {
            for number in 1_u64.. {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Nats-Msg-Id", number.to_string());
                loop {
                    let sent = js.publish_with_headers(layout::event_subject(0, "t"), headers.clone(), "{}".into());
                    let outcome = timeout(ACK_TIMEOUT, async { sent.await.ok()?.await.ok() }).await;
                    if matches!(outcome, Ok(Some(_))) {
                        break;
                    }
                    sleep(Duration::from_millis(100)).await;
                }
                count.store(number, Ordering::SeqCst);
                if stopped.is_cancelled() {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, acknowledged, task }
    }

    async fn finish(self) -> u64 {
        self.stop.cancel();
        self.task.await.unwrap();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_becomes_three_and_one_again_while_events_flow() {
    let _turn = turn().await;
    let (growing, operator) = Growing::start("growth").await;
    let first = growing.first_pod().await;
    growing.replicas(3).await;
    let broker = until_broker(&growing.space, "orders", "Reconciling", "ChangingServers").await;
    let message = condition(&broker, "Reconciling").unwrap().message;
    assert!(message.starts_with("on the way to 3 server(s), with "), "{message}");
    growing.until(3).await;
    assert_eq!(growing.first_pod().await, first, "no pod is restarted for it");
    // A topic that is made now has three copies from its beginning.
    topic_at(&growing.space, "orders", "new", json!({"retention": {"maxSize": "64Mi"}})).await;
    until_ready(&growing.space, "new").await;
    growing.until(3).await;
    growing.replicas(1).await;
    growing.until(1).await;
    assert_eq!(growing.first_pod().await, first);
    assert_eq!(claims(&growing.space).await, [claim(0)], "those of servers that were removed are gone");
    growing.assert_nothing_is_lost().await;
    operator.stop().await;
}

/// Each operator dies at a write, a later one each time; the next continues. Then the user has another mind.
#[tokio::test(flavor = "multi_thread")]
async fn operators_that_die_at_their_writes_come_to_the_end_together() {
    let _turn = turn().await;
    let (growing, operator) = Growing::start("growth-crash").await;
    operator.kill().await;
    growing.replicas(3).await;
    let mut deaths = 0;
    for number in (2..=7).flat_map(|number| [number, number]) {
        let moment = if deaths % 2 == 0 { Moment::After } else { Moment::Before };
        let interruption = Interruption::new(&growing.space.name, number, moment);
        let context = Context::new(interruption.client(), args("operator-0", "default"))
            .with_broker_addresses(growing.places.addresses())
            .with_server_digests(growing.places.digests());
        let operator = Operator::run(context);
        let reached = interruption.reached().await;
        operator.kill().await;
        if !reached {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 6, "{deaths}");
    let operator = Operator::start_with_servers(growing.space.client.clone(), &growing.places);
    growing.until(3).await;
    growing.replicas(1).await;
    until_broker(&growing.space, "orders", "Reconciling", "ChangingServers").await;
    operator.kill().await;
    growing.replicas(3).await;
    let operator = Operator::start_with_servers(growing.space.client.clone(), &growing.places);
    growing.until(3).await;
    growing.assert_nothing_is_lost().await;
    operator.stop().await;
}
