//! Events that are published at a time of their own.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::schedules::{self, Schedule};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::{later, layout};
use tidegate_cloudevents::Event;
use tidegate_test_broker::{TestBroker, eventually, topic};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::{Answer, Running, event, events, messages, start};

const HOUR: Duration = Duration::from_secs(3600);

/// A topic that takes events up to an hour ahead, so many bytes of them.
fn delaying(max_bytes: i64) -> Topic {
    Topic { later: Some(Later { max_bytes, max_delay: Some(HOUR), has_schedules: true }), ..topic() }
}

fn after(wait: Duration) -> String {
    (OffsetDateTime::now_utc() + wait).format(&Rfc3339).unwrap()
}

fn delayed(id: &str, at: &str) -> Event {
    event(id).with_extension(later::ATTRIBUTE, at).unwrap()
}

/// Publishes an event in binary mode with the header.
async fn post(ingress: &Running, id: &str, at: &str) -> Answer {
    let headers = [
        ("ce-specversion", "1.0"),
        ("ce-id", id),
        ("ce-source", "/sensors/1"),
        ("ce-type", "temperature"),
        ("content-type", "text/plain"),
        ("tidegate-deliver-at", at),
    ];
    ingress.post(&headers, "23.5").await
}

async fn delete(ingress: &Running, path: &str) -> Answer {
    ingress.send(Request::delete(path).header("host", "localhost").body(Full::default()).unwrap()).await
}

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    answer.headers["location"].to_str().unwrap().to_owned()
}

async fn until_stored(broker: &TestBroker, ids: &[&str]) {
    eventually(&format!("{ids:?} are stored"), async || {
        let mut found: Vec<String> = events(broker).await.iter().map(|event| event.id().to_owned()).collect();
        found.sort();
        found == ids
    })
    .await;
}

/// How much waits.
async fn waiting(broker: &TestBroker) -> u64 {
    let stream = broker.jetstream().get_stream(later::STREAM).await.unwrap();
    stream.cached_info().state.messages
}

#[tokio::test]
async fn an_event_is_published_at_its_time_like_any_other() {
    let broker = TestBroker::start_with(delaying(16 << 20)).await;
    let ingress = start(&broker).await;
    let at = after(Duration::from_secs(2));
    let by_header = post(&ingress, "1", &at).await;
    assert!(location(&by_header).starts_with("/delayed/") && !by_header.headers.contains_key("tidegate-sequence"));
    location(&ingress.publish(&delayed("2", &at)).await);
    let batch = ingress.publish_batch(&[delayed("3", &at), event("4"), delayed("5", "1990-01-01T00:00:00Z")]).await;
    assert_eq!(batch.status, StatusCode::ACCEPTED);
    assert!(batch.headers["tidegate-sequence"] == "1" && !batch.headers.contains_key("location"));
    until_stored(&broker, &["1", "2", "3", "4", "5"]).await;
    let at = OffsetDateTime::parse(&at, &Rfc3339).unwrap();
    for message in messages(&broker).await {
        let id = message.headers.get("ce-id").unwrap().as_str().to_owned();
        let is_early = message.time < at;
        assert_eq!(is_early, ["4", "5"].contains(&&*id), "{id}: {} of {at}", message.time);
        let names: Vec<String> = message.headers.iter().map(|(name, _)| name.to_string()).collect();
        let of_broker: Vec<_> = names.iter().filter(|name| name.starts_with("Nats-")).collect();
        assert!(of_broker.len() == 2 && message.headers.get("Nats-Msg-Id").is_some(), "{names:?}");
        assert!(message.headers.get("ce-tidegatedeliverat").is_none());
        let partition = layout::partition(&id);
        assert_eq!(*message.subject, layout::event_subject(partition, "temperature"));
    }
    eventually("nothing waits", async || waiting(&broker).await == 0).await;
}

#[tokio::test]
async fn what_waits_survives_a_broker_that_is_killed() {
    let mut broker = TestBroker::start_with(delaying(16 << 20)).await;
    let ingress = start(&broker).await;
    location(&post(&ingress, "1", &after(Duration::from_secs(3))).await);
    location(&post(&ingress, "2", &after(Duration::from_millis(300))).await);
    broker.restart().await;
    until_stored(&broker, &["1", "2"]).await;
}

/// The same event is the same message, whenever it comes again, now or later; with another time it is moved.
#[tokio::test]
async fn a_repetition_is_recognised_and_another_time_moves_an_event() {
    let broker = TestBroker::start_with(delaying(16 << 20)).await;
    let ingress = start(&broker).await;
    let key = location(&post(&ingress, "1", &after(HOUR / 2)).await);
    let soon = after(Duration::from_secs(1));
    assert_eq!(location(&post(&ingress, "1", &soon).await), key);
    assert_eq!(waiting(&broker).await, 1);
    location(&post(&ingress, "2", &soon).await);
    until_stored(&broker, &["1", "2"]).await;
    // Its publisher did not hear of the first answer.
    assert_eq!(location(&post(&ingress, "1", &soon).await), key);
    let now = ingress.publish(&event("2")).await;
    assert_eq!(now.headers["tidegate-duplicate"], "true");
    location(&post(&ingress, "3", &soon).await);
    until_stored(&broker, &["1", "2", "3"]).await;
    eventually("nothing waits", async || waiting(&broker).await == 0).await;
    until_stored(&broker, &["1", "2", "3"]).await;
}

