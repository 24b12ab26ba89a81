//! Containers that do not behave: each has an outcome, bounded memory, and nothing is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::ingress::Ingress;
use crate::support::{
    Container, HANDLER, Hold, Hostile, Misdeed, Process, Running, all_settled, config, dead_letters, eventually,
    header, publish, publish_all,
};
use tidegate_broker_client::contract::{Format, Sidecar};
use tidegate_broker_client::{layout, peer};
use tidegate_cloudevents::Event;
use tidegate_test_broker::TestBroker;
use tidegate_test_broker::hostile::{Attack, HostileBroker};

const ACK_WAIT: Duration = Duration::from_secs(10);

/// One event to such a container: how many requests it saw, and the reason, status and error of the dead letter.
async fn meet(misdeed: Misdeed) -> (usize, Option<[String; 3]>) {
    meet_as(misdeed, |_| ()).await
}

/// The same with a handler that asks for more.
async fn meet_as(misdeed: Misdeed, change: impl FnOnce(&mut Sidecar)) -> (usize, Option<[String; 3]>) {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Hostile::start(misdeed.clone()).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    // The other answers must be judged before that, however busy the machine is.
    if let Misdeed::Sleeps | Misdeed::Repeats("\r\n", _) = misdeed {
        config.delivery.timeout = Duration::from_millis(400);
    }
    change(&mut config);
    let _sidecar = Running::ready(config).await;
    publish(&broker, "1").await;
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    let names = ["Tidegate-Reason", "Tidegate-Last-Status", "Tidegate-Last-Error"];
    let letter = letters.first().map(|letter| names.map(|name| header(letter, name).to_owned()));
    assert!(container.requests().iter().all(|line| line.starts_with("POST /events ")), "{:?}", container.requests());
    (container.requests().len(), letter)
}

#[tokio::test]
async fn what_is_no_answer_is_an_attempt() {
    for (misdeed, expected) in [
        (Misdeed::Resets, "reset"),
        (Misdeed::Sleeps, "no answer within 400ms"),
        (Misdeed::Says("220 smtp.example.com ESMTP\r\n"), "invalid HTTP version"),
        (Misdeed::Says("HTTP/1.1 200 OK\r\ncontent-le"), "connection closed"),
        (Misdeed::Says("HTTP/1.1 100 Continue\r\n\r\n"), "connection closed"),
        (Misdeed::Floods("HTTP/1.1 200 OK\r\nx: "), "too large"),
        (Misdeed::Repeats("HTTP/1.1 102 Processing\r\n\r\n", Duration::ZERO), "too many interim responses"),
        (Misdeed::Repeats("HTTP/1.1 200 OK\r\n", Duration::ZERO), "malformed"),
        (Misdeed::Repeats("\r\n", Duration::from_millis(10)), "no answer within 400ms"),
        (Misdeed::Says("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"), "content-length"),
    ] {
        let (requests, letter) = meet(misdeed.clone()).await;
        let [reason, status, error] = letter.unwrap();
        assert_eq!((requests, reason.as_str(), status.as_str()), (3, "attempts-used-up", ""), "{misdeed:?}");
        assert!(error.contains(expected), "{misdeed:?}: {error}");
    }
}

/// Where a 2xx may say more than that, one whose body breaks off says nothing.
#[tokio::test]
async fn half_of_an_answer_that_matters_is_an_attempt() {
    let says = |headers: &'static str| Misdeed::Says(headers);
    let failed = says("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"failed\":[");
    let batch = Format::Batch { max_events: 5, max_wait: Duration::from_millis(10) };
    let of_batch = meet_as(failed, |config| config.delivery.format = batch).await;
    let ingress = Ingress::start().await;
    let reply = says(
        "HTTP/1.1 200 OK\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-type: t\r\nce-source: /s\r\ncontent-length: 9\r\n\r\nhalf",
    );
    let of_reply = meet_as(reply, |config| config.reply = Some(ingress.topic_address())).await;
    // Near 2^64, and beyond it.
    let chunk = says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nhalf");
    let of_endless_chunk = meet_as(chunk, |config| config.reply = Some(ingress.topic_address())).await;
    let rubbish = says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10000000000000000\r\nhalf");
    let of_rubbish = meet_as(rubbish, |config| config.delivery.format = batch).await;
    for (requests, letter) in [of_batch, of_reply, of_endless_chunk, of_rubbish] {
        let [reason, status, error] = letter.unwrap();
        assert_eq!((requests, reason.as_str(), status.as_str()), (3, "attempts-used-up", ""));
        assert!(error.contains("the body of a 200 is incomplete"), "{error}");
    }
    assert!(ingress.came().is_empty());
}

