//! The broker's API, on a real nats-server and on a broker that answers what no nats-server would.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use serde_json::{Value, json};
use tidegate_broker_admin::api::{ApiError, Broker, ConsumerConfig, ErrorCode, Missing, StreamConfig, Unavailable};
use tidegate_broker_client::layout;
use tidegate_test_broker::{LIMIT, TestBroker, answer};
use tidegate_wire::nats::{Client, HeaderBlock, Publish};

const STREAM: &str = layout::EVENT_STREAM;

fn durable(name: String) -> ConsumerConfig {
    ConsumerConfig { durable_name: Some(name), ..ConsumerConfig::default() }
}

#[tokio::test]
async fn lists_of_several_pages_are_whole() {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    assert_eq!(admin.list_consumers(STREAM).await, Ok(Vec::new()));
    for number in 0..600 {
        admin.put_consumer(STREAM, &durable(format!("c{number:03}"))).await.unwrap();
    }
    let expected: Vec<String> = (0..600).map(|number| format!("c{number:03}")).collect();
    let mut listed: Vec<_> =
        answer(async || admin.list_consumers(STREAM).await).await.into_iter().map(|consumer| consumer.name).collect();
    listed.sort();
    assert_eq!(listed, expected);
    assert_eq!(admin.list_consumer_names(STREAM).await.unwrap(), expected);
    assert_eq!(admin.list_consumer_names("other").await, Ok(Vec::new()));
    // A cluster, also of one, has no consumers of a stream that it does not have.
    assert_eq!(admin.list_consumers("other").await, Ok(Vec::new()));
}

#[tokio::test]
async fn what_is_not_there_and_what_is_refused_are_told_apart() {
    let mut broker = TestBroker::start().await;
    let admin = broker.admin();
    assert_eq!(admin.stream("other").await, Err(ApiError::NotFound(Missing::Stream)));
    assert_eq!(admin.find_stream("other").await, Ok(None));
    assert_eq!(admin.delete_stream("other").await, Err(ApiError::NotFound(Missing::Stream)));
    assert_eq!(admin.consumer(STREAM, "other").await, Err(ApiError::NotFound(Missing::Consumer)));
    assert_eq!(admin.consumer("other", "other").await, Err(ApiError::NotFound(Missing::Stream)));
    assert_eq!(admin.delete_consumer(STREAM, "other").await, Err(ApiError::NotFound(Missing::Consumer)));
    assert_eq!(admin.message(STREAM, 7).await, Err(ApiError::NotFound(Missing::Message)));
    assert_eq!(admin.next_message(STREAM, "events.>", 1).await, Ok(None));
    let wrong = StreamConfig { name: "second".into(), subjects: vec!["events.1.>".into()], ..StreamConfig::default() };
    let refused = admin.create_stream(&wrong).await.unwrap_err();
    assert!(matches!(&refused, ApiError::Refused(why) if why.error_code == ErrorCode(10065)), "{refused:?}");
    // A subject that no stream has.
    let nowhere = admin.publish("nowhere", None, b"").await;
    assert_eq!(nowhere, Err(ApiError::Unavailable(Unavailable::NoResponders)));
    let large = admin.publish("events.0.t", None, &vec![0; 5 << 20]).await;
    assert_eq!(large, Err(ApiError::TooLarge));
    for name in ["a b", "a\r\nPUB events.0.t 0\r\n", "a\0"] {
        assert!(matches!(admin.stream(name).await, Err(ApiError::Unwritable(_))), "{name:?}");
    }
    assert!(matches!(admin.put_consumer(STREAM, &ConsumerConfig::default()).await, Err(ApiError::Unwritable(_))));
    broker.stop();
    let impatient = Broker::new(broker.admin_client(), Duration::from_millis(300));
    assert_eq!(impatient.stream(STREAM).await, Err(ApiError::Unavailable(Unavailable::TimedOut)));
}

/// What the operator does not set stays as the server has it, and a change says nothing of what the server added.
#[tokio::test]
async fn a_stream_that_is_written_back_as_it_was_read_does_not_change() {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    let before = broker.operator().request(format!("$JS.API.STREAM.INFO.{STREAM}"), "{}".into()).await.unwrap();
    let found = answer(async || admin.stream(STREAM).await).await;
    assert_eq!(admin.update_stream(&found.config).await.unwrap().config, found.config);
    let after = broker.operator().request(format!("$JS.API.STREAM.INFO.{STREAM}"), "{}".into()).await.unwrap();
    let config =
        |message: &async_nats::Message| serde_json::from_slice::<Value>(&message.payload).unwrap()["config"].take();
    assert_eq!(config(&before), config(&after));
}

