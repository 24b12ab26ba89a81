//! The connection's turns against a server that says exactly what a test wants. (Real ones: `tests/nats.rs`.)

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::nats::decode::Decoder;

#[path = "client_tests/bounds.rs"]
mod bounds;

struct NoIdentity;

impl Identity for NoIdentity {
    fn tls(&self) -> Result<Arc<rustls::ClientConfig>, IdentityError> {
        Err("none".into())
    }

    fn credentials(&self, _nonce: &[u8]) -> Result<Credentials, IdentityError> {
        Err("none".into())
    }
}

/// A client, and what its connections told.
fn client(events: &Arc<Mutex<Vec<String>>>) -> Client {
    client_with(events, Offline::Keep)
}

fn client_with(events: &Arc<Mutex<Vec<String>>>, offline: Offline) -> Client {
    let events = Arc::clone(events);
    let on_event = Arc::new(move |event: &Event| events.lock().unwrap().push(event.to_string()));
    let options = Options { on_event, write_buffer: 1000, offline, ..Options::new("test", &[], Arc::new(NoIdentity)) };
    Client { handle: Arc::new(Handle { shared: Arc::new(Shared::new(options, "_INBOX.x.".into())) }) }
}

/// A connection of it whose other end the test has.
fn connect(client: &Client) -> (DuplexStream, JoinHandle<()>) {
    let (ours, theirs) = duplex(4096);
    let shared = Arc::clone(&client.handle.shared);
    shared.connected();
    let task = tokio::spawn(async move {
        let loss = Driver::new(ours, Decoder::new(10_000), &shared).run().await;
        shared.disconnected(loss);
    });
    (theirs, task)
}

async fn hear(server: &mut DuplexStream, expected: &str) {
    let mut heard = vec![0; expected.len()];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8(heard).unwrap(), expected);
}

fn message<'a>(subject: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish { subject, payload, ..Publish::default() }
}

#[tokio::test]
async fn what_is_published_without_a_connection_follows_the_subscriptions() {
    let client = client(&Arc::default());
    client.publish(&message("a", b"1")).await.unwrap();
    let subscriber = client.subscribe("b", Some("g")).unwrap();
    let ended = client.subscribe("c", None).unwrap();
    drop(ended);
    let (mut server, task) = connect(&client);
    hear(&mut server, "SUB b g 1\r\nPUB a 1\r\n1\r\n").await;
    drop(server);
    task.await.unwrap();
    let (mut server, _task) = connect(&client);
    client.publish(&message("a", b"2")).await.unwrap();
    hear(&mut server, "SUB b g 1\r\nPUB a 1\r\n2\r\n").await;
    drop(subscriber);
    hear(&mut server, "UNSUB 1\r\n").await;
    assert_eq!(client.link().borrow().epoch, 2);
}

#[tokio::test]
async fn a_subscription_for_one_connection_is_not_renewed() {
    let client = client(&Arc::default());
    let mut none = client.subscribe_until_disconnect("a").unwrap();
    assert!(none.next().await.is_none(), "there is no connection");
    let (mut server, task) = connect(&client);
    let mut subscriber = client.subscribe_until_disconnect("b").unwrap();
    hear(&mut server, "SUB b 2\r\n").await;
    server.write_all(b"MSG b 2 1\r\n1\r\n").await.unwrap();
    drop(server);
    task.await.unwrap();
    let (mut server, _task) = connect(&client);
    client.publish(&message("c", b"2")).await.unwrap();
    hear(&mut server, "PUB c 1\r\n2\r\n").await;
    assert_eq!(subscriber.next().await.unwrap().payload(), b"1", "what had come is not lost");
    assert!(subscriber.next().await.is_none());
    drop(subscriber);
    client.publish(&message("c", b"3")).await.unwrap();
    hear(&mut server, "PUB c 1\r\n3\r\n").await;
}

/// A server that ends says its last words and takes none: what is written to it fails before they are read.
#[tokio::test]
async fn what_a_server_said_before_it_closed_is_heard() {
    let client = client(&Arc::default());
    let (mut server, task) = connect(&client);
    let mut subscriber = client.subscribe_until_disconnect("a").unwrap();
    hear(&mut server, "SUB a 1\r\n").await;
    server.write_all(b"MSG a 1 1\r\nx\r\n").await.unwrap();
    drop(server);
    client.try_publish(&message("b", b"1")).unwrap();
    task.await.unwrap();
    assert_eq!(subscriber.next().await.unwrap().payload(), b"x");
    assert!(subscriber.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_keeps_nothing_says_so_at_once() {
    let client = client_with(&Arc::default(), Offline::Refuse);
    assert_eq!(client.publish(&message("a", b"1")).await, Err(PublishError::Disconnected));
    let (mut server, task) = connect(&client);
    client.room().await;
    client.publish(&message("a", b"2")).await.unwrap();
    hear(&mut server, "PUB a 1\r\n2\r\n").await;
    // The server reads no more: who waits for room hears that the connection is lost.
    let large = [0; 5000];
    while client.try_publish(&message("a", &large)).is_ok() {
        tokio::task::yield_now().await;
    }
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.publish(&message("a", b"3")).await }
    });
    tokio::task::yield_now().await;
    drop(server);
    task.await.unwrap();
    assert_eq!(waiting.await.unwrap(), Err(PublishError::Disconnected));
    let (mut server, _task) = connect(&client);
    client.publish(&message("a", b"4")).await.unwrap();
    hear(&mut server, "PUB a 1\r\n4\r\n").await;
    assert_eq!(client.current_link(), Link { connected: true, epoch: 2 });
}

