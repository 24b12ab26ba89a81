//! What the servers make raft groups of, by their own word: on it goes what the operator takes a topic and a handler for.

use std::time::Duration;

use tidegate_broker_admin::audit;
use tidegate_broker_admin::consumers::{Handler, Start};
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_client::contract::Order;
use tidegate_test_broker::{TestBroker, eventually, topic, topic_id};

/// The groups of the topic's streams and consumers on the first server, which has a copy of each.
async fn raft_groups(broker: &TestBroker) -> usize {
    let account = broker.authority().topic_account_id(&topic_id()).unwrap();
    let page = broker.monitoring(&format!("raftz?acc={account}")).await;
    page.get(&account).and_then(|groups| groups.as_object()).map_or(0, serde_json::Map::len)
}

/// What the status of the EventBroker says is used.
async fn used(broker: &TestBroker) -> Option<usize> {
    Some(audit::look(&broker.system_client().await, &broker.site()).await.ok()?.totals.groups)
}

/// Waits for so many, and for one more in use: that of the cluster. A server hears of a consumer a moment after its leader.
async fn until(broker: &TestBroker, raft: usize, in_use: usize) {
    let what = format!("{raft} raft groups, and {in_use} in use");
    eventually(&what, async || raft_groups(broker).await == raft && used(broker).await == Some(in_use)).await;
}

fn handler(name: &str, order: Order) -> Handler {
    Handler {
        name: name.into(),
        uid: name.into(),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 16,
        types: Vec::new(),
        start: Start::Earliest,
        order,
        is_suspended: false,
        is_draining: false,
    }
}

fn with_later(topic: Topic) -> Topic {
    let later = Later { max_bytes: 4 << 20, max_delay: Some(Duration::from_secs(3600)), has_schedules: false };
    Topic { later: Some(later), ..topic }
}

#[tokio::test]
async fn on_three_servers_each_stream_and_each_consumer_is_a_group() {
    let broker = TestBroker::start_cluster().await;
    let topic = Topic { replicas: 3, ..topic() };
    until(&broker, 1, 2).await;
    streams::ensure(&broker.admin(), &with_later(topic.clone())).await.unwrap();
    until(&broker, 3, 4).await;
    streams::ensure(&broker.admin(), &topic).await.unwrap();
    until(&broker, 1, 2).await;
    broker.handler_with(handler("billing", Order::None)).await;
    until(&broker, 6, 7).await;
    broker.handler_with(handler("audit", Order::Key { lanes: 4 })).await;
    until(&broker, 13, 14).await;
}

/// They would be groups if there were more servers.
#[tokio::test]
async fn on_one_server_they_count_and_are_none() {
    let broker = TestBroker::start().await;
    until(&broker, 0, 2).await;
    streams::ensure(&broker.admin(), &with_later(topic())).await.unwrap();
    broker.handler_with(handler("billing", Order::None)).await;
    until(&broker, 0, 9).await;
}
