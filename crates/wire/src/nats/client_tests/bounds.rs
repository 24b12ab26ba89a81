//! What a server does not read, or does not answer, costs a bounded amount of memory.

use super::*;
use crate::nats::decode::ServerInfo;

/// A server that does not read is sent no more than fits, and gets no PONGs.
#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_costs_no_memory() {
    let client = client(&Arc::default());
    let (mut server, task) = connect(&client);
    let mut published = 0;
    while client.try_publish(&message("a", &[0; 100])).is_ok() {
        published += 1;
        tokio::task::yield_now().await;
    }
    assert!(published < 100, "{published}");
    let pings = "PING\r\n".repeat(600);
    server.write_all(pings.as_bytes()).await.unwrap();
    tokio::task::yield_now().await;
    assert!(!client.shared().lock().has_room(&client.shared().options));
    task.await.unwrap();
    assert!(client.try_publish(&message("a", b"")).is_ok(), "what was handed to the connection is lost with it");
}

/// What was read from a server that waits for no more: all that is on its way.
async fn drain(server: &mut DuplexStream) -> usize {
    let (mut read, mut buffer) = (0, [0; 1024]);
    while let Ok(Ok(bytes @ 1..)) = timeout(Duration::from_millis(100), server.read(&mut buffer)).await {
        read += bytes;
    }
    read
}

/// Answers that the server does not read would be kept for it without an end.
#[tokio::test(start_paused = true)]
async fn pings_of_a_server_that_does_not_read_are_not_all_answered() {
    let client = client(&Arc::default());
    let (mut server, _task) = connect(&client);
    server.write_all("PING\r\n".repeat(5000).as_bytes()).await.unwrap();
    server.write_all(b"MSG a 1 0\r\n\r\n").await.unwrap();
    while client.statistics().received == 0 {
        tokio::task::yield_now().await;
    }
    let answered = drain(&mut server).await / "PONG\r\n".len();
    assert!((1..2500).contains(&answered), "{answered}");
}

/// A server that answers no PING is sent no more than sixteen.
#[tokio::test]
async fn pings_on_their_way_are_bounded() {
    let client = client(&Arc::default());
    let (mut server, _task) = connect(&client);
    let flush = || drop(client.shared().lock().flush());
    for _ in 0..16 {
        flush();
        hear(&mut server, "PING\r\n").await;
    }
    flush();
    client.publish(&message("a", b"1")).await.unwrap();
    hear(&mut server, "PUB a 1\r\n1\r\n").await;
    server.write_all(b"PONG\r\n").await.unwrap();
    hear(&mut server, "PING\r\n").await;
}

#[tokio::test]
async fn requests_without_an_answer_are_bounded() {
    let client = client(&Arc::default());
    (0..MAX_REQUESTS).for_each(|_| drop(client.shared().lock().request()));
    let refused = client.request(&message("a", b""), Duration::from_secs(5)).await;
    assert_eq!(refused, Err(RequestError::TooMany));
}

#[tokio::test]
async fn what_a_server_says_that_it_takes_is_bounded() {
    let client = client(&Arc::default());
    for (said, believed) in [(7, 7), (0, 7), (64 << 20, 64 << 20), (usize::MAX, 64 << 20)] {
        client.shared().note(&ServerInfo { max_payload: said, ..ServerInfo::default() });
        assert_eq!(client.max_payload(), believed);
    }
}
