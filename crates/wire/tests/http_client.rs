//! The client against real sockets: which connection a request takes, and what it costs.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::uri::PathAndQuery;
use tidegate_test_broker::free_port;
use tidegate_wire::http::{Client, Connect, HeaderLines, IdleLimits, Outgoing, RequestPrefix, SendError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const LONG: Duration = Duration::from_secs(60);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[derive(Clone, Debug)]
struct Loopback(u16);

impl Connect for Loopback {
    type Error = std::io::Error;

    async fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.0)).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

struct Requests {
    client: Client<Loopback>,
}

/// What came of a request: status and body, or why there is none.
type Outcome = Result<(u16, Vec<u8>), String>;

impl Requests {
    async fn start(limits: IdleLimits) -> (TcpListener, Self) {
        // A test may close the listener, and wants no one else to listen there then.
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let path = PathAndQuery::from_static("/events");
        let [host, agent] = ["localhost", "test"].map(HeaderValue::from_static);
        let prefix = RequestPrefix::post(&path, &host, &agent);
        (listener, Self { client: Client::new(Loopback(port), prefix, limits) })
    }

    async fn post(&self, body: &'static [u8]) -> Outcome {
        let mut encode = || Ok(Outgoing { lines: HeaderLines::default(), body: Bytes::from_static(body) });
        let exchange = async {
            let response = self.client.send(&mut encode, Instant::now() + LONG).await.map_err(|error| match error {
                SendError::Unreachable(_) => "unreachable".to_owned(),
                other => other.to_string(),
            })?;
            let (status, mut body, mut read) = (response.status().as_u16(), response.into_body(), Vec::new());
            while let Some(piece) = body.next_piece().await.map_err(|error| error.to_string())? {
                assert!(!piece.is_empty());
                read.extend_from_slice(piece);
            }
            assert!(body.next_piece().await.unwrap().is_none(), "the end stays the end");
            Ok((status, read))
        };
        timeout(LONG, exchange).await.unwrap()
    }

    async fn ok(&self) {
        assert_eq!(self.post(b"data").await, Ok((200, b"ok".to_vec())));
    }
}

fn limits() -> IdleLimits {
    IdleLimits { max_connections: 4, max_age: LONG, max_race: LONG }
}

/// Reads a whole request, and returns its body.
async fn request(stream: &mut TcpStream) -> Vec<u8> {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the request ends early");
        read.extend_from_slice(&buffer[..n]);
        let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&read[..end]).unwrap();
        assert!(head.starts_with("POST /events HTTP/1.1\r\nhost: localhost\r\n"), "{head}");
        let length: usize = head.rsplit("content-length: ").next().unwrap().parse().unwrap();
        if read.len() == end + 4 + length {
            return read.split_off(end + 4);
        }
    }
}

/// Says this to one request on a connection.
async fn answer(listener: &TcpListener, says: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    request(&mut stream).await;
    stream.write_all(says).await.unwrap();
    stream
}

/// Until the other side has closed.
async fn closed(stream: &mut TcpStream) {
    timeout(LONG, async { while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {} }).await.unwrap();
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (listener, requests) = Requests::start(limits()).await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for body in [&b"data"[..], b"", &[b'x'; 100_000]] {
            assert_eq!(request(&mut stream).await, body);
            stream.write_all(ANSWER).await.unwrap();
        }
    });
    requests.ok().await;
    assert_eq!(requests.post(b"").await, Ok((200, b"ok".to_vec())));
    assert_eq!(requests.post(&[b'x'; 100_000]).await, Ok((200, b"ok".to_vec())));
    timeout(LONG, server).await.unwrap().unwrap();
}

/// Whatever it was: the next request comes by another connection.
#[tokio::test]
async fn a_connection_in_doubt_is_not_used_again() {
    for says in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokay",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n\r\n",
    ] {
        let (listener, requests) = Requests::start(limits()).await;
        let server = tokio::spawn(async move {
            let mut first = answer(&listener, says.as_bytes()).await;
            closed(&mut first).await;
            answer(&listener, ANSWER).await
        });
        requests.ok().await;
        requests.ok().await;
        timeout(LONG, server).await.unwrap().unwrap();
    }
}