#[tokio::test]
async fn what_is_not_followed_is_final() {
    for (answer, status) in [
        ("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", "101"),
        ("HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "302"),
        ("HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "307"),
    ] {
        let (requests, letter) = meet(Misdeed::Says(answer)).await;
        let [reason, found, _] = letter.unwrap();
        assert_eq!((requests, reason.as_str(), found.as_str()), (1, "refused-by-handler", status));
    }
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(meet(Misdeed::Says(hints)).await, (1, None), "before a final answer it is no answer");
}

/// The second one is no one's answer: the event after it would be taken for refused.
#[tokio::test]
async fn a_second_answer_answers_nothing() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let twice = "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let container = Hostile::start(Misdeed::Answers(twice)).await;
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.concurrency = 1;
    let _sidecar = Running::ready(config).await;
    publish_all(&broker, (0..16).map(|id| id.to_string())).await;
    all_settled(&broker).await;
    assert_eq!(dead_letters(&broker).await.len(), 0);
    assert_eq!(container.requests().len(), 16);
}

/// A container that does not read what it refuses.
#[tokio::test]
async fn an_answer_before_the_request_ends_is_an_answer() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let refuses = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
    let container = Hostile::start(Misdeed::Answers(refuses)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let event = Event::builder("1", "/s", "t").data(vec![b'x'; 900_000]).build().unwrap();
    crate::support::store(&broker, &event, &[]).await;
    all_settled(&broker).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(header(&letters[0], "Tidegate-Last-Status"), "413");
}

/// Each answer has a body of 1 GB, or one without an end.
#[tokio::test]
async fn a_flood_is_cut_off_and_takes_no_memory() {
    for (head, letters) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n", 0),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", 0),
        ("HTTP/1.1 400 Bad Request\r\ncontent-length: 1000000000\r\n\r\n", 32),
    ] {
        let broker = TestBroker::start().await;
        let identity = broker.handler(HANDLER, ACK_WAIT).await;
        let container = Hostile::start(Misdeed::Floods(head)).await;
        let process = Process::start(&config(&broker, identity, container.port, ACK_WAIT)).await;
        publish_all(&broker, (0..32).map(|i| i.to_string())).await;
        all_settled(&broker).await;
        assert_eq!(container.requests().len(), 32, "each was handled by its first answer");
        assert_eq!(dead_letters(&broker).await.len(), letters);
        assert!(process.peak() <= 24 * 1024, "{} KiB", process.peak());
    }
}

#[tokio::test]
async fn one_slow_event_does_not_hold_up_the_rest() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::start().await;
    container.hold(Hold::Event("0"));
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.concurrency = 4;
    config.delivery.timeout = Duration::from_secs(600);
    let _sidecar = Running::ready(config).await;
    publish_all(&broker, (0..256).map(|i| i.to_string())).await;
    eventually("all are delivered", async || container.count() == 256).await;
    container.hold(Hold::Nothing);
    all_settled(&broker).await;
    assert_eq!(container.count(), 256);
}

/// 128 events of 1 MB, all of which there are permits for, to a container that takes its time.
#[tokio::test]
async fn large_events_are_bounded_by_their_bytes() {
    const EVENTS: usize = 128;
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (204, Duration::from_millis(700))).await;
    let context = broker.jetstream();
    for id in 0..EVENTS {
        let event = Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 1 << 20]).build().unwrap();
        let (headers, payload) = peer::encode(&event);
        context.publish_with_headers(layout::event_subject(0, "t"), headers, payload).await.unwrap().await.unwrap();
    }
    let mut config = config(&broker, identity, container.port, ACK_WAIT);
    config.delivery.concurrency = 256;
    let process = Process::start(&config).await;
    let mut most = 0;
    let settled = async {
        all_settled(&broker).await;
    };
    let watched = async {
        loop {
            most = most.max(crate::support::in_flight(&broker).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! { () = settled => {} () = watched => {} }
    assert_eq!(container.ids().into_iter().collect::<BTreeSet<_>>().len(), EVENTS);
    assert_eq!(container.count(), EVENTS, "none twice");
    // 16 MiB, and what two requests of 8 MiB bring.
    assert!((8..=33).contains(&most), "{most} events in hand");
    assert!(process.peak() <= 96 * 1024, "{} KiB", process.peak());
}

/// A broker that means harm, for whoever can take the topic's name and certificate: the sidecar outlives it.
#[tokio::test]
async fn a_broker_that_means_harm_does_not_end_the_sidecar() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container = Container::answering(|_| (204, Duration::ZERO)).await;
    for attack in [
        Attack::Send(b"MSG a.b 1 18446744073709551600\r\n".to_vec()),
        Attack::Send(b"-ERR\r\nHMSG a 1 18 18\r\nNATS/1.0 99999\r\n\r\n\r\nno such thing\r\n".to_vec()),
        Attack::Flood(vec![b'x'; 1 << 16]),
    ] {
        let hostile = HostileBroker::start(broker.authority(), attack.clone()).await;
        let servers = vec![hostile.address.clone()];
        let config = Sidecar { servers, ..config(&broker, identity.clone(), container.port, ACK_WAIT) };
        let process = Process::start(&config).await;
        eventually("it has come again and again", async || hostile.clients() >= 4).await;
        let alive = tokio::net::TcpStream::connect(("127.0.0.1", config.admin_port)).await;
        assert!(alive.is_ok(), "it is gone after {attack:?}");
        assert!(process.peak() <= 64 * 1024, "{} KiB", process.peak());
    }
}
