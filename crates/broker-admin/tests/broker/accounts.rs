//! What the accounts allow and what they refuse, against a real nats-server.

use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::push::AccountState;
use tidegate_broker_admin::{LeafRequest, consumers, guests};
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::layout::ingress::TopicSubjects;
use tidegate_broker_client::{identity, layout, peer};
use tidegate_test_broker::{LIMIT, TestBroker, answer, eventually, topic_id};

async fn handler(broker: &TestBroker, name: &str) -> async_nats::Client {
    let folder = broker.handler(name, Duration::from_secs(5)).await;
    peer::connect(name, &broker.servers(), identity::folder(folder)).await.unwrap()
}

async fn publish(broker: &TestBroker, text: &'static str) {
    let js = broker.jetstream();
    js.publish("events.0.test", text.into()).await.unwrap().await.unwrap();
}

/// Asks for one message, for so many seconds at most.
async fn ask(client: &async_nats::Client, consumer: &str, seconds: u64) -> async_nats::Subscriber {
    let inbox = client.new_inbox();
    let replies = client.subscribe(inbox.clone()).await.unwrap();
    let request = format!(r#"{{"batch":1,"expires":{}}}"#, seconds * 1_000_000_000);
    client.publish_with_reply(layout::pull_subject(consumer), inbox, request.into()).await.unwrap();
    replies
}

/// The answer to a pull: a message, or `None` if the server says that there is none.
async fn reply(mut replies: async_nats::Subscriber) -> Option<async_nats::Message> {
    let message = tokio::time::timeout(LIMIT, replies.next()).await.expect("an answer").unwrap();
    message.status.is_none().then_some(message)
}

/// The next event of a consumer that has one.
async fn pull(client: &async_nats::Client, consumer: &str) -> async_nats::Message {
    reply(ask(client, consumer, 30).await).await.expect("an event")
}

/// Acknowledges a message, and waits until the server has heard it.
async fn acknowledge(client: &async_nats::Client, message: async_nats::Message) {
    client.request(message.reply.unwrap(), "+ACK".into()).await.unwrap();
}

async fn events(broker: &TestBroker) -> u64 {
    let mut stream = broker.jetstream().get_stream(layout::EVENT_STREAM).await.unwrap();
    stream.info().await.unwrap().state.messages
}

#[tokio::test]
async fn a_handler_pulls_and_acknowledges_its_own_consumer() {
    let broker = TestBroker::start().await;
    let client = handler(&broker, "billing").await;
    publish(&broker, "one").await;
    let message = pull(&client, "billing").await;
    assert_eq!(&message.payload[..], b"one");
    acknowledge(&client, message).await;
    let listed = consumers::list(&broker.admin()).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].num_ack_pending, listed[0].ack_floor.stream_sequence), (0, 1));
}

#[tokio::test]
async fn its_dead_letter_is_stored_and_confirmed() {
    let broker = TestBroker::start().await;
    let client = handler(&broker, "billing").await;
    let reply = client.request("dead-letters.billing", "x".into()).await.unwrap();
    let reply: serde_json::Value = serde_json::from_slice(&reply.payload).unwrap();
    assert_eq!(reply["stream"], layout::dead_letter_stream("billing"));
    assert_eq!(reply["seq"], 1);
}

