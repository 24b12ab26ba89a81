//! The stream of events that wait for their time, on a real nats-server.

use std::time::Duration;

use async_nats::jetstream::Context;
use tidegate_broker_admin::later::Later;
use tidegate_broker_admin::schedules::{self, Schedule};
use tidegate_broker_admin::streams::{self, Topic};
use tidegate_broker_client::later;
use tidegate_cloudevents::Event;
use tidegate_test_broker::{TestBroker, eventually, topic};
use tidegate_wire::nats::HeaderBlock;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const KEY: &str = "0123456789012345678901234567890123456789012";

fn with_later(max_bytes: i64) -> Topic {
    Topic {
        later: Some(Later { max_bytes, max_delay: Some(Duration::from_secs(3600)), has_schedules: false }),
        ..topic()
    }
}

async fn delay(broker: &TestBroker, key: &str, after: time::Duration, payload: &[u8]) {
    let at = (OffsetDateTime::now_utc() + after).format(&Rfc3339).unwrap();
    let mut headers = HeaderBlock::new();
    headers.append(later::SCHEDULE, &format!("@at {at}")).unwrap();
    headers.append(later::TARGET, &later::due_subject(key)).unwrap();
    broker.admin().publish(&later::delayed_subject(key), Some(&headers), payload).await.unwrap();
}

async fn messages(js: &Context) -> Option<(u64, i64, Vec<String>)> {
    let stream = js.get_stream(later::STREAM).await.ok()?;
    let info = stream.cached_info();
    Some((info.state.messages, info.config.max_bytes, info.config.subjects.clone()))
}

/// A topic that takes no such events any more still publishes those that it has taken, and only then has no stream.
#[tokio::test]
async fn the_stream_goes_when_nothing_waits_any_more() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    assert_eq!(messages(&js).await, None, "a topic that asks for nothing has none");
    let made = streams::ensure(&broker.admin(), &with_later(4 << 20)).await.unwrap();
    assert_eq!(made.refused, None);
    delay(&broker, KEY, time::Duration::seconds(2), b"x").await;
    for _ in 0..2 {
        assert_eq!(streams::ensure(&broker.admin(), &topic()).await.unwrap().refused, None);
        let (messages, _, subjects) = messages(&js).await.unwrap();
        assert_eq!((messages, subjects), (1, vec![later::DUE_SUBJECTS.to_owned()]), "it takes no more");
    }
    let stream = js.get_stream(later::STREAM).await.unwrap();
    let info = stream.cached_info();
    assert!(!info.config.metadata.contains_key(later::MAX_DELAY), "{:?}", info.config.metadata);
    eventually("the event is due", async || {
        stream.get_last_raw_message_by_subject(&later::due_subject(KEY)).await.is_ok()
    })
    .await;
    streams::ensure(&broker.admin(), &topic()).await.unwrap();
    assert_eq!(messages(&js).await.map(|(messages, _, _)| messages), Some(1), "it is not stored yet");
    let sequence = stream.get_last_raw_message_by_subject(&later::due_subject(KEY)).await.unwrap().sequence;
    broker.admin().delete_message(later::STREAM, sequence).await.unwrap();
    streams::ensure(&broker.admin(), &topic()).await.unwrap();
    assert_eq!(messages(&js).await, None);
}

/// Such a stream drops its oldest messages when it is full: a smaller share must not do that.
#[tokio::test]
async fn a_smaller_share_drops_nothing() {
    let broker = TestBroker::start_with(with_later(8 << 20)).await;
    let js = broker.jetstream();
    for number in 0..4 {
        delay(&broker, &format!("{number}{}", &KEY[1..]), time::Duration::hours(1), &[0; 512 << 10]).await;
    }
    assert_eq!(streams::ensure(&broker.admin(), &with_later(1 << 20)).await.unwrap().refused, None);
    let (count, max_bytes, _) = messages(&js).await.unwrap();
    assert_eq!(count, 4);
    assert!((4 << 20..8 << 20).contains(&max_bytes), "{max_bytes}");
    js.get_stream(later::STREAM).await.unwrap().purge().await.unwrap();
    streams::ensure(&broker.admin(), &with_later(1 << 20)).await.unwrap();
    assert_eq!(messages(&js).await.unwrap().1, 1 << 20);
}

fn schedule(name: &str, pattern: &str) -> Schedule {
    let event = Event::builder(name, "/schedules", "report.due").data("{}").build().unwrap();
    Schedule { name: name.into(), pattern: pattern.into(), time_zone: None, event }
}

/// What is in the stream of the schedules: their sequences and patterns.
async fn there(broker: &TestBroker) -> Vec<(u64, String)> {
    let (mut there, mut from) = (Vec::new(), 1);
    while let Some(message) = broker.admin().next_message(later::STREAM, later::SCHEDULE_SUBJECTS, from).await.unwrap()
    {
        from = message.sequence + 1;
        there.push((message.sequence, message.headers().unwrap().get(later::SCHEDULE).unwrap().to_owned()));
    }
    there
}

#[tokio::test]
async fn schedules_are_added_changed_removed_and_else_left_alone() {
    let schedules = Some(Later { max_bytes: 1 << 20, max_delay: None, has_schedules: true });
    let with = Topic { later: schedules, ..topic() };
    let broker = TestBroker::start_with(with.clone()).await;
    let admin = broker.admin();
    let patterns = async || there(&broker).await.into_iter().map(|(_, pattern)| pattern).collect::<Vec<_>>();
    let (nightly, often) = (schedule("nightly", "0 0 2 * * *"), schedule("often", "@every 3600s"));
    assert_eq!(schedules::ensure(&admin, &[nightly.clone(), often.clone()]).await.unwrap(), []);
    assert_eq!(patterns().await, ["0 0 2 * * *", "@every 3600s"]);
    let before = there(&broker).await;
    assert_eq!(schedules::ensure(&admin, &[often.clone(), nightly.clone()]).await.unwrap(), []);
    assert_eq!(there(&broker).await, before, "their next times stay");
    let changed = Schedule { pattern: "0 0 3 * * *".into(), ..nightly.clone() };
    let other = Event::builder("often", "/schedules", "other").data("{}").build().unwrap();
    schedules::ensure(&admin, &[changed, Schedule { event: other, ..often.clone() }]).await.unwrap();
    assert_eq!(patterns().await, ["0 0 3 * * *", "@every 3600s"]);
    assert!(there(&broker).await.iter().zip(&before).all(|(now, before)| now.0 > before.0));
    // The broker is the judge; one that it does not take is not there in an older form.
    let never = Schedule { pattern: "0 0 0 31 2 *".into(), ..nightly.clone() };
    let nowhere = Schedule { time_zone: Some("Nowhere/Else".into()), ..often.clone() };
    let refused = schedules::ensure(&admin, &[never, nowhere, schedule("new", "@every 60s")]).await.unwrap();
    let names: Vec<_> = refused.iter().map(|refused| (&*refused.name, refused.why.contains("invalid"))).collect();
    assert_eq!(names, [("nightly", true), ("often", true)], "{refused:?}");
    assert_eq!(patterns().await, ["@every 60s"]);
    // A topic without schedules has none, and no stream for them.
    for _ in 0..2 {
        if streams::ensure(&admin, &topic()).await.unwrap().has_later {
            assert_eq!(schedules::ensure(&admin, &[]).await.unwrap(), []);
        }
    }
    streams::ensure(&admin, &topic()).await.unwrap();
    assert_eq!(messages(&broker.jetstream()).await, None);
}
