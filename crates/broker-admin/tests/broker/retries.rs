//! What waits for a retry has a place of its own: a handler's, bounded, and nothing of it is lost. On a real
//! nats-server.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::{Client, HeaderMap, Message, Request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tidegate_broker_admin::api::{ConsumerInfo, StreamConfig};
use tidegate_broker_admin::consumers::{Handler, Start};
use tidegate_broker_admin::handler_streams::{self, HandlerStreamsError};
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_admin::{consumers, retries};
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::{identity, layout, message_id, peer};
use tidegate_test_broker::{TestBroker, answer, topic};

fn handler(name: &str, order: Order) -> Handler {
    Handler {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: consumers::max_ack_pending(1, 16),
        types: Vec::new(),
        start: Start::Latest,
        order,
        is_suspended: false,
        is_draining: false,
    }
}

const KEYED: Order = Order::Key { lanes: 4 };

/// A handler's sidecar, as far as the broker can tell.
async fn sidecar(broker: &TestBroker, name: &str, order: Order) -> Client {
    let folder = broker.handler_with(handler(name, order)).await;
    peer::connect(name, &broker.servers(), identity::folder(folder)).await.unwrap()
}

/// What the broker answers to a request; an error in it is one.
async fn ask(client: &Client, subject: String, request: Value) -> Result<Value, String> {
    let answer = client.request(subject, request.to_string().into()).await.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["error"]["description"].as_str().map_or(Ok(answer.clone()), |why| Err(why.to_owned()))
}

/// Puts the copy of an event on the shelf.
async fn put(client: &Client, handler: &str, subject: String, event: u64, bytes: usize) -> Result<Value, String> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message_id::of_retry(&format!("uid-{handler}"), event, 1));
    let mut payload = event.to_string().into_bytes();
    payload.resize(bytes.max(payload.len()), b' ');
    let payload = payload.into();
    let answer = client.request_with_headers(subject, headers, payload).await.map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer["error"]["description"].as_str().map_or(Ok(answer.clone()), |why| Err(why.to_owned()))
}