#[tokio::test]
async fn what_is_worth_nothing_later_is_not_kept() {
    let client = client(&Arc::default());
    assert_eq!(client.publish_now(&message("a", b"1")).await, Err(PublishError::Disconnected));
    let late = client.request(&message("a", b"2"), Duration::from_millis(20)).await;
    assert_eq!(late, Err(RequestError::TimedOut));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.request(&message("a", b"3"), Duration::from_secs(5)).await }
    });
    tokio::task::yield_now().await;
    let (mut server, task) = connect(&client);
    hear(&mut server, "SUB _INBOX.x.* 0\r\nPUB a _INBOX.x.2 1\r\n3\r\n").await;
    server.write_all(b"MSG _INBOX.x.2 0 1\r\n4\r\n").await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().payload(), b"4");
    client.publish_now(&message("a", b"5")).await.unwrap();
    hear(&mut server, "PUB a 1\r\n5\r\n").await;
    drop(server);
    task.await.unwrap();
    let abandoned = timeout(Duration::from_millis(20), client.publish_connected(&message("a", b"6"))).await;
    assert!(abandoned.is_err());
    let (mut server, _task) = connect(&client);
    client.publish_connected(&message("a", b"7")).await.unwrap();
    hear(&mut server, "SUB _INBOX.x.* 0\r\nPUB a 1\r\n7\r\n").await;
}

#[tokio::test]
async fn publishers_wait_while_too_much_waits_to_be_sent() {
    let client = client(&Arc::default());
    let large = [0; 1000];
    client.publish(&message("a", &large)).await.unwrap();
    assert_eq!(client.try_publish(&message("a", b"1")), Err(PublishError::Full));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.publish(&message("a", b"2")).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let (_server, _task) = connect(&client);
    assert_eq!(waiting.await.unwrap(), Ok(()));
    let too_large = vec![0; (1 << 20) + 1];
    let error = PublishError::TooLarge { size: too_large.len(), max: 1 << 20 };
    assert_eq!(client.publish(&message("a", &too_large)).await, Err(error));
}

#[tokio::test]
async fn one_ping_answers_all_who_flush() {
    let client = client(&Arc::default());
    let flush = || {
        tokio::spawn({
            let client = client.clone();
            async move { client.flush().await }
        })
    };
    let (first, second) = (flush(), flush());
    tokio::task::yield_now().await;
    let (mut server, _task) = connect(&client);
    hear(&mut server, "PING\r\n").await;
    assert!(!first.is_finished());
    server.write_all(b"PONG\r\n").await.unwrap();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(()), Ok(())));
    let lost = flush();
    hear(&mut server, "PING\r\n").await;
    drop(server);
    assert_eq!(lost.await.unwrap(), Err(FlushError));
}

#[tokio::test]
async fn a_drained_subscription_gets_what_the_server_sent_before_it_heard() {
    let client = client(&Arc::default());
    let (mut server, _task) = connect(&client);
    let mut subscriber = client.subscribe("a", None).unwrap();
    hear(&mut server, "SUB a 1\r\n").await;
    subscriber.drain();
    hear(&mut server, "UNSUB 1\r\nPING\r\n").await;
    server.write_all(b"MSG a 1 1\r\nx\r\nPONG\r\nMSG a 1 1\r\ny\r\nPING\r\n").await.unwrap();
    hear(&mut server, "PONG\r\n").await;
    assert_eq!(subscriber.next().await.unwrap().payload(), b"x");
    assert!(subscriber.next().await.is_none());
    // Without a connection nothing can come any more.
    let mut other = client.subscribe("a", None).unwrap();
    drop(server);
    client.link().wait_for(|link| !link.connected).await.unwrap();
    other.drain();
    assert!(other.next().await.is_none());
}