#[tokio::test]
async fn another_handlers_consumer_and_dead_letters_are_out_of_reach() {
    let broker = TestBroker::start().await;
    let billing = handler(&broker, "billing").await;
    let _shipping = handler(&broker, "shipping").await;
    publish(&broker, "one").await;
    assert!(reply(ask(&billing, "shipping", 1).await).await.is_none(), "there is no such consumer for it");
    let shipping = answer(async || broker.admin().consumer(layout::EVENT_STREAM, "shipping").await).await;
    assert_eq!(shipping.delivered.consumer_sequence, 0, "nothing was pulled for another handler");
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
    let replies = ["$JS.API.STREAM.PURGE.events", "$JS.API.STREAM.DELETE.events", "events.0.injected"];
    for reply in replies {
        for subject in [layout::pull_subject("billing"), layout::dead_letter_subject("billing")] {
            let request = r#"{"batch":1,"no_wait":true}"#;
            client.publish_with_reply(subject, reply, request.into()).await.unwrap();
        }
    }
    // Each of these was answered: the event went to the first pull, and all dead letters are stored.
    eventually("all were answered", async || {
        let consumer = answer(async || broker.admin().consumer(layout::EVENT_STREAM, "billing").await).await;
        let letters = answer(async || broker.admin().stream(&layout::dead_letter_stream("billing")).await).await;
        consumer.delivered.consumer_sequence > 0 && letters.state.messages == replies.len() as u64
    })
    .await;
    // The answer to a request after them comes after theirs went where they were to go.
    client.request(layout::dead_letter_subject("billing"), "x".into()).await.unwrap();
    assert_eq!(events(&broker).await, 1);
}

#[tokio::test]
async fn a_removed_handler_is_cut_and_stays_out() {
    let broker = TestBroker::start().await;
    let folder = broker.handler("billing", Duration::from_secs(5)).await;
    let client = peer::connect("x", &broker.servers(), identity::folder(&folder)).await.unwrap();
    publish(&broker, "one").await;
    let system = broker.system().await;
    system.remove_handler(broker.authority(), "billing", "uid-billing").await.unwrap();
    until_cut(&client).await;
    assert!(peer::connect("x", &broker.servers(), identity::folder(&folder)).await.is_err());
    consumers::delete(&broker.admin(), "billing").await.unwrap();
    consumers::delete(&broker.admin(), "billing").await.unwrap();
    assert!(consumers::list(&broker.admin()).await.unwrap().is_empty());
}

/// Waits until the server has ended the client's connection.
async fn until_cut(client: &async_nats::Client) {
    let is_cut = async || client.connection_state() != async_nats::connection::State::Connected;
    eventually("the client is cut off", is_cut).await;
}

/// The record of an event's failed attempts: written, read back by subject, and no one else's.
#[tokio::test]
async fn attempts_are_written_and_read_by_their_handler_only() {
    let broker = TestBroker::start().await;
    let billing = handler(&broker, "billing").await;
    let shipping = handler(&broker, "shipping").await;
    for text in ["one", "two"] {
        let stored = billing.request(layout::attempt_subject("billing", "7"), text.into()).await.unwrap();
        assert!(String::from_utf8_lossy(&stored.payload).contains("\"seq\""), "{stored:?}");
    }
    let read = billing.request(layout::attempt_read_subject("billing", "7"), "".into()).await.unwrap();
    assert_eq!((&read.payload[..], read.status), (&b"two"[..], None), "{read:?}");
    let none = billing.request(layout::attempt_read_subject("billing", "8"), "".into()).await.unwrap();
    assert_eq!(none.status.map(|status| status.as_u16()), Some(404), "{none:?}");
    assert!(shipping.request(layout::attempt_read_subject("billing", "7"), "".into()).await.is_err());
    assert!(shipping.request(layout::attempt_subject("billing", "7"), "x".into()).await.is_err());
}

fn lanes(lanes: u16) -> consumers::Handler {
    consumers::Handler {
        name: "billing".into(),
        uid: "u1".into(),
        ack_wait: Duration::from_secs(5),
        max_ack_pending: 100,
        types: vec!["order.*".into(), "order.paid".into()],
        start: consumers::Start::Earliest,
        order: Order::Key { lanes },
        is_suspended: false,
        is_draining: false,
    }
}