/// The next event of the shelf's consumer, which has one: it hears of it a moment after its publisher.
async fn pull(client: &Client, handler: &str) -> Message {
    next(client, handler, r#"{"batch":1,"expires":30000000000}"#).await.expect("an event")
}

/// The next event of the shelf's consumer, if there is one now.
async fn pull_now(client: &Client, handler: &str) -> Option<Message> {
    next(client, handler, r#"{"batch":1,"no_wait":true}"#).await
}

/// What the broker answers to a pull; `None`: that there is none.
async fn next(client: &Client, handler: &str, request: &'static str) -> Option<Message> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.unwrap();
    client.publish_with_reply(layout::retry_pull_subject(handler), inbox, request.into()).await.unwrap();
    replies.next().await.filter(|message| message.status.is_none())
}

/// The first parked event of a key from a sequence on: its sequence and payload.
async fn parked(client: &Client, handler: &str, lane: u16, key: u64, from: u64) -> Option<(u64, String)> {
    let request = json!({"seq": from, "next_by_subj": layout::parked_subject(handler, lane, key)});
    let subject = layout::local_retry_read_subject(handler);
    let found = client.request(subject, request.to_string().into()).await.unwrap();
    let found: Value = serde_json::from_slice(&found.payload).unwrap();
    if found["error"]["err_code"] == 10_037 {
        return None;
    }
    let data = STANDARD.decode(found["message"]["data"].as_str().unwrap()).unwrap();
    Some((found["message"]["seq"].as_u64().unwrap(), String::from_utf8(data).unwrap()))
}

async fn waiting(js: &Context, handler: &str) -> u64 {
    js.get_stream(layout::retry_stream(handler)).await.unwrap().cached_info().state.messages
}

async fn shelf_consumers(broker: &TestBroker, handler: &str) -> Vec<ConsumerInfo> {
    answer(async || broker.admin().list_consumers(&layout::retry_stream(handler)).await).await
}

#[tokio::test]
async fn a_copy_waits_once_until_it_is_acknowledged() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    let billing = sidecar(&broker, "billing", Order::None).await;
    let shelf = || layout::waiting_subject("billing");
    for event in [7, 8] {
        put(&billing, "billing", shelf(), event, 1).await.unwrap();
        let again = put(&billing, "billing", shelf(), event, 1).await.unwrap();
        assert_eq!(again["duplicate"], true, "{again}");
    }
    let first = pull(&billing, "billing").await;
    assert_eq!(&*first.payload, b"7");
    billing.request(first.reply.unwrap(), r#"-NAK {"delay":3600000000000}"#.into()).await.unwrap();
    let second = pull(&billing, "billing").await;
    assert_eq!(&*second.payload, b"8");
    assert!(pull_now(&billing, "billing").await.is_none(), "the first one is not due");
    let confirmed = billing.request(second.reply.unwrap(), "+ACK".into()).await.unwrap();
    assert_eq!(confirmed.status, None);
    assert_eq!(waiting(&js, "billing").await, 1);
    let found = shelf_consumers(&broker, "billing").await.remove(0);
    assert_eq!((found.num_pending, found.num_ack_pending), (0, 1));

    // A consumer that is lost is made again, and delivers what waits; one that is as it should be stays.
    retries::ensure(&broker.admin(), &handler("billing", Order::None)).await.unwrap();
    assert_eq!(shelf_consumers(&broker, "billing").await.remove(0).num_ack_pending, 1);
    broker.admin().delete_consumer(&layout::retry_stream("billing"), "billing").await.unwrap();
    retries::ensure(&broker.admin(), &handler("billing", Order::None)).await.unwrap();
    assert_eq!(&*pull(&billing, "billing").await.payload, b"7");
}

#[tokio::test]
async fn while_a_handler_is_suspended_its_shelf_delivers_nothing() {
    const MOMENT: &str = r#"{"batch":1,"expires":300000000}"#;
    let broker = TestBroker::start().await;
    let billing = sidecar(&broker, "billing", Order::None).await;
    put(&billing, "billing", layout::waiting_subject("billing"), 7, 1).await.unwrap();
    let ensure = async |is_suspended| {
        let wanted = Handler { is_suspended, ..handler("billing", Order::None) };
        retries::ensure(&broker.admin(), &wanted).await.unwrap();
    };
    ensure(true).await;
    assert!(next(&billing, "billing", MOMENT).await.is_none());
    // Nor does one that is made again.
    broker.admin().delete_consumer(&layout::retry_stream("billing"), "billing").await.unwrap();
    ensure(true).await;
    assert!(next(&billing, "billing", MOMENT).await.is_none());
    ensure(false).await;
    assert_eq!(&*pull(&billing, "billing").await.payload, b"7");
}

#[tokio::test]
async fn parked_events_are_read_by_key_in_their_order_and_removed() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    let ordered = sidecar(&broker, "ordered", KEYED).await;
    for (event, lane, key) in [(1, 0, 7), (2, 3, 9), (3, 0, 7), (4, 0, 8)] {
        let subject = layout::parked_subject("ordered", lane, key);
        let stored = put(&ordered, "ordered", subject.clone(), event, 1).await.unwrap();
        assert_eq!(stored["stream"], layout::retry_stream("ordered"));
        assert_eq!(put(&ordered, "ordered", subject, event, 1).await.unwrap()["duplicate"], true);
    }
    assert!(shelf_consumers(&broker, "ordered").await.is_empty());
    let (sequence, first) = parked(&ordered, "ordered", 0, 7, 1).await.unwrap();
    assert_eq!(first, "1");
    let remove = json!({"seq": sequence, "no_erase": true});
    ask(&ordered, layout::local_retry_delete_subject("ordered"), remove.clone()).await.unwrap();
    let again = ask(&ordered, layout::local_retry_delete_subject("ordered"), remove).await.unwrap_err();
    assert!(again.contains("no message found"), "{again}");
    let (sequence, second) = parked(&ordered, "ordered", 0, 7, 1).await.unwrap();
    assert_eq!(second, "3");
    assert_eq!(parked(&ordered, "ordered", 0, 7, sequence + 1).await, None);
    assert_eq!(parked(&ordered, "ordered", 3, 9, 1).await.unwrap().1, "2");
    assert_eq!(waiting(&js, "ordered").await, 3);
    assert_eq!(handler_streams::remove(&broker.admin(), "ordered").await.unwrap(), 3);
    assert_eq!(handler_streams::remove(&broker.admin(), "ordered").await.unwrap(), 0);
}

/// Which keys of a lane are parked, and which of them wait for a person, is told in one answer, or counted without any.
#[tokio::test]
async fn the_keys_of_a_lane_are_listed() {
    let broker = TestBroker::start().await;
    let ordered = sidecar(&broker, "ordered", KEYED).await;
    let list = async |filter: String, offset: u64| {
        let request = json!({"subjects_filter": filter, "offset": offset});
        ask(&ordered, layout::local_retry_info_subject("ordered"), request).await.unwrap()
    };
    let (held, parked) = (layout::held_subjects("ordered", Some(0)), layout::parked_subjects("ordered", Some(0)));
    let none = list(parked.clone(), 0).await;
    assert_eq!((&none["total"], &none["state"]["subjects"]), (&json!(0), &Value::Null), "{none}");
    for (event, lane, key) in [(1, 0, 7), (2, 3, 9), (3, 0, 7), (4, 0, 8)] {
        put(&ordered, "ordered", layout::parked_subject("ordered", lane, key), event, 1).await.unwrap();
    }
    let mark = layout::held_subject("ordered", 0, 7);
    ask(&ordered, mark.clone(), json!({})).await.unwrap();
    let keys = list(parked.clone(), 0).await;
    let expected = json!({layout::parked_subject("ordered", 0, 7): 2, layout::parked_subject("ordered", 0, 8): 1});
    assert_eq!((&keys["total"], &keys["state"]["subjects"]), (&json!(2), &expected));
    let marks = list(held, 0).await;
    assert_eq!((&marks["total"], &marks["state"]["subjects"]), (&json!(1), &json!({mark: 1})));
    let last = list(parked.clone(), 1).await;
    assert_eq!(last["state"]["subjects"], json!({layout::parked_subject("ordered", 0, 8): 1}));
    let counted = list(parked, 1 << 40).await;
    assert_eq!((&counted["total"], &counted["state"]["subjects"]), (&json!(2), &Value::Null), "{counted}");
}

/// A handler reaches nothing of what another one keeps for its retries.
#[tokio::test]
async fn nothing_of_it_is_anothers() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    let billing = sidecar(&broker, "billing", Order::None).await;
    let ordered = sidecar(&broker, "ordered", KEYED).await;
    let shelf = layout::waiting_subject("billing");
    let sequence = put(&billing, "billing", shelf.clone(), 1, 1).await.unwrap()["seq"].as_u64().unwrap();
    let place = layout::parked_subject("ordered", 0, 7);
    put(&ordered, "ordered", place.clone(), 1, 1).await.unwrap();
    let lent = pull(&billing, "billing").await.reply.unwrap();

    let mut refused = Vec::new();
    let delete = json!({"seq": sequence});
    let get = json!({"seq": 1, "next_by_subj": "retries.>"});
    let list = json!({"subjects_filter": "retries.>"});
    for (subject, request) in [
        (shelf, json!("mine")),
        (layout::retry_pull_subject("billing"), json!({"batch": 1, "no_wait": true})),
        (layout::retry_read_subject("billing"), get.clone()),
        (layout::local_retry_read_subject("billing"), get.clone()),
        (layout::retry_info_subject("billing"), list.clone()),
        (layout::local_retry_info_subject("billing"), list.clone()),
        (layout::retry_delete_subject("billing"), delete.clone()),
        (layout::local_retry_delete_subject("billing"), delete.clone()),
        (lent.to_string(), json!("+ACK")),
    ] {
        refused.push(("ordered", &ordered, subject, request));
    }
    for (subject, request) in [
        (place, json!("mine")),
        (layout::retry_read_subject("ordered"), get.clone()),
        (layout::local_retry_read_subject("ordered"), get),
        (layout::held_subject("ordered", 0, 7), json!("mine")),
        (layout::held_subject("billing", 0, 7), json!("not in this order")),
        (layout::retry_info_subject("ordered"), list.clone()),
        (layout::local_retry_info_subject("ordered"), list.clone()),
        (layout::local_retry_info_subject("billing"), list),
        (layout::lease_subject("ordered", 0), json!("mine")),
        (layout::lease_read_subject("ordered", 0), json!("")),
        (layout::local_retry_delete_subject("ordered"), delete.clone()),
        (layout::retry_delete_subject("ordered"), delete.clone()),
        // What a consumer settles is not removed by hand.
        (layout::local_retry_delete_subject("billing"), delete),
    ] {
        refused.push(("billing", &billing, subject, request));
    }
    let answers = refused.into_iter().map(async |(who, client, subject, request)| {
        let request = Request::new().payload(request.to_string().into()).timeout(Some(Duration::from_secs(1)));
        client.send_request(subject.clone(), request).await.ok().map(|answer| format!("{who}: {subject}: {answer:?}"))
    });
    let answered: Vec<String> = futures::future::join_all(answers).await.into_iter().flatten().collect();
    assert!(answered.is_empty(), "{answered:?}");
    assert_eq!((waiting(&js, "billing").await, waiting(&js, "ordered").await), (1, 1));
}

