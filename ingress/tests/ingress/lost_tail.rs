//! A stream that has lost its end after an unclean stop: the ingress beside it tells the operator which events are gone.

use async_nats::Subscriber;
use futures::StreamExt as _;
use http::StatusCode;
use tidegate_broker_client::contract::{IngressReport, LostTail, StreamProgress};
use tidegate_broker_client::layout::EVENT_STREAM;
use tidegate_cloudevents::Event;
use tidegate_test_broker::{LIMIT, TestBroker, flip_bytes};

use crate::support::{Running, events, start};

const EVENTS: u64 = 100;

async fn publish(ingress: &Running, id: u64) {
    let event = Event::builder(&id.to_string(), "/s", "t").data(vec![b'x'; 1000]).build().unwrap();
    assert_eq!(ingress.publish(&event).await.status, StatusCode::ACCEPTED, "event {id}");
}

/// What the ingress says next of how far the stream is.
async fn progress(reports: &mut Subscriber) -> StreamProgress {
    loop {
        let message = tokio::time::timeout(LIMIT, reports.next()).await.unwrap().unwrap();
        if let IngressReport::Progress(progress) = serde_json::from_slice(&message.payload).unwrap() {
            return progress;
        }
    }
}

#[tokio::test]
async fn an_acknowledged_event_whose_number_is_used_again_is_reported_as_lost() {
    let mut broker = TestBroker::start().await;
    let ingress = start(&broker).await;
    let mut reports = broker.ingress_reports().await;
    for id in 1..=EVENTS {
        publish(&ingress, id).await;
    }
    while progress(&mut reports).await.acknowledged < Some(EVENTS) {}
    broker.stop();
    let blocks = broker.blocks(0, EVENT_STREAM);
    flip_bytes(blocks.last().unwrap());
    broker.restart().await;
    ingress.until_ready().await;
    let mut reports = broker.ingress_reports().await;
    let kept = u64::try_from(events(&broker).await.len()).unwrap();
    assert!(kept < EVENTS, "the end is gone");
    // The same event again is a new one to a server that has lost it; others are stored behind it.
    for id in EVENTS..EVENTS + 3 {
        publish(&ingress, id).await;
    }
    let said = progress(&mut reports).await;
    let LostTail { first, last, noticed } = said.lost.expect("a loss");
    assert_eq!((first, last), (kept + 1, EVENTS));
    assert!(noticed > 1_700_000_000, "{noticed}");
    assert!((kept + 1..=kept + 3).contains(&said.acknowledged.expect("it is new")), "{said:?}");
    let said = progress(&mut reports).await;
    assert_eq!(
        (said.acknowledged, said.lost),
        (Some(kept + 3), Some(LostTail { first, last, noticed })),
        "the same loss"
    );
}