/// Until a warm connection is known to be no good, and by another one the request is answered.
#[tokio::test]
async fn a_server_that_speaks_or_closes_between_requests_costs_no_attempt() {
    for says in [Some("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"), Some("x"), None] {
        let (listener, requests) = Requests::start(limits()).await;
        let (mut first, ()) = tokio::join!(answer(&listener, ANSWER), requests.ok());
        match says {
            Some(text) => first.write_all(text.as_bytes()).await.unwrap(),
            None => first.shutdown().await.unwrap(),
        }
        let _second = tokio::join!(answer(&listener, ANSWER), requests.ok());
        closed(&mut first).await;
    }
}

/// Answers a request, takes another one, and says this before it closes.
async fn break_second(listener: &TcpListener, says: &[u8]) {
    let mut stream = answer(listener, ANSWER).await;
    request(&mut stream).await;
    stream.write_all(says).await.unwrap();
}

#[tokio::test]
async fn a_warm_connection_that_ends_without_an_answer_is_replaced_once() {
    let (listener, requests) = Requests::start(limits()).await;
    let server = async {
        break_second(&listener, b"").await;
        let mut third = answer(&listener, ANSWER).await;
        request(&mut third).await;
        drop(third);
        drop(answer(&listener, b"").await);
    };
    let client = async {
        requests.ok().await;
        requests.ok().await;
        let broken = requests.post(b"data").await.unwrap_err();
        assert_eq!(broken, "connection closed before the response was complete", "a new one is not replaced");
    };
    tokio::join!(server, client);
}

/// A worker of a server may be killed in the middle of its work, and must not cost another one that for the same
/// attempt.
#[tokio::test]
async fn what_was_in_work_is_not_sent_again() {
    for (max_race, pause) in [(Duration::ZERO, 0), (Duration::from_millis(50), 200)] {
        let (listener, requests) = Requests::start(IdleLimits { max_race, ..limits() }).await;
        let server = async {
            let mut stream = answer(&listener, ANSWER).await;
            request(&mut stream).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        };
        let client = async {
            requests.ok().await;
            requests.post(b"data").await
        };
        let ((), broken) = tokio::join!(server, client);
        assert_eq!(broken.unwrap_err(), "connection closed before the response was complete");
    }
}

#[tokio::test]
async fn a_part_of_an_answer_is_one() {
    let (listener, requests) = Requests::start(limits()).await;
    let client = async {
        requests.ok().await;
        requests.post(b"data").await
    };
    let ((), broken) = tokio::join!(break_second(&listener, b"H"), client);
    assert_eq!(broken.unwrap_err(), "connection closed before the response was complete");
}

/// What ends its handler would never be counted otherwise.
#[tokio::test]
async fn a_server_that_is_gone_with_the_request_is_no_outage() {
    let (listener, requests) = Requests::start(limits()).await;
    let server = async move { break_second(&listener, b"").await };
    let client = async {
        requests.ok().await;
        requests.post(b"data").await
    };
    let ((), broken) = tokio::join!(server, client);
    let why = broken.unwrap_err();
    assert!(why.starts_with("the connection was closed without an answer, and then Connection refused"), "{why}");
    assert_eq!(requests.post(b"data").await.unwrap_err(), "unreachable");
}

#[tokio::test]
async fn an_idle_connection_is_closed_first() {
    let max_age = Duration::from_millis(500);
    let (listener, requests) = Requests::start(IdleLimits { max_age, ..limits() }).await;
    let (mut stream, ()) = tokio::join!(answer(&listener, ANSWER), requests.ok());
    closed(&mut stream).await;
}

#[tokio::test]
async fn no_more_are_kept_than_are_wanted() {
    let (listener, requests) = Requests::start(IdleLimits { max_connections: 1, ..limits() }).await;
    let server = async {
        let (mut one, _) = listener.accept().await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        for stream in [&mut one, &mut other] {
            request(stream).await;
            stream.write_all(ANSWER).await.unwrap();
        }
        (one, other)
    };
    let ((mut one, mut other), (), ()) = tokio::join!(server, requests.ok(), requests.ok());
    tokio::select! {
        () = closed(&mut one) => request_again(&mut other, &requests).await,
        () = closed(&mut other) => request_again(&mut one, &requests).await,
    }
}

