//! Where there is no room on the shelf, or none for dead letters.

use super::*;

/// A dead letter that a topic for dead letters does not take waits like one for which there is no room beside the
/// topic.
#[tokio::test]
async fn while_the_topic_for_dead_letters_is_away_events_wait_on_the_shelf() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    let container =
        Container::answering(|request| (if request.id() == "bad" { 422 } else { 204 }, Duration::ZERO)).await;
    let away = TopicAddress {
        topic: "letters".into(),
        url: format!("https://127.0.0.1:{}/", crate::support::free_port()),
        ca: identity.join("ca.crt"),
        message_id_key: identity.join("none"),
    };
    let config = Sidecar { dead_letter: Some(away), ..config(&broker, identity, container.port, ACK_WAIT) };
    let _sidecar = Running::ready(config).await;
    publish(&broker, "bad").await;
    publish(&broker, "good").await;
    eventually("it is on the shelf", async || shelved(&broker).await == 1).await;
    all_settled(&broker).await;
    assert_eq!((container.count(), shelved(&broker).await), (2, 1), "the handler is not called again");
}

/// No room for copies: the events wait in the window, as if there were no shelf, and none is lost.
#[tokio::test]
async fn without_room_on_the_shelf_events_wait_where_they_are() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    bound(&broker, layout::retry_stream(HANDLER), 1).await;
    let container = Container::responding(|request| {
        let first = request.header("ce-tidegateattempt") == "1";
        (if first { asks(500, "6") } else { fine() }, Duration::ZERO)
    })
    .await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let ids = publish_all(&broker, (0..10).map(|i| i.to_string())).await;
    eventually("all have failed", async || container.count() >= 10).await;
    all_settled(&broker).await;
    assert_eq!(shelved(&broker).await, 0);
    let ids: BTreeSet<_> = ids.into_iter().collect();
    let again = container.received().into_iter().filter(|request| request.header("ce-tidegateattempt") == "2");
    assert_eq!(again.map(|request| request.id()).collect::<BTreeSet<_>>(), ids);
    assert_eq!(container.count(), 20);
}

/// No room for dead letters: the events wait on the shelf, their handler is not called again, and others are delivered.
#[tokio::test]
async fn without_room_for_dead_letters_events_wait_on_the_shelf() {
    let broker = TestBroker::start().await;
    let identity = broker.handler_with(narrow()).await;
    bound(&broker, layout::dead_letter_stream(HANDLER), 1).await;
    let container =
        Container::answering(|request| (if request.id().starts_with("bad") { 422 } else { 204 }, Duration::ZERO)).await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    let bad: BTreeSet<_> = publish_all(&broker, (0..40).map(|i| format!("bad-{i}"))).await.into_iter().collect();
    publish_all(&broker, (0..100).map(|i| format!("good-{i}"))).await;
    all_settled(&broker).await;
    assert_eq!(shelved(&broker).await, 40);
    bound(&broker, layout::dead_letter_stream(HANDLER), 64 << 20).await;
    shelf_is_empty(&broker).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.iter().map(|letter| header(letter, "ce-id").to_owned()).collect::<BTreeSet<_>>(), bad);
    assert_eq!(letters.len(), 40);
    for letter in &letters {
        assert_eq!(header(letter, "Tidegate-Reason"), "refused-by-handler");
        assert_eq!(header(letter, "Tidegate-Attempts"), "1");
    }
    assert_eq!(container.count(), 140, "the handler is called once for each");
}

/// What no one lived to tell of is not forgotten on the way to the shelf: an event that ends each pod is not delivered
/// again because there was no room for its letter.
#[tokio::test]
async fn without_room_for_its_letter_an_event_that_never_finishes_is_not_delivered() {
    let broker = TestBroker::start().await;
    let identity = broker.handler(HANDLER, ACK_WAIT).await;
    bound(&broker, layout::dead_letter_stream(HANDLER), 1).await;
    publish(&broker, "1").await;
    for _ in 0..2 * 3 + 10 + 1 {
        crate::support::take_and_give_back(&broker).await;
    }
    let container = Container::start().await;
    let _sidecar = Running::ready(config(&broker, identity, container.port, ACK_WAIT)).await;
    all_settled(&broker).await;
    assert_eq!(crate::support::ever_shelved(&broker).await, 1);
    bound(&broker, layout::dead_letter_stream(HANDLER), 64 << 20).await;
    shelf_is_empty(&broker).await;
    assert_eq!(container.count(), 0);
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.iter().map(|letter| header(letter, "Tidegate-Reason")).collect::<Vec<_>>(), ["never-finished"]);
}
