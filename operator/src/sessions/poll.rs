//! Sessions with the brokers: how far the handlers are, what their sidecars report, how much the topics hold.
//!
//! Each broker that is reached has a task of its own, with a deadline for each question: one that hangs delays no
//! other. Once a second (and at the first event of a topic with a sleeping handler) it is asked for all its consumers
//! (one request a page, leader-correct, over the operator's own authenticated connection), and every ten seconds for
//! its streams. What has to be reconciled because of the answer is triggered; the reconcilers do all the rest.

mod triggers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use kube::ResourceExt as _;
use tidegate_broker_admin::api::{ConsumerInfo, StreamInfo};
use tidegate_broker_admin::held_keys::{self, Keys};
use tidegate_broker_admin::{consumers, handler_streams};
use tidegate_broker_client::layout;
use tidegate_crds::handler::Order;
use tidegate_crds::topic::Routing;
use tidegate_crds::{EventHandler, EventTopic};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

pub use self::triggers::Triggers;
use crate::autoscaling::Sample;
use crate::autoscaling::workload::TotalWorkload;
use crate::broker::room;
use crate::context::Context;
use crate::handler::settings::scaling_policy;
use crate::handler::{position, reference, shelf};
use crate::kubernetes::watches::get;
use crate::reconcile::pace::{rolling_brokers, rolling_handlers};
use crate::sessions::brokers::session::Connected as _;
use crate::sessions::brokers::{Broker, BrokerKey, TopicKey};
use crate::sessions::by_handler::{HandlerKey, STATUS_PERIOD};
use crate::sessions::doorbell::next_event;
use crate::sessions::numbers::{Numbers, is_filling};

const PERIOD: Duration = Duration::from_secs(1);
/// A topic without handlers is only asked whether it answers.
const IDLE_PERIOD: Duration = Duration::from_secs(10);
/// What the consumers show to be wrong is reconciled this often: with what is paused or refused it stays wrong.
const RIGHT_PERIOD: Duration = Duration::from_secs(10);
/// How often a topic's streams are looked at.
const STREAM_PERIOD: Duration = Duration::from_secs(10);
/// A broker answers a question within this, or counts as hanging.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often what is remembered of resources that are gone is forgotten.
const FORGET_PERIOD: Duration = Duration::from_secs(60);

/// Keeps a session for each broker that is reached, until it is dropped.
pub async fn run(context: Context, triggers: Triggers) {
    context.stores.ready().await;
    context.first_round.begin(context.stores.resources());
    let origin = Instant::now();
    let mut sessions: HashMap<TopicKey, (Arc<Broker>, AbortOnDropHandle<()>)> = HashMap::new();
    let (mut ticks, mut forget) = (ticks(PERIOD), ticks(FORGET_PERIOD));
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                for broker in keep(&context) {
                    for topic in room::refused(&context, &broker) {
                        triggers.topic(&topic).await;
                    }
                }
                give_turns(&context, &triggers).await;
            }
            _ = forget.tick() => forget_gone(&context),
            () = context.brokers.news() => {}
            changed = context.reports.changed() => {
                for (namespace, name) in changed {
                    triggers.handler(&namespace, &name).await;
                }
            }
            changed = context.broker_changes.next() => {
                for broker in changed {
                    triggers.broker(&broker).await;
                }
            }
            changed = context.ingress_reports.changed() => {
                for topic in changed {
                    triggers.topic(&topic).await;
                }
            }
        }
        let reached = context.brokers.reached();
        sessions.retain(|topic, (broker, _)| reached.get(topic).is_some_and(|now| Arc::ptr_eq(now, broker)));
        for (topic, broker) in reached {
            sessions.entry(topic.clone()).or_insert_with(|| {
                let session = Session {
                    context: context.clone(),
                    triggers: triggers.clone(),
                    topic,
                    broker: broker.clone(),
                    origin,
                };
                (broker, AbortOnDropHandle::new(tokio::spawn(session.run())))
            });
        }
    }
}

/// Ends the sessions of topics that are no more, however they went, and forgets the handlers that are no more. Answers
/// which brokers have room again.
fn keep(context: &Context) -> HashSet<BrokerKey> {
    let stores = &context.stores;
    let is_topic = |topic: &TopicKey| get(&stores.topics, &topic.namespace, &topic.name).is_some();
    let is_broker = |broker: &BrokerKey| get(&stores.brokers, &broker.namespace, &broker.name).is_some();
    context.brokers.keep(is_topic, is_broker);
    let with_room = context.promises.keep(&stores.topics.state());
    let is_alive = |(namespace, name): &HandlerKey| get(&stores.handlers, namespace, name).is_some();
    context.lag.keep(is_alive);
    context.retries.keep(is_alive);
    context.keys.keep(is_alive);
    context.reports.keep(is_alive);
    context.ingress_reports.keep(is_topic);
    with_room
}

