//! `Tidegate-Message-Id`: a publisher that knows its repetitions better than source and id say.

use http::StatusCode;
use tidegate_broker_client::layout::{self, MAX_NAMED_MESSAGE_ID, MESSAGE_ID_HEADER};
use tidegate_test_broker::TestBroker;

use crate::support::{Answer, Running, event, events, messages, start};

async fn publish(ingress: &Running, id: &str, names: &[&str]) -> Answer {
    let mut headers = vec![("content-type", "application/cloudevents+json")];
    headers.extend(names.iter().map(|name| (MESSAGE_ID_HEADER, *name)));
    ingress.post(&headers, tidegate_cloudevents::json::encode(&event(id)).unwrap()).await
}

#[tokio::test]
async fn it_takes_the_place_of_source_and_id() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    for (id, name) in [("1", "reply/handler/7"), ("2", "reply/handler/7"), ("1", "reply/handler/8")] {
        assert_eq!(publish(&ingress, id, &[name]).await.status, StatusCode::ACCEPTED);
    }
    assert_eq!(publish(&ingress, "1", &[]).await.status, StatusCode::ACCEPTED, "an id of another kind");
    assert_eq!(events(&broker).await, [event("1"), event("1"), event("1")]);
    let first = messages(&broker).await.remove(0);
    let stored = first.headers.get("Nats-Msg-Id").unwrap().as_str().to_owned();
    assert_eq!(stored, layout::named_message_id("reply/handler/7"));
    assert!(first.headers.iter().all(|(name, _)| !name.to_string().eq_ignore_ascii_case(MESSAGE_ID_HEADER)));
}

#[tokio::test]
async fn it_cannot_be_made_to_look_like_somebody_elses() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let others = layout::message_id("/sensors/1", "2");
    assert_eq!(publish(&ingress, "1", &[&others]).await.status, StatusCode::ACCEPTED);
    assert_eq!(publish(&ingress, "2", &[]).await.status, StatusCode::ACCEPTED);
    assert_eq!(events(&broker).await, [event("1"), event("2")], "neither was taken for the other");
}

#[tokio::test]
async fn it_has_a_shape() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let longest = "x".repeat(MAX_NAMED_MESSAGE_ID);
    let longer = "x".repeat(MAX_NAMED_MESSAGE_ID + 1);
    for names in [&[""][..], &["a b"], &["größe"], &["a\tb"], &[&longer], &["a", "b"], &["a", "a"]] {
        let answer = publish(&ingress, "1", names).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{names:?}");
        assert!(answer.detail().contains(MESSAGE_ID_HEADER), "{}", answer.detail());
    }
    assert_eq!(messages(&broker).await.len(), 0);
    assert_eq!(publish(&ingress, "1", &[&longest]).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_batch_has_none() {
    let broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    for count in [0, 1, 2] {
        let batch: Vec<_> = (0..count).map(|id| event(&id.to_string())).collect();
        let body = tidegate_cloudevents::http::encode_batch(&batch).unwrap();
        let headers = [("content-type", "application/cloudevents-batch+json"), (MESSAGE_ID_HEADER, "x")];
        assert_eq!(ingress.post(&headers, body).await.status, StatusCode::BAD_REQUEST, "{count}");
    }
    assert_eq!(messages(&broker).await.len(), 0);
}
