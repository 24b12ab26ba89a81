//! A handler's consumers change with its specification: nothing of it may stick at what the broker refuses to change.

use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use futures::StreamExt as _;
use tidegate_broker_admin::api::{ConsumerConfig, DeliverPolicy};
use tidegate_broker_admin::consumers::{self, ConsumersFailure, Handler, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_test_broker::{TestBroker, eventually};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

/// What is delivered comes within this time.
const WAIT: Duration = Duration::from_secs(20);

fn handler(max_ack_pending: i64) -> Handler {
    Handler {
        name: "billing".into(),
        uid: "u1".into(),
        ack_wait: Duration::from_secs(30),
        max_ack_pending,
        types: vec!["order.*".into()],
        start: Start::Earliest,
        order: Order::None,
        is_suspended: false,
        is_draining: false,
    }
}

async fn found(broker: &TestBroker) -> ConsumerConfig {
    consumers::list(&broker.admin()).await.unwrap().remove(0).config
}

/// The first version had a bound on open pulls that followed the number of pods, and no change beyond it was possible.
#[tokio::test]
async fn a_consumer_of_an_earlier_version_changes_but_for_what_the_broker_never_changes() {
    let broker = TestBroker::start().await;
    let earlier = ConsumerConfig {
        max_waiting: 16,
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: 1 },
        ..handler(32).configs().remove(0)
    };
    broker.admin().put_consumer(layout::EVENT_STREAM, &earlier).await.unwrap();
    for max_ack_pending in [160, 1000 * 4096 * 1000 * 2, 32] {
        consumers::ensure(&broker.admin(), &handler(max_ack_pending), &Position::default()).await.unwrap();
        let found = found(&broker).await;
        assert_eq!((found.max_ack_pending, found.max_waiting), (max_ack_pending, 16));
        assert_eq!(found.deliver_policy, DeliverPolicy::ByStartSequence { start_sequence: 1 });
    }
}

#[tokio::test]
async fn what_the_broker_refuses_for_good_is_told_from_what_passes() {
    let mut broker = TestBroker::start().await;
    let js = broker.jetstream();
    // One that pushes cannot become one that is pulled from.
    let pushes = consumer::push::Config {
        durable_name: Some("billing".into()),
        deliver_subject: "somewhere".into(),
        metadata: handler(32).configs().remove(0).metadata,
        ..Default::default()
    };
    let stream = js.get_stream(layout::EVENT_STREAM).await.unwrap();
    stream.create_consumer(pushes).await.unwrap();
    let refused = consumers::ensure(&broker.admin(), &handler(32), &Position::default()).await.unwrap_err();
    assert!(matches!(&refused, ConsumersFailure::Refused { name, .. } if name == "billing"), "{refused:?}");
    assert!(refused.to_string().contains("billing"), "{refused}");
    broker.stop();
    let away = consumers::ensure(&broker.admin(), &handler(32), &Position::default()).await.unwrap_err();
    assert!(!matches!(away, ConsumersFailure::Refused { .. }), "{away:?}");
}

/// 1,024 consumers: more than the 1,000 that a server takes of a stream where nothing is said.
#[tokio::test]
async fn many_handlers_of_many_lanes_fit_on_one_topic() {
    let broker = TestBroker::start().await;
    for number in 0..32 {
        let handler = Handler { name: format!("handler-{number}"), order: Order::Key { lanes: 32 }, ..handler(32) };
        let made = consumers::ensure(&broker.admin(), &handler, &Position::default()).await;
        made.unwrap_or_else(|failure| panic!("handler {number}: {failure}"));
    }
    assert_eq!(consumers::list(&broker.admin()).await.unwrap().len(), 1024);
}

#[tokio::test]
async fn a_stream_that_takes_no_further_consumer_is_said_and_takes_one_when_another_goes() {
    let broker = TestBroker::start().await;
    let js = broker.jetstream();
    js.delete_stream(layout::EVENT_STREAM).await.unwrap();
    let bounded = jetstream::stream::Config {
        name: layout::EVENT_STREAM.into(),
        subjects: vec!["events.>".into()],
        max_consumers: 1,
        ..Default::default()
    };
    js.create_stream(bounded).await.unwrap();
    let other = Handler { name: "shipping".into(), ..handler(32) };
    let ensure = async |handler: &Handler| consumers::ensure(&broker.admin(), handler, &Position::default()).await;
    ensure(&handler(32)).await.unwrap();
    ensure(&handler(64)).await.expect("a change of one that is there");
    let full = ensure(&other).await.unwrap_err();
    assert!(matches!(&full, ConsumersFailure::Full { name, .. } if name == "shipping"), "{full:?}");
    assert!(full.to_string().contains("maximum consumers limit"), "{full}");
    consumers::delete(&broker.admin(), "billing").await.unwrap();
    ensure(&other).await.unwrap();
}

