//! Clients that begin something and do not finish it take next to nothing from others.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::channel::mpsc;
use futures::future::join_all;
use futures::{SinkExt as _, StreamExt as _, stream};
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2::SendRequest;
use tidegate_ingress::Limits;
use tidegate_test_broker::{LIMIT, TestBroker};
use tokio::task::JoinHandle;

use crate::support::{Running, answer, config, event, events, http2, limits, run};

/// A body of unknown length, piece by piece.
type Pieces = StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

/// An ingress for events of up to 8 MiB; a request may have four times as much.
async fn start_large(broker: &TestBroker, limits: Limits) -> Running {
    let config = config(broker);
    broker.write_topics(|topic| topic.max_event_size = 8 << 20);
    let running = run(&config, limits).await;
    running.until_ready().await;
    running
}

/// A publish in binary mode whose length is not announced.
fn unannounced(id: usize, pieces: impl stream::Stream<Item = Bytes> + Send + 'static) -> Request<Pieces> {
    let request = Request::post("https://localhost/").header("ce-specversion", "1.0").header("ce-id", id);
    let request = request.header("ce-source", "/s").header("ce-type", "t");
    request.body(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))).boxed())).unwrap()
}

/// Issue 8, G4: each of them reserved the largest size at its first byte; the third was answered 503.
#[tokio::test]
async fn a_hundred_publishes_of_unknown_length_over_one_connection_are_taken() {
    let broker = TestBroker::start().await;
    let ingress = start_large(&broker, limits()).await;
    let sender: SendRequest<Pieces> = http2(ingress.connect(b"h2").await).await;
    let publish = |id: usize| {
        let mut sender = sender.clone();
        async move {
            let pieces = stream::iter([Bytes::from_static(b"2"), Bytes::from_static(b"3")]);
            answer(sender.send_request(unannounced(id, pieces)).await.unwrap()).await.status
        }
    };
    assert_eq!(join_all((0..100).map(publish)).await, [StatusCode::ACCEPTED; 100]);
    let stored = events(&broker).await;
    assert_eq!(stored.len(), 100);
    assert!(stored.iter().all(|event| event.data().unwrap() == "23"));
}

/// Issue 8, D5: sixteen streams that dribble turned 25 of 26 other publishers away. Now they hold what has come of
/// them, and end when they are slower than the least rate.
#[tokio::test]
async fn streams_that_dribble_hold_up_nobody_and_end() {
    let broker = TestBroker::start().await;
    let limits = Limits { body: Duration::from_secs(1), ..limits() };
    let ingress = start_large(&broker, limits).await;
    let sender: SendRequest<Pieces> = http2(ingress.connect(b"h2").await).await;
    let started = Instant::now();
    let (mut dribbling, mut answers) = (Vec::new(), Vec::new());
    for id in 0..16 {
        let (mut pieces, body) = mpsc::channel(1);
        pieces.send(Bytes::from_static(b"x")).await.unwrap();
        dribbling.push(tokio::spawn(async move {
            while pieces.send(Bytes::from_static(b"x")).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
        let mut sender = sender.clone();
        answers.push(tokio::spawn(async move {
            answer(sender.send_request(unannounced(id, body)).await.unwrap()).await.status
        }));
    }
    for id in 0..26 {
        assert_eq!(ingress.publish(&event(&id.to_string())).await.status, StatusCode::ACCEPTED);
    }
    for answer in answers {
        let status = tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    }
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    dribbling.iter().for_each(JoinHandle::abort);
    assert_eq!(events(&broker).await.len(), 26);
}

/// What has come fast is no credit: a sender could rest for minutes on a body that is all but complete.
#[tokio::test]
async fn a_body_that_begins_fast_must_go_on() {
    let broker = TestBroker::start().await;
    let ingress = start_large(&broker, Limits { body: Duration::from_secs(1), ..limits() }).await;
    let started = Instant::now();
    let (mut pieces, answer) = begin(&ingress, 1, 4).await;
    let dribbling = tokio::spawn(async move {
        while pieces.send(Bytes::from_static(b"x")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let status = tokio::time::timeout(LIMIT, answer).await.unwrap().unwrap();
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{:?}", started.elapsed());
    dribbling.abort();
}

/// Requests that their sender resets at once (HTTP/2) leave nothing behind that others wait for.
#[tokio::test]
async fn streams_that_are_reset_at_once_hold_up_nobody() {
    let broker = TestBroker::start().await;
    let limits = Limits { requests: 16, publishes: 8, ..limits() };
    let ingress = start_large(&broker, limits).await;
    for round in 0..20 {
        let sender: SendRequest<Pieces> = http2(ingress.connect(b"h2").await).await;
        for id in 0..100 {
            let mut sender = sender.clone();
            // Refused, if the connection was ended for it.
            if sender.ready().await.is_err() {
                break;
            }
            let pieces = stream::iter([Bytes::from_static(b"23")]);
            let sending = sender.send_request(unannounced(round * 100 + id, pieces));
            let _ = tokio::time::timeout(Duration::from_millis(id as u64 % 3), sending).await;
        }
    }
    for id in 0..20 {
        assert_eq!(ingress.publish(&event(&format!("after-{id}"))).await.status, StatusCode::ACCEPTED);
    }
    let after = events(&broker).await.iter().filter(|event| event.id().starts_with("after-")).count();
    assert_eq!(after, 20);
}

/// What really comes does take memory: one client gets no more than half of it.
#[tokio::test]
async fn a_client_that_sends_much_and_never_ends_leaves_room_for_another() {
    let broker = TestBroker::start().await;
    let ingress = start_large(&broker, Limits { body_memory_kib: 0, ..limits() }).await;
    // 16 MiB each, of 32 that there are for a client.
    let first = begin(&ingress, 1, 12).await;
    let second = begin(&ingress, 2, 12).await;
    let (pieces, third) = begin(&ingress, 3, 12).await;
    drop(pieces);
    let status = tokio::time::timeout(LIMIT, third).await.unwrap().unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "there was no room for a third");
    let mut other = http2(ingress.connect_from(2, ingress.https, b"h2").await).await;
    let pieces = stream::iter((0..2).map(|_| Bytes::from(vec![b'x'; 1 << 19])));
    let status = answer(other.send_request(unannounced(9, pieces)).await.unwrap()).await.status;
    assert_eq!(status, StatusCode::ACCEPTED, "from another address");
    drop((first, second));
}

/// A publish over a connection of its own, of which so many MiB have come.
async fn begin(ingress: &Running, id: usize, mebibytes: usize) -> (mpsc::Sender<Bytes>, JoinHandle<StatusCode>) {
    let (mut pieces, body) = mpsc::channel(0);
    let mut sender: SendRequest<Pieces> = http2(ingress.connect(b"h2").await).await;
    let status =
        tokio::spawn(async move { answer(sender.send_request(unannounced(id, body)).await.unwrap()).await.status });
    for _ in 0..mebibytes {
        if pieces.send(Bytes::from(vec![b'x'; 1 << 20])).await.is_err() {
            break;
        }
    }
    (pieces, status)
}
