//! Asks the brokers: how far the handlers are, and how much the topics hold.
//!
//! Once a second (and at the first event of a topic with a sleeping handler) every connected broker is asked for all
//! its consumers (one request a page, leader-correct, over the operator's own authenticated connection), and every ten
//! seconds for its streams. What has to be reconciled
//! because of the answer is triggered; the reconcilers do all the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Info;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::runtime::reflector::{ObjectRef, Store};
use tidegate_broker_admin::consumers;
use tidegate_broker_client::layout;
use tidegate_crds::{EventHandler, EventTopic};
use tokio::sync::mpsc;

use crate::brokers::{Broker, TopicKey};
use crate::context::Context;
use crate::doorbell::Doorbells;
use crate::handler::position;
use crate::handler::settings::scaling_policy;
use crate::lag::{HandlerKey, STATUS_PERIOD};
use crate::scaling::Sample;
use crate::workload::TotalWorkload;

const PERIOD: Duration = Duration::from_secs(1);
/// Brokers asked at the same time.
const CONCURRENCY: usize = 16;

/// Who has to be reconciled because of what the brokers said. A full queue means that it is being told already.
pub struct Triggers {
    /// Handlers.
    pub handlers: mpsc::Sender<ObjectRef<EventHandler>>,
    /// Topics.
    pub topics: mpsc::Sender<ObjectRef<EventTopic>>,
}

/// What a topic's status shows of its streams: messages of each, the last sequence, and the number of handlers.
type Numbers = (usize, Vec<(u64, u64)>);

/// Asks until it is dropped.
pub async fn run(context: Context, handlers: Store<EventHandler>, triggers: Triggers) {
    let follow_handlers = follow_handlers(&context, &handlers, &triggers);
    let follow_topics = follow_topics(&context, &triggers);
    tokio::join!(follow_handlers, follow_topics);
}

async fn follow_handlers(context: &Context, handlers: &Store<EventHandler>, triggers: &Triggers) {
    let poll = HandlerPoll { context, handlers, triggers, origin: Instant::now() };
    let (bells, mut heard) = Doorbells::new();
    let mut ticks = ticks(PERIOD);
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => context.brokers.connected(),
            changed = context.reports.changed() => {
                for (namespace, name) in changed {
                    let _ = triggers.handlers.try_send(ObjectRef::new(&name).within(&namespace));
                }
                continue;
            }
            Some(topic) = heard.recv() => context.brokers.known(&topic).map(|broker| (topic, broker)).into_iter().collect(),
        };
        let is_alive = |(namespace, name): &HandlerKey| handlers.get(&ObjectRef::new(name).within(namespace)).is_some();
        context.lag.keep(is_alive);
        context.reports.keep(is_alive);
        for (topic, broker) in &asked {
            context.reports.listen(topic, broker);
            context.ingress_reports.listen(topic, broker);
        }
        for (topic, infos) in ask(asked, consumers_of).await {
            // Made again at once, and not at the next look at all things.
            for handler in handlers.state() {
                let namespace = handler.metadata.namespace.as_ref();
                let is_of_topic = namespace == Some(&topic.namespace) && handler.spec.topic == topic.name;
                if is_of_topic && position::is_lost(&handler, &infos) {
                    let _ = triggers.handlers.try_send(ObjectRef::from_obj(handler.as_ref()));
                }
            }
            let mut sleeper = false;
            for (handler, progress) in by_handler(&infos) {
                sleeper |= poll.tell(&topic, handler, progress) == Told::Asleep;
            }
            if let Some(broker) = context.brokers.known(&topic).filter(|_| sleeper) {
                bells.hang(&topic, &broker);
            }
        }
    }
}

async fn follow_topics(context: &Context, triggers: &Triggers) {
    let mut ticks = ticks(STATUS_PERIOD);
    let mut told: HashMap<TopicKey, Numbers> = HashMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            changed = context.ingress_reports.changed() => {
                for topic in changed {
                    let _ = triggers.topics.try_send(ObjectRef::new(&topic.name).within(&topic.namespace));
                }
                continue;
            }
        }
        let answers = ask(context.brokers.connected(), numbers_of).await;
        told.retain(|known, _| answers.iter().any(|(topic, _)| topic == known));
        for (topic, numbers) in answers {
            let reference = ObjectRef::new(&topic.name).within(&topic.namespace);
            if told.insert(topic, numbers.clone()) != Some(numbers) {
                let _ = triggers.topics.try_send(reference);
            }
        }
    }
}

