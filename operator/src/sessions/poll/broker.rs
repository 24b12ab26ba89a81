//! The session with one broker: what its consumers and streams are asked for, and when.
//!
//! Every ten seconds one question, in pages, brings everything of all topics ([`overview`]). A topic with a handler that
//! scales is asked for its consumers once a second besides; one whose handlers all sleep, only when an event comes
//! ([`doorbell`]). So a topic at rest costs its part of the one question.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, future};
use kube::ResourceExt as _;
use tidegate_broker_admin::overview::{self, AccountOverview, Overview, Scope};
use tidegate_broker_client::TopicId;
use tidegate_crds::conditions::HasConditions as _;
use tidegate_crds::topic::Routing;
use tidegate_crds::{EventHandler, EventTopic};
use tokio::time::timeout;

use super::triggers::Triggers;
use super::{PERIOD, ticks};
use crate::broker::topics::is_on;
use crate::context::Context;
use crate::handler::reference;
use crate::handler::settings::scaling_policy;
use crate::kubernetes::watches::get;
use crate::sessions::brokers::session::Connected as _;
use crate::sessions::brokers::{BrokerKey, Servers, TopicKey};
use crate::sessions::by_handler::{HandlerKey, STATUS_PERIOD};
use crate::sessions::doorbell;
use crate::sessions::numbers::Numbers;
use crate::topic::serve::serve;

/// How often everything is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// What the consumers show to be wrong is reconciled this often: with what is paused or refused it stays wrong.
pub(super) const RIGHT_PERIOD: Duration = Duration::from_secs(10);
/// A broker answers a question within this, or counts as hanging.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// From so many topics on that scale, one question for all is less than one for each.
const MANY: usize = 8;

/// Which topics have handlers, and which these are.
type Topics = HashMap<TopicKey, Vec<Arc<EventHandler>>>;

/// The session with one broker.
pub(super) struct Session {
    pub(super) context: Context,
    pub(super) triggers: Triggers,
    key: BrokerKey,
    pub(super) servers: Arc<Servers>,
    pub(super) origin: Instant,
    /// The ids of the topics' accounts: each is derived once.
    accounts: Mutex<HashMap<TopicKey, String>>,
    /// When each topic was told last that something is wrong with its consumers.
    pub(super) righted: Mutex<HashMap<TopicKey, Instant>>,
    /// The topics that are listened to, and whether they were asked since: an event may have come before.
    bells: Mutex<HashMap<TopicKey, bool>>,
}

impl Session {
    pub(super) fn new(
        context: Context,
        triggers: Triggers,
        key: BrokerKey,
        servers: Arc<Servers>,
        origin: Instant,
    ) -> Self {
        let (accounts, righted, bells) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { context, triggers, key, servers, origin, accounts, righted, bells }
    }

    pub(super) async fn run(self) {
        self.resume().await;
        let ingresses = self.servers.ingress_client();
        tokio::join!(
            self.follow(),
            self.listen(),
            self.watch_answers(),
            self.watch_account(),
            self.context.reports.hear(ingresses, |topic, handler| self.has(topic, handler)),
            self.context.ingress_reports.hear(ingresses, |topic| self.topic(topic).is_some()),
        );
    }

    /// What could not be done without the broker can be done now.
    async fn resume(&self) {
        let stores = &self.context.stores;
        let topics = stores.topics_by_broker.of(&self.key, |_| true);
        let waits = |ready: Option<&str>| ready != Some("True");
        for topic in &topics {
            let ready = topic.status.as_ref().and_then(|status| status.ready());
            if waits(ready.map(|ready| ready.status.as_str())) {
                self.triggers.topic(&key_of(topic)).await;
            }
        }
        let topics: HashSet<TopicKey> = topics.iter().map(|topic| key_of(topic)).collect();
        for handler in stores.handlers.state_filter(|handler| topics.contains(&reference::topic_of(handler))) {
            let ready = handler.status.as_ref().and_then(|status| status.ready());
            if waits(ready.map(|ready| ready.status.as_str())) {
                self.trigger(&handler).await;
            }
        }
    }

    /// Whether the broker answers at all: it may accept connections and hang.
    async fn watch_answers(&self) {
        let mut ticks = ticks(PERIOD);
        loop {
            ticks.tick().await;
            if self.servers.is_connected() {
                let answer = timeout(DEADLINE, self.servers.system_client().flush()).await;
                self.servers.set_answers(answer.is_ok());
            }
        }
    }