#[tokio::test]
async fn an_event_that_is_due_waits_for_room_in_its_topic() {
    let broker = TestBroker::start_with(Topic { max_bytes: 64 << 10, ..delaying(16 << 20) }).await;
    let ingress = start(&broker).await;
    for id in ["1", "2", "3"] {
        location(&ingress.publish(&delayed(id, &after(Duration::from_secs(2)))).await);
    }
    let js = broker.jetstream();
    let filler = js.publish("events.0.filler", vec![0; 65_300].into()).await.unwrap().await.unwrap();
    let stream = js.get_stream(later::STREAM).await.unwrap();
    eventually("they are due", async || {
        stream.info_with_subjects("due.>").await.is_ok_and(|subjects| subjects.info.state.subjects_count >= 3)
    })
    .await;
    let mut consumer = stream.get_consumer::<jetstream::consumer::pull::Config>(later::CONSUMER).await.unwrap();
    eventually("they were tried", async || {
        consumer.info().await.is_ok_and(|info| info.delivered.consumer_sequence > 3)
    })
    .await;
    assert_eq!(messages(&broker).await.len(), 1, "the topic is full");
    broker.admin().delete_message(layout::EVENT_STREAM, filler.sequence).await.unwrap();
    until_stored(&broker, &["1", "2", "3"]).await;
    eventually("nothing waits", async || waiting(&broker).await == 0).await;
}

