//! A broker pod whose disk was full is restarted when there is room again: once, and not before.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams};
use serde_json::json;
use tidegate_crds::EventBroker;
use tidegate_operator::context::Context;
use tidegate_operator::topic::storage::RestartPolicy;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::support::brokers::{Places, as_ingress, run_broker_pod, server, status, topic_on, until_ready};
use crate::support::operator::{Operator, args, turn};
use crate::support::{Space, eventually};
use crate::topic::until_reason;

const POD: &str = "orders-broker-0";
/// Shorter than in a cluster, and longer than any of the waits between two looks.
const MIN_AGE: Duration = Duration::from_secs(6);

/// What the ingress of a pod says whose broker does not answer its publishers, and how many bytes of a hundred are
/// free.
fn report(client: async_nats::Client, subject: String, free: watch::Receiver<u64>) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let report =
                json!({"pod": POD, "failure": "Timeout", "volume": {"total": 100_000, "free": *free.borrow() * 1000}});
            client.publish(subject.clone(), report.to_string().into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }))
}

#[tokio::test]
async fn a_pod_whose_disk_was_full_is_restarted_once_and_not_before_there_is_room() {
    let _turn = turn().await;
    let (space, places) = (Space::new("disk").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let policy = RestartPolicy { unanswered_for: Duration::from_secs(1), min_age: MIN_AGE, ..RestartPolicy::default() };
    let context = Context::new(space.client.clone(), args("operator-0", "default"));
    let operator = Operator::run(context.with_broker_addresses(places.addresses()).with_restart_policy(policy));
    until_ready(&space, "orders").await;
    let pods: Api<Pod> = space.api();
    let first = pods.get(POD).await.unwrap();
    let (free, reported) = watch::channel(0);
    let _reports = report(broker.ingress().await, as_ingress(&space, "orders").report(), reported);
    let topic = until_reason(&space, "orders", "StorageHealthy", "DiskFull").await;
    let ready = crate::topic::condition(&topic, "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "DiskFull"));
    // Older than it has to be, and looked at every second: only the room is missing.
    tokio::time::sleep(MIN_AGE + Duration::from_secs(2)).await;
    assert_eq!(pods.get(POD).await.unwrap().uid(), first.uid(), "a restart would be of no use");
    free.send_replace(50);
    eventually("it is restarted", async || pods.get_opt(POD).await.ok()?.is_none().then_some(())).await;
    run_broker_pod(&space, "orders").await;
    let second = pods.get(POD).await.unwrap();
    let made = std::time::Instant::now();
    // Its publishers are still not answered.
    until_reason(&space, "orders", "StorageHealthy", "NotStoring").await;
    loop {
        let found = pods.get_opt(POD).await.unwrap();
        // What was seen later than that proves nothing.
        if made.elapsed() >= MIN_AGE - Duration::from_secs(2) {
            break;
        }
        assert_eq!(found.and_then(|pod| pod.uid()), second.uid(), "not again and again");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let notes = space.events("BrokerRestarted").await;
    assert!(notes.len() == 1 && notes[0].contains(POD), "{notes:?}");
    operator.stop().await;
}

#[tokio::test]
async fn a_change_of_servers_that_never_ends_holds_up_a_pod_that_stores_nothing_for_a_while_only() {
    let _turn = turn().await;
    let (space, places) = (Space::new("disk-change").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let policy = RestartPolicy {
        unanswered_for: Duration::from_secs(1),
        min_age: Duration::ZERO,
        goes_first_after: Duration::from_secs(10),
        ..RestartPolicy::default()
    };
    let context = Context::new(space.client.clone(), args("operator-0", "default"));
    let operator = Operator::run(context.with_broker_addresses(places.addresses()).with_restart_policy(policy));
    until_ready(&space, "orders").await;
    let pods: Api<Pod> = space.api();
    let first = pods.get(POD).await.unwrap();
    // No kubelet runs the others.
    space.merge::<EventBroker>("orders", json!({"spec": {"replicas": 3}})).await;
    let (_free, reported) = watch::channel(50);
    let _reports = report(broker.ingress().await, as_ingress(&space, "orders").report(), reported);
    let topic = until_reason(&space, "orders", "StorageHealthy", "NotStoring").await;
    let message = crate::topic::condition(&topic, "StorageHealthy").unwrap().message;
    assert!(message.contains("as many servers as it is to have, or when"), "{message}");
    assert_eq!(pods.get(POD).await.unwrap().uid(), first.uid(), "the change may end");
    eventually("it is restarted", async || pods.get_opt(POD).await.ok()?.is_none().then_some(())).await;
    operator.stop().await;
}

/// Kubernetes removes no pod whose node does not answer. One that has no copies is not waited for then.
#[tokio::test]
async fn a_pod_without_copies_whose_node_is_gone_holds_up_no_restart() {
    let _turn = turn().await;
    let (space, places) = (Space::new("disk-node").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let policy = RestartPolicy {
        unanswered_for: Duration::from_secs(1),
        min_age: Duration::ZERO,
        end_slack: Duration::from_secs(15),
        ..RestartPolicy::default()
    };
    let context = Context::new(space.client.clone(), args("operator-0", "default"));
    let operator = Operator::run(context.with_broker_addresses(places.addresses()).with_restart_policy(policy));
    until_ready(&space, "orders").await;
    let pods: Api<Pod> = space.api();
    let first = pods.get(POD).await.unwrap();
    let (gone, node) = ("orders-broker-1", "node-7");
    let spec = json!({"nodeName": node, "containers": [{"name": "nats", "image": "i"}]});
    let metadata = json!({"name": gone, "labels": first.labels()});
    space.create::<Pod>(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    pods.delete(gone, &DeleteParams::default().grace_period(1)).await.unwrap();
    let (_free, reported) = watch::channel(50);
    let _reports = report(broker.ingress().await, as_ingress(&space, "orders").report(), reported);
    let topic = until_reason(&space, "orders", "StorageHealthy", "NotStoring").await;
    let message = crate::topic::condition(&topic, "StorageHealthy").unwrap().message;
    assert!(message.contains("no other broker pod is being restarted"), "{message}");
    assert_eq!(pods.get(POD).await.unwrap().uid(), first.uid(), "its node may yet say that it has ended");
    eventually("it is restarted", async || pods.get_opt(POD).await.ok()?.is_none().then_some(())).await;
    assert!(pods.get(gone).await.unwrap().metadata.deletion_timestamp.is_some());
    status::<StatefulSet>(&space, "orders-broker", json!({"replicas": 1, "readyReplicas": 0})).await;
    let brokers: Api<EventBroker> = space.api();
    eventually("the broker says what a person can do", async || {
        let conditions = brokers.get("orders").await.ok()?.status?.conditions;
        let message = &conditions.iter().find(|condition| condition.type_ == "BrokerAvailable")?.message;
        (message.contains(node) && message.contains(&format!("kubectl delete pod {gone} -n"))).then_some(())
    })
    .await;
    operator.stop().await;
    pods.delete(gone, &DeleteParams::default().grace_period(0)).await.unwrap();
}