fn small() -> Topic {
    let sizes = Topic { dead_letter_bytes: 8 << 20, retry_bytes: 4 << 20, attempt_bytes: 1 << 20, ..topic() };
    Topic { max_message_size: 1 << 20, ..sizes }
}

#[tokio::test]
async fn a_full_shelf_takes_no_more_and_drops_nothing() {
    let broker = TestBroker::start_with(small()).await;
    let js = broker.jetstream();
    let billing = sidecar(&broker, "billing", Order::None).await;
    let shipping = sidecar(&broker, "shipping", Order::None).await;
    let shelf = || layout::waiting_subject("billing");
    let mut stored = 0;
    let refused = loop {
        match put(&billing, "billing", shelf(), stored, 900 << 10).await {
            Ok(_) => stored += 1,
            Err(why) => break why,
        }
        assert!(stored < 10, "there is no end of it");
    };
    assert!(stored == 2 && refused.contains("maximum bytes"), "{stored}, {refused}");
    assert_eq!(waiting(&js, "billing").await, stored);
    put(&shipping, "shipping", layout::waiting_subject("shipping"), 0, 900 << 10).await.unwrap();
    let too_large = put(&billing, "billing", shelf(), 9, (1 << 20) + 1).await.unwrap_err();
    assert!(too_large.contains("message size exceeds"), "{too_large}");
    // What is handled makes room.
    let first = pull(&billing, "billing").await;
    billing.request(first.reply.unwrap(), "+ACK".into()).await.unwrap();
    put(&billing, "billing", shelf(), stored, 900 << 10).await.unwrap();
}

