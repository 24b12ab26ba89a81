//! Events through two topics, and what became of each.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{Context, stream};
use futures::StreamExt as _;
use tidegate_broker_client::layout;
use tidegate_test_broker::jetstream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Keys of each topic: their events are published one after the other.
const KEYS: u32 = 16;
/// How long an acknowledgement is waited for before the event is published again.
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How many events the consumer takes that is left where it is.
const KEPT_AT: u64 = 10;
/// A pull whose server died is not answered for this long, and then made again.
const PULL_TIMEOUT: Duration = Duration::from_secs(8);
/// So many such pulls in a row, and there is nothing more to take.
const LAST_PULLS: u32 = 3;
const WORKER: &str = "worker";
const RESTING: &str = "resting";

/// Publishers and a consumer at two topics.
pub struct Load {
    topics: Vec<Topic>,
    stop: CancellationToken,
}

struct Topic {
    context: Context,
    publishers: Vec<JoinHandle<()>>,
    worker: JoinHandle<Worked>,
    ledger: Arc<Mutex<Ledger>>,
}

/// What was acknowledged.
#[derive(Default)]
struct Ledger {
    /// By key and number: the sequence.
    events: BTreeMap<(u32, u64), u64>,
    last: Option<Instant>,
    longest_gap: Duration,
    retries: u64,
}

/// What a consumer had.
#[derive(Default)]
struct Worked {
    events: HashMap<(u32, u64), u64>,
    again: u64,
    /// The position went back.
    went_back: u64,
}

/// The sum of it.
#[derive(Debug, Default)]
pub struct Outcome {
    pub acknowledged: usize,
    /// Acknowledged, and not stored.
    pub lost: usize,
    /// Stored, and not delivered.
    pub undelivered: usize,
    /// Stored with another sequence than was acknowledged.
    pub moved: usize,
    /// Stored after a later one of its key.
    pub out_of_order: usize,
    /// Consumers that are elsewhere than they should be.
    pub positions_lost: u64,
    pub delivered_again: u64,
    pub retries: u64,
    pub longest_gap: Duration,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "acknowledged {}, lost {}, undelivered {}, moved {}, out of order {}, positions lost {}, delivered again {}, published again {}, longest publish gap {} ms",
            self.acknowledged,
            self.lost,
            self.undelivered,
            self.moved,
            self.out_of_order,
            self.positions_lost,
            self.delivered_again,
            self.retries,
            self.longest_gap.as_millis()
        )
    }
}

impl Load {
    /// `rate`: events a second through all topics.
    pub async fn start(clients: &[async_nats::Client], rate: u32) -> Self {
        let stop = CancellationToken::new();
        let keys = KEYS * u32::try_from(clients.len()).unwrap();
        let period = Duration::from_secs(1) * keys / rate;
        let mut topics = Vec::new();
        for client in clients {
            let context = jetstream(client.clone());
            let ledger = Arc::<Mutex<Ledger>>::default();
            let resting = consumer(&context, RESTING).await;
            let worker = consumer(&context, WORKER).await;
            let publisher = |key| publish(context.clone(), key, period, Arc::clone(&ledger), stop.clone());
            let publishers = (0..KEYS).map(|key| tokio::spawn(publisher(key))).collect();
            let mut first = resting.messages().await.unwrap();
            for _ in 0..KEPT_AT {
                first.next().await.unwrap().unwrap().double_ack().await.unwrap();
            }
            let worker = tokio::spawn(work(worker, stop.clone()));
            topics.push(Topic { context, publishers, worker, ledger });
        }
        Self { topics, stop }
    }

    /// Ends it, and looks at what is stored.
    pub async fn finish(self) -> Outcome {
        let mut outcome = Outcome::default();
        self.stop.cancel();
        for topic in self.topics {
            for publisher in topic.publishers {
                publisher.await.unwrap();
            }
            let worked = topic.worker.await.unwrap();
            let stored = stored(&topic.context).await;
            let resting: PullConsumer =
                topic.context.get_consumer_from_stream(RESTING, layout::EVENT_STREAM).await.unwrap();
            let ledger = topic.ledger.lock().unwrap();
            outcome.acknowledged += ledger.events.len();
            outcome.retries += ledger.retries;
            outcome.longest_gap = outcome.longest_gap.max(ledger.longest_gap);
            outcome.delivered_again += worked.again;
            outcome.positions_lost += worked.went_back;
            let mut last: HashMap<u32, u64> = HashMap::new();
            for (key, number) in stored.values() {
                if last.insert(*key, *number).is_some_and(|before| before >= *number) {
                    outcome.out_of_order += 1;
                }
            }
            let found: HashMap<_, _> = stored.iter().map(|(sequence, event)| (*event, *sequence)).collect();
            for (event, sequence) in &ledger.events {
                match found.get(event) {
                    None => outcome.lost += 1,
                    Some(at) if at != sequence => outcome.moved += 1,
                    Some(_) if !worked.events.contains_key(event) => outcome.undelivered += 1,
                    Some(_) => {}
                }
            }
            if resting.cached_info().ack_floor.stream_sequence != KEPT_AT {
                outcome.positions_lost += 1;
            }
        }
        outcome
    }
}