#[tokio::test]
async fn stored_messages_are_read_published_and_removed() {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    let mut headers = HeaderBlock::new();
    headers.append("Nats-Msg-Id", "1").unwrap();
    headers.append("a", "b: c").unwrap();
    let publish = async || admin.publish("events.3.t", Some(&headers), b"\xFFdata").await;
    let first = publish().await.unwrap();
    assert_eq!((first.sequence, first.duplicate), (1, false));
    assert!(publish().await.unwrap().duplicate);
    let message = admin.message(STREAM, 1).await.unwrap();
    assert_eq!((&*message.subject, &message.payload[..]), ("events.3.t", &b"\xFFdata"[..]));
    let found = message.headers().unwrap();
    assert_eq!(found.iter().collect::<Vec<_>>(), [("Nats-Msg-Id", "1"), ("a", "b: c")]);
    // Another client library lets a publisher write any header. It makes nothing fail but its own reading.
    let mut malformed = HeaderMap::new();
    malformed.insert("a", "b\u{1}c");
    // A request, since its answer says that the message is stored; a flush only says that the server has it.
    broker.operator().request_with_headers("events.3.t", malformed, "".into()).await.unwrap();
    let second = admin.next_message(STREAM, "events.*.t", 2).await.unwrap().unwrap();
    assert_eq!((second.sequence, second.payload.len()), (2, 0));
    assert!(second.headers().is_err());
    admin.delete_message(STREAM, 1).await.unwrap();
    assert_eq!(admin.next_message(STREAM, "events.>", 1).await.unwrap().unwrap().sequence, 2);
    admin.purge_stream_below(STREAM, 3).await.unwrap();
    let left = answer(async || admin.stream(STREAM).await).await.state;
    assert_eq!((left.messages, left.first_sequence, left.last_sequence), (0, 3, 2));
}

/// Answers every request of the API with what a function makes of it.
async fn answering(client: Client, answer: impl Fn(&str, Value) -> String + Send + 'static) {
    let mut requests = client.subscribe("$JS.API.>", None).unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let body = serde_json::from_slice(request.payload()).unwrap_or_default();
            let answer = answer(request.subject(), body);
            let answer =
                Publish { subject: request.reply().unwrap(), payload: answer.as_bytes(), ..Publish::default() };
            client.publish(&answer).await.unwrap();
        }
    });
}

fn consumer(name: &str) -> Value {
    json!({
        "name": name, "config": {"deliver_policy": "all", "ack_policy": "explicit", "num_replicas": 1},
        "delivered": {"consumer_seq": 0, "stream_seq": 0}, "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
        "num_ack_pending": 0, "num_pending": 0,
    })
}

/// Each kind of endless, torn or foreign answer ends in an error, soon and without much memory.
#[tokio::test]
async fn a_broker_is_not_believed() {
    let broker = TestBroker::start_direct().await;
    answering(broker.admin_client(), |subject, body| {
        let names = |count: usize| (0..count).map(|number| format!("c{number}")).collect::<Vec<_>>();
        match subject.rsplit('.').next().unwrap() {
            // One entry a page, and always one more.
            "endless" => json!({"total": body["offset"].as_u64().unwrap() + 2, "consumers": [consumer("a")]}),
            "large" => json!({"total": 7, "consumers": names(40_000)}),
            "promised" => json!({"total": 1_u64 << 40, "consumers": names(10)}),
            "hollow" => json!({"total": 5, "consumers": null}),
            "headless" => json!({"total": 2, "consumers": [consumer("a")], "missing": ["b"]}),
            "foreign" => json!({"total": 1, "consumers": [consumer("a.b\r\n")]}),
            "undone" => json!({"success": false}),
            "early" => json!({"message": {"subject": "a", "seq": 1, "time": "2026-11-26T04:00:00Z"}}),
            _ => json!({"error": {"code": 70_000}}),
        }
        .to_string()
    })
    .await;
    let api = broker.admin();
    let begun = Instant::now();
    let unreadable = |error: Option<ApiError>, what: &str| {
        let Some(ApiError::Unreadable(why)) = &error else { panic!("{what}: {error:?}") };
        why.clone()
    };
    for (stream, why) in [("endless", "pages"), ("hollow", "empty"), ("foreign", "name"), ("other", "70000")] {
        let told = unreadable(api.list_consumers(stream).await.err(), stream);
        assert!(told.contains(why), "{stream}: {told}");
    }
    for (stream, why) in [("large", "entries"), ("promised", "entries")] {
        let told = unreadable(api.list_consumer_names(stream).await.err(), stream);
        assert!(told.contains(why), "{stream}: {told}");
    }
    // What is not in a list would be taken to be gone.
    let headless = api.list_consumers("headless").await;
    assert_eq!(headless, Err(ApiError::Unavailable(Unavailable::Incomplete(1))));
    unreadable(api.delete_stream("undone").await.err(), "undone");
    unreadable(api.next_message("early", ">", 2).await.err(), "early");
    unreadable(api.message("early", 2).await.err(), "early");
    unreadable(api.stream("early").await.err(), "another answer");
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
}
