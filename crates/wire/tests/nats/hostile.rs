//! A broker that sends what no nats-server would: it ends its own connection, and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_broker_admin::Authority;
use tidegate_broker_client::connect::{MAX_MESSAGE, MAX_WAITING};
use tidegate_test_broker::hostile::{Attack, ENOUGH, HostileBroker};
use tidegate_wire::nats::{Client, Options, RequestError};
use time::OffsetDateTime;

use crate::support::{LONG, connected, fixed, message, operator, options, resident, soon};

/// A server that answers no PING is left sooner than usual.
const SOON: Duration = Duration::from_millis(300);
/// As usual.
const LATER: Duration = Duration::from_secs(3);
/// After everything else.
const NEVER: Duration = Duration::from_secs(600);

/// More bytes than a client takes by chance.
const FLOOD: usize = 16 << 20;

async fn attacked(attack: Attack, ping_interval: Duration) -> (HostileBroker, Client) {
    let authority = Authority::generate("test", OffsetDateTime::now_utc()).unwrap();
    let broker = HostileBroker::start(&authority, attack).await;
    let (options, _) = options(std::slice::from_ref(&broker.address), fixed(operator(&authority)));
    // What is told is kept nowhere.
    let options = Options { ping_interval, on_event: Arc::new(|_| {}), ..options };
    (broker, Client::connect(options).await.unwrap())
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
        "MSG a b c d e f g\r\n",
        "MSG a 1 16777216\r\nit has no end",
        "INFO {\r\n",
        "INFO {}\r\n\r\n",
        "what is this\r\n",
        "no line",
        "\u{0}\u{1}\u{2}\r\n",
    ] {
        let (_broker, client) = attacked(Attack::Send(attack.as_bytes().to_vec()), SOON).await;
        // It has come again, so it lives.
        connected(&client, 2).await;
    }
}

/// A server that lets clients in and fails at once is not connected to as fast as it can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_last_for_no_time_become_rare() {
    let begun = Instant::now();
    let (_broker, client) = attacked(Attack::Send(b"what is this\r\n".to_vec()), SOON).await;
    connected(&client, 5).await;
    // 50, 100, 200 and 400 ms, shortened by a half at most.
    assert!(begun.elapsed() >= Duration::from_millis(375), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_headers_of_any_shape_are_taken() {
    let attack = "-ERR\r\n-ERR \r\n-ERR 'x\r\nHMSG a 1 18 18\r\nNATS/1.0 99999\r\n\r\n\r\nHMSG a 1 0 0\r\n\r\n";
    let attack = [attack.as_bytes(), b"MSG \xFF 1 0\r\n\r\nMSG a 18446744073709551615 4\r\nlast\r\n"].concat();
    let (broker, client) = attacked(Attack::Send(attack), NEVER).await;
    let begun = Instant::now();
    while client.statistics().received < 4 {
        assert!(begun.elapsed() < LONG, "the connection is stuck or ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((client.statistics().malformed, broker.clients()), (3, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_bounded() {
    let (broker, client) = attacked(Attack::Flood(vec![b'x'; 1 << 16]), LATER).await;
    connected(&client, 2).await;
    assert!(broker.sent() < 32 << 20, "{} bytes were taken", broker.sent());
    // Messages that no one reads, PINGs that have to be answered, errors without an end.
    let message = format!("MSG a 1 1048576\r\n{}\r\n", "x".repeat(1 << 20));
    for attack in [message, "PING\r\n-ERR 'x'\r\nPONG\r\n".repeat(3000)] {
        let (broker, client) = attacked(Attack::Flood(attack.into_bytes()), LATER).await;
        let _unread = client.subscribe("a", None).unwrap();
        let (before, begun) = (resident(), Instant::now());
        let is_over = |sent, time| sent >= ENOUGH / 2 || (sent > FLOOD && time >= Duration::from_secs(10));
        while !is_over(broker.sent(), begun.elapsed()) {
            assert!(begun.elapsed() < LONG, "it was no flood: {} bytes", broker.sent());
            let grown = resident().saturating_sub(before);
            assert!(grown < MAX_WAITING + MAX_MESSAGE + (64 << 20), "{grown} bytes more after {}", broker.sent());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_not_answered_ends() {
    let (_broker, client) = attacked(Attack::Hang, SOON).await;
    let asked = client.request(&message("a", b""), Duration::from_millis(100)).await;
    assert_eq!(asked, Err(RequestError::TimedOut));
    assert!(soon(client.flush()).await.is_err(), "the silent server is left");
    connected(&client, 2).await;
}