#[tokio::test]
async fn the_owner_of_a_lane_asks_for_its_state_and_leaves_it() {
    let broker = TestBroker::start().await;
    let folder = broker.handler_with(lanes(2)).await;
    let client = peer::connect("x", &broker.servers(), identity::folder(folder)).await.unwrap();
    let lane = layout::lane_consumer("billing", 1);
    let info = client.request(layout::local_info_subject(&lane), "".into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
    assert_eq!(info["name"], lane.as_str(), "{info}");
    let unpin = format!(r#"{{"group":"{}"}}"#, layout::LANE_GROUP);
    let unpinned = client.request(layout::local_unpin_subject(&lane), unpin.into()).await.unwrap();
    let unpinned: serde_json::Value = serde_json::from_slice(&unpinned.payload).unwrap();
    assert!(unpinned["error"].is_null(), "{unpinned}");
}

/// What is as wanted is not written again, a changed filter is, and the place in the stream stays.
#[tokio::test]
async fn a_changed_filter_keeps_the_place() {
    let broker = TestBroker::start().await;
    let mut wanted = consumers::Handler { order: Order::None, ..lanes(1) };
    broker.handler_with(wanted.clone()).await;
    let js = broker.jetstream();
    for (subject, text) in [("events.0.order.new", "1"), ("events.1.other", "2"), ("redrive.billing.3.order.new", "3")]
    {
        js.publish(subject, text.into()).await.unwrap().await.unwrap();
    }
    broker.until_pending("billing", 2).await;
    let client = handler_client(&broker, &wanted).await;
    acknowledge(&client, pull(&client, "billing").await).await;
    wanted.types = vec!["other".into(), "order.new".into()];
    consumers::ensure(&broker.admin(), &wanted, &Position::default()).await.unwrap();
    consumers::ensure(&broker.admin(), &wanted, &Position::default()).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..2 {
        let message = pull(&client, "billing").await;
        rest.push(String::from_utf8(message.payload.to_vec()).unwrap());
        acknowledge(&client, message).await;
    }
    rest.sort();
    assert_eq!(rest, ["2", "3"], "the rest comes");
    assert!(reply(ask(&client, "billing", 1).await).await.is_none(), "what was acknowledged does not come again");
}

async fn handler_client(broker: &TestBroker, wanted: &consumers::Handler) -> async_nats::Client {
    let folder = broker.handler_with(wanted.clone()).await;
    peer::connect("x", &broker.servers(), identity::folder(folder)).await.unwrap()
}

#[tokio::test]
async fn a_handler_begins_where_it_says_and_one_made_again_begins_anew() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    for text in ["1", "2", "3"] {
        js.publish("events.0.order.new", text.into()).await.unwrap().await.unwrap();
    }
    let mut wanted = consumers::Handler { order: Order::None, ..lanes(1) };
    for (uid, start, pending) in [
        ("a", consumers::Start::Earliest, 3),
        ("b", consumers::Start::Sequence(3), 1),
        ("c", consumers::Start::Latest, 0),
        ("d", consumers::Start::Time(time::OffsetDateTime::now_utc() - time::Duration::hours(1)), 3),
        ("e", consumers::Start::Time(time::OffsetDateTime::now_utc() + time::Duration::hours(1)), 0),
    ] {
        (wanted.uid, wanted.start) = (uid.into(), start);
        consumers::ensure(&broker.admin(), &wanted, &Position::default()).await.unwrap();
        let found = consumers::list(&broker.admin()).await.unwrap();
        assert_eq!((found.len(), found[0].num_pending), (1, pending), "{start:?}");
    }
}

#[tokio::test]
async fn a_publisher_reaches_the_ingress_and_nothing_else() {
    let broker = TestBroker::start().await;
    let ingress = peer::connect("i", &broker.servers(), identity::folder(broker.ingress_client_dir())).await.unwrap();
    let mut asked = ingress.queue_subscribe(layout::ingress::PUBLISHES, "ingress".into()).await.unwrap();
    ingress.flush().await.unwrap();
    let answering = ingress.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let said = message.subject.as_str().to_owned();
            answering.publish(message.reply.unwrap(), said.into()).await.unwrap();
        }
    });
    let folder = broker.publisher("checkout").await;
    let client = peer::connect("p", &broker.servers(), identity::folder(folder)).await.unwrap();
    let answer = client.request(layout::PUBLISH_SUBJECT, "event".into()).await.unwrap();
    assert_eq!(&answer.payload[..], b"publish.test.topic.checkout", "the ingress hears who it is, and of which topic");
    assert!(client.request("publish.test.topic.other", "event".into()).await.is_err());
    assert!(client.request("topic.test.topic.write.events.0.test", "event".into()).await.is_err());
    assert!(client.request("events.0.test", "x".into()).await.is_err());
    assert!(client.request("$JS.API.STREAM.INFO.events", "".into()).await.is_err());
    broker.system().await.remove_publisher(broker.authority(), &topic_id(), "checkout").await.unwrap();
    until_cut(&client).await;
}

