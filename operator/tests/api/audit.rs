//! Files of real servers are damaged while they are stopped: the operator finds it, says it, and heals what it can.

use std::path::Path;
use std::time::Duration;

use async_nats::{HeaderMap, jetstream};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tidegate_broker_client::layout::{EVENT_STREAM, event_subject};
use tidegate_crds::broker::AuditStatus;
use tidegate_crds::{EventBroker, EventTopic};
use tidegate_operator::sessions::ingress_reports::StreamEnd;
use tidegate_operator::topic::loss::{self, ACKNOWLEDGE};
use tidegate_test_broker::{TestBroker, answer, halve};
use tokio::time::sleep;

use crate::broker::{condition, until_broker};
use crate::restarts::{change, formed, pods};
use crate::support::brokers::{Places, account, status, topic_at};
use crate::support::operator::{Operator, turn};
use crate::support::{Space, eventually};
use crate::topic::{condition as topic_condition, until_reason};

/// They fill several files.
const EVENTS: u64 = 12_000;

async fn publish(js: &jetstream::Context) {
    for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(500) {
        join_all(chunk.iter().map(|number| publish_one(js, *number))).await;
    }
}

/// Until it is stored, once: three servers may take their time on a machine with other work.
async fn publish_one(js: &jetstream::Context, number: u64) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", number.to_string());
    let body = "x".repeat(1000);
    eventually("an event is stored", async || {
        let sent = js.publish_with_headers(event_subject(0, "order.new"), headers.clone(), body.clone().into()).await;
        sent.ok()?.await.ok()
    })
    .await;
}

/// A topic with events on a broker of so many servers.
async fn filled(space: &Space, places: &Places, servers: usize) -> (TestBroker, Operator) {
    let mut server = TestBroker::unformed_as("orders-broker", servers);
    if servers == 1 {
        server.seed().unwrap();
    }
    server.wake();
    server.start_all().await;
    server.push_ingress_account().await;
    let operator = formed(space, places, &server, i32::try_from(servers).unwrap()).await;
    topic_at(space, "orders", "orders", json!({"retention": {"maxSize": "64Mi"}})).await;
    until_reason(space, "orders", "StreamReady", "Configured").await;
    publish(&tidegate_test_broker::jetstream(account(space, &server, "orders").await.operator)).await;
    (server, operator)
}

async fn audit(space: &Space) -> Option<AuditStatus> {
    space.api::<EventBroker>().get("orders").await.ok()?.status?.audit
}

/// The first file of the events of a server is halved while that is stopped, and the kubelet starts it again.
async fn damage(space: &Space, server: &mut TestBroker, ordinal: usize) {
    server.stop_at(ordinal);
    let blocks = server.blocks(ordinal, EVENT_STREAM);
    assert!(blocks.len() > 1, "{blocks:?}");
    halve(Path::new(&blocks[0]));
    server.start_at(ordinal).await;
    let pod = format!("orders-broker-{ordinal}");
    let found: Pod = space.api().get(&pod).await.unwrap();
    let mut statuses = found.status.unwrap().container_statuses.unwrap();
    statuses[0].restart_count += 1;
    status::<Pod>(space, &pod, json!({"containerStatuses": statuses})).await;
}

