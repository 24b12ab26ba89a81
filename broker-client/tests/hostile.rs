//! A broker that sends what no nats-server would: it ends its own connection, and nothing else.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tidegate_broker_admin::{Authority, LeafRequest, Usage};
use tidegate_broker_client::connect;
use tidegate_broker_client::identity::{Identity, Source};
use tidegate_test_broker::hostile::{Attack, ENOUGH, HostileBroker};
use time::OffsetDateTime;
use tokio::time::sleep;

/// The identity of the operator, which connects to every topic's broker.
fn operator(authority: &Authority) -> Source {
    let now = OffsetDateTime::now_utc();
    let user = authority.operator_user(now).unwrap();
    let request = LeafRequest { name: "tidegate operator".into(), hosts: Vec::new(), usage: Usage::Client };
    let leaf = authority.leaf(&request, now).unwrap();
    let identity = Identity {
        ca: authority.ca_certificate.clone(),
        certificate: leaf.certificate,
        key: leaf.key,
        user_jwt: user.jwt,
        user_seed: user.seed,
    };
    Arc::new(move || Ok(identity.clone()))
}

async fn attacked(attack: Attack) -> (HostileBroker, async_nats::Client) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Authority::generate("test", OffsetDateTime::now_utc()).unwrap();
    let broker = HostileBroker::start(&authority, attack).await;
    let client =
        connect::connect("operator", std::slice::from_ref(&broker.address), operator(&authority)).await.unwrap();
    (broker, client)
}

/// Waits until the client has come again, which shows that it lives and has given up the connection before.
async fn until_it_comes_again(broker: &HostileBroker, what: &str) {
    let begun = Instant::now();
    while broker.clients() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is dead or stuck after {what}: {}", broker.clients());
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_ends_the_connection_and_no_more() {
    for attack in [
        "MSG a.b 1 18446744073709551600\r\n",
        "MSG a.b 1 18446744073709551615\r\n",
        "MSG a.b 1 99999999999999999999999\r\n",
        "MSG a.b 1 536870912\r\n",
        "HMSG a.b 1 12 18446744073709551612\r\n",
        "HMSG a.b 1 18446744073709551600 18446744073709551612\r\n",
        "HMSG a.b 1 20 10\r\n",
        "MSG\r\n",
        "MSG \r\n",
        "MSG a b c d e f g\r\n",
        "INFO {\r\n",
        "INFO {}\r\n\r\n",
        "what is this\r\n",
        "\r\n",
        "\u{0}\u{1}\u{2}\r\n",
    ] {
        let (broker, _client) = attacked(Attack::Send(attack.as_bytes().to_vec())).await;
        until_it_comes_again(&broker, attack).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_headers_of_any_shape_are_taken() {
    let attack = "-ERR\r\n-ERR \r\n-ERR 'x\r\nHMSG a 1 18 18\r\nNATS/1.0 99999\r\n\r\n\r\nHMSG a 1 0 0\r\n\r\n";
    // The last message shows that the client has read all before it.
    let attack = format!("{attack}MSG a 1 4\r\nlast\r\n");
    let (broker, client) = attacked(Attack::Send(attack.into_bytes())).await;
    let mut requests = client.subscribe("a").await.unwrap();
    // The first subscription has number 1.
    let begun = Instant::now();
    while client.statistics().in_messages.load(Ordering::Relaxed) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the connection is stuck or ended");
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.connection_state(), async_nats::connection::State::Connected);
    assert_eq!(broker.clients(), 1);
    requests.unsubscribe().await.unwrap();
    while requests.next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_bounded() {
    let limit = connect::MAX_MESSAGE + (32 << 20);
    // A line without an end, and a message that is larger than any.
    for attack in [vec![b'x'; 1 << 16], vec![b'I'; 1 << 16]] {
        let (broker, _client) = attacked(Attack::Flood(attack)).await;
        until_it_comes_again(&broker, "a line without an end").await;
        assert!(broker.sent() < limit, "{} bytes were taken", broker.sent());
    }
    // Messages that are never read.
    let message = format!("MSG a 1 1048576\r\n{}\r\n", "x".repeat(1 << 20));
    let (broker, client) = attacked(Attack::Flood(message.into_bytes())).await;
    let _unread = client.subscribe("a").await.unwrap();
    let before = resident();
    let begun = Instant::now();
    while broker.sent() < ENOUGH {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes in {:?}", broker.sent(), begun.elapsed());
        let grown = resident().saturating_sub(before);
        assert!(grown < connect::MAX_WAITING + (128 << 20), "{grown} bytes more after {}", broker.sent());
        sleep(Duration::from_millis(20)).await;
    }
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_not_answered_ends() {
    let (_broker, client) = attacked(Attack::Hang).await;
    let begun = Instant::now();
    assert!(client.request("$JS.API.INFO", "".into()).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}