#[tokio::test]
async fn events_of_a_direct_topic_go_to_one_sidecar_of_each_handler() {
    let broker = TestBroker::start_direct().await;
    let (billing, shipping) = (broker.direct_handler("billing").await, broker.direct_handler("shipping").await);
    let mut inboxes = Vec::new();
    for (folder, group) in
        [(&billing, "billing"), (&billing, "billing"), (&shipping, "shipping"), (&shipping, "billing")]
    {
        let handler = if std::ptr::eq(folder, &billing) { "billing" } else { "shipping" };
        let client = peer::connect("s", &broker.servers(), identity::folder(folder)).await.unwrap();
        inboxes.push(client.queue_subscribe(layout::EVENT_SUBJECTS, group.into()).await.unwrap());
        // A round trip: the broker knows of it then, whether somebody answers or not.
        let _ = client.request(layout::report_subject(handler), "".into()).await;
        // The subscription lives as long as its client does.
        std::mem::forget(client);
    }
    let ingress = peer::connect("i", &broker.servers(), identity::folder(broker.ingress_client_dir())).await.unwrap();
    let subject = TopicSubjects::new(&topic_id(), Routing::Direct).event("events.3.order.new");
    for _ in 0..20 {
        ingress.publish(subject.clone(), "x".into()).await.unwrap();
    }
    let mut counts = [0; 4];
    eventually("all came", async || {
        for (count, inbox) in counts.iter_mut().zip(&mut inboxes) {
            while inbox.next().now_or_never().is_some() {
                *count += 1;
            }
        }
        counts[0] + counts[1] >= 20 && counts[2] >= 20
    })
    .await;
    assert_eq!((counts[0] + counts[1], counts[2]), (20, 20), "{counts:?}");
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    assert_eq!(counts[3], 0, "another handler's group is closed");
}

#[tokio::test]
async fn what_the_servers_have_already_is_not_pushed_again() {
    let broker = TestBroker::start().await;
    let system = broker.system().await;
    let now = time::OffsetDateTime::now_utc();
    let handler = guests::Handler {
        topic: topic_id(),
        name: "billing".into(),
        uid: "u1".into(),
        routing: Routing::Queued,
        order: Order::Key { lanes: 4 },
        pods: 1,
    };
    let account = || broker.authority().handler_account(&handler, None, now).unwrap();
    assert!(system.ensure(&account()).await.unwrap().is_pushed());
    assert_eq!(system.ensure(&account()).await.unwrap(), AccountState::InForce);
}

#[tokio::test]
async fn no_certificate_no_connection() {
    let broker = TestBroker::start().await;
    let folder = broker.handler("billing", Duration::from_secs(5)).await;
    // Another topic's authority signed this certificate; the user is right.
    let stranger = tidegate_broker_admin::Authority::generate("other", time::OffsetDateTime::now_utc()).unwrap();
    let request = LeafRequest::client("billing");
    let leaf = stranger.leaf(&request, time::OffsetDateTime::now_utc()).unwrap();
    std::fs::write(folder.join("tls.crt"), leaf.certificate).unwrap();
    std::fs::write(folder.join("tls.key"), leaf.key).unwrap();
    assert!(peer::connect("x", &broker.servers(), identity::folder(&folder)).await.is_err());
}
