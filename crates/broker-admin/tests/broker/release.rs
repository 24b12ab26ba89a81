//! Room is made of what every handler has settled, and of nothing else, on a real nats-server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use async_nats::jetstream::{self, AckKind};
use futures::StreamExt as _;
use tidegate_broker_admin::api::StreamInfo;
use tidegate_broker_admin::consumers::{self, Handler, Start};
use tidegate_broker_admin::positions::Position;
use tidegate_broker_admin::release::{self, Holder, Places, Release, Room};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::contract::Order;
use tidegate_broker_client::layout;
use tidegate_test_broker::{LIMIT, TestBroker, answer, topic};

const MAX_BYTES: i64 = 1 << 20;
const LANES: u16 = 3;

struct World {
    broker: TestBroker,
    js: jetstream::Context,
}

impl World {
    async fn start() -> Self {
        let topic = Topic { max_bytes: MAX_BYTES, max_message_size: 32 << 10, ..topic() };
        let broker = TestBroker::start_with(topic).await;
        let js = broker.jetstream();
        Self { broker, js }
    }

    async fn info(&self) -> StreamInfo {
        answer(async || self.broker.admin().stream(layout::EVENT_STREAM).await).await
    }

    async fn publish(&self, partition: u32, event_type: &str, size: usize) -> Result<u64, String> {
        let subject = layout::event_subject(partition, event_type);
        let sent = self.js.publish(subject, vec![b'x'; size].into()).await.unwrap();
        sent.await.map(|ack| ack.sequence).map_err(|error| error.to_string())
    }

    /// A consumer as a handler of these types has it, of one lane or of all partitions.
    async fn consumer(&self, handler: &str, types: &[String], lane: Option<u16>) -> Consumer<pull::Config> {
        let partitions = lane.map(|lane| layout::lane_partitions(lane, LANES));
        let name = lane.map_or_else(|| handler.to_owned(), |lane| layout::lane_consumer(handler, lane));
        let config = pull::Config {
            durable_name: Some(name),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            // A fetch that ends may miss what is given back at that moment.
            ack_wait: Duration::from_millis(250),
            filter_subjects: layout::filter_subjects(handler, types, partitions.as_deref()),
            ..pull::Config::default()
        };
        let stream = self.js.get_stream(layout::EVENT_STREAM).await.unwrap();
        stream.create_consumer(config).await.unwrap()
    }

    /// Everything that can be released is, as the operator does it.
    async fn release(&self, expected: &[String]) -> Release {
        self.release_for(&places(expected)).await
    }

    async fn release_for(&self, places: &Places) -> Release {
        let mut info = self.info().await;
        loop {
            let release = release::plan(&self.broker.admin(), &info, places, true).await.unwrap();
            let Release::UpTo(up_to) = release else { return release };
            info = release::execute(&self.broker.admin(), up_to).await.unwrap();
            assert_eq!(info.state.first_sequence, up_to + 1, "exactly that much");
        }
    }
}

fn places(consumers: &[String]) -> Places {
    Places { consumers: consumers.to_vec(), ..Places::default() }
}

fn behind(handler: &str, settled: u64) -> Release {
    Release::Held(Holder::Behind { handler: handler.to_owned(), settled })
}

/// What a consumer of the model still needs.
struct Needs {
    consumer: Consumer<pull::Config>,
    handler: String,
    types: Vec<String>,
    lane: Option<u16>,
    settled: BTreeSet<u64>,
}

impl Needs {
    fn wants(&self, partition: u32, event_type: &str) -> bool {
        let in_lane = self.lane.is_none_or(|lane| layout::lane_partitions(lane, LANES).contains(&partition));
        in_lane && layout::has_type(&self.types, event_type)
    }

