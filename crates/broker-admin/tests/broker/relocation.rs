//! A handler's place is moved, on a real nats-server.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use tidegate_broker_admin::api::Broker;
use tidegate_broker_admin::consumers::{self, Handler, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::relocation::{self, Floors, NoTarget, Scan, Target};
use tidegate_broker_admin::{guests, handler_streams};
use tidegate_broker_client::contract::{Order, Routing};
use tidegate_broker_client::held_key::Mark;
use tidegate_broker_client::{delivery_info, identity, layout, peer};
use tidegate_test_broker::{TestBroker, answer, eventually, topic_id};
use tidegate_wire::nats::HeaderBlock;
use time::OffsetDateTime;
use tokio::time::Instant;

const NAME: &str = "billing";

fn handler(order: Order, start: Start) -> Handler {
    Handler {
        name: NAME.into(),
        uid: "uid".into(),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 1000,
        types: Vec::new(),
        start,
        order,
        is_suspended: false,
        is_draining: false,
    }
}

/// Stores so many events, each in the partition of its number.
async fn publish(broker: &TestBroker, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        let subject = layout::event_subject(number % layout::PARTITIONS, "t");
        broker.jetstream().publish(subject, number.to_string().into()).await.unwrap().await.unwrap();
    }
}

/// All that a consumer delivers now, acknowledged where that is asked for.
async fn take(broker: &TestBroker, consumer: &str, acknowledge: impl Fn(u64) -> bool) -> Vec<u64> {
    let client = broker.operator();
    let inbox = client.new_inbox();
    let mut messages = client.subscribe(inbox.clone()).await.unwrap();
    let pull = match consumer.contains('_') {
        true => r#"{"batch":500,"expires":1000000000,"group":"owner"}"#,
        false => r#"{"batch":500,"expires":1000000000}"#,
    };
    client.publish_with_reply(layout::pull_subject(consumer), inbox, pull.into()).await.unwrap();
    let mut sequences = Vec::new();
    while let Some(message) = messages.next().await.filter(|message| message.status.is_none()) {
        let reply = message.reply.unwrap();
        let sequence = delivery_info::parse(&reply).unwrap().sequence;
        sequences.push(sequence);
        let answer = if acknowledge(sequence) { "+ACK" } else { r#"-NAK {"delay":600000000000}"# };
        client.request(reply, answer.into()).await.unwrap();
    }
    sequences
}

#[tokio::test]
async fn an_event_is_found_by_place_and_by_time() {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    let resolve = async |start| relocation::resolve(&admin, start, OffsetDateTime::now_utc()).await.unwrap();
    assert_eq!(resolve(Start::Earliest).await, Ok(Target { sequence: 1, time: None }), "an empty topic");
    let before = OffsetDateTime::now_utc();
    publish(&broker, 1..=20).await;
    admin.purge_stream_below(layout::EVENT_STREAM, 6).await.unwrap();
    let mut times = BTreeMap::new();
    for sequence in 6..=20 {
        times.insert(sequence, admin.message(layout::EVENT_STREAM, sequence).await.unwrap().time);
    }
    let at = |sequence: u64| Ok(Target { sequence, time: times.get(&sequence).copied() });
    for (start, expected) in [
        (Start::Latest, at(21)),
        (Start::Earliest, at(6)),
        (Start::Sequence(6), at(6)),
        (Start::Sequence(13), at(13)),
        (Start::Sequence(20), at(20)),
        (Start::Sequence(2), at(6)),
        (Start::Sequence(21), Err(NoTarget::BeyondEnd { sequence: 21, last: 20 })),
        (Start::Time(before - time::Duration::hours(1)), at(6)),
        (Start::Time(times[&13]), at(13)),
        (Start::Time(times[&13] + time::Duration::nanoseconds(1)), at(14)),
        (Start::Time(times[&20] + time::Duration::nanoseconds(1)), at(21)),
        (Start::Time(before + time::Duration::hours(1)), Err(NoTarget::Future)),
    ] {
        assert_eq!(resolve(start).await, expected, "{start:?}");
    }
}

#[tokio::test]
async fn consumers_begin_where_they_are_moved_to_whatever_they_had() {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    for (order, names) in
        [(Order::None, vec![NAME.to_owned()]), (Order::Key { lanes: 2 }, vec!["billing_0".into(), "billing_1".into()])]
    {
        // It began with the topic's end, and goes back before that.
        let wanted = handler(order, Start::Latest);
        let Position { acknowledged: begun, .. } =
            consumers::ensure(&admin, &wanted, &Position::default()).await.unwrap().position;
        let first = *begun.values().min().unwrap();
        publish(&broker, 1..=12).await;
        for name in &names {
            take(&broker, name, |sequence| sequence % 3 == 0).await;
        }
        for after in [first + 4, first, first + 9, first + 12] {
            // As another operator does that does not know how far the one before came.
            for _ in 0..2 {
                relocation::begin_after(&admin, &wanted, after).await.unwrap();
            }
            let mut all = Vec::new();
            for name in &names {
                all.extend(take(&broker, name, |_| false).await);
            }
            all.sort_unstable();
            assert_eq!(all, (after + 1..=first + 12).collect::<Vec<_>>(), "{order:?}");
        }
        let found = consumers::list(&admin).await.unwrap();
        assert!(found.iter().all(|consumer| consumer.num_ack_pending == 0), "{found:?}");
        consumers::delete(&admin, NAME).await.unwrap();
    }
}

/// Lane 0 is far, lane 1 is not, and lane 2 has nothing to do.
#[tokio::test]
async fn every_partition_is_as_far_as_its_lane_was() {
    let broker = TestBroker::start().await;
    let admin = broker.admin();
    let wanted = handler(Order::Key { lanes: 3 }, Start::Earliest);
    let position = consumers::ensure(&admin, &wanted, &Position::default()).await.unwrap().position;
    for partition in [0, 1, 3, 4, 0, 1, 0] {
        broker.jetstream().publish(layout::event_subject(partition, "t"), "".into()).await.unwrap().await.unwrap();
    }
    let ended = admin.message(layout::EVENT_STREAM, 7).await.unwrap().time;
    // Events 1, 3, 5 and 7; 2, 4 and 6.
    assert_eq!(take(&broker, "billing_0", |_| true).await, [1, 3, 5, 7]);
    assert_eq!(take(&broker, "billing_1", |sequence| sequence != 4).await, [2, 4, 6]);
    let floors = relocation::floors(&admin, NAME, 3, &position, 0, &[]).await.unwrap();
    let settled: Vec<u64> = (0..32).map(|partition| if partition % 3 == 1 { 3 } else { 7 }).collect();
    assert_eq!(floors, Floors { after: 3, settled: settled.clone(), settled_before: Some(ended) });
    assert_eq!(relocation::lanes_of(&admin, NAME).await.unwrap(), Some(3));
    // The number changes again while nothing more was done.
    let five = Handler { order: Order::Key { lanes: 5 }, ..wanted };
    relocation::begin_after(&admin, &five, floors.after).await.unwrap();
    assert_eq!(relocation::lanes_of(&admin, NAME).await.unwrap(), Some(5));
    assert_eq!(consumers::list(&admin).await.unwrap().len(), 5);
    let recorded = Position {
        acknowledged: (0..5).map(|lane| (layout::lane_consumer(NAME, lane), floors.after)).collect(),
        ..position
    };
    let again = relocation::floors(&admin, NAME, 5, &recorded, 0, &settled).await.unwrap();
    assert_eq!((again.settled[1], again.settled[4]), (5, 3), "{again:?}");
    assert!((0..32).all(|partition| again.settled[partition] >= settled[partition]), "{again:?}");
    // Once all is done they are equally far.
    for lane in 0..5 {
        take(&broker, &layout::lane_consumer(NAME, lane), |_| true).await;
    }
    let done = relocation::floors(&admin, NAME, 5, &recorded, 0, &settled).await.unwrap();
    assert_eq!(done, Floors { after: 7, ..Floors::default() });
}

#[tokio::test]
async fn who_is_shut_out_is_cut_off_at_once_and_comes_back() {
    let broker = TestBroker::start().await;
    let folder = broker.handler(NAME, Duration::from_secs(30)).await;
    let client = peer::connect("x", &broker.servers(), identity::folder(folder.clone())).await.unwrap();
    let report = async |client: &async_nats::Client| {
        client.publish(layout::report_subject(NAME), "here".into()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(2), client.flush()).await.is_ok_and(|flushed| flushed.is_ok())
            && client.connection_state() == async_nats::connection::State::Connected
    };
    assert!(report(&client).await);
    let system = broker.system().await;
    let uid = format!("uid-{NAME}");
    system.shut_out_handler(broker.authority(), NAME, &uid).await.unwrap();
    eventually("it is cut off", async || client.connection_state() != async_nats::connection::State::Connected).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_ne!(client.connection_state(), async_nats::connection::State::Connected, "it does not come back by itself");
    let account = guests::Handler {
        topic: topic_id(),
        name: NAME.into(),
        uid,
        routing: Routing::Queued,
        order: Order::None,
        pods: 16,
    };
    let account = broker.authority().handler_account(&account, None, OffsetDateTime::now_utc()).unwrap();
    assert!(system.ensure(&account).await.unwrap().is_pushed(), "what is there is not what is wanted");
    eventually("it is connected again", async || report(&client).await).await;
}

struct Shelf {
    _broker: TestBroker,
    admin: Broker,
}

impl Shelf {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let admin = broker.admin();
        handler_streams::ensure(&admin, NAME, "uid").await.unwrap();
        Self { _broker: broker, admin }
    }

    /// Parks an event of a key as an owner of one of so many lanes does.
    async fn park(&self, key: &str, lanes: u16, sequence: u64) {
        let subject = layout::parked_subject(NAME, lane(key, lanes), layout::key_digest(key));
        let mut headers = HeaderBlock::new();
        headers.append(layout::COPY_SEQUENCE_HEADER, &sequence.to_string()).unwrap();
        headers.append("Nats-Msg-Id", &format!("copy-{sequence}")).unwrap();
        headers.append("ce-id", &format!("{key}-{sequence}")).unwrap();
        self.admin.publish(&subject, Some(&headers), b"event").await.unwrap();
    }

    async fn hold(&self, key: &str, lanes: u16, sequence: u64) {
        let mark = serde_json::to_vec(&Mark::new(Some(key.to_owned()), sequence, None)).unwrap();
        let subject = layout::held_subject(NAME, lane(key, lanes), layout::key_digest(key));
        self.admin.publish(&subject, None, &mark).await.unwrap();
    }

    /// What a lane's owner finds of a key: the sequences, and whether it is held.
    async fn found(&self, key: &str, lanes: u16) -> (Vec<u64>, bool) {
        let stream = layout::retry_stream(NAME);
        let digest = layout::key_digest(key);
        let subject = layout::parked_subject(NAME, lane(key, lanes), digest);
        let (mut sequences, mut from) = (Vec::new(), 1);
        while let Some(message) = self.admin.next_message(&stream, &subject, from).await.unwrap() {
            from = message.sequence + 1;
            let headers = message.headers().unwrap();
            let sequence: u64 = headers.get(layout::COPY_SEQUENCE_HEADER).unwrap().parse().unwrap();
            assert_eq!(headers.get("ce-id"), Some(&*format!("{key}-{sequence}")));
            assert_eq!(&message.payload[..], b"event");
            sequences.push(sequence);
        }
        let mark = layout::held_subject(NAME, lane(key, lanes), digest);
        (sequences, self.admin.next_message(&stream, &mark, 1).await.unwrap().is_some())
    }

    async fn count(&self) -> u64 {
        answer(async || self.admin.stream(&layout::retry_stream(NAME)).await).await.state.messages
    }
}

