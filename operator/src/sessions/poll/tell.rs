//! What a broker's answers mean for its topics and handlers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use kube::ResourceExt as _;
use tidegate_broker_admin::api::StreamInfo;
use tidegate_broker_admin::held_keys::{self, Keys};
use tidegate_broker_admin::overview::{AccountOverview, Progress};
use tidegate_broker_client::layout;
use tidegate_crds::handler::Order;
use tidegate_crds::{EventHandler, EventTopic};
use tokio::time::timeout;

use super::broker::{DEADLINE, RIGHT_PERIOD, Session, key_of, lock};
use crate::autoscaling::Sample;
use crate::autoscaling::workload::TotalWorkload;
use crate::handler::settings::scaling_policy;
use crate::handler::{position, reference, shelf};
use crate::sessions::brokers::TopicKey;
use crate::sessions::by_handler::HandlerKey;
use crate::sessions::numbers::{Numbers, is_filling};

impl Session {
    /// Tells what the consumers of a topic mean for its handlers.
    pub(super) async fn tell(
        &self,
        topic: &TopicKey,
        handlers: &[Arc<EventHandler>],
        found: &AccountOverview,
        is_whole: bool,
    ) {
        let progress = by_handler(&found.consumers);
        for handler in handlers {
            if let Some(progress) = progress.get(reference::known_as(handler).as_str()) {
                self.tell_of_lag(handler, *progress).await;
            }
        }
        let righted = lock(&self.righted).get(topic).copied();
        let is_due = righted.is_none_or(|righted| righted.elapsed() >= RIGHT_PERIOD);
        if is_whole && is_due && self.put_right(topic, handlers, &found.consumers, progress.len()).await {
            lock(&self.righted).insert(topic.clone(), Instant::now());
        }
    }

    /// Consumers that are gone are made again at once, and not at the next look at all things; and a topic shows at
    /// once that a handler has come or gone. Whether there was anything wrong.
    async fn put_right(
        &self,
        topic: &TopicKey,
        handlers: &[Arc<EventHandler>],
        consumers: &[Progress],
        subscribed: usize,
    ) -> bool {
        let lost = handlers.iter().filter(|handler| position::is_lost(handler, consumers));
        let mut is_wrong = false;
        for handler in lost {
            self.trigger(handler).await;
            is_wrong = true;
        }
        let shown = self.topic(topic).and_then(|topic| topic.status.as_ref()?.handlers);
        let is_miscounted = shown.is_some_and(|shown| usize::try_from(shown) != Ok(subscribed));
        if is_miscounted {
            self.triggers.topic(topic).await;
        }
        is_wrong || is_miscounted
    }

    async fn tell_of_lag(&self, handler: &EventHandler, progress: HandlerProgress) {
        let (namespace, name) = (handler.namespace().unwrap_or_default(), handler.name_any());
        let key = (namespace.clone(), name.clone());
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
        if self.context.lag.record(key, handler, policy.as_ref(), sample) {
            self.triggers.handler(&namespace, &name).await;
        }
    }

    pub(super) async fn tell_of_numbers(
        &self,
        topic: &EventTopic,
        streams: &[StreamInfo],
        told: &mut HashMap<TopicKey, Instant>,
    ) {
        let key = key_of(topic);
        // What was told before is no measure: the status may show what was there between two looks.
        let shown = topic.status.as_ref().and_then(Numbers::shown);
        let is_due = !told.contains_key(&key) || streams.iter().any(is_filling);
        if Numbers::of(streams).should_be_shown(shown.as_ref(), is_due) {
            self.triggers.topic(&key).await;
            told.insert(key, Instant::now());
        }
    }

    /// Records what of each handler waits for a retry, and shows at once that there is no room for more of it.
    pub(super) async fn tell_of_shelves(
        &self,
        topic: &TopicKey,
        handlers: &[Arc<EventHandler>],
        streams: &[StreamInfo],
    ) {
        if handlers.is_empty() {
            return;
        }
        let by_name: HashMap<&str, &StreamInfo> =
            streams.iter().map(|stream| (stream.config.name.as_str(), stream)).collect();
        let mut answers = true;
        for handler in handlers {
            let (name, key) =
                (&reference::known_as(handler), (handler.namespace().unwrap_or_default(), handler.name_any()));
            let retries = by_name.get(layout::retry_stream(name).as_str()).copied();
            let dead_letters = by_name.get(layout::dead_letter_stream(name).as_str()).copied();
            let keyed = retries.filter(|_| handler.spec.delivery.order == Order::Key && answers);
            if let Some(retries) = keyed {
                answers = self.look_at_keys(topic, &key, name, retries).await;
            }
            let keys = self.context.keys.known(&key);
            let news = shelf::news(handler, retries, keys.as_ref(), dead_letters);
            let held = keys.map_or(0, |keys| keys.held);
            let waiting = retries.map_or(0, |stream| shelf::waiting(stream, held));
            if self.context.retries.record(key, waiting, news) {
                self.trigger(handler).await;
            }
        }
    }

    /// Takes down of which keys of a handler events wait, where that is due. Whether the broker answers.
    async fn look_at_keys(&self, topic: &TopicKey, key: &HandlerKey, name: &str, retries: &StreamInfo) -> bool {
        let subjects = retries.state.subjects;
        let Some(question) = self.context.keys.question(key, subjects) else { return true };
        let found = if subjects == 0 { Some(Keys::default()) } else { self.keys_of(topic, name).await };
        let answers = found.is_some();
        found.into_iter().for_each(|keys| self.context.keys.record(&question, key.clone(), subjects, keys));
        answers
    }

    /// The keys are messages, which are read in the topic's own account.
    async fn keys_of(&self, topic: &TopicKey, handler: &str) -> Option<Keys> {
        let broker = self.context.brokers.get(topic, &self.servers.place).await.ok()?;
        match timeout(DEADLINE, held_keys::look(&broker.api, handler)).await {
            Ok(found) => found.ok(),
            Err(_) => None,
        }
    }
}

/// How far all consumers of a handler are together.
#[derive(Clone, Copy, Default)]
struct HandlerProgress {
    pending: u64,
    in_flight: u64,
    delivered: u64,
}

fn by_handler(consumers: &[Progress]) -> HashMap<&str, HandlerProgress> {
    let mut handlers: HashMap<&str, HandlerProgress> = HashMap::new();
    for consumer in consumers {
        let progress = handlers.entry(layout::handler_of(&consumer.name)).or_default();
        progress.pending += consumer.pending;
        progress.in_flight += consumer.in_flight;
        progress.delivered += consumer.delivered;
    }
    handlers
}