async fn give_turns(context: &Context, triggers: &Triggers) {
    let (now, stores, pace) = (Instant::now(), &context.stores, &context.pace);
    for (namespace, name) in pace.brokers.next(&rolling_brokers(stores), now) {
        triggers.broker(&BrokerKey { namespace, name }).await;
    }
    for (namespace, name) in pace.handlers.next(&rolling_handlers(stores), now) {
        triggers.handler(&namespace, &name).await;
    }
}

fn forget_gone(context: &Context) {
    let stores = &context.stores;
    context.slots.forget_idle();
    context.applied.keep(|(kind, namespace, name)| stores.child_mark(kind, namespace, name).is_some());
    context.written.keep(|key| stores.has(key));
    context.first_round.keep(|key| stores.has(key));
}

/// The session with one broker.
struct Session {
    context: Context,
    triggers: Triggers,
    topic: TopicKey,
    broker: Arc<Broker>,
    origin: Instant,
}

impl Session {
    async fn run(self) {
        // What could not be done without the broker can be done now.
        self.triggers.topic(&self.topic).await;
        for handler in self.handlers() {
            self.trigger(&handler).await;
        }
        tokio::join!(
            self.follow_handlers(),
            self.follow_streams(),
            self.context.reports.hear(&self.topic, &self.broker, |handler| self.has(handler)),
            self.context.ingress_reports.hear(&self.topic, &self.broker),
        );
    }

    fn handlers(&self) -> Vec<Arc<EventHandler>> {
        let mut handlers = self.context.stores.handlers_of(&self.topic);
        handlers.retain(|handler| self.admits(handler));
        handlers
    }

    /// Whether a handler is one of this topic. What a broker says of others is not believed.
    fn has(&self, (namespace, name): &HandlerKey) -> bool {
        let handler = get(&self.context.stores.handlers, namespace, name);
        handler.is_some_and(|handler| reference::topic_of(&handler) == self.topic && self.admits(&handler))
    }

    fn admits(&self, handler: &EventHandler) -> bool {
        self.topic().is_some_and(|topic| self.context.stores.admits_handler(&topic, handler))
    }

    async fn trigger(&self, handler: &EventHandler) {
        self.triggers.handler(&handler.namespace().unwrap_or_default(), &handler.name_any()).await;
    }

    fn topic(&self) -> Option<Arc<EventTopic>> {
        get(&self.context.stores.topics, &self.topic.namespace, &self.topic.name)
    }

    fn is_queued(&self) -> bool {
        self.topic().is_some_and(|topic| topic.spec.routing == Routing::Queued)
    }

    async fn follow_handlers(&self) {
        let mut ticks = ticks(PERIOD);
        let (mut asked, mut righted) = (None::<Instant>, None::<Instant>);
        let mut bell: Option<BoxFuture<'_, ()>> = None;
        loop {
            let rang = tokio::select! {
                _ = ticks.tick() => false,
                () = async { match &mut bell { Some(bell) => bell.await, None => std::future::pending().await } } => true,
            };
            if rang {
                bell = None;
            }
            let is_idle = || self.handlers().is_empty() && asked.is_some_and(|asked| asked.elapsed() < IDLE_PERIOD);
            if !self.broker.is_connected() || !self.is_queued() || is_idle() {
                continue;
            }
            asked = Some(Instant::now());
            let Some(infos) = self.ask(consumers_of(&self.broker)).await else { continue };
            if righted.is_none_or(|righted| righted.elapsed() >= RIGHT_PERIOD) {
                righted = self.put_right(&infos).await.then(Instant::now);
            }
            let mut sleeper = false;
            for (handler, progress) in by_handler(&infos) {
                sleeper |= self.tell(handler, progress).await == Told::Asleep;
            }
            if sleeper && bell.is_none() {
                bell = Some(next_event(&self.broker).boxed());
            }
        }
    }

    /// Consumers that are gone are made again at once, and not at the next look at all things; and a topic shows at
    /// once that a handler has come or gone. Whether there was anything wrong.
    async fn put_right(&self, consumers: &[ConsumerInfo]) -> bool {
        let mut handlers = self.handlers();
        handlers.retain(|handler| position::is_lost(handler, consumers));
        for handler in &handlers {
            self.trigger(handler).await;
        }
        let shown = self.topic().and_then(|topic| topic.status.as_ref()?.handlers);
        let is_miscounted = shown.is_some_and(|shown| usize::try_from(shown) != Ok(by_handler(consumers).len()));
        if is_miscounted {
            self.triggers.topic(&self.topic).await;
        }
        is_miscounted || !handlers.is_empty()
    }

    async fn follow_streams(&self) {
        let mut ticks = ticks(STREAM_PERIOD);
        let mut told = None::<Instant>;
        loop {
            ticks.tick().await;
            if !self.broker.is_connected() || !self.is_queued() {
                continue;
            }
            let Some(streams) = self.ask(streams_of(&self.broker)).await else { continue };
            self.tell_of_shelves(&streams).await;
            // What was told before is no measure: the status may show what was there between two looks.
            let shown = self.topic().and_then(|topic| Numbers::shown(topic.status.as_ref()?));
            let is_due = told.is_none_or(|told| told.elapsed() >= STATUS_PERIOD);
            if Numbers::of(&streams).should_be_shown(shown.as_ref(), is_due || streams.iter().any(is_filling)) {
                told = Some(Instant::now());
                self.triggers.topic(&self.topic).await;
            }
        }
    }