/// The answers of these brokers; one that does not answer is left out, and asked again next time.
async fn ask<T, F: Future<Output = Result<T, String>>>(
    brokers: Vec<(TopicKey, Arc<Broker>)>,
    question: fn(Arc<Broker>) -> F,
) -> Vec<(TopicKey, T)> {
    stream::iter(brokers)
        .map(async |(topic, broker)| match question(broker).await {
            Ok(answer) => Some((topic, answer)),
            Err(error) => {
                tracing::debug!(topic = topic.name, namespace = topic.namespace, error, "the broker does not answer");
                None
            }
        })
        .buffer_unordered(CONCURRENCY)
        .filter_map(async |answer| answer)
        .collect()
        .await
}

async fn consumers_of(broker: Arc<Broker>) -> Result<Vec<Info>, String> {
    consumers::list(&broker.js).await.map_err(|error| error.to_string())
}

async fn numbers_of(broker: Arc<Broker>) -> Result<Numbers, String> {
    let streams: Vec<_> = broker.js.streams().try_collect().await.map_err(|error| error.to_string())?;
    let consumers = streams.iter().map(|stream| stream.state.consumer_count).sum();
    Ok((consumers, streams.iter().map(|stream| (stream.state.messages, stream.state.last_sequence)).collect()))
}

/// How far all consumers of a handler are together.
#[derive(Clone, Copy, Default)]
struct Progress {
    pending: u64,
    in_flight: u64,
    delivered: u64,
}

fn by_handler(consumers: &[Info]) -> HashMap<&str, Progress> {
    let mut handlers: HashMap<&str, Progress> = HashMap::new();
    for info in consumers {
        let progress = handlers.entry(layout::handler_of(&info.name)).or_default();
        progress.pending += info.num_pending;
        progress.in_flight += u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX);
        progress.delivered += info.delivered.consumer_sequence;
    }
    handlers
}

/// What a sample meant for its handler.
#[derive(PartialEq, Eq)]
enum Told {
    /// It has no pods and nothing to do.
    Asleep,
    /// Anything else.
    Awake,
}

/// What it takes to tell a handler of its lag.
struct HandlerPoll<'a> {
    context: &'a Context,
    handlers: &'a Store<EventHandler>,
    triggers: &'a Triggers,
    origin: Instant,
}

impl HandlerPoll<'_> {
    fn tell(&self, topic: &TopicKey, name: &str, progress: Progress) -> Told {
        let reference = ObjectRef::<EventHandler>::new(name).within(&topic.namespace);
        let Some(handler) = self.handlers.get(&reference).filter(|handler| handler.spec.topic == topic.name) else {
            return Told::Awake;
        };
        let status = handler.status.as_ref();
        let key = (topic.namespace.clone(), name.to_owned());
        // A specification that cannot be read is the reconciler's to report.
        let policy = scaling_policy(&handler.spec).ok().flatten();
        let ready = status.and_then(|status| u32::try_from(status.ready_replicas).ok()).unwrap_or(0);
        let workload = self.context.reports.workload(&key).unwrap_or_else(|| {
            // No sidecar has said yet how much runs: no more than there is room for.
            let slots = policy.as_ref().map_or(1, |policy| policy.slots);
            let most = u64::from(ready) * u64::from(slots);
            TotalWorkload { running: progress.in_flight.min(most) as f64, ..TotalWorkload::default() }
        });
        let sample = Sample {
            at: self.origin.elapsed(),
            pending: progress.pending,
            unacknowledged: progress.in_flight,
            running: workload.running,
            delivered: progress.delivered,
            succeeded: workload.succeeded,
            failed: workload.failed,
            is_down: self.context.reports.availability(&key).is_some_and(|pods| pods.down == pods.pods),
            ready,
        };
        if self.context.lag.record(key, &handler, policy.as_ref(), sample) {
            let _ = self.triggers.handlers.try_send(reference);
        }
        let desired = status.and_then(|status| status.scaling.as_ref()).map(|scaling| scaling.desired);
        if policy.is_some() && desired == Some(0) && sample.pending == 0 { Told::Asleep } else { Told::Awake }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
