//! What the ingresses of a broker do in the accounts of its topics, against a real nats-server.

use std::time::{Duration, Instant};

use async_nats::client::RequestErrorKind;
use async_nats::{Client, HeaderMap, Message, Request};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::push::AccountState;
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_client::contract::{MAX_TOPICS, Routing};
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::{TopicId, identity, later, layout, peer};
use tidegate_test_broker::{LIMIT, TestBroker, answer, eventually, topic, topic_id};
use time::OffsetDateTime;
use tokio::time::timeout;

async fn ingress(broker: &TestBroker) -> Client {
    peer::connect("ingress", &broker.servers(), identity::folder(broker.ingress_client_dir())).await.unwrap()
}

fn id(name: &str) -> TopicId {
    TopicId::new("shop", name).unwrap()
}

fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    pairs.iter().for_each(|(name, value)| headers.insert(*name, value.as_str()));
    headers
}

async fn ask(client: &Client, subject: String, payload: &str) -> Value {
    let answer = timeout(LIMIT, client.request(subject, payload.to_owned().into())).await.expect("in time").unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn stored(broker: &TestBroker, topic: &TopicId) -> u64 {
    let admin = broker.open_topic(topic).await.admin;
    answer(async || admin.stream(layout::EVENT_STREAM).await).await.state.messages
}

#[tokio::test]
async fn events_of_each_topic_are_stored_in_its_own_stream() {
    let broker = TestBroker::start().await;
    let (a, b) = (id("a"), id("b"));
    broker.add_topic(&a, topic()).await;
    broker.add_topic(&b, topic()).await;
    let client = ingress(&broker).await;
    let subject = TopicSubjects::new(&a, Routing::Queued).event("events.3.order.new");
    let reply = ask(&client, subject, "x").await;
    assert_eq!((&reply["stream"], &reply["seq"]), (&json!("events"), &json!(1)), "{reply}");
    let message = broker.open_topic(&a).await.admin.next_message(layout::EVENT_STREAM, ">", 1).await.unwrap().unwrap();
    assert_eq!(message.subject, "events.3.order.new");
    assert_eq!((stored(&broker, &b).await, stored(&broker, &topic_id()).await), (0, 0));
    let nowhere = TopicSubjects::new(&id("c"), Routing::Queued).event("events.3.order.new");
    assert!(client.request(nowhere, "x".into()).await.is_err(), "no such topic");
}

#[tokio::test]
async fn a_batch_is_stored_as_one() {
    let broker = TestBroker::start().await;
    let client = ingress(&broker).await;
    let subjects = TopicSubjects::new(&topic_id(), Routing::Queued);
    for batch in 0..3 {
        for sequence in 1..20 {
            let headers = headers(&[
                ("Nats-Batch-Id", format!("batch-{batch}")),
                ("Nats-Batch-Sequence", sequence.to_string()),
                ("Nats-Msg-Id", format!("{batch}-{sequence}")),
            ]);
            client.publish_with_headers(subjects.event("events.3.t"), headers, "x".into()).await.unwrap();
        }
        let last = headers(&[
            ("Nats-Batch-Id", format!("batch-{batch}")),
            ("Nats-Batch-Sequence", "20".to_owned()),
            ("Nats-Batch-Commit", "1".to_owned()),
            ("Nats-Msg-Id", format!("{batch}-20")),
        ]);
        let request = Request::new().headers(last).payload("x".into());
        let answer = client.send_request(subjects.event("events.3.t"), request).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!((&answer["count"], &answer["seq"]), (&json!(20), &json!(20 * (batch + 1))), "{answer}");
    }
}

#[tokio::test]
async fn events_of_a_direct_topic_reach_each_handler_once() {
    let broker = TestBroker::start().await;
    let direct = id("direct");
    broker.add_direct_topic(&direct).await;
    let mut heard = Vec::new();
    for (handler, group) in [("billing", "billing"), ("billing", "billing"), ("shipping", "shipping")] {
        let folder = broker.direct_handler_of(&direct, handler).await;
        let client = peer::connect(handler, &broker.servers(), identity::folder(folder)).await.unwrap();
        let events = client.queue_subscribe(layout::EVENT_SUBJECTS, group.into()).await.unwrap();
        // A round trip: the broker knows of it then, whether somebody answers or not.
        let _ = client.request(layout::report_subject(handler), "".into()).await;
        heard.push((client, events));
    }
    let (client, subjects) = (ingress(&broker).await, TopicSubjects::new(&direct, Routing::Direct));
    for _ in 0..20 {
        client.publish(subjects.event("events.3.order.new"), "x".into()).await.unwrap();
    }
    let mut counts = [0; 3];
    eventually("all came", async || {
        for (count, (_, events)) in counts.iter_mut().zip(&mut heard) {
            while let Some(Some(event)) = events.next().now_or_never() {
                assert_eq!(event.subject.as_str(), "events.3.order.new");
                *count += 1;
            }
        }
        counts[0] + counts[1] >= 20 && counts[2] >= 20
    })
    .await;
    assert_eq!((counts[0] + counts[1], counts[2]), (20, 20), "{counts:?}");
}

/// Pulls so many messages of what is due.
async fn pull(client: &Client, subjects: &TopicSubjects, count: usize) -> Vec<Message> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.unwrap();
    let request = format!(r#"{{"batch":{count},"expires":20000000000}}"#);
    client.publish_with_reply(subjects.pull().to_owned(), inbox, request.into()).await.unwrap();
    let mut messages = Vec::new();
    while messages.len() < count {
        let message = timeout(LIMIT, replies.next()).await.expect("a message").unwrap();
        assert_eq!(message.status, None);
        messages.push(message);
    }
    messages
}

#[tokio::test]
async fn delayed_events_are_stored_pulled_acknowledged_and_cancelled() {
    let broker = TestBroker::start().await;
    let delayed = id("delayed");
    let takes = Later { max_bytes: 1 << 20, max_delay: Some(Duration::from_secs(3600)), has_schedules: false };
    let handle = broker.add_topic(&delayed, Topic { later: Some(takes), ..topic() }).await;
    let (client, subjects) = (ingress(&broker).await, TopicSubjects::new(&delayed, Routing::Queued));
    let store = async |key: &str, at: OffsetDateTime| {
        let at = at.format(&time::format_description::well_known::Rfc3339).unwrap();
        let headers = headers(&[(later::SCHEDULE, format!("@at {at}")), (later::TARGET, later::due_subject(key))]);
        let request = Request::new().headers(headers).payload("x".into());
        let answer = client.send_request(subjects.delayed(key), request).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    let now = OffsetDateTime::now_utc();
    for key in ["a", "b", "c"] {
        assert_eq!(store(key, now).await["stream"], later::STREAM);
    }
    assert_eq!(store("far", now + Duration::from_secs(1800)).await["stream"], later::STREAM);
    let info = ask(&client, subjects.later_info(), "").await;
    assert_eq!(info["config"]["metadata"][later::MAX_DELAY], "3600", "{info}");
    for message in pull(&client, &subjects, 3).await {
        let acknowledge = subjects.acknowledge(message.reply.as_deref().unwrap()).unwrap();
        let confirmed = client.request(acknowledge, "+ACK".into()).await.unwrap();
        assert_eq!(confirmed.status, None);
    }
    let filter = format!(r#"{{"filter":"{}"}}"#, later::cancel_subjects("far"));
    let purged = ask(&client, subjects.later_purge(), &filter).await;
    assert_eq!(purged["purged"], 1, "{purged}");
    assert_eq!(answer(async || handle.admin.stream(later::STREAM).await).await.state.messages, 0);
}

/// What a topic has stored is there for the next one of its name, also if the server was restarted meanwhile.
#[tokio::test]
async fn a_topic_that_is_made_again_finds_its_events() {
    let mut broker = TestBroker::start().await;
    let kept = id("kept");
    broker.add_topic(&kept, topic()).await;
    let client = ingress(&broker).await;
    let subjects = TopicSubjects::new(&kept, Routing::Queued);
    assert_eq!(ask(&client, subjects.event("events.3.t"), "x").await["seq"], 1);
    for is_restarted in [false, true] {
        broker.close_topic(&kept).await;
        assert!(client.request(subjects.event("events.3.t"), "x".into()).await.is_err(), "the topic is gone");
        if is_restarted {
            broker.restart().await;
        }
        let handle = broker.add_topic(&kept, topic()).await;
        let stream = answer(async || handle.admin.stream(layout::EVENT_STREAM).await).await;
        assert_eq!(stream.state.messages, 1, "{is_restarted}");
    }
}

/// The account of the ingresses is pushed whenever a topic comes or goes, and a server that puts the new one into force has
/// no imports for a moment (some microseconds: 2 of 140,000 requests fell into it). Who publishes then is told at once that
/// nobody is there, which an ingress answers with 503 and a time to wait, and succeeds when it repeats. Nothing waits for
/// its time limit, and nothing that was acknowledged is missing.
#[tokio::test]
async fn a_topic_that_comes_loses_nothing_of_another() {
    const EVENTS: u64 = 4000;
    const MAX_REPEATS: u64 = 4;
    let broker = TestBroker::start().await;
    let client = ingress(&broker).await;
    let subject = TopicSubjects::new(&topic_id(), Routing::Queued).event("events.3.t");
    let (publishing, asked) = (client.clone(), subject.clone());
    let flow = tokio::spawn(async move {
        let mut repeats = 0;
        for number in 0..EVENTS {
            let headers = headers(&[("Nats-Msg-Id", number.to_string())]);
            loop {
                let request = Request::new().headers(headers.clone()).payload("x".into());
                let answer =
                    publishing.send_request(asked.clone(), request.timeout(Some(Duration::from_secs(2)))).await;
                match answer.map_err(|error| error.kind()) {
                    Ok(answer) => {
                        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                        assert_eq!(answer["seq"], number + 1, "{answer}");
                        break;
                    }
                    Err(RequestErrorKind::NoResponders) if repeats < MAX_REPEATS => repeats += 1,
                    Err(other) => panic!("{number}, after {repeats} repetitions: {other}"),
                }
            }
        }
    });
    let mut count = 0;
    while !flow.is_finished() {
        count += 1;
        broker.add_direct_topic(&id(&format!("t{count}"))).await;
    }
    flow.await.unwrap();
    assert!(count > 3, "{count} topics came meanwhile");
    assert_eq!(stored(&broker, &topic_id()).await, EVENTS, "while {count} topics came");
}

#[tokio::test]
async fn a_broker_takes_all_the_topics_that_it_may_have() {
    let broker = TestBroker::start().await;
    let now = OffsetDateTime::now_utc();
    let longest = "n".repeat(63);
    let name = |number: usize| TopicId::new(&longest[..], format!("{number:0>63}")).unwrap();
    let mut topics = vec![(topic_id(), Routing::Queued)];
    topics.extend((1..MAX_TOPICS).map(|number| (name(number), Routing::Queued)));
    let system = broker.system().await;
    let begun = Instant::now();
    for (topic, routing) in &topics[1..] {
        system.push(&broker.authority().topic_account(topic, *routing, Some(1 << 20), now).unwrap()).await.unwrap();
    }
    let accounts = begun.elapsed();
    let account = broker.authority().ingress_account(&topics, now).unwrap();
    let begun = Instant::now();
    system.push(&account).await.unwrap();
    let push = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(system.ensure(&account).await.unwrap(), AccountState::InForce, "it is what it should be");
    eprintln!(
        "{MAX_TOPICS} topics: {} bytes, {accounts:?} for their accounts, pushed in {push:?}, looked up in {:?}",
        account.jwt.len(),
        begun.elapsed()
    );
    assert!(account.jwt.len() <= tidegate_broker_admin::ingress::MAX_ACCOUNT, "{}", account.jwt.len());
    let client = ingress(&broker).await;
    let reply = ask(&client, TopicSubjects::new(&topic_id(), Routing::Queued).event("events.3.t"), "x").await;
    assert_eq!(reply["seq"], 1, "{reply}");
    let last = broker.open_topic(&topics[MAX_TOPICS - 1].0).await;
    streams::ensure(
        &last.admin,
        &Topic {
            max_bytes: 1 << 16,
            dead_letter_bytes: 1 << 16,
            retry_bytes: 1 << 16,
            attempt_bytes: 1 << 16,
            ..topic()
        },
    )
    .await
    .unwrap();
    let reply = ask(&client, TopicSubjects::new(&last.id, Routing::Queued).event("events.3.t"), "x").await;
    assert_eq!(reply["seq"], 1, "{reply}");
    topics.push((id("one-too-many"), Routing::Queued));
    assert!(broker.authority().ingress_account(&topics, now).is_err());
}
