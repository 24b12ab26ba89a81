//! One field that the broker refuses freezes nothing else, through whole reconciles.

use async_nats::jetstream::{self, consumer, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tidegate_crds::{EventHandler, EventTopic};

use crate::handler::{self, condition};
use crate::support::brokers::{Places, account, publish_one, server, topic_on, until_ready};
use crate::support::operator::{Operator, turn};
use crate::support::workloads::roll_out;
use crate::support::{Space, eventually};
use crate::topic::{self, until_reason};
use crate::validation_handler::{self, spec};

/// What somebody else keeps on the broker: nearly all of the room that is left.
async fn fill(js: &jetstream::Context) {
    for size in (1..256).rev() {
        let ballast =
            stream::Config { name: "ballast".into(), max_bytes: size * (4 << 20), ..stream::Config::default() };
        if js.create_stream(ballast).await.is_ok() {
            return;
        }
    }
    panic!("there was no room at all");
}

async fn deployment(space: &Space) -> Option<(i32, String)> {
    let spec = space.api::<Deployment>().get_opt("billing-handler").await.ok()??.spec?;
    Some((spec.replicas?, spec.template.spec?.containers.first()?.image.clone()?))
}

/// The handler's template with another image.
fn image(image: &str) -> Value {
    let container = json!({"name": "billing", "image": image, "ports": [{"containerPort": 8080}]});
    json!({"spec": {"template": {"spec": {"containers": [container]}}}})
}

fn says(handler: &EventHandler, kind: &str) -> (String, String) {
    let found = condition(handler, kind).unwrap();
    (found.status, found.reason)
}

#[tokio::test]
async fn a_refused_field_of_a_topic_stops_none_of_its_handlers() {
    let _turn = turn().await;
    let (space, places) = (Space::new("refused-topic").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    space.merge::<EventTopic>("orders", json!({"spec": {"retention": {"maxSize": "32Mi"}}})).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    let autoscaling = json!({"autoscaling": {"minReplicas": 0, "maxReplicas": 4, "idleAfter": "1s"}});
    space.create::<EventHandler>(validation_handler::handler("billing", spec(autoscaling))).await;
    eventually("the handler sleeps", async || (deployment(&space).await?.0 == 0).then_some(())).await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
    // Three have three quarters of the room for handlers, so what they give back is less than the events are to get.
    for other in ["shipping", "stock"] {
        space.create::<EventHandler>(validation_handler::handler(other, spec(json!({"replicas": 0})))).await;
        eventually("it has its streams", async || js.get_stream(format!("attempts_{other}")).await.ok()).await;
    }
    // In an account that is none of the topic's.
    let elsewhere = tidegate_test_broker::jetstream(broker.operator());
    fill(&elsewhere).await;
    let larger = json!({"spec": {"retention": {"maxSize": "200Mi"}, "publishers": [{"nats": "web"}]}});
    space.merge::<EventTopic>("orders", larger).await;
    let refused = until_reason(&space, "orders", "StreamReady", "StreamRefused").await;
    let found = topic::condition(&refused, "StreamReady").unwrap();
    assert!(found.message.contains("stream events stays as it is: "), "{}", found.message);
    assert_eq!(topic::condition(&refused, "Stalled").unwrap().status, "True");
    eventually("the rest of the same change is made", async || {
        space.api::<Secret>().get_opt("orders-publisher-web").await.ok()?
    })
    .await;
    publish_one(&js).await;
    eventually("the handler is woken", async || (deployment(&space).await?.0 > 0).then_some(())).await;
    space.merge::<EventHandler>("billing", image("registry.test/billing:2")).await;
    eventually("it rolls out", async || deployment(&space).await?.1.ends_with(":2").then_some(())).await;
    roll_out(&space, "billing").await;
    let ready = handler::until_reason(&space, "Ready", "Ready").await;
    for (kind, reason) in [("TopicReady", "TopicReady"), ("Subscribed", "Subscribed")] {
        assert_eq!(says(&ready, kind), ("True".into(), reason.into()));
    }
    assert_eq!(says(&ready, "Stalled").0, "False", "the topic is what a person has to look at");
    elsewhere.delete_stream("ballast").await.unwrap();
    space.merge::<EventTopic>("orders", json!({"metadata": {"annotations": {"looked": "at"}}})).await;
    let topic = until_reason(&space, "orders", "StreamReady", "Configured").await;
    assert_eq!(topic::condition(&topic, "Stalled").unwrap().status, "False");
    operator.stop().await;
}

/// Puts a consumer in the place of the handler's that cannot become what the handler wants.
async fn replace(js: &jetstream::Context) {
    let stream = js.get_stream("events").await.unwrap();
    let found = stream.consumer_info("billing").await.unwrap().config;
    stream.delete_consumer("billing").await.unwrap();
    let push = consumer::push::Config {
        durable_name: Some("billing".into()),
        deliver_subject: "elsewhere".into(),
        filter_subject: found.filter_subject,
        metadata: found.metadata,
        ..consumer::push::Config::default()
    };
    stream.create_consumer(push).await.unwrap();
}

#[tokio::test]
async fn a_refused_field_of_a_handler_stops_nothing_else_of_it() {
    let _turn = turn().await;
    let (space, places) = (Space::new("refused-handler").await, Places::default());
    let broker = server().await;
    topic_on(&space, &places, &broker, "orders").await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    until_ready(&space, "orders").await;
    space.create::<EventHandler>(validation_handler::handler("billing", spec(json!({"replicas": 1})))).await;
    handler::until_reason(&space, "Subscribed", "Subscribed").await;
    operator.stop().await;
    let js = tidegate_test_broker::jetstream(account(&space, &broker, "orders").await.operator);
    replace(&js).await;
    let operator = Operator::start_with_brokers(space.client.clone(), places.addresses());
    let refused = handler::until_reason(&space, "Subscribed", "SubscriptionRefused").await;
    let message = condition(&refused, "Subscribed").unwrap().message;
    assert!(message.contains("push consumer") && message.contains("keeps the subscription"), "{message}");
    space.merge::<EventHandler>("billing", image("registry.test/billing:2")).await;
    space.merge::<EventHandler>("billing", json!({"spec": {"replicas": 3}})).await;
    eventually("it rolls out and scales", async || {
        (deployment(&space).await? == (3, "registry.test/billing:2".into())).then_some(())
    })
    .await;
    roll_out(&space, "billing").await;
    let handler = handler::until_reason(&space, "PodsReady", "PodsReady").await;
    for (kind, status) in [("TopicReady", "True"), ("Ready", "False"), ("Stalled", "True")] {
        assert_eq!(says(&handler, kind).0, status, "{kind}");
    }
    js.get_stream("events").await.unwrap().delete_consumer("billing").await.unwrap();
    let ready = handler::until_reason(&space, "Ready", "Ready").await;
    assert_eq!(says(&ready, "Stalled").0, "False");
    operator.stop().await;
}