fn lane(key: &str, lanes: u16) -> u16 {
    layout::lane_of(layout::partition(key), lanes)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn what_is_parked_is_found_by_the_owners_of_other_lanes_in_its_order() {
    let shelf = Shelf::start().await;
    for number in 0..5 {
        for key in 0..20 {
            shelf.park(&format!("k{key}"), 4, 100 * number + key).await;
        }
    }
    shelf.hold("k3", 4, 3).await;
    shelf.hold("k8", 4, 8).await;
    for lanes in [8, 3, 32, 1, 4] {
        let mut scan = Scan::begin(&shelf.admin, NAME).await.unwrap();
        let mut steps = 0;
        // One message after the other, and again from the beginning where an operator ended in the middle.
        while !scan.is_over {
            relocation::sort_into_lanes(&shelf.admin, NAME, lanes, &mut scan, Instant::now()).await.unwrap();
            steps += 1;
            if steps == 50 {
                scan = Scan::begin(&shelf.admin, NAME).await.unwrap();
            }
        }
        for key in 0..20 {
            let (sequences, is_held) = shelf.found(&format!("k{key}"), lanes).await;
            assert_eq!(sequences, (0..5).map(|number| 100 * number + key).collect::<Vec<_>>(), "{lanes} lanes, k{key}");
            assert_eq!(is_held, key == 3 || key == 8, "k{key}");
        }
        assert_eq!(shelf.count().await, 102, "nothing is left where it was");
    }
}

/// The operator ends after it has stored a copy, and before it removes the message.
#[tokio::test]
async fn a_copy_that_was_stored_is_not_stored_again() {
    let shelf = Shelf::start().await;
    shelf.park("a", 4, 7).await;
    let stream = layout::retry_stream(NAME);
    let message = shelf.admin.message(&stream, 1).await.unwrap();
    let lanes = (5..=32).find(|lanes| lane("a", *lanes) != lane("a", 4)).unwrap();
    let mut scan = Scan::begin(&shelf.admin, NAME).await.unwrap();
    relocation::sort_into_lanes(&shelf.admin, NAME, lanes, &mut scan, soon()).await.unwrap();
    assert_eq!(shelf.found("a", lanes).await, (vec![7], false));
    // The same message again, as if it had stayed: a stream gives no sequence twice, so its id is what counts.
    let mut headers = HeaderBlock::new();
    headers.append("Nats-Msg-Id", &format!("moved:{}", message.sequence)).unwrap();
    let subject = layout::parked_subject(NAME, lane("a", lanes), layout::key_digest("a"));
    assert!(shelf.admin.publish(&subject, Some(&headers), b"event").await.unwrap().duplicate);
    assert_eq!(shelf.count().await, 1);
}

#[tokio::test]
async fn copies_of_what_is_delivered_again_are_removed_and_no_others() {
    let shelf = Shelf::start().await;
    for sequence in 1..=10 {
        shelf.park(if sequence % 2 == 0 { "even" } else { "odd" }, 8, sequence).await;
    }
    shelf.hold("even", 8, 2).await;
    shelf.hold("odd", 8, 7).await;
    let mut scan = Scan::begin(&shelf.admin, NAME).await.unwrap();
    let mut steps = 0;
    while !scan.is_over {
        relocation::remove_from(&shelf.admin, NAME, 6, &mut scan, Instant::now()).await.unwrap();
        steps += 1;
    }
    assert_eq!(steps, 13, "a step for each of them, and one to see that it is over");
    assert_eq!(shelf.found("even", 8).await, (vec![2, 4], true));
    assert_eq!(shelf.found("odd", 8).await, (vec![1, 3, 5], false), "what held it comes again");
}
