//! A handler's consumers change with its specification: nothing of it may stick at what the broker refuses to change.

#![allow(clippy::unwrap_used)] // test code

use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use tidegate_broker_admin::api::{ConsumerConfig, DeliverPolicy};
use tidegate_broker_admin::consumers::{self, ConsumersFailure, Handler, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_test_broker::TestBroker;

fn handler(max_ack_pending: i64) -> Handler {
    Handler {
        name: "billing".into(),
        uid: "u1".into(),
        replicas: 1,
        ack_wait: Duration::from_secs(30),
        max_ack_pending,
        types: vec!["order.*".into()],
        start: Start::Earliest,
        order: Order::None,
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
    let js = jetstream::new(broker.operator());
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