    /// Takes some events: of some it settles all, of some a few, of some none.
    async fn work(&mut self, random: &mut fastrand::Rng) {
        let wanted = random.usize(20..200);
        let mut messages = self.consumer.fetch().max_messages(wanted).messages().await.unwrap();
        let diligence = random.choice([0.0, 0.8, 1.0, 1.0, 1.0, 1.0]).unwrap();
        while let Some(message) = messages.next().await {
            let message = message.unwrap();
            let sequence = message.info().unwrap().stream_sequence;
            if random.f64() < diligence {
                message.double_ack().await.unwrap();
                self.settled.insert(sequence);
            } else {
                // Comes again at once, and so may be settled later, out of order.
                message.ack_with(AckKind::Nak(None)).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_above_any_consumers_floor_is_ever_released() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::start().await;
    let some = vec!["a.*".to_owned(), "c".to_owned()];
    let mut needs = Vec::new();
    let kinds = [("all", Vec::new(), None), ("some", some, None)];
    let lanes = (0..LANES).map(|lane| ("keyed", Vec::new(), Some(lane)));
    for (handler, types, lane) in kinds.into_iter().chain(lanes) {
        let consumer = world.consumer(handler, &types, lane).await;
        needs.push(Needs { consumer, handler: handler.to_owned(), types, lane, settled: BTreeSet::new() });
    }
    let (mut events, mut released, mut refused) = (BTreeMap::new(), 0, 0);
    for _ in 0..60 {
        for _ in 0..random.usize(1..40) {
            let event_type = *random.choice(["a.b", "a.c.d", "b", "b", "c"].iter()).unwrap();
            let partition = random.u32(0..layout::PARTITIONS);
            match world.publish(partition, event_type, random.usize(1..20_000)).await {
                Ok(sequence) => drop(events.insert(sequence, (partition, event_type))),
                Err(_) => refused += 1,
            }
        }
        for _ in 0..random.usize(1..5) {
            for need in &mut needs {
                need.work(&mut random).await;
            }
        }
        let before = world.info().await.state.first_sequence;
        let release = world.release(&[]).await;
        let first = world.info().await.state.first_sequence;
        released += first - before;
        // And what could go has gone: the first that is kept is needed, or there is room.
        let needed = events.range(first..).next().is_some_and(|(sequence, (partition, kind))| {
            needs.iter().any(|need| need.wants(*partition, kind) && !need.settled.contains(sequence))
        });
        assert!(release == Release::NotNeeded || needed, "{release:?}, and no handler needs {first}");
        for need in &needs {
            let lost = events
                .range(..first)
                .find(|(sequence, (partition, kind))| need.wants(*partition, kind) && !need.settled.contains(sequence));
            assert!(
                lost.is_none(),
                "{} of {:?} still needs {lost:?}, and {first} is the first",
                need.handler,
                need.lane
            );
        }
    }
    assert!(released > 0 && refused > 0, "released {released}, refused {refused}: the test tries nothing");
    eprintln!("{} events, {released} released, {refused} refused", events.len());
}

#[tokio::test]
async fn what_a_filter_leaves_out_holds_nothing_back() {
    let world = World::start().await;
    let rare = world.consumer("rare", &["rare".to_owned()], None).await;
    world.publish(1, "rare", 10).await.unwrap();
    // Waits for it: a consumer hears of an event a moment after its publisher.
    let mut fetched = rare.batch().max_messages(1).expires(LIMIT).messages().await.unwrap();
    let first = fetched.next().await.unwrap().unwrap();
    first.double_ack().await.unwrap();
    while world.publish(2, "frequent", 30_000).await.is_ok() {}
    // Its floor is at 1 for good; nothing after that is its own, but the last one.
    let last = world.info().await.state.last_sequence;
    assert!(matches!(
        release::plan(&world.broker.admin(), &world.info().await, &Places::default(), true).await.unwrap(),
        Release::UpTo(_)
    ));
    assert_eq!(world.release(&[]).await, Release::NotNeeded);
    world.publish(1, "rare", 10).await.unwrap();
    while world.publish(2, "frequent", 30_000).await.is_ok() {}
    assert!(Room::from(&world.info().await).percent() > 90);
    assert_eq!(world.release(&[]).await, Release::NotNeeded);
    let kept = world.info().await.state.first_sequence;
    assert!(kept <= last + 1, "the one it still needs is {}, and {kept} is the first", last + 1);
}

#[tokio::test]
async fn without_handlers_or_with_one_that_is_missing_or_behind_nothing_goes() {
    let world = World::start().await;
    while world.publish(0, "t", 30_000).await.is_ok() {}
    let stored = world.info().await.state.messages;
    assert_eq!(world.release(&[]).await, Release::Held(Holder::NoHandlers));
    let consumer = world.consumer("billing", &[], None).await;
    let expected = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(world.release(&expected(&["billing"])).await, behind("billing", 0));
    let lost = world.release(&expected(&["billing", "audit_1"])).await;
    assert_eq!(lost, Release::Held(Holder::Missing("audit".into())), "its place is not known");
    assert_eq!(world.info().await.state.messages, stored);
    // All but the first are handled: the first holds everything.
    let messages = consumer.fetch().max_messages(usize::try_from(stored).unwrap()).messages().await.unwrap();
    let mut messages: Vec<_> = messages.map(Result::unwrap).collect().await;
    let first = messages.remove(0);
    for message in messages {
        message.double_ack().await.unwrap();
    }
    assert_eq!(world.release(&expected(&["billing"])).await, behind("billing", 0));
    first.double_ack().await.unwrap();
    assert_eq!(world.release(&expected(&["billing"])).await, Release::NotNeeded);
    let after = Room::from(&world.info().await);
    assert!(after.percent() <= 65 && after.messages > 0, "no more than is needed: {after:?}");
}

#[tokio::test]
async fn what_a_suspended_handler_has_not_settled_stays() {
    let world = World::start().await;
    let admin = world.broker.admin();
    let handler = |is_suspended| Handler {
        name: "billing".into(),
        uid: "uid".into(),
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 1000,
        types: Vec::new(),
        start: Start::Latest,
        order: Order::None,
        is_suspended,
        is_draining: false,
    };
    consumers::ensure(&admin, &handler(true), &Position::default()).await.unwrap();
    let busy = world.consumer("busy", &[], None).await;
    while world.publish(0, "t", 30_000).await.is_ok() {}
    let stored = usize::try_from(world.info().await.state.messages).unwrap();
    let messages: Vec<_> = busy.fetch().max_messages(stored).messages().await.unwrap().collect().await;
    for message in messages {
        message.unwrap().double_ack().await.unwrap();
    }
    assert_eq!(world.release(&["billing".into(), "busy".into()]).await, behind("billing", 0));
    consumers::ensure(&admin, &handler(false), &Position::default()).await.unwrap();
    let billing: Consumer<pull::Config> =
        world.js.get_consumer_from_stream("billing", layout::EVENT_STREAM).await.unwrap();
    let resumed: Vec<_> = billing.fetch().max_messages(stored).messages().await.unwrap().collect().await;
    assert_eq!(resumed.len(), stored);
}

/// A topic's owner who lets in a handler no more is not left with publishers that are refused for its sake.
#[tokio::test]
async fn a_handler_that_is_not_let_in_any_more_holds_up_nothing() {
    let world = World::start().await;
    let all = |_: &str| Vec::new();
    let kept = world.consumer("billing", &all("billing"), None).await;
    world.consumer("audit=web", &all("audit"), None).await;
    while world.publish(0, "t", 30_000).await.is_ok() {}
    let mut messages = kept.batch().max_messages(1000).expires(LIMIT).messages().await.unwrap();
    let pending = world.info().await.state.messages;
    for _ in 0..pending {
        messages.next().await.unwrap().unwrap().double_ack().await.unwrap();
    }
    let mut places = places(&["billing".to_owned()]);
    assert_eq!(world.release_for(&places).await, behind("audit=web", 0));
    places.withdrawn.insert("audit=web".to_owned());
    assert_eq!(world.release_for(&places).await, Release::NotNeeded);
    assert!(world.info().await.state.first_sequence > 1, "something was released");
}