/// Takes so many events without acknowledging them, or those that are delivered in this time.
async fn take(broker: &TestBroker, count: usize, within: Duration) -> Vec<jetstream::Message> {
    let js = broker.jetstream();
    let consumer: consumer::PullConsumer = js.get_consumer_from_stream("billing", layout::EVENT_STREAM).await.unwrap();
    let pull = consumer.batch().max_messages(count).expires(within).messages().await.unwrap();
    pull.map(Result::unwrap).collect().await
}

/// What is delivered within a moment.
async fn delivered(broker: &TestBroker) -> usize {
    take(broker, 10, Duration::from_millis(300)).await.len()
}

fn texts(messages: &[jetstream::Message]) -> Vec<&str> {
    messages.iter().map(|message| std::str::from_utf8(&message.payload).unwrap()).collect()
}

#[tokio::test]
async fn a_suspended_handler_keeps_its_events_and_continues_where_it_was() {
    let mut broker = TestBroker::start().await;
    let suspended = Handler { is_suspended: true, ..handler(32) };
    let ensure = async |broker: &TestBroker, handler: &Handler| {
        consumers::ensure(&broker.admin(), handler, &Position::default()).await.unwrap()
    };
    let publish = async |broker: &TestBroker, text: &'static str| {
        let js = broker.jetstream();
        js.publish("events.0.order.new", text.into()).await.unwrap().await.unwrap();
    };
    // One that is made while its handler is suspended delivers nothing from its first moment.
    broker.admin().put_consumer(layout::EVENT_STREAM, &suspended.configs().remove(0)).await.unwrap();
    publish(&broker, "1").await;
    publish(&broker, "2").await;
    assert_eq!(delivered(&broker).await, 0);
    broker.restart().await;
    broker.until_back().await;
    assert_eq!(delivered(&broker).await, 0);
    ensure(&broker, &handler(32)).await;
    let in_flight = take(&broker, 2, WAIT).await;
    assert_eq!(texts(&in_flight), ["1", "2"]);
    ensure(&broker, &suspended).await;
    // What is in flight can still be settled, either way.
    in_flight[0].double_ack().await.unwrap();
    in_flight[1].double_ack_with(jetstream::AckKind::Nak(None)).await.unwrap();
    publish(&broker, "3").await;
    assert_eq!(delivered(&broker).await, 0);
    // Another change does not end it.
    ensure(&broker, &Handler { max_ack_pending: 64, ..suspended }).await;
    assert_eq!(delivered(&broker).await, 0);
    assert_eq!(found(&broker).await.pause_until.as_deref(), Some(layout::SUSPENDED_UNTIL));
    ensure(&broker, &handler(64)).await;
    let mut resumed = take(&broker, 2, WAIT).await;
    resumed.sort_by(|one, other| one.payload.cmp(&other.payload));
    assert_eq!(texts(&resumed), ["2", "3"], "none of what was acknowledged");
    assert_eq!(delivered(&broker).await, 0, "each once");
}

/// Whoever lets the stream come down to one copy ends that pause: a handler's reconcile in the middle of it does not.
#[tokio::test]
async fn a_pause_of_a_moment_is_left_alone_and_a_longer_one_is_ended() {
    let broker = TestBroker::start().await;
    let ensure = async |handler: Handler| {
        consumers::ensure(&broker.admin(), &handler, &Position::default()).await.unwrap();
    };
    // The broker tells of a change a moment after it took it.
    let becomes = async |is_so: &dyn Fn(Option<&str>) -> bool| {
        eventually("so paused", async || is_so(found(&broker).await.pause_until.as_deref())).await;
    };
    let pause = async |seconds: i64| {
        let before = found(&broker).await.pause_until;
        let until = (OffsetDateTime::now_utc() + time::Duration::seconds(seconds)).format(&Rfc3339).unwrap();
        broker.admin().pause_consumer(layout::EVENT_STREAM, "billing", Some(&until)).await.unwrap();
        becomes(&|now| now.is_some() && now != before.as_deref()).await;
    };
    ensure(handler(32)).await;
    pause(50).await;
    ensure(handler(32)).await;
    sleep(Duration::from_millis(500)).await;
    becomes(&|now| now.is_some()).await;
    pause(3600).await;
    ensure(handler(32)).await;
    becomes(&|now| now.is_none()).await;
    // A handler that is suspended meanwhile is.
    pause(50).await;
    ensure(Handler { is_suspended: true, ..handler(32) }).await;
    becomes(&|now| now == Some(layout::SUSPENDED_UNTIL)).await;
}
