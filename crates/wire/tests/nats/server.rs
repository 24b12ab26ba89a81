//! Against a real nats-server with TLS and accounts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tidegate_broker_client::identity;
use tidegate_test_broker::{TestBroker, eventually};
use tidegate_wire::nats::{
    Client, ConnectError, HeaderBlock, Options, Publish, PublishError, QueueLimits, RequestError,
};

use crate::support::{LONG, connected, fixed, message, operator, options, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_requests_and_answers() {
    let broker = TestBroker::start_empty(1 << 20).await;
    let (options, _) = options(&broker.servers(), fixed(operator(broker.authority())));
    let client = Client::connect(options).await.unwrap();
    assert_eq!(client.max_payload(), 4 << 20);
    let (mut all, mut one_of, other) = (
        client.subscribe("t.>", None).unwrap(),
        client.subscribe("t.*", Some("g")).unwrap(),
        client.subscribe("t.*", Some("g")).unwrap(),
    );
    drop(other);
    let mut headers = HeaderBlock::new();
    headers.append("ce-id", "größe").unwrap();
    let inbox = client.new_inbox();
    let sent = Publish {
        subject: "t.a",
        reply: Some(&inbox),
        headers: Some(&headers),
        payload: b"data",
        ..Publish::default()
    };
    client.publish(&sent).await.unwrap();
    for subscriber in [&mut all, &mut one_of] {
        let message = soon(subscriber.next()).await.unwrap();
        assert_eq!((message.subject(), message.reply(), message.payload()), ("t.a", Some(&*inbox), &b"data"[..]));
        assert_eq!(message.headers().unwrap().get("CE-ID"), Some("größe"));
    }
    // The largest there can be goes both ways.
    let largest = vec![7; client.max_payload()];
    client.publish(&message("t.largest", &largest)).await.unwrap();
    assert_eq!(soon(all.next()).await.unwrap().payload(), largest);
    let larger = vec![7; client.max_payload() + 1];
    let refused = client.publish(&message("t.larger", &larger)).await;
    assert_eq!(refused, Err(PublishError::TooLarge { size: larger.len(), max: largest.len() }));
    // Requests: to the server's own API, to a subscriber that is silent, and to no one.
    let info = client.request(&message("$JS.API.INFO", b""), LONG).await.unwrap();
    assert!(String::from_utf8_lossy(info.payload()).contains("account_info_response"));
    assert_eq!(client.request(&message("nobody", b""), LONG).await, Err(RequestError::NoResponders));
    let silent = client.request(&message("t.a", b""), Duration::from_millis(20)).await;
    assert_eq!(silent, Err(RequestError::TimedOut));
    soon(client.flush()).await.unwrap();
    let counted = client.statistics();
    assert_eq!((counted.malformed, counted.dropped), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_messages_the_server_sends_one() {
    let broker = TestBroker::start_empty(1 << 20).await;
    let (options, _) = options(&broker.servers(), fixed(operator(broker.authority())));
    let client = Client::connect(options).await.unwrap();
    for round in 1..=2 {
        let mut first = client.subscribe_once("t").unwrap();
        if round == 2 {
            // It is renewed as it was made.
            client.reconnect();
            connected(&client, 2).await;
        }
        for _ in 0..100 {
            client.publish(&message("t", b"x")).await.unwrap();
        }
        soon(client.flush()).await.unwrap();
        assert_eq!(soon(first.next()).await.unwrap().payload(), b"x");
        assert_eq!(soon(first.next()).await, None);
        assert_eq!(client.statistics().received, round);
    }
}

/// The holes 2 and 3 of a client that believes its server: a header that is none is a message that says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_publishers_write_wrongly_does_not_end_the_connection() {
    let broker = TestBroker::start_empty(1 << 20).await;
    let (options, _) = options(&broker.servers(), fixed(operator(broker.authority())));
    let client = Client::connect(options).await.unwrap();
    let mut subscriber = client.subscribe("t", None).unwrap();
    soon(client.flush()).await.unwrap();
    // Another client library lets a publisher write any block.
    let publisher = broker.operator();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("x", "a\u{1}b");
    publisher.publish_with_headers("t", headers, "data".into()).await.unwrap();
    let malformed = soon(subscriber.next()).await.unwrap();
    assert!(malformed.malformed().is_some() && malformed.headers().is_none());
    assert_eq!(malformed.payload(), b"data");
    assert_eq!((client.statistics().malformed, client.link().borrow().epoch), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_is_found_again() {
    let mut broker = TestBroker::start_empty(1 << 20).await;
    let (options, heard) = options(&broker.servers(), fixed(operator(broker.authority())));
    let client = Client::connect(options).await.unwrap();
    let mut subscriber = client.subscribe("t", None).unwrap();
    soon(client.flush()).await.unwrap();
    broker.stop();
    heard.wait_for("lost").await;
    assert!(!client.link().borrow().connected);
    heard.wait_for("no connection").await;
    client.publish(&message("t", b"kept")).await.unwrap();
    broker.restart().await;
    connected(&client, 2).await;
    assert_eq!(soon(subscriber.next()).await.unwrap().payload(), b"kept");
    soon(client.flush()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_is_left() {
    let broker = TestBroker::start_empty(1 << 20).await;
    let (options, heard) = options(&broker.servers(), fixed(operator(broker.authority())));
    let options =
        Options { ping_interval: Duration::from_millis(200), connect_timeout: Duration::from_secs(3), ..options };
    let client = Client::connect(options).await.unwrap();
    let server = Pid::from_raw(broker.pid().unwrap().try_into().unwrap());
    kill(server, Signal::SIGSTOP).unwrap();
    heard.wait_for("the server is silent").await;
    heard.wait_for("no connection").await;
    kill(server, Signal::SIGCONT).unwrap();
    connected(&client, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_takes_is_dropped_and_counted() {
    let broker = TestBroker::start_empty(1 << 20).await;
    let (options, heard) = options(&broker.servers(), fixed(operator(broker.authority())));
    let options = Options { queue: QueueLimits { messages: 1000, bytes: 100_000 }, ..options };
    let client = Client::connect(options).await.unwrap();
    let (mut slow, mut other) = (client.subscribe("t", None).unwrap(), client.subscribe("o", None).unwrap());
    for _ in 0..200 {
        client.publish(&message("t", &[0; 1000])).await.unwrap();
    }
    client.publish(&message("o", b"")).await.unwrap();
    assert!(soon(other.next()).await.is_some());
    heard.wait_for("messages to \"t\" are dropped").await;
    // A message's subject counts with it.
    assert_eq!(client.statistics().dropped, 200 - 99);
    slow.drain();
    let mut waiting = 0;
    while soon(slow.next()).await.is_some() {
        waiting += 1;
    }
    assert_eq!(waiting, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forbidden_is_told_and_ends_nothing() {
    let broker = TestBroker::start().await;
    let folder = broker.handler("billing", Duration::from_secs(30)).await;
    let (options, heard) = options(&broker.servers(), identity::folder(folder));
    let client = Client::connect(options).await.unwrap();
    let _forbidden = client.subscribe("events.>", None).unwrap();
    heard.wait_for("Permissions Violation for Subscription").await;
    client.publish(&message("events.1.x", b"")).await.unwrap();
    heard.wait_for("Permissions Violation for Publish").await;
    soon(client.flush()).await.unwrap();
    assert_eq!(client.link().borrow().epoch, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_identity_is_used_at_the_next_connect() {
    let broker = TestBroker::start().await;
    let one = identity::folder(broker.handler("one", Duration::from_secs(30)).await)().unwrap();
    let two = identity::folder(broker.handler("two", Duration::from_secs(30)).await)().unwrap();
    let current = Arc::new(Mutex::new(one.clone()));
    let shared = Arc::clone(&current);
    let (options, heard) = options(&broker.servers(), Arc::new(move || Ok(shared.lock().unwrap().clone())));
    let client = Client::connect(options).await.unwrap();
    let connections = async || broker.monitoring("connz?auth=true").await["connections"].to_string();
    let user = |identity: &identity::Identity| nkeys::KeyPair::from_seed(&identity.user_seed).unwrap().public_key();
    assert!(connections().await.contains(&user(&one)));
    *current.lock().unwrap() = two.clone();
    client.reconnect();
    connected(&client, 2).await;
    // The server lists the connection before it until it has read its end.
    eventually("the next identity is used, and no other", async || {
        let found = connections().await;
        found.contains(&user(&two)) && !found.contains(&user(&one))
    })
    .await;
    // One that cannot be used is told, and tried again.
    current.lock().unwrap().certificate = "none".into();
    client.reconnect();
    heard.wait_for("no connection").await;
    *current.lock().unwrap() = one;
    connected(&client, 3).await;
}

/// What is published meanwhile goes over the one or the other, and what was sent to the one before comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_replaced_and_nothing_is_lost() {
    const MESSAGES: usize = 20_000;
    let broker = TestBroker::start_empty(1 << 20).await;
    let (options, heard) = options(&broker.servers(), fixed(operator(broker.authority())));
    let queue = QueueLimits { messages: 2 * MESSAGES, ..options.queue };
    let other = Client::connect(Options { queue, ..options.clone() }).await.unwrap();
    let mut all = other.subscribe("t.*", None).unwrap();
    soon(other.flush()).await.unwrap();
    let client = Client::connect(options).await.unwrap();
    let publisher = client.clone();
    let publishing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            publisher.publish(&message(&format!("t.{number}"), b"x")).await.unwrap();
        }
    });
    for renewal in 2..6 {
        let mut own = client.subscribe_until_disconnect("own").unwrap();
        for _ in 0..100 {
            client.publish(&message("own", b"x")).await.unwrap();
        }
        client.renew(LONG).await;
        assert_eq!(client.current_link().epoch, renewal);
        let mut came = 0;
        while soon(own.next()).await.is_some() {
            came += 1;
        }
        assert_eq!(came, 100, "it came before the connection was left, and then there is no more");
    }
    publishing.await.unwrap();
    for number in 0..MESSAGES {
        assert_eq!(soon(all.next()).await.unwrap().subject(), format!("t.{number}"));
    }
    heard.wait_for("it is replaced by a new one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_either_side_are_refused() {
    let broker = TestBroker::start_empty(1 << 20).await;
    let stranger = TestBroker::start_empty(1 << 20).await;
    let (ours, theirs) = (operator(broker.authority()), operator(stranger.authority()));
    // The server's certificate is of an authority that this client does not know.
    let (wrong_server, _) = options(&broker.servers(), fixed(theirs.clone()));
    assert!(matches!(Client::connect(wrong_server).await, Err(ConnectError::Io(_))));
    let user = identity::Identity { user_jwt: theirs.user_jwt, user_seed: theirs.user_seed, ..ours };
    let (wrong_user, _) = options(&broker.servers(), fixed(user));
    match Client::connect(wrong_user).await {
        Err(ConnectError::Refused(text)) => assert!(text.contains("Authorization Violation"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_starts_before_its_server_and_among_dead_ones() {
    let mut broker = TestBroker::start_empty(1 << 20).await;
    broker.stop();
    let dead = format!("tls://localhost:{}", tidegate_test_broker::free_port());
    let servers = [vec!["tls://".to_owned(), dead], broker.servers()].concat();
    let (options, heard) = options(&servers, fixed(operator(broker.authority())));
    assert!(Client::connect(options.clone()).await.is_err());
    let client = Client::start(options);
    heard.wait_for("no connection").await;
    broker.restart().await;
    connected(&client, 1).await;
}