#[tokio::test]
async fn requests_are_answered_by_number() {
    let client = client(&Arc::default());
    let (mut server, _task) = connect(&client);
    let ask = || {
        tokio::spawn({
            let client = client.clone();
            async move { client.request(&message("a", b""), Duration::from_secs(5)).await }
        })
    };
    let first = ask();
    hear(&mut server, "SUB _INBOX.x.* 0\r\nPUB a _INBOX.x.1 0\r\n\r\n").await;
    let second = ask();
    hear(&mut server, "PUB a _INBOX.x.2 0\r\n\r\n").await;
    let answers =
        "MSG _INBOX.x.7 0 0\r\n\r\nMSG _INBOX.x.2 0 1\r\n2\r\nHMSG _INBOX.x.1 0 16 16\r\nNATS/1.0 503\r\n\r\n\r\n";
    server.write_all(answers.as_bytes()).await.unwrap();
    assert_eq!(first.await.unwrap(), Err(RequestError::NoResponders));
    assert_eq!(second.await.unwrap().unwrap().payload(), b"2");
    let late = client.request(&message("a", b""), Duration::from_millis(20)).await;
    assert_eq!(late, Err(RequestError::TimedOut));
    assert_eq!(client.shared().lock().open_requests(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left() {
    let events = Arc::default();
    let client = client(&events);
    let begun = tokio::time::Instant::now();
    let (mut server, task) = connect(&client);
    task.await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(9), "{:?}", begun.elapsed());
    hear(&mut server, "PING\r\nPING\r\n").await;
    assert_eq!(*events.lock().unwrap(), ["connected", "the connection is lost: the server is silent"]);
}

#[tokio::test]
async fn a_protocol_error_and_a_wish_end_the_connection() {
    let events = Arc::default();
    let client = client(&events);
    let (mut server, task) = connect(&client);
    server.write_all(b"-ERR 'Permissions Violation'\r\nMSG a 1 18446744073709551600\r\n").await.unwrap();
    task.await.unwrap();
    let (_server, task) = connect(&client);
    client.reconnect();
    task.await.unwrap();
    let (server, task) = connect(&client);
    drop(client);
    task.await.unwrap();
    drop(server);
    let events = events.lock().unwrap();
    let told = ["Permissions Violation", "larger than is taken", "a new one was asked for", "the client ended it"];
    for (event, told) in events.iter().filter(|event| *event != "connected").zip(told) {
        assert!(event.contains(told), "{event}: {told}");
    }
}

#[tokio::test]
async fn what_came_with_the_servers_greeting_is_heard() {
    let client = client(&Arc::default());
    let mut subscriber = client.subscribe("a", None).unwrap();
    let (ours, _theirs) = duplex(4096);
    let mut decoder = Decoder::new(10_000);
    let early = b"MSG a 1 1\r\nx\r\n";
    decoder.space()[..early.len()].copy_from_slice(early);
    decoder.advance(early.len());
    let shared = Arc::clone(&client.handle.shared);
    let _task = tokio::spawn(async move { Driver::new(ours, decoder, &shared).run().await });
    assert_eq!(subscriber.next().await.unwrap().payload(), b"x");
}

/// It has had what it was for: it is not renewed on the next connection.
#[tokio::test]
async fn a_subscription_for_one_message_ends_with_it() {
    let client = client(&Arc::default());
    let (mut server, task) = connect(&client);
    let mut first = client.subscribe_once("a").unwrap();
    hear(&mut server, "SUB a 1\r\nUNSUB 1 1\r\n").await;
    server.write_all(b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\n").await.unwrap();
    assert_eq!(first.next().await.unwrap().payload(), b"x");
    assert!(first.next().await.is_none());
    drop(server);
    task.await.unwrap();
    let (mut server, _task) = connect(&client);
    client.publish(&message("a", b"1")).await.unwrap();
    hear(&mut server, "PUB a 1\r\n1\r\n").await;
}

/// An address that cannot be one fails at once: what is seen is the wait alone.
#[tokio::test(start_paused = true)]
async fn attempts_to_connect_become_rare() {
    let events = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&events);
    let on_event = Arc::new(move |_: &Event| *counted.lock().unwrap() += 1);
    let servers = ["tls://".to_owned()];
    let _client = Client::start(Options { on_event, ..Options::new("test", &servers, Arc::new(NoIdentity)) });
    sleep(Duration::from_secs(10)).await;
    let attempts = *events.lock().unwrap();
    assert!((5..=20).contains(&attempts), "{attempts}");
}

#[test]
fn waits_grow_up_to_a_bound_and_differ() {
    assert_eq!(wait(1, 0.0), FIRST_WAIT);
    assert_eq!(wait(2, 0.0), FIRST_WAIT * 2);
    assert_eq!(wait(2, 1.0), FIRST_WAIT);
    for failures in [7, 9, 10, u32::MAX] {
        assert_eq!(wait(failures, 0.0), MAX_WAIT);
    }
}
