//! Consumers whose stream comes down to one copy pass nothing over, whatever happens to its server next.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use futures::StreamExt as _;
use tidegate_broker_admin::api::{Broker, ConsumerConfig};
use tidegate_broker_admin::membership::{self, BrokerStep, Executor, Ordinal, StreamId};
use tidegate_broker_admin::streams::Topic;
use tidegate_broker_client::layout::{EVENT_STREAM, SUSPENDED_UNTIL};
use tidegate_test_broker::{TestBroker, answer, eventually, topic, topic_id};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Each of them is passed over something in about every second change if nothing is done against it.
const CONSUMERS: usize = 4;
const PUBLISHERS: u32 = 8;
/// From one event of a publisher to its next.
const PERIOD: Duration = Duration::from_millis(20);
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// An event that is still unacknowledged when the server is killed comes again after this.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// A pull whose server died is not answered for this long, and then made again.
const PULL_TIMEOUT: Duration = Duration::from_secs(3);

/// Events of a publisher by their numbers.
type Events = Arc<Mutex<BTreeSet<(u32, u64)>>>;

struct World {
    broker: TestBroker,
    executor: Executor,
    system: tidegate_wire::nats::Client,
    stream: StreamId,
    accounts: HashMap<String, Broker>,
}

impl World {
    async fn start() -> Self {
        let broker = TestBroker::start_fsync(Topic { replicas: 3, ..topic() }).await;
        let account = broker.authority().topic_account_id(&topic_id()).unwrap();
        let system = broker.system_client().await;
        Self {
            executor: Executor::new(system.clone()),
            system,
            stream: StreamId { account: account.clone(), name: EVENT_STREAM.into() },
            accounts: HashMap::from([(account, broker.admin())]),
            broker,
        }
    }

    /// The server that leads the stream, once it has as many copies and all of them are whole.
    async fn settled(&self, copies: usize) -> Option<Ordinal> {
        let observed = membership::observe(&self.system, &self.broker.site()).await.ok()?;
        let stream = observed.streams.get(&self.stream)?;
        stream.leader.filter(|_| stream.copies == copies && stream.is_settled())
    }

    async fn bring_to(&self, copies: usize) -> Ordinal {
        let step = BrokerStep::SetCopies { streams: vec![self.stream.clone()], copies };
        let mut leader = None;
        eventually("so many copies", async || {
            let done = self.executor.run(&step, &self.accounts).await;
            leader = self.settled(copies).await;
            done.is_ok() && leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// The operator ends while it does the step.
    async fn begin(&self, copies: usize, limit: Duration) {
        let step = BrokerStep::SetCopies { streams: vec![self.stream.clone()], copies };
        let done = timeout(limit, self.executor.run(&step, &self.accounts)).await;
        assert!(done.is_err(), "it was done before");
    }
}

async fn consumer(context: &Context, number: usize) -> PullConsumer {
    let config = pull::Config {
        durable_name: Some(format!("c{number}")),
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        ..pull::Config::default()
    };
    context.get_stream(EVENT_STREAM).await.unwrap().create_consumer(config).await.unwrap()
}

/// Publishes one event after the other, each until it is acknowledged.
async fn publish(context: Context, publisher: u32, acknowledged: Events, stop: CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{publisher}-{number}"));
        let subject = format!("events.{publisher}.t");
        loop {
            let sent =
                context.publish_with_headers(subject.clone(), headers.clone(), format!("{publisher} {number}").into());
            if let Ok(Some(_)) = timeout(ACK_TIMEOUT, async { sent.await.ok()?.await.ok() }).await {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        acknowledged.lock().unwrap().insert((publisher, number));
        sleep(PERIOD).await;
    }
}

/// Takes and acknowledges all that is delivered.
async fn read(consumer: PullConsumer, taken: Events) {
    loop {
        let Ok(mut messages) = consumer.messages().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while let Ok(Some(Ok(message))) = timeout(PULL_TIMEOUT, messages.next()).await {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            let (publisher, number) = text.split_once(' ').unwrap();
            taken.lock().unwrap().insert((publisher.parse().unwrap(), number.parse().unwrap()));
            let _ = message.ack().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_comes_down_to_one_copy_passes_nothing_over() {
    let mut world = World::start().await;
    let context = world.broker.jetstream();
    let (published, stop) = (Events::default(), CancellationToken::new());
    let mut readers: Vec<(Events, JoinHandle<()>)> = Vec::new();
    for number in 0..CONSUMERS {
        let taken = Events::default();
        readers.push((taken.clone(), tokio::spawn(read(consumer(&context, number).await, taken))));
    }
    let suspended = ConsumerConfig {
        durable_name: Some("suspended".into()),
        pause_until: Some(SUSPENDED_UNTIL.to_owned()),
        ..ConsumerConfig::default()
    };
    world.broker.admin().put_consumer(EVENT_STREAM, &suspended).await.unwrap();
    let publisher = |number| publish(context.clone(), number, published.clone(), stop.clone());
    let publishers: Vec<_> = (0..PUBLISHERS).map(|number| tokio::spawn(publisher(number))).collect();
    for ends in [None, Some(Duration::from_millis(400)), None] {
        world.bring_to(3).await;
        sleep(Duration::from_secs(1)).await;
        if let Some(limit) = ends {
            world.begin(1, limit).await;
        }
        let leader = world.bring_to(1).await;
        world.broker.crash(leader).await;
        eventually("it is served again", async || world.settled(1).await.is_some()).await;
    }
    stop.cancel();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let published = published.lock().unwrap().clone();
    assert!(published.len() > 500, "{}", published.len());
    let missing = || -> Vec<Vec<(u32, u64)>> {
        let missing = |taken: &Events| published.difference(&taken.lock().unwrap()).copied().collect();
        readers.iter().map(|(taken, _)| missing(taken)).collect()
    };
    let begun = Instant::now();
    while missing().iter().any(|missing| !missing.is_empty()) && begun.elapsed() < 3 * ACK_WAIT {
        sleep(Duration::from_millis(100)).await;
    }
    let passed_over = missing();
    assert!(passed_over.iter().all(Vec::is_empty), "{} published: {passed_over:?}", published.len());
    for info in answer(async || world.broker.admin().list_consumers(EVENT_STREAM).await).await {
        assert_eq!(info.is_paused, info.name == "suspended", "{info:?}");
    }
    readers.iter().for_each(|(_, reader)| reader.abort());
}
