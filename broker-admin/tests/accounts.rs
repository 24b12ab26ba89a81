//! What the accounts allow and what they refuse, against a real nats-server.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt as _;
use tidegate_broker_admin::consumers;
use tidegate_broker_client::{connect, identity, layout};
use tidegate_test_broker::TestBroker;

async fn handler(broker: &TestBroker, name: &str) -> async_nats::Client {
    let folder = broker.handler(name, Duration::from_secs(5)).await;
    connect::connect(name, &broker.servers(), identity::folder(folder)).await.unwrap()
}

async fn publish(broker: &TestBroker, text: &'static str) {
    let js = jetstream::new(broker.operator());
    js.publish("events.0.test", text.into()).await.unwrap().await.unwrap();
}

/// One pull of one message: its payload and its acknowledgement subject, or `None` within a second.
async fn pull(client: &async_nats::Client, consumer: &str) -> Option<async_nats::Message> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.unwrap();
    let request = r#"{"batch":1,"expires":1000000000}"#;
    client.publish_with_reply(layout::pull_subject(consumer), inbox, request.into()).await.unwrap();
    let message = tokio::time::timeout(Duration::from_millis(1500), replies.next()).await.ok()??;
    message.status.is_none().then_some(message)
}

async fn events(broker: &TestBroker) -> u64 {
    let mut stream = jetstream::new(broker.operator()).get_stream(layout::EVENT_STREAM).await.unwrap();
    stream.info().await.unwrap().state.messages
}

#[tokio::test]
async fn a_handler_pulls_and_acknowledges_its_own_consumer() {
    let broker = TestBroker::start().await;
    let client = handler(&broker, "billing").await;
    publish(&broker, "one").await;
    let message = pull(&client, "billing").await.expect("an event");
    assert_eq!(&message.payload[..], b"one");
    client.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
    client.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let listed = consumers::list(&jetstream::new(broker.operator())).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].num_ack_pending, listed[0].ack_floor.stream_sequence), (0, 1));
}

#[tokio::test]
async fn its_dead_letter_is_stored_and_confirmed() {
    let broker = TestBroker::start().await;
    let client = handler(&broker, "billing").await;
    let reply = client.request("dead-letters.billing", "x".into()).await.unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(reply["stream"], "dead-letters");
    assert_eq!(reply["seq"], 1);
}

#[tokio::test]
async fn another_handlers_consumer_and_dead_letters_are_out_of_reach() {
    let broker = TestBroker::start().await;
    let billing = handler(&broker, "billing").await;
    let _shipping = handler(&broker, "shipping").await;
    publish(&broker, "one").await;
    assert!(pull(&billing, "shipping").await.is_none());
    assert!(billing.request("dead-letters.shipping", "x".into()).await.is_err());
    assert!(billing.request("$JS.API.STREAM.INFO.events", "".into()).await.is_err());
    assert!(billing.request("events.0.test", "x".into()).await.is_err());
}

/// Within one account a request's reply subject lets anyone purge the stream; across accounts it stays away.
#[tokio::test]
async fn the_reply_subject_cannot_purge_the_stream() {
    let broker = TestBroker::start().await;
    let client = handler(&broker, "billing").await;
    publish(&broker, "kept").await;
    for reply in ["$JS.API.STREAM.PURGE.events", "$JS.API.STREAM.DELETE.events", "events.0.injected"] {
        for subject in [layout::pull_subject("billing"), layout::dead_letter_subject("billing")] {
            let request = r#"{"batch":1,"no_wait":true}"#;
            client.publish_with_reply(subject, reply, request.into()).await.unwrap();
        }
    }
    client.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(events(&broker).await, 1);
}

#[tokio::test]
async fn a_removed_handler_is_cut_and_stays_out() {
    let broker = TestBroker::start().await;
    let folder = broker.handler("billing", Duration::from_secs(5)).await;
    let client = connect::connect("x", &broker.servers(), identity::folder(&folder)).await.unwrap();
    publish(&broker, "one").await;
    let system = broker.system().await;
    system.remove_handler(broker.authority(), "billing", "uid-billing").await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_ne!(client.connection_state(), async_nats::connection::State::Connected);
    assert!(connect::connect("x", &broker.servers(), identity::folder(&folder)).await.is_err());
    consumers::delete(&jetstream::new(broker.operator()), "billing").await.unwrap();
    consumers::delete(&jetstream::new(broker.operator()), "billing").await.unwrap();
    assert!(consumers::list(&jetstream::new(broker.operator())).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_the_servers_have_already_is_not_pushed_again() {
    let broker = TestBroker::start().await;
    let system = broker.system().await;
    let now = time::OffsetDateTime::now_utc();
    let account = || broker.authority().handler_account("billing", "u1", now).unwrap();
    assert!(system.ensure(&account()).await.unwrap());
    assert!(!system.ensure(&account()).await.unwrap());
}

#[tokio::test]
async fn no_certificate_no_connection() {
    let broker = TestBroker::start().await;
    let folder = broker.handler("billing", Duration::from_secs(5)).await;
    // Another topic's authority signed this certificate; the user is right.
    let stranger = tidegate_broker_admin::Authority::generate("other", time::OffsetDateTime::now_utc()).unwrap();
    let leaf = stranger.leaf("billing", vec![], time::OffsetDateTime::now_utc()).unwrap();
    std::fs::write(folder.join("tls.crt"), leaf.certificate).unwrap();
    std::fs::write(folder.join("tls.key"), leaf.key).unwrap();
    assert!(connect::connect("x", &broker.servers(), identity::folder(&folder)).await.is_err());
}