    /// Records what of each handler waits for a retry, and shows at once that there is no room for more of it.
    async fn tell_of_shelves(&self, streams: &[StreamInfo]) {
        let by_name: HashMap<&str, &StreamInfo> =
            streams.iter().map(|stream| (stream.config.name.as_str(), stream)).collect();
        let mut answers = true;
        for handler in self.handlers() {
            let (name, key) =
                (&reference::known_as(&handler), (handler.namespace().unwrap_or_default(), handler.name_any()));
            let retries = by_name.get(layout::retry_stream(name).as_str()).copied();
            let dead_letters = by_name.get(layout::dead_letter_stream(name).as_str()).copied();
            let keyed = retries.filter(|_| handler.spec.delivery.order == Order::Key && answers);
            if let Some(retries) = keyed {
                answers = self.look_at_keys(&key, name, retries).await;
            }
            let keys = self.context.keys.known(&key);
            let news = shelf::news(&handler, retries, keys.as_ref(), dead_letters);
            let held = keys.map_or(0, |keys| keys.held);
            let waiting = retries.map_or(0, |stream| shelf::waiting(stream, held));
            if self.context.retries.record(key, waiting, news) {
                self.trigger(&handler).await;
            }
        }
    }

    /// Takes down of which keys of a handler events wait, where that is due. Whether the broker answers.
    async fn look_at_keys(&self, key: &HandlerKey, name: &str, retries: &StreamInfo) -> bool {
        let subjects = retries.state.subjects;
        let Some(question) = self.context.keys.question(key, subjects) else { return true };
        let found = if subjects == 0 { Some(Keys::default()) } else { self.ask(keys_of(&self.broker, name)).await };
        let answers = found.is_some();
        found.into_iter().for_each(|keys| self.context.keys.record(&question, key.clone(), subjects, keys));
        answers
    }

    /// The answer, unless there is none in time: the question is asked again.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, String>>) -> Option<T> {
        let answer = timeout(DEADLINE, question).await;
        self.broker.set_answers(answer.is_ok());
        let error = match answer {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error,
            Err(_) => format!("no answer within {DEADLINE:?}"),
        };
        tracing::debug!(
            topic = self.topic.name,
            namespace = self.topic.namespace,
            error,
            "the broker was asked in vain"
        );
        None
    }

    async fn tell(&self, known_as: &str, progress: Progress) -> Told {
        let (namespace, name) = layout::handler_named(&self.topic.namespace, known_as);
        let key = (namespace.to_owned(), name.to_owned());
        let handler = get(&self.context.stores.handlers, namespace, name).filter(|_| self.has(&key));
        let Some(handler) = handler else { return Told::Awake };
        let status = handler.status.as_ref();
        // A specification that cannot be read is the reconciler's to report. What waits while a handler is suspended is
        // no reason for pods.
        let policy = scaling_policy(&handler.spec).ok().flatten().filter(|_| !handler.spec.suspend);
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
            // The broker is asked for it less often than for the rest.
            retries: self.context.retries.waiting(&key).unwrap_or_else(|| {
                let shown = status.and_then(|status| status.retries.as_ref()).map(|retries| retries.waiting);
                shown.and_then(|waiting| u64::try_from(waiting).ok()).unwrap_or(0)
            }),
            running: workload.running,
            delivered: progress.delivered,
            succeeded: workload.succeeded,
            failed: workload.failed,
            is_down: self.context.reports.availability(&key).is_some_and(|pods| pods.down == pods.pods),
            ready,
        };
        if self.context.lag.record(key, &handler, policy.as_ref(), sample) {
            self.triggers.handler(namespace, name).await;
        }
        let desired = status.and_then(|status| status.scaling.as_ref()).map(|scaling| scaling.desired);
        if policy.is_some() && desired == Some(0) && sample.pending == 0 { Told::Asleep } else { Told::Awake }
    }
}

async fn consumers_of(broker: &Broker) -> Result<Vec<ConsumerInfo>, String> {
    consumers::list(&broker.api).await.map_err(|error| error.to_string())
}

async fn streams_of(broker: &Broker) -> Result<Vec<StreamInfo>, String> {
    handler_streams::list(&broker.api).await.map_err(|error| error.to_string())
}

async fn keys_of(broker: &Broker, handler: &str) -> Result<Keys, String> {
    held_keys::look(&broker.api, handler).await.map_err(|error| error.to_string())
}

/// How far all consumers of a handler are together.
#[derive(Clone, Copy, Default)]
struct Progress {
    pending: u64,
    in_flight: u64,
    delivered: u64,
}

fn by_handler(consumers: &[ConsumerInfo]) -> HashMap<&str, Progress> {
    let mut handlers: HashMap<&str, Progress> = HashMap::new();
    for info in consumers {
        let progress = handlers.entry(layout::handler_of(&info.name)).or_default();
        progress.pending += info.num_pending;
        progress.in_flight += info.num_ack_pending;
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

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
