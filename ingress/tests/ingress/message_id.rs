//! Message ids that a stranger cannot choose: nothing that others publish makes an event vanish.

use http::StatusCode;
use tidegate_broker_client::message_id::{HEADER, HandlerKey, TopicKey};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{TestBroker, topic_id};

use crate::support::{Answer, Running, event, events, messages, start};

/// The key that the operator gives to the handler with this UID.
fn key(broker: &TestBroker, handler_uid: &str) -> HandlerKey {
    let topic = TopicKey::new(&broker.authority().message_id_key(&topic_id()).unwrap());
    HandlerKey::from_text(&topic.handler_key_text(handler_uid)).unwrap()
}

async fn publish(ingress: &Running, id: &str, names: &[&str]) -> Answer {
    let mut headers = vec![("content-type", "application/cloudevents+json")];
    headers.extend(names.iter().map(|name| (HEADER, *name)));
    ingress.post(&headers, tidegate_cloudevents::json::encode(&event(id)).unwrap()).await
}

#[tokio::test]
async fn a_stranger_who_publishes_source_and_id_first_does_not_make_the_event_vanish() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let real = event("1");
    let forged = [
        Event::builder("1", "/sensors/1", "temperature").data("0").attribute("datacontenttype", "text/plain"),
        Event::builder("1", "/sensors/1", "temperature").data("23.5"),
        Event::builder("1", "/sensors/1", "other").data("23.5").attribute("datacontenttype", "text/plain"),
    ]
    .map(|builder| builder.build().unwrap());
    for event in forged.iter().chain([&real, &real]) {
        assert_eq!(ingress.publish(event).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(ingress.publish_batch(&[real.clone(), forged[0].clone()]).await.status, StatusCode::ACCEPTED);
    let [first, second, third] = forged;
    assert_eq!(events(&broker).await, [first, second, third, real], "each once");
}

#[tokio::test]
async fn a_handler_names_its_repetitions_and_nobody_elses() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (billing, audit) = (key(&broker, "uid-billing"), key(&broker, "uid-audit"));
    let (seven, eight) = (billing.token("uid-billing", "7"), billing.token("uid-billing", "8"));
    for (id, token) in [("1", &seven), ("2", &seven), ("3", &eight), ("4", &audit.token("uid-audit", "7"))] {
        assert_eq!(publish(&ingress, id, &[token]).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(publish(&ingress, "1", &[]).await.status, StatusCode::ACCEPTED, "an id of another kind");
    assert_eq!(events(&broker).await, [event("1"), event("3"), event("4"), event("1")]);
    for message in messages(&broker).await {
        assert!(message.headers.iter().all(|(name, _)| !name.to_string().eq_ignore_ascii_case(HEADER)));
    }
}

#[tokio::test]
async fn what_is_not_proven_is_refused_and_nothing_is_stored() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let (billing, audit) = (key(&broker, "uid-billing"), key(&broker, "uid-audit"));
    let good = billing.token("uid-billing", "7");
    let in_anothers_name = audit.token("uid-billing", "7");
    let of_another_topic = HandlerKey::from_text(&TopicKey::new(&[1; 32]).handler_key_text("uid-billing")).unwrap();
    let of_another_topic = of_another_topic.token("uid-billing", "7");
    let changed = good.replace(".7.", ".8.");
    let long = "x".repeat(5000);
    for names in [
        &["reply/handler/7"][..],
        &["dead-letter:uid-billing:7"],
        &[""],
        &["größe"],
        &["uid-billing.7."],
        &["..", "a"],
        &[&in_anothers_name],
        &[&of_another_topic],
        &[&changed],
        &[&long],
        &[&good, &good],
    ] {
        let answer = publish(&ingress, "1", names).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{names:?}");
        assert!(answer.detail().contains("leave it out"), "{}", answer.detail());
    }
    assert_eq!(messages(&broker).await.len(), 0);
    assert_eq!(publish(&ingress, "1", &[&good]).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_batch_has_none() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let token = key(&broker, "uid-billing").token("uid-billing", "7");
    for count in [0, 1, 2] {
        let batch: Vec<_> = (0..count).map(|id| event(&id.to_string())).collect();
        let body = tidegate_cloudevents::http::encode_batch(&batch).unwrap();
        let headers = [("content-type", "application/cloudevents-batch+json"), (HEADER, &*token)];
        assert_eq!(ingress.post(&headers, body).await.status, StatusCode::BAD_REQUEST, "{count}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
}
