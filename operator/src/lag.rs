//! What the brokers say of the handlers' lag, and who has to know.
//!
//! One loop asks every connected broker once a second for all its consumers (one request a page, leader-
//! correct, over the operator's own authenticated connection). Samples go to the [`Board`]; a handler is
//! reconciled at once when its number of pods should change, and at most every ten seconds when only its
//! numbers did.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::Info;
use futures::{StreamExt as _, stream};
use kube::runtime::reflector::{ObjectRef, Store};
use opentelemetry::KeyValue;
use tidegate_broker_admin::consumers;
use tidegate_crds::handler::Lag;
use tidegate_crds::{EventHandler, EventTopic};
use tokio::sync::mpsc;

use crate::brokers::{Broker, TopicKey};
use crate::context::Context;
use crate::handler::settings::scaling_policy;
use crate::scaling::{History, Plan, Policy, Sample};

const PERIOD: Duration = Duration::from_secs(1);
/// Numbers in a status are at most this old while they change.
const STATUS_PERIOD: Duration = Duration::from_secs(10);
/// Brokers asked at the same time.
const CONCURRENCY: usize = 16;

/// Namespace and name of a handler.
pub type HandlerKey = (String, String);

/// What is known of each handler.
#[derive(Default)]
pub struct Board(Mutex<HashMap<HandlerKey, Entry>>);

#[derive(Default)]
struct Entry {
    uid: String,
    history: History,
    told: Option<Instant>,
}

impl Board {
    /// The last sample of a handler, as its status shows it.
    pub fn lag(&self, key: &HandlerKey) -> Option<Lag> {
        let sample = self.lock().get(key)?.history.last()?;
        let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
        Some(Lag { pending: signed(sample.pending), in_flight: signed(sample.in_flight) })
    }

    /// How many pods a handler should have, given how many are wanted now.
    pub fn decide(&self, key: &HandlerKey, policy: &Policy, current: u32) -> Plan {
        match self.lock().get(key) {
            Some(entry) => entry.history.decide(policy, current),
            None => History::default().decide(policy, current),
        }
    }

    /// Everything known of a handler that is no more.
    pub fn forget(&self, key: &HandlerKey) {
        self.lock().remove(key);
    }