async fn request_again(stream: &mut TcpStream, requests: &Requests) {
    let server = async {
        request(stream).await;
        stream.write_all(ANSWER).await.unwrap();
    };
    tokio::join!(server, requests.ok());
}

/// Dropped in every state: while it waits for a head, and in the middle of a body.
#[tokio::test]
async fn a_dropped_request_costs_its_connection() {
    for says in [&b""[..], b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"] {
        let (listener, requests) = Requests::start(limits()).await;
        let mut stream = tokio::select! {
            stream = async {
                let mut stream = answer(&listener, says).await;
                // So that the client reads it.
                tokio::task::yield_now().await;
                stream.flush().await.unwrap();
                stream
            } => stream,
            outcome = requests.post(b"data") => panic!("{outcome:?}"),
        };
        closed(&mut stream).await;
        let _second = tokio::join!(answer(&listener, ANSWER), requests.ok());
    }
}

/// A byte in each segment, and the body of the request in parts: the answer is the same.
#[tokio::test]
async fn a_trickle_is_put_together() {
    let chunked = "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\no\r\n1\r\nk\r\n0\r\nt: x\r\n\r\n";
    for says in [chunked, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\n\r\nok"] {
        let (listener, requests) = Requests::start(limits()).await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            request(&mut stream).await;
            for byte in says.as_bytes() {
                stream.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(server, requests.ok());
    }
}

#[tokio::test]
async fn what_is_no_answer_says_why() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(64 << 10));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(100);
    for (says, expected) in [
        ("220 smtp.example.com ESMTP\r\n", "invalid HTTP version"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "connection closed"),
        ("", "connection closed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", "connection closed"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", "connection closed"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nokay\r\n", "invalid chunk"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\n", "invalid chunk size"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok", "invalid content-length"),
        (&long, "too large"),
        (&interim, "too many interim responses"),
    ] {
        let (listener, requests) = Requests::start(limits()).await;
        let server = async {
            let mut stream = answer(&listener, says.as_bytes()).await;
            stream.shutdown().await.unwrap();
            // A close with unread bytes would be a reset, which could overtake what was written.
            closed(&mut stream).await;
        };
        let ((), outcome) = tokio::join!(server, requests.post(b"data"));
        let why = outcome.unwrap_err();
        assert!(why.contains(expected), "{says:.60}: {why}");
    }
}

/// Larger than what the kernel takes of a request that no one reads.
const LARGE: &[u8] = &[b'x'; 32 << 20];

/// It is an answer, and costs the connection.
#[tokio::test]
async fn a_refusal_before_the_request_ends_is_an_answer() {
    let (listener, requests) = Requests::start(limits()).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        closed(&mut stream).await;
    };
    let ((), outcome) = tokio::join!(server, requests.post(LARGE));
    assert_eq!(outcome, Ok((413, b"no".to_vec())));
}

/// A server that answers as it reads gets the rest, and the connection is good.
#[tokio::test]
async fn a_success_before_the_request_ends_does_not_end_it() {
    let (listener, requests) = Requests::start(limits()).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        assert_eq!(request(&mut stream).await.len(), LARGE.len());
        stream.write_all(b"ok").await.unwrap();
        request(&mut stream).await;
        stream.write_all(ANSWER).await.unwrap();
    };
    let client = async {
        assert_eq!(requests.post(LARGE).await, Ok((200, b"ok".to_vec())));
        requests.ok().await;
    };
    tokio::join!(server, client);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_request_breaks_it() {
    let (listener, requests) = Requests::start(limits()).await;
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
        stream.set_zero_linger().unwrap();
    };
    let ((), outcome) = tokio::join!(server, requests.post(LARGE));
    assert!(outcome.unwrap_err().contains("reset"));
}