#[tokio::test]
async fn a_handler_of_the_same_name_does_not_get_what_waited_for_another() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    let billing = sidecar(&broker, "billing", Order::None).await;
    put(&billing, "billing", layout::waiting_subject("billing"), 1, 1).await.unwrap();
    handler_streams::ensure(&broker.admin(), "billing", "uid-billing").await.unwrap();
    assert_eq!(waiting(&js, "billing").await, 1);
    handler_streams::ensure(&broker.admin(), "billing", "uid-another").await.unwrap();
    assert_eq!(waiting(&js, "billing").await, 0);
}

/// As version 0.1 and the main branch before the shelf left a topic: a budget without retries, two streams for each
/// handler, and all of it promised.
#[tokio::test]
async fn a_topic_that_was_made_before_the_shelf_gets_it() {
    let broker = TestBroker::start_empty(64 << 20).await;
    let admin = broker.admin();
    let now = Topic { max_bytes: 40 << 20, dead_letter_bytes: 10 << 20, retry_bytes: 10 << 20, ..small() };
    let before = Topic { dead_letter_bytes: 20 << 20, retry_bytes: 3 << 20, ..now.clone() };
    streams::ensure(&admin, &before).await.unwrap();
    for handler in ["billing", "shipping"] {
        handler_streams::ensure(&admin, handler, "u").await.unwrap();
        admin.delete_stream(&layout::retry_stream(handler)).await.unwrap();
    }
    let mut old = before.events();
    old.metadata.remove("tidegate.io/retry-bytes").unwrap();
    admin.update_stream(&StreamConfig { ..old }).await.unwrap();
    let early = handler_streams::ensure(&admin, "billing", "u").await;
    assert!(matches!(early, Err(HandlerStreamsError::NoBudget)), "{early:?}");
    assert_eq!(streams::ensure(&admin, &now).await.unwrap().refused, None);
    for name in ["billing", "shipping"] {
        handler_streams::ensure(&admin, name, "u").await.unwrap();
        retries::ensure(&admin, &Handler { uid: "u".into(), ..handler(name, Order::None) }).await.unwrap();
    }
    let all = handler_streams::list(&admin).await.unwrap();
    let promised: i64 = all.iter().map(|stream| stream.config.max_bytes).sum();
    assert!(all.len() == 7 && promised <= 64 << 20, "{} streams, {promised} bytes", all.len());
}

/// It was served before there were shelves. One that could keep no event is full, and nothing else is.
#[tokio::test]
async fn a_handler_that_is_there_is_not_refused_for_want_of_a_shelf() {
    let broker = TestBroker::start_with(Topic { retry_bytes: 512 << 10, ..small() }).await;
    let admin = broker.admin();
    let refused = handler_streams::ensure(&admin, "billing", "uid-billing").await.unwrap_err();
    assert!(refused.to_string().contains("no room for the retries"), "{refused}");
    streams::ensure(&admin, &small()).await.unwrap();
    handler_streams::ensure(&admin, "billing", "uid-billing").await.unwrap();
    admin.delete_stream(&layout::retry_stream("billing")).await.unwrap();
    streams::ensure(&admin, &Topic { retry_bytes: 512 << 10, ..small() }).await.unwrap();
    let billing = sidecar(&broker, "billing", Order::None).await;
    let full = put(&billing, "billing", layout::waiting_subject("billing"), 1, 900 << 10).await.unwrap_err();
    assert!(full.contains("maximum bytes"), "{full}");
}