#[tokio::test]
async fn an_event_that_waits_can_be_cancelled_by_whoever_published_it() {
    let broker = TestBroker::start_with(delaying(16 << 20)).await;
    let ingress = start(&broker).await;
    let key = location(&post(&ingress, "1", &after(HOUR / 2)).await);
    let wrong = delete(&ingress, &format!("/delayed/{}", "A".repeat(43))).await;
    assert_eq!(wrong.status, StatusCode::NOT_FOUND);
    for path in ["/delayed/", "/delayed/*", "/delayed/%2A", &format!("{key}/x"), &key[..key.len() - 1]] {
        assert_eq!(delete(&ingress, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let get = Request::get(&key).header("host", "localhost").body(Full::default()).unwrap();
    let get = ingress.send(get).await;
    assert_eq!((get.status, get.headers["allow"].as_bytes()), (StatusCode::METHOD_NOT_ALLOWED, &b"DELETE"[..]));
    assert_eq!(waiting(&broker).await, 1);
    assert_eq!(delete(&ingress, &key).await.status, StatusCode::NO_CONTENT);
    assert_eq!(waiting(&broker).await, 0);
    assert_eq!(delete(&ingress, &key).await.status, StatusCode::NOT_FOUND);
    let key = location(&post(&ingress, "1", &after(Duration::ZERO)).await);
    until_stored(&broker, &["1"]).await;
    eventually("nothing waits", async || waiting(&broker).await == 0).await;
    assert_eq!(delete(&ingress, &key).await.status, StatusCode::NOT_FOUND, "published already");
}

#[tokio::test]
async fn what_is_no_time_for_an_event_is_refused_and_nothing_is_stored() {
    let broker = TestBroker::start_with(delaying(16 << 20)).await;
    let ingress = start(&broker).await;
    let beyond = after(HOUR + Duration::from_secs(60));
    for (at, words) in [("soon", "RFC 3339"), ("", "RFC 3339"), (&*beyond, "delayedEvents.maxDelay")] {
        let answer = post(&ingress, "1", at).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{at}");
        assert!(answer.detail().contains(words), "{at}: {}", answer.detail());
        let batch = ingress.publish_batch(&[event("2"), delayed("3", &after(HOUR / 2)), delayed("4", at)]).await;
        assert_eq!(batch.status, StatusCode::BAD_REQUEST, "{at}");
    }
    let at = after(HOUR / 2);
    let both = [("content-type", "application/cloudevents+json"), ("tidegate-deliver-at", &*at)];
    let twice = [both[0], both[1], both[1]];
    let body = |event: &Event| tidegate_cloudevents::http::encode_structured(event).unwrap();
    let batch = tidegate_cloudevents::http::encode_batch(&[event("5")]).unwrap();
    let of_batch = [("content-type", "application/cloudevents-batch+json"), both[1]];
    for answer in [
        ingress.post(&both, body(&delayed("5", &at))).await,
        ingress.post(&twice, body(&event("5"))).await,
        ingress.post(&of_batch, batch).await,
    ] {
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    }
    assert_eq!((waiting(&broker).await, events(&broker).await.len()), (0, 0));
}

#[tokio::test]
async fn a_topic_that_takes_no_such_events_says_so() {
    let (broker, direct) = tokio::join!(TestBroker::start(), TestBroker::start_direct());
    let (ingress, direct) = (start(&broker).await, start(&direct).await);
    for ingress in [&ingress, &direct] {
        let answer = post(ingress, "1", &after(Duration::from_secs(1))).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer.detail().contains("spec.delayedEvents"), "{}", answer.detail());
        let path = format!("/delayed/{}", "A".repeat(43));
        assert_eq!(delete(ingress, &path).await.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(events(&broker).await.len(), 0);
}

/// The stream would drop the oldest of them if it were full.
#[tokio::test]
async fn too_many_events_that_wait_are_refused_and_none_is_lost() {
    let broker = TestBroker::start_with(delaying(256 << 10)).await;
    let ingress = start(&broker).await;
    let large = Event::builder("large", "/s", "t").data(vec![0; 20_000]).attribute(later::ATTRIBUTE, after(HOUR / 2));
    assert_eq!(ingress.publish(&large.build().unwrap()).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let mut taken = 0;
    let refused = loop {
        let event = Event::builder(&taken.to_string(), "/s", "t").data(vec![0; 8_000]);
        let event = event.attribute(later::ATTRIBUTE, after(HOUR / 2)).build().unwrap();
        let answer = ingress.publish(&event).await;
        if answer.status != StatusCode::ACCEPTED {
            break answer;
        }
        taken += 1;
        assert!(taken < 100);
    };
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{}", refused.detail());
    assert_eq!(refused.headers["retry-after"], "5");
    assert!(taken >= 10, "{taken}");
    assert_eq!(waiting(&broker).await, taken);
    assert_eq!(ingress.publish(&event("now")).await.status, StatusCode::ACCEPTED, "other events are taken");
}

/// Each way in, by the attribute.
#[tokio::test]
async fn a_publisher_over_nats_delays_an_event_too() {
    let broker = TestBroker::start_with(delaying(16 << 20)).await;
    let _ingress = start(&broker).await;
    let identity = broker.publisher("sensors").await;
    let source = tidegate_broker_client::identity::folder(&identity);
    let client = tidegate_broker_client::peer::connect("sensors", &broker.servers(), source).await.unwrap();
    let request = async |at: &str| {
        let body = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", later::ATTRIBUTE: at});
        let answer = client.request(layout::PUBLISH_SUBJECT, body.to_string().into()).await.unwrap();
        serde_json::from_slice::<serde_json::Value>(&answer.payload).unwrap()
    };
    assert_eq!(request("soon").await["error"]["code"], 400);
    assert_eq!(request(&after(Duration::from_millis(500))).await["error"], json!(null));
    until_stored(&broker, &["1"]).await;
}

/// Without the operator; each run is an event of its own, and what the broker was killed in between is the next one.
#[tokio::test]
async fn a_schedule_publishes_an_event_of_its_own_each_time() {
    let mut broker = TestBroker::start_with(delaying(16 << 20)).await;
    let ingress = start(&broker).await;
    let event =
        Event::builder("often", "/schedules", "report.due").attribute("subject", "k").data("{}").build().unwrap();
    let often = Schedule { name: "often".into(), pattern: "@every 1s".into(), time_zone: None, event };
    assert_eq!(schedules::ensure(&broker.admin(), &[often]).await.unwrap(), []);
    let runs = async |broker: &TestBroker, count: usize| {
        eventually(&format!("{count} runs"), async || events(broker).await.len() >= count).await;
    };
    runs(&broker, 2).await;
    broker.restart().await;
    runs(&broker, 4).await;
    schedules::ensure(&broker.admin(), &[]).await.unwrap();
    eventually("nothing waits", async || waiting(&broker).await == 0).await;
    let (messages, events) = (messages(&broker).await, events(&broker).await);
    let ids: HashSet<&str> = events.iter().map(Event::id).collect();
    assert_eq!(ids.len(), events.len(), "{ids:?}");
    for (message, event) in messages.iter().zip(&events) {
        let time = event.attribute("time").unwrap();
        assert!(event.id().starts_with(&format!("often-{time}-")), "{}", event.id());
        assert_eq!((event.event_type(), event.source()), ("report.due", "/schedules"));
        assert_eq!(*message.subject, layout::event_subject(layout::partition("k"), "report.due"));
        assert!(OffsetDateTime::parse(time, &Rfc3339).unwrap() <= message.time);
    }
    assert_eq!(ingress.publish(&self::event("1")).await.status, StatusCode::ACCEPTED);
    assert_eq!(self::events(&broker).await.len(), events.len() + 1, "a schedule that is removed runs no more");
}
