//! Every handler that the schema allows gets in and gets its events: names of 1 to 40 letters, no order or 1 to 32
//! lanes, none or 16 types of 256 characters, on a topic with the smallest messages.

use std::time::Duration;

use async_nats::{Client, Message, StatusCode};
use futures::StreamExt as _;
use tidegate_broker_admin::consumers::{self, Start};
use tidegate_broker_admin::guests;
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::{TopicId, identity, layout, peer};
use tidegate_test_broker::{LIMIT, TestBroker, topic, topic_id};
use time::OffsetDateTime;

/// The smallest `maxEventSize`, and what the operator adds to it.
const SMALLEST_MESSAGE: i32 = (1 << 10) + (256 << 10);
/// Half of what a server reads as one line, so that what is added to it later is seen here first.
const MAX_JWT: usize = 2048;
/// The same of a handler of another namespace, whose name has that too: three quarters.
const MAX_JWT_ELSEWHERE: usize = 3072;

fn corners() -> Vec<consumers::Handler> {
    let names = ["a".to_owned(), format!("b{}", "-x".repeat(19) + "z")];
    let orders = [Order::None, lanes(1), lanes(2), lanes(8), lanes(24), lanes(32)];
    let types = (0..16).map(|number| format!("t{number:x}.{}", "y".repeat(253))).collect::<Vec<_>>();
    let mut all = Vec::new();
    for name in &names {
        for order in orders {
            for types in [Vec::new(), types.clone()] {
                all.push(corner(name, order, types));
            }
        }
    }
    all
}

fn lanes(lanes: u16) -> Order {
    Order::Key { lanes }
}

fn corner(name: &str, order: Order, types: Vec<String>) -> consumers::Handler {
    // A handler made again is another one: so is each corner.
    let uid = format!("{:016x}-{:019x}", number(name, order), types.len());
    assert_eq!(uid.len(), 36, "as long as a UID is");
    consumers::Handler {
        name: name.to_owned(),
        uid,
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 64,
        types,
        start: Start::Earliest,
        order,
        is_suspended: false,
        is_draining: false,
    }
}

/// A number for each name and order.
fn number(name: &str, order: Order) -> usize {
    name.len() * 100
        + match order {
            Order::None => 0,
            Order::Key { lanes } => usize::from(lanes),
        }
}

/// The first answer, as soon as the server serves what the account imports. Where two connections of a new account come
/// at the same time (here one of the handler before, which reads the identity of this one when it connects again), the
/// second is in before the server has subscribed to that: until then it says that no one is there.
async fn ask(client: &Client, subject: String, body: String) -> Message {
    let begun = tokio::time::Instant::now();
    loop {
        let message = ask_once(client, &subject, &body).await;
        if message.status != Some(StatusCode::NO_RESPONDERS) || begun.elapsed() > LIMIT {
            return message;
        }
    }
}

async fn ask_once(client: &Client, subject: &str, body: &str) -> Message {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(subject.to_owned(), inbox, body.to_owned().into()).await.unwrap();
    tokio::time::timeout(LIMIT, replies.next()).await.expect("an answer").unwrap()
}