    /// Sees to the account of the ingresses, by which all topics live, where no topic comes by: a server may go on with a
    /// former one.
    async fn watch_account(&self) {
        let mut ticks = ticks(PERIOD);
        loop {
            ticks.tick().await;
            if !self.servers.is_connected() || !self.servers.accounts().await.is_ok_and(|known| known.is_due()) {
                continue;
            }
            if let Err(error) = serve(&self.context, &self.servers.place, &self.servers, None).await {
                let BrokerKey { namespace, name } = &self.key;
                tracing::debug!(namespace, name, %error, "the account of the ingresses was not compared");
            }
        }
    }

    /// Asks what has to be asked by the clock.
    async fn follow(&self) {
        let mut ticks = ticks(PERIOD);
        let mut looked = None::<Instant>;
        let mut told = HashMap::new();
        loop {
            ticks.tick().await;
            if !self.servers.is_connected() {
                continue;
            }
            let topics = self.topics();
            if looked.is_some_and(|looked| looked.elapsed() < LOOK_PERIOD) {
                self.ask(&self.scaling(&topics), &topics).await;
            } else if self.look(&topics, &mut told).await {
                looked = Some(Instant::now());
            }
        }
    }

    /// Asks about a topic whose handlers sleep when an event of it comes.
    async fn listen(&self) {
        let mut ticks = ticks(PERIOD);
        let mut bells: FuturesUnordered<BoxFuture<'_, TopicKey>> = FuturesUnordered::new();
        loop {
            let rang = tokio::select! {
                _ = ticks.tick() => None,
                Some(topic) = bells.next() => Some(topic),
            };
            if !self.servers.is_connected() {
                rang.into_iter().for_each(|topic| _ = lock(&self.bells).remove(&topic));
                continue;
            }
            let topics = self.topics();
            if let Some(first) = rang {
                let mut rang = vec![first];
                while let Some(Some(topic)) = bells.next().now_or_never() {
                    rang.push(topic);
                }
                rang.iter().for_each(|topic| _ = lock(&self.bells).remove(topic));
                self.ask(&rang, &topics).await;
            }
            for (topic, handlers) in &topics {
                let is_asleep = handlers.iter().any(|handler| sleeps(handler));
                let id = TopicId::new(topic.namespace.clone(), topic.name.clone());
                if let Some(id) = id.ok().filter(|_| is_asleep && !lock(&self.bells).contains_key(topic)) {
                    let (bell, topic) = (doorbell::hang(self.servers.ingress_client(), &id), topic.clone());
                    lock(&self.bells).insert(topic.clone(), false);
                    bells.push(bell.map(|()| topic).boxed());
                }
            }
        }
    }

    /// The topics of which a handler may need another number of pods, or has only just been listened for.
    fn scaling(&self, topics: &Topics) -> Vec<TopicKey> {
        let is_awake = |handler: &Arc<EventHandler>| scales(handler) && !sleeps(handler);
        let bells = lock(&self.bells);
        let is_new = |topic: &TopicKey| bells.get(topic) == Some(&false);
        let due = topics.iter().filter(|(topic, handlers)| is_new(topic) || handlers.iter().any(is_awake));
        due.map(|(topic, _)| topic.clone()).collect()
    }

    /// Looks at everything. Whether the broker answered.
    async fn look(&self, topics: &Topics, told: &mut HashMap<TopicKey, Instant>) -> bool {
        let Some(found) = self.question(Scope::Everything).await else { return false };
        lock(&self.accounts).retain(|topic, _| self.topic(topic).is_some());
        lock(&self.righted).retain(|_, righted| righted.elapsed() < RIGHT_PERIOD);
        told.retain(|_, told| told.elapsed() < STATUS_PERIOD);
        let nothing = AccountOverview::default();
        let on_broker = |topic: &EventTopic| topic.spec.routing == Routing::Queued;
        for topic in self.context.stores.topics_by_broker.of(&self.key, on_broker) {
            let key = key_of(&topic);
            let account = self.account(&key).and_then(|id| found.accounts.get(&id));
            // What was there and is not any more has to be made again.
            let is_gone = found.is_whole && topic.status.as_ref().and_then(Numbers::shown).is_some();
            let Some(account) = account.or_else(|| is_gone.then_some(&nothing)) else { continue };
            let handlers = topics.get(&key).map_or(&[][..], Vec::as_slice);
            self.tell(&key, handlers, account, found.is_whole).await;
            self.tell_of_shelves(&key, handlers, &account.streams).await;
            self.tell_of_numbers(&topic, &account.streams, told).await;
        }
        true
    }