#[tokio::test]
async fn of_one_server_what_is_lost_is_said_until_it_is_acknowledged() {
    let _turn = turn().await;
    let (space, places) = (Space::new("audit-one").await, Places::default());
    let (mut server, operator) = filled(&space, &places, 1).await;
    eventually("the operator knows of the events", async || {
        let topic: EventTopic = space.api().get("orders").await.ok()?;
        (topic.status?.stream?.last_sequence > 0).then_some(())
    })
    .await;
    until_broker(&space, "orders", "Intact", "Audited").await;
    let passed = audit(&space).await.unwrap();
    damage(&space, &mut server, 0).await;
    let broker = until_broker(&space, "orders", "Intact", "EventsLost").await;
    let message = condition(&broker, "Intact").unwrap().message;
    assert!(message.contains(&format!("{}/orders lacks", space.name)), "{message}");
    assert_eq!(condition(&broker, "Ready").unwrap().status, "True");
    let found = audit(&space).await.unwrap();
    assert_eq!((found.lost.len(), found.damaged_copies), (1, 0));
    assert_eq!((&found.last_passed, found.servers != passed.servers), (&passed.last_passed, true));
    let topic = until_reason(&space, "orders", "DataLost", "EventsLost").await;
    let lost = topic.status.unwrap().data_loss.unwrap();
    assert!(lost.message.starts_with(&format!("{} events between number", found.lost[0].missing)), "{}", lost.message);
    assert!(lost.message.contains("(there is no number "), "{}", lost.message);
    until_reason(&space, "orders", "Intact", "EventsLost").await;
    eventually("it is an Event", async || (space.events("EventsLost").await.len() == 1).then_some(())).await;
    // A change is not held up: there is no other copy to wait for.
    let acknowledged = json!({"metadata": {"annotations": {ACKNOWLEDGE: lost.detected}}});
    space.merge::<EventTopic>("orders", acknowledged).await;
    until_reason(&space, "orders", "DataLost", "NothingLost").await;
    until_broker(&space, "orders", "Intact", "Audited").await;
    until_reason(&space, "orders", "Intact", "Audited").await;
    operator.stop().await;
}

#[tokio::test]
async fn of_three_servers_a_damaged_copy_is_made_again_before_a_pod_is_restarted() {
    let _turn = turn().await;
    let (space, places) = (Space::new("audit-three").await, Places::default());
    let (mut server, operator) = filled(&space, &places, 3).await;
    until_broker(&space, "orders", "Intact", "Audited").await;
    let first = pods(&space).await;
    let admin = account(&space, &server, "orders").await.admin;
    // It leads again if it is back before the others notice.
    let leader = answer(async || admin.stream(EVENT_STREAM).await).await.cluster.unwrap().leader.unwrap();
    let victim = leader.strip_prefix("orders-broker-").unwrap().parse().unwrap();
    damage(&space, &mut server, victim).await;
    // The topic is looked at just then.
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {"look": "now"}}})).await;
    let broker = until_broker(&space, "orders", "Intact", "CopyDamaged").await;
    let message = condition(&broker, "Intact").unwrap().message;
    assert!(message.starts_with(&format!("{leader} lacks")) && message.contains("stream events"), "{message}");
    // What is to be restarted now waits.
    change(&space).await;
    assert_eq!(pods(&space).await, first);
    let topic = until_reason(&space, "orders", "Intact", "CopyDamaged").await;
    assert_eq!(topic_condition(&topic, "DataLost").unwrap().status, "False");
    until_broker(&space, "orders", "Intact", "Audited").await;
    let whole = answer(async || admin.stream(EVENT_STREAM).await).await;
    assert_eq!((whole.state.messages, whole.config.num_replicas), (EVENTS, 3));
    for ordinal in 0..3 {
        let page = server.monitoring_at(ordinal, "jsz?accounts=true&streams=true").await;
        let stored = page["account_details"].as_array().unwrap().iter().map(|it| &it["stream_detail"][0]["state"]);
        assert!(stored.clone().any(|it| it["messages"] == EVENTS && it["num_deleted"].is_null()), "{ordinal}: {page}");
    }
    eventually("both are Events", async || {
        (space.events("CopyDamaged").await.len() == 1 && space.events("CopiesHealed").await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(audit(&space).await.unwrap().damaged_copies, 0);
    let topic: EventTopic = space.api().get("orders").await.unwrap();
    assert_eq!(topic_condition(&topic, "DataLost").unwrap().reason, "NothingLost");
    let broker: EventBroker = space.api().get("orders").await.unwrap();
    // A consumer is none yet: the stream of events, and the cluster.
    assert_eq!(broker.status.unwrap().groups.unwrap().usage, "2 of 2000");
    eventually("the first pod is restarted", async || (pods(&space).await != first).then_some(())).await;
    operator.stop().await;
}

/// The copy with a hole leads a topic's events, and of the servers that have all of them one is away, so that the other
/// cannot say alone that it has. No operator runs meanwhile.
async fn miss(space: &Space, server: &mut TestBroker) {
    let admin = account(space, server, "orders").await.admin;
    damage(space, server, 1).await;
    eventually("the copy with a hole leads", async || {
        let found = admin.stream(EVENT_STREAM).await.ok()?;
        if found.cluster?.leader.as_deref() == Some("orders-broker-1") {
            return (found.state.messages < EVENTS).then_some(());
        }
        admin.step_down_stream(EVENT_STREAM, "orders-broker-1").await.ok()?;
        sleep(Duration::from_secs(1)).await;
        None
    })
    .await;
    server.stop_at(2);
}

/// The value of the annotation by which the missing events are given up. (The condition says it after 15 minutes.)
async fn give_up_value(space: &Space, server: &TestBroker, topic: EventTopic) -> String {
    let admin = account(space, server, "orders").await.admin;
    let events = answer(async || admin.stream(EVENT_STREAM).await).await;
    let status = topic.status.unwrap();
    let (before, since) = (status.stream.unwrap(), status.missing_events.unwrap().since);
    let now = loss::record(&events, before.released, before.removes);
    let gone = loss::between(&before, &now, &StreamEnd::default()).unwrap();
    format!("{since}/{}", gone.mark(events.cluster.unwrap().leader.as_deref()))
}

#[tokio::test]
async fn what_a_server_that_is_away_may_have_is_not_lost_until_it_is_given_up() {
    let _turn = turn().await;
    let (space, places) = (Space::new("audit-away").await, Places::default());
    let (mut server, operator) = filled(&space, &places, 3).await;
    until_broker(&space, "orders", "Intact", "Audited").await;
    operator.stop().await;
    miss(&space, &mut server).await;
    let operator = Operator::start_with_servers(space.client.clone(), &places);
    let topic = until_reason(&space, "orders", "DataLost", "EventsMissing").await;
    let told = topic_condition(&topic, "DataLost").unwrap();
    assert_eq!(told.status, "Unknown");
    assert!(told.message.contains("orders-broker-2 does not answer"), "{}", told.message);
    assert!(topic.status.unwrap().data_loss.is_none());
    server.start_at(2).await;
    until_reason(&space, "orders", "DataLost", "NothingLost").await;
    until_broker(&space, "orders", "Intact", "Audited").await;
    let admin = account(&space, &server, "orders").await.admin;
    assert_eq!(answer(async || admin.stream(EVENT_STREAM).await).await.state.messages, EVENTS);

    operator.stop().await;
    miss(&space, &mut server).await;
    let operator = Operator::start_with_servers(space.client.clone(), &places);
    let topic = until_reason(&space, "orders", "DataLost", "EventsMissing").await;
    let named = give_up_value(&space, &server, topic).await;
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {ACKNOWLEDGE: named}}})).await;
    let topic = until_reason(&space, "orders", "DataLost", "NothingLost").await;
    assert!(topic.status.unwrap().stream.unwrap().missing > 0, "they are not missed any more");
    eventually("it is an Event", async || (space.events("EventsGivenUp").await.len() == 1).then_some(())).await;
    assert!(space.events("DataLost").await.is_empty(), "no false alarm");
    operator.stop().await;
}