/// The first event that this consumer has.
async fn pull(client: &Client, consumer: &str, grouped: bool) -> Message {
    let group = if grouped { format!(r#","group":"{}""#, layout::LANE_GROUP) } else { String::new() };
    let request = format!(r#"{{"batch":1,"expires":30000000000{group}}}"#);
    ask(client, layout::pull_subject(consumer), request).await
}

#[tokio::test]
async fn every_handler_that_the_schema_allows_connects_and_pulls() {
    let topic = tidegate_broker_admin::streams::Topic { max_message_size: SMALLEST_MESSAGE, ..topic() };
    let broker = TestBroker::start_bounded(topic, usize::try_from(SMALLEST_MESSAGE).unwrap()).await;
    let js = broker.jetstream();
    let long = format!("t0.{}", "y".repeat(253));
    for partition in 0..layout::PARTITIONS {
        let subject = layout::event_subject(partition, &long);
        js.publish(subject, "one".into()).await.unwrap().await.unwrap();
    }
    for wanted in corners() {
        let what = format!("{} {:?} {} types", wanted.name, wanted.order, wanted.types.len());
        let folder = broker.handler_with(wanted.clone()).await;
        let client = peer::connect("x", &broker.servers(), identity::folder(folder))
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}\n{}", broker.log()));
        let guest = guests::Handler {
            topic: topic_id(),
            name: wanted.name.clone(),
            uid: wanted.uid.clone(),
            routing: Routing::Queued,
            order: wanted.order,
            pods: 1,
        };
        for consumer in guest.consumers() {
            let ordered = wanted.order != Order::None;
            let event = pull(&client, &consumer, ordered).await;
            assert_eq!((event.status, &event.payload[..]), (None, &b"one"[..]), "{what}: {consumer}");
            let settled = ask(&client, event.reply.unwrap().into_string(), "+ACK".to_owned()).await;
            assert_eq!(settled.status, None, "{what}: it is acknowledged");
            if ordered {
                let subject = layout::local_info_subject(&consumer);
                let info = ask(&client, subject, String::new()).await;
                assert!(String::from_utf8_lossy(&info.payload).contains(&consumer), "{what}");
            }
        }
        consumers::delete(&broker.admin(), &wanted.name).await.unwrap();
        broker.system().await.remove_handler(broker.authority(), &wanted.name, &wanted.uid).await.unwrap();
    }
}

fn longest_topic() -> TopicId {
    TopicId::new("n".repeat(63), "t".repeat(63)).unwrap()
}

/// The JWT of a user is most of the line with which it connects.
#[tokio::test]
async fn no_user_grows_with_what_a_handler_asks_for() {
    let now = OffsetDateTime::now_utc();
    let authority = tidegate_broker_admin::Authority::generate("test", now).unwrap();
    let key = tidegate_broker_admin::UserKey::first(None, None, now).unwrap();
    let names = [1, 40].map(|length| "n".repeat(length));
    // The longest is that of a handler of another namespace.
    for name in names.iter().cloned().chain([layout::handler_name("shop", &"s".repeat(63), &names[1])]) {
        for routing in [Routing::Queued, Routing::Direct] {
            for order in (1..=32).map(lanes).chain([Order::None]) {
                let (topic, uid) = (longest_topic(), "u".repeat(36));
                let handler = guests::Handler { topic, name: name.clone(), uid, routing, order, pods: 1000 };
                let jwt = authority.handler_user(&handler, &key, now).unwrap().jwt;
                let most = if name.contains('=') { MAX_JWT_ELSEWHERE } else { MAX_JWT };
                assert!(jwt.len() <= most, "{name} {order:?}: {}", jwt.len());
            }
        }
    }
    assert!(authority.publisher_user(&longest_topic(), &"p".repeat(40), &key, now).unwrap().jwt.len() <= MAX_JWT);
    assert!(authority.ingress_user(now).unwrap().jwt.len() <= MAX_JWT);
}

/// Its permissions are for any consumer, its account is not.
#[tokio::test]
async fn another_handlers_lanes_stay_out_of_reach() {
    let broker = TestBroker::start().await;
    let of = |name| corner(name, lanes(2), Vec::new());
    let folder = broker.handler_with(of("billing")).await;
    broker.handler_with(of("shipping")).await;
    let js = broker.jetstream();
    js.publish("events.0.test", "one".into()).await.unwrap().await.unwrap();
    let client = peer::connect("x", &broker.servers(), identity::folder(folder)).await.unwrap();
    let (own, other) = (layout::lane_consumer("billing", 0), layout::lane_consumer("shipping", 0));
    let mut failures = Vec::new();
    for subject in [layout::local_info_subject, layout::local_unpin_subject, layout::pull_subject] {
        let request = async |consumer: &str| {
            let body = format!(r#"{{"group":"{}","batch":1,"expires":1000000000}}"#, layout::LANE_GROUP);
            let request = async_nats::Request::new().payload(body.into()).inbox(client.new_inbox());
            client.send_request(subject(consumer), request).await.is_ok_and(|answer| answer.status.is_none())
        };
        if !request(&own).await || request(&other).await {
            failures.push(subject(&other));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
    let shipping = consumers::list(&broker.admin()).await.unwrap().into_iter().find(|info| info.name == other).unwrap();
    assert_eq!((shipping.num_pending, shipping.num_ack_pending), (1, 0), "nothing was pulled for another handler");
}

/// Two handlers of one name, of the topic's namespace and of another, each have all events, and neither reaches the other's
/// consumer.
#[tokio::test]
async fn handlers_of_one_name_in_two_namespaces_are_two() {
    let broker = TestBroker::start().await;
    let far = layout::handler_name("shop", "web", "billing");
    let names = ["billing".to_owned(), far];
    let mut clients = Vec::new();
    for name in &names {
        let folder = broker.handler_with(corner(name, Order::None, Vec::new())).await;
        clients.push(peer::connect("x", &broker.servers(), identity::folder(folder)).await.unwrap());
    }
    broker.jetstream().publish("events.0.test", "one".into()).await.unwrap().await.unwrap();
    for (own, client) in clients.iter().enumerate() {
        let event = pull(client, &names[own], false).await;
        assert_eq!((event.status, &event.payload[..]), (None, &b"one"[..]), "{}", names[own]);
        let request = r#"{"batch":1,"expires":1000000000}"#;
        let refused = ask_once(client, &layout::pull_subject(&names[1 - own]), request).await;
        assert_eq!(refused.status, Some(StatusCode::NO_RESPONDERS), "{} as {}", names[1 - own], names[own]);
    }
}
