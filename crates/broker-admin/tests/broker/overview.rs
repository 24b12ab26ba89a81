//! How far consumers are and what streams have, of all topics at once, as real servers say it.

use std::time::Duration;

use async_nats::jetstream;
use tidegate_broker_admin::overview::{self, Overview, Progress, Scope};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::TopicId;
use tidegate_broker_client::layout::{self, EVENT_STREAM};
use tidegate_test_broker::{TestBroker, eventually, topic, topic_id};
use tidegate_wire::nats::Client;

const WAIT: Duration = Duration::from_secs(30);

async fn look(system: &Client, broker: &TestBroker, scope: Scope<'_>) -> Overview {
    overview::look(system, broker.servers().len(), scope).await.unwrap()
}

async fn publish(js: &jetstream::Context, count: usize) {
    for _ in 0..count {
        js.publish(layout::event_subject(0, "t"), "x".into()).await.unwrap().await.unwrap();
    }
}

fn account(broker: &TestBroker, topic: &TopicId) -> String {
    broker.authority().topic_account_id(topic).unwrap()
}

#[tokio::test]
async fn every_topic_is_in_it_on_as_many_pages_as_it_takes() {
    let broker = TestBroker::start().await;
    let system = broker.system_client().await;
    broker.handler("billing", WAIT).await;
    publish(&broker.jetstream(), 3).await;
    // More than a page has.
    let ids: Vec<TopicId> = (0..40).map(|number| TopicId::new("shop", format!("t{number}")).unwrap()).collect();
    for id in &ids {
        let small = Topic { max_bytes: 1 << 20, dead_letter_bytes: 1 << 20, retry_bytes: 1 << 20, ..topic() };
        let topic = broker.add_topic(id, Topic { attempt_bytes: 1 << 20, max_message_size: 1 << 16, ..small }).await;
        publish(&tidegate_test_broker::jetstream(topic.operator.clone()), 1).await;
    }
    let all = look(&system, &broker, Scope::Everything).await;
    assert!(all.is_whole);
    for id in &ids {
        let found = &all.accounts[&account(&broker, id)];
        let events = found.streams.iter().find(|stream| stream.config.name == EVENT_STREAM).unwrap();
        assert_eq!((events.state.messages, found.consumers.len()), (1, 0), "{id}");
    }
    let own = account(&broker, &topic_id());
    let expected = Progress { name: "billing".into(), pending: 3, in_flight: 0, delivered: 0 };
    assert_eq!(all.accounts[&own].consumers, std::slice::from_ref(&expected));
    assert!(all.accounts[&own].streams.iter().any(|stream| stream.config.name == layout::retry_stream("billing")));
    let one = look(&system, &broker, Scope::ConsumersOf(&own)).await;
    assert_eq!(one.accounts.len(), 1);
    assert_eq!(one.accounts[&own].consumers, std::slice::from_ref(&expected));
    let consumers = look(&system, &broker, Scope::Consumers).await;
    assert_eq!(consumers.accounts[&own].consumers, [expected]);
    assert!(consumers.accounts[&own].streams.is_empty(), "nobody asked for them");
    let nowhere = look(&system, &broker, Scope::ConsumersOf("ANOBODY")).await;
    assert_eq!(nowhere.accounts.len(), 0);
}

/// Each server has a copy, and its own idea of what is pending; the one that leads knows.
#[tokio::test]
async fn of_three_servers_the_one_that_leads_a_consumer_is_believed() {
    let broker = TestBroker::start_cluster().await;
    let system = broker.system_client().await;
    broker.handler("billing", WAIT).await;
    let stream = broker.jetstream().get_stream(EVENT_STREAM).await.unwrap();
    publish(&broker.jetstream(), 20).await;
    let consumer: jetstream::consumer::PullConsumer = stream.get_consumer("billing").await.unwrap();
    let mut batch = consumer.batch().max_messages(5).messages().await.unwrap();
    for _ in 0..5 {
        futures::StreamExt::next(&mut batch).await.unwrap().unwrap();
    }
    let own = account(&broker, &topic_id());
    for _ in 0..3 {
        eventually("the leader's word", async || {
            let found = look(&system, &broker, Scope::Everything).await;
            let account = found.accounts.get(&own);
            let expected = [Progress { name: "billing".into(), pending: 15, in_flight: 5, delivered: 5 }];
            let streams = account.map_or(0, |it| it.streams.iter().filter(|it| it.config.name == EVENT_STREAM).count());
            found.is_whole && account.is_some_and(|it| it.consumers == expected) && streams == 1
        })
        .await;
        broker.step_down("billing").await;
    }
}

/// What an ingress writes for a topic is heard in its own account too, once, and stored all the same.
#[tokio::test]
async fn what_an_ingress_writes_is_heard_beside_the_topic() {
    let broker = TestBroker::start().await;
    let subjects = layout::ingress::TopicSubjects::new(&topic_id(), tidegate_broker_client::contract::Routing::Queued);
    let operator = broker.ingress_operator_client().await;
    let mut heard = operator.subscribe_once(&subjects.events()).unwrap();
    operator.flush().await.unwrap();
    let ingress = broker.ingress().await;
    for sequence in 1..=3 {
        let answer = ingress.request(subjects.event(&layout::event_subject(0, "t")), "x".into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["seq"], sequence, "{answer}");
    }
    let message = heard.next().await.expect("it is heard");
    assert_eq!(message.subject(), "topic.test.topic.write.events.0.t");
    assert!(heard.next().await.is_none(), "once");
}