#[tokio::test]
async fn a_change_that_lasts_says_that_nothing_was_audited_since() {
    let _turn = turn().await;
    let (space, places) = (Space::new("audit-change").await, Places::default());
    let mut server = TestBroker::unformed_as("orders-broker", 1);
    server.seed().unwrap();
    server.wake();
    server.start_all().await;
    server.push_ingress_account().await;
    let operator = formed(&space, &places, &server, 1).await;
    until_broker(&space, "orders", "Intact", "Audited").await;
    // No kubelet runs the others.
    space.merge::<EventBroker>("orders", json!({"spec": {"replicas": 3}})).await;
    until_broker(&space, "orders", "Reconciling", "ChangingServers").await;
    let earlier = (jiff::Timestamp::now() - jiff::SignedDuration::from_hours(4)).to_string();
    let broker = eventually("it says that nothing was audited", async || {
        // A step of the change may be written over it.
        status::<EventBroker>(&space, "orders", json!({"audit": {"lastRun": earlier}})).await;
        sleep(Duration::from_secs(3)).await;
        let broker: EventBroker = space.api().get("orders").await.ok()?;
        (condition(&broker, "Intact")?.reason == "AuditFailed").then_some(broker)
    })
    .await;
    let message = condition(&broker, "Intact").unwrap().message;
    assert!(message.contains("Reconciling says what that waits for"), "{message}");
    operator.stop().await;
}