    /// Asks how far the consumers of these topics are: each of them, or all of the broker if that is less.
    async fn ask(&self, due: &[TopicKey], topics: &Topics) {
        let each = async |topic: &TopicKey| {
            let id = self.account(topic)?;
            self.question(Scope::ConsumersOf(&id)).await
        };
        let found: Vec<Overview> = if due.len() < MANY {
            future::join_all(due.iter().map(each)).await.into_iter().flatten().collect()
        } else {
            self.question(Scope::Consumers).await.into_iter().collect()
        };
        for topic in due {
            let id = self.account(topic).unwrap_or_default();
            let answer = found.iter().find_map(|found| Some((found.accounts.get(&id)?, found.is_whole)));
            let (Some((account, is_whole)), Some(handlers)) = (answer, topics.get(topic)) else { continue };
            if let Some(is_asked) = lock(&self.bells).get_mut(topic) {
                *is_asked = true;
            }
            self.tell(topic, handlers, account, is_whole).await;
        }
    }

    /// The answer, unless there is none in time: the question is asked again.
    async fn question(&self, scope: Scope<'_>) -> Option<Overview> {
        let question = overview::look(self.servers.system_client(), self.servers.place.servers(), scope);
        match question.await {
            Ok(found) => Some(found),
            Err(error) => {
                let BrokerKey { namespace, name } = &self.key;
                tracing::debug!(namespace, name, %error, "the broker was asked in vain");
                None
            }
        }
    }

    /// The topics of this broker that store events and have handlers.
    fn topics(&self) -> Topics {
        let mut topics = Topics::new();
        for handler in self.context.stores.handlers.state() {
            topics.entry(reference::topic_of(&handler)).or_default().push(handler);
        }
        topics.retain(|key, handlers| {
            let topic = self.topic(key).filter(|topic| topic.spec.routing == Routing::Queued);
            let Some(topic) = topic else { return false };
            handlers.retain(|handler| self.context.stores.admits_handler(&topic, handler));
            !handlers.is_empty()
        });
        topics
    }

    /// A topic of this broker.
    pub(super) fn topic(&self, key: &TopicKey) -> Option<Arc<EventTopic>> {
        get(&self.context.stores.topics, &key.namespace, &key.name).filter(|topic| is_on(topic, &self.key))
    }

    /// Whether a handler is one of this topic, and that on this broker. What a broker says of others is not believed.
    fn has(&self, topic: &TopicKey, (namespace, name): &HandlerKey) -> bool {
        let handler = get(&self.context.stores.handlers, namespace, name);
        let handler = handler.filter(|handler| reference::topic_of(handler) == *topic);
        self.topic(topic)
            .zip(handler)
            .is_some_and(|(topic, handler)| self.context.stores.admits_handler(&topic, &handler))
    }

    fn account(&self, topic: &TopicKey) -> Option<String> {
        if let Some(id) = lock(&self.accounts).get(topic) {
            return Some(id.clone());
        }
        let id = TopicId::new(topic.namespace.clone(), topic.name.clone()).ok()?;
        let id = self.servers.place.authority.topic_account_id(&id).ok()?;
        lock(&self.accounts).insert(topic.clone(), id.clone());
        Some(id)
    }

    pub(super) async fn trigger(&self, handler: &EventHandler) {
        self.triggers.handler(&handler.namespace().unwrap_or_default(), &handler.name_any()).await;
    }
}

pub(super) fn key_of(topic: &EventTopic) -> TopicKey {
    TopicKey { namespace: topic.namespace().unwrap_or_default(), name: topic.name_any() }
}

/// Whether its number of pods follows what waits.
fn scales(handler: &EventHandler) -> bool {
    !handler.spec.suspend && matches!(scaling_policy(&handler.spec), Ok(Some(_)))
}

/// Whether it scales, and has no pods: an event wakes it.
fn sleeps(handler: &EventHandler) -> bool {
    let scaling = handler.status.as_ref().and_then(|status| status.scaling.as_ref());
    scaling.is_some_and(|scaling| scaling.desired == 0) && scales(handler)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