    /// Takes a sample. Returns whether the handler has to be reconciled.
    fn record(&self, key: HandlerKey, handler: &EventHandler, policy: Option<&Policy>, sample: Sample) -> bool {
        let mut board = self.lock();
        let entry = board.entry(key).or_default();
        let uid = handler.metadata.uid.as_deref().unwrap_or_default();
        if entry.uid != uid {
            *entry = Entry { uid: uid.to_owned(), ..Entry::default() };
        }
        let fixed =
            Policy { min: 0, max: 0, target: Duration::from_secs(1), idle_after: Duration::ZERO, concurrency: 1 };
        entry.history.record(policy.unwrap_or(&fixed), sample);
        let shown = handler.status.as_ref();
        let desired =
            shown.and_then(|status| status.scaling.as_ref()).and_then(|scaling| u32::try_from(scaling.desired).ok());
        let rescale = policy
            .zip(desired)
            .is_some_and(|(policy, desired)| entry.history.decide(policy, desired).replicas != desired);
        let lag = shown.and_then(|status| status.lag.clone()).unwrap_or_default();
        let changed = u64::try_from(lag.pending).ok() != Some(sample.pending)
            || u64::try_from(lag.in_flight).ok() != Some(sample.in_flight);
        let due = entry.told.is_none_or(|told| told.elapsed() >= STATUS_PERIOD);
        let tell = rescale || (changed && due);
        if tell {
            entry.told = Some(Instant::now());
        }
        tell
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HandlerKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Exports the board as `tidegate.handler.lag`: events waiting or in flight, a series for each handler there is.
pub fn export(board: &Arc<Board>) {
    let board = Arc::clone(board);
    opentelemetry::global::meter("tidegate-operator")
        .u64_observable_gauge("tidegate.handler.lag")
        .with_unit("{event}")
        .with_description("Events that a handler has not acknowledged")
        .with_callback(move |gauge| {
            for ((namespace, handler), entry) in board.lock().iter() {
                let Some(sample) = entry.history.last() else { continue };
                for (state, events) in [("pending", sample.pending), ("in_flight", sample.in_flight)] {
                    let attributes = [
                        KeyValue::new("k8s.namespace.name", namespace.clone()),
                        KeyValue::new("messaging.consumer.group.name", handler.clone()),
                        KeyValue::new("state", state),
                    ];
                    gauge.observe(events, &attributes);
                }
            }
        })
        .build();
}

/// Who has to be reconciled because of what the brokers said.
pub struct Triggers {
    /// Handlers.
    pub handlers: mpsc::Sender<ObjectRef<EventHandler>>,
    /// Topics: their numbers changed.
    pub topics: mpsc::Sender<ObjectRef<EventTopic>>,
}

/// Asks the brokers until it is dropped.
pub async fn watch(context: Context, handlers: Store<EventHandler>, triggers: Triggers) {
    let origin = Instant::now();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut topics_told: HashMap<TopicKey, (u64, Instant)> = HashMap::new();
    loop {
        ticks.tick().await;
        let brokers = context.brokers.connected();
        topics_told.retain(|key, _| brokers.iter().any(|(known, _)| known == key));
        let answers: Vec<(TopicKey, Vec<Info>)> = stream::iter(brokers)
            .map(ask)
            .buffer_unordered(CONCURRENCY)
            .filter_map(async |answer| answer)
            .collect()
            .await;
        for (topic, infos) in answers {
            tell_topic(&topic, &infos, &mut topics_told, &triggers);
            for info in infos {
                tell_handler(&context, &handlers, &topic, &info, origin, &triggers);
            }
        }
    }
}

async fn ask((topic, broker): (TopicKey, Arc<Broker>)) -> Option<(TopicKey, Vec<Info>)> {
    match consumers::list(&broker.js).await {
        Ok(infos) => Some((topic, infos)),
        Err(error) => {
            tracing::debug!(topic = topic.name, namespace = topic.namespace, %error, "lag not read");
            None
        }
    }
}

fn tell_handler(
    context: &Context,
    handlers: &Store<EventHandler>,
    topic: &TopicKey,
    info: &Info,
    origin: Instant,
    triggers: &Triggers,
) {
    let reference = ObjectRef::<EventHandler>::new(&info.name).within(&topic.namespace);
    let Some(handler) = handlers.get(&reference).filter(|handler| handler.spec.topic == topic.name) else {
        return;
    };
    let ready = handler.status.as_ref().map_or(0, |status| status.ready_replicas);
    let in_flight = u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX);
    let sample = Sample {
        at: origin.elapsed(),
        pending: info.num_pending,
        in_flight,
        handled: info.delivered.stream_sequence.saturating_sub(in_flight),
        ready: u32::try_from(ready).unwrap_or(0),
    };
    let key = (topic.namespace.clone(), info.name.clone());
    // A specification that cannot be read is the reconciler's to report.
    let policy = scaling_policy(&handler.spec).ok().flatten();
    if context.lag.record(key, &handler, policy.as_ref(), sample) {
        // A full queue means that it is being told already, or will be in a second.
        let _ = triggers.handlers.try_send(reference);
    }
}

/// The sum of what waits and what was delivered moves with every event.
fn tell_topic(topic: &TopicKey, infos: &[Info], told: &mut HashMap<TopicKey, (u64, Instant)>, triggers: &Triggers) {
    let moved = infos.iter().map(|info| info.num_pending + info.delivered.stream_sequence).max().unwrap_or(0);
    let entry = told.entry(topic.clone()).or_insert((moved, Instant::now()));
    if entry.0 != moved && entry.1.elapsed() >= STATUS_PERIOD {
        *entry = (moved, Instant::now());
        let _ = triggers.topics.try_send(ObjectRef::new(&topic.name).within(&topic.namespace));
    }
}