/// As the operator makes it: it has as many copies as its stream.
async fn consumer(context: &Context, name: &str) -> PullConsumer {
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(5),
        max_ack_pending: 5000,
        num_replicas: 0,
        ..pull::Config::default()
    };
    let stream: stream::Stream = context.get_stream(layout::EVENT_STREAM).await.unwrap();
    stream.create_consumer(config).await.unwrap()
}

async fn publish(context: Context, key: u32, period: Duration, ledger: Arc<Mutex<Ledger>>, stop: CancellationToken) {
    sleep(period * key / KEYS).await;
    let mut next = Instant::now();
    for number in 1_u64.. {
        if stop.is_cancelled() {
            return;
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("{key}-{number}"));
        let body = format!("{key} {number} {}", "x".repeat(200));
        let sequence = loop {
            let sent = context.publish_with_headers(format!("events.{key}.t"), headers.clone(), body.clone().into());
            let acknowledged = timeout(ACK_TIMEOUT, async { sent.await.ok()?.await.ok() }).await;
            if let Ok(Some(acknowledgement)) = acknowledged {
                break acknowledgement.sequence;
            }
            ledger.lock().unwrap().retries += 1;
            sleep(RETRY_PAUSE).await;
        };
        ledger.lock().unwrap().add((key, number), sequence);
        next += period;
        tokio::time::sleep_until(next.max(Instant::now())).await;
        next = next.max(Instant::now() - period);
    }
}

impl Ledger {
    fn add(&mut self, event: (u32, u64), sequence: u64) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        assert_eq!(self.events.insert(event, sequence), None, "{event:?} twice");
    }
}

/// Takes everything, until it has been told to stop and nothing comes any more.
async fn work(consumer: PullConsumer, stop: CancellationToken) -> Worked {
    let (mut worked, mut floor, mut in_vain) = (Worked::default(), 0, 0);
    let mut messages = consumer.messages().await.unwrap();
    while !stop.is_cancelled() || in_vain < LAST_PULLS {
        let next = timeout(PULL_TIMEOUT, messages.next()).await;
        let Ok(Some(Ok(message))) = next else {
            // A leader that went took the pull with it.
            in_vain = if next.is_err() { in_vain + 1 } else { in_vain };
            sleep(RETRY_PAUSE).await;
            if let Ok(again) = consumer.messages().await {
                messages = again;
            }
            continue;
        };
        in_vain = 0;
        let info = message.info().unwrap();
        // What is delivered for the first time lies after everything that was.
        if info.delivered == 1 && info.stream_sequence <= floor {
            worked.again += 1;
        }
        floor = floor.max(info.stream_sequence);
        let event = parse(&message.payload);
        *worked.events.entry(event).or_default() += 1;
        let _ = message.ack().await;
    }
    worked
}

fn parse(body: &[u8]) -> (u32, u64) {
    let text = String::from_utf8_lossy(body);
    let mut words = text.split(' ');
    (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap())
}

/// All that is stored, by its sequence.
async fn stored(context: &Context) -> BTreeMap<u64, (u32, u64)> {
    let stream = context.get_stream(layout::EVENT_STREAM).await.unwrap();
    let last = stream.cached_info().state.last_sequence;
    let consumer = stream.create_consumer(pull::OrderedConfig::default()).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let mut stored = BTreeMap::new();
    while stored.last_key_value().is_none_or(|(sequence, _)| *sequence < last) {
        let message = timeout(Duration::from_secs(30), messages.next()).await.unwrap().unwrap().unwrap();
        stored.insert(message.info().unwrap().stream_sequence, parse(&message.payload));
    }
    stored
}
