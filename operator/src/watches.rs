//! What the operator sees of the cluster: a watch and a store for each type, and which changes are worth a reconcile.
//!
//! Reconciles read from these stores, so that a resource at rest costs the API server nothing. Of Secrets, ConfigMaps
//! and the like only the metadata is kept: it is enough to know whether somebody touched what was applied
//! ([`crate::apply`]).

mod marks;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tidegate_crds::conditions::kind;
use tidegate_crds::topic::EventTopicStatus;
use tidegate_crds::{EventHandler, EventTopic};
use tokio::sync::watch;

use crate::names::{COMPONENT_LABEL, HANDLER_LABEL, MANAGED_BY};
pub(crate) use marks::{any_change, child_mark, mark_for_handlers, resource_mark};

/// What the operator saw last of each type.
pub struct Stores {
    /// All topics.
    pub topics: Store<EventTopic>,
    /// The same for handlers, with no more than what [`mark_for_handlers`] looks at: filled before the controllers hear
    /// of a change.
    pub topics_for_handlers: Store<EventTopic>,
    /// All handlers.
    pub handlers: Store<EventHandler>,
    /// Of all topics.
    pub statefulsets: Store<StatefulSet>,
    /// Of all handlers.
    pub deployments: Store<Deployment>,
    /// Of all topics.
    pub broker_pods: Store<Pod>,
    /// Of all handlers.
    pub handler_pods: Store<Pod>,
    config_maps: Store<PartialObjectMeta<ConfigMap>>,
    services: Store<PartialObjectMeta<Service>>,
    disruption_budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    network_policies: Store<PartialObjectMeta<NetworkPolicy>>,
    handler_policies: Store<PartialObjectMeta<NetworkPolicy>>,
    broker_secrets: Store<PartialObjectMeta<Secret>>,
    handler_secrets: Store<PartialObjectMeta<Secret>>,
    unlisted: watch::Receiver<usize>,
}

/// Where the watches write to, one for each of [`Stores`].
pub struct Feeds {
    pub(crate) topics: Feed<EventTopic>,
    pub(crate) topics_for_handlers: Feed<EventTopic>,
    pub(crate) handlers: Feed<EventHandler>,
    pub(crate) statefulsets: Feed<StatefulSet>,
    pub(crate) deployments: Feed<Deployment>,
    pub(crate) broker_pods: Feed<Pod>,
    pub(crate) handler_pods: Feed<Pod>,
    pub(crate) config_maps: Feed<PartialObjectMeta<ConfigMap>>,
    pub(crate) services: Feed<PartialObjectMeta<Service>>,
    pub(crate) disruption_budgets: Feed<PartialObjectMeta<PodDisruptionBudget>>,
    pub(crate) network_policies: Feed<PartialObjectMeta<NetworkPolicy>>,
    pub(crate) handler_policies: Feed<PartialObjectMeta<NetworkPolicy>>,
    pub(crate) broker_secrets: Feed<PartialObjectMeta<Secret>>,
    pub(crate) handler_secrets: Feed<PartialObjectMeta<Secret>>,
}

/// Where one watch writes to.
pub(crate) struct Feed<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    unlisted: Arc<Unlisted>,
}

/// How many types have not been listed yet. (Of several that wait for one store, the store's own
/// `wait_until_ready` wakes only the last.)
type Unlisted = watch::Sender<usize>;

fn feed<K>(unlisted: &Arc<Unlisted>) -> (Store<K>, Feed<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    unlisted.send_modify(|count| *count += 1);
    let (store, writer) = reflector::store();
    (store, Feed { writer, unlisted: unlisted.clone() })
}

impl Stores {
    /// Empty stores, and where their content comes from.
    pub fn new() -> (Self, Feeds) {
        let (count, unlisted) = watch::channel(0);
        let count = Arc::new(count);
        let (topics, topic_feed) = feed(&count);
        let (topics_for_handlers, topic_for_handler_feed) = feed(&count);
        let (handlers, handler_feed) = feed(&count);
        let (statefulsets, statefulset_feed) = feed(&count);
        let (deployments, deployment_feed) = feed(&count);
        let (broker_pods, broker_pod_feed) = feed(&count);
        let (handler_pods, handler_pod_feed) = feed(&count);
        let (config_maps, config_map_feed) = feed(&count);
        let (services, service_feed) = feed(&count);
        let (disruption_budgets, disruption_budget_feed) = feed(&count);
        let (network_policies, network_policy_feed) = feed(&count);
        let (handler_policies, handler_policy_feed) = feed(&count);
        let (broker_secrets, broker_secret_feed) = feed(&count);
        let (handler_secrets, handler_secret_feed) = feed(&count);
        let stores = Self {
            topics,
            topics_for_handlers,
            handlers,
            statefulsets,
            deployments,
            broker_pods,
            handler_pods,
            config_maps,
            services,
            disruption_budgets,
            network_policies,
            handler_policies,
            broker_secrets,
            handler_secrets,
            unlisted,
        };
        let feeds = Feeds {
            topics: topic_feed,
            topics_for_handlers: topic_for_handler_feed,
            handlers: handler_feed,
            statefulsets: statefulset_feed,
            deployments: deployment_feed,
            broker_pods: broker_pod_feed,
            handler_pods: handler_pod_feed,
            config_maps: config_map_feed,
            services: service_feed,
            disruption_budgets: disruption_budget_feed,
            network_policies: network_policy_feed,
            handler_policies: handler_policy_feed,
            broker_secrets: broker_secret_feed,
            handler_secrets: handler_secret_feed,
        };
        (stores, feeds)
    }

    /// Waits until everything has been listed once. Stores without watches have nothing to wait for.
    pub async fn ready(&self) {
        let _ = self.unlisted.clone().wait_for(|count| *count == 0).await;
    }

    /// The mark of one of our child objects, as it was seen last.
    pub(crate) fn child_mark(&self, kind: &str, namespace: &str, name: &str) -> Option<u64> {
        match kind {
            "StatefulSet" => mark_in(&self.statefulsets, namespace, name),
            "Deployment" => mark_in(&self.deployments, namespace, name),
            "ConfigMap" => mark_in(&self.config_maps, namespace, name),
            "Service" => mark_in(&self.services, namespace, name),
            "PodDisruptionBudget" => mark_in(&self.disruption_budgets, namespace, name),
            "NetworkPolicy" => mark_in(&self.network_policies, namespace, name)
                .or_else(|| mark_in(&self.handler_policies, namespace, name)),
            "Secret" => mark_in(&self.broker_secrets, namespace, name)
                .or_else(|| mark_in(&self.handler_secrets, namespace, name)),
            _ => None,
        }
    }

    /// The handlers of a topic.
    pub(crate) fn handlers_of(&self, namespace: &str, topic: &str) -> Vec<Arc<EventHandler>> {
        self.handlers.state_filter(|handler| is_in(handler, namespace) && handler.spec.topic == topic)
    }

    /// The pods that this label names the owner of.
    pub(crate) fn pods_of(store: &Store<Pod>, namespace: &str, label: &str, owner: &str) -> Vec<Pod> {
        let pods = store
            .state_filter(|pod| is_in(pod, namespace) && pod.labels().get(label).is_some_and(|value| value == owner));
        pods.iter().map(|pod| Pod::clone(pod)).collect()
    }
}

fn is_in<K: Resource>(resource: &K, namespace: &str) -> bool {
    resource.meta().namespace.as_deref() == Some(namespace)
}

/// What a store has under this name.
pub(crate) fn get<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

fn mark_in<K: Resource<DynamicType = ()> + Clone>(store: &Store<K>, namespace: &str, name: &str) -> Option<u64> {
    get(store, namespace, name).map(|object| child_mark(object.meta()))
}

/// Everything the operator made for a component, `broker` or `handler`.
pub(crate) fn ours(component: &str) -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={},{COMPONENT_LABEL}={component}", MANAGED_BY.0, MANAGED_BY.1))
}

/// Watches whole objects into their store; yields those whose mark changed, and those that are gone.
pub(crate) fn objects<K>(
    api: Api<K>,
    config: watcher::Config,
    feed: Feed<K>,
    mark: fn(&K) -> u64,
) -> impl Stream<Item = watcher::Result<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher::watcher(api, config).default_backoff().modify(|object| object.managed_fields_mut().clear());
    significant(events, feed, mark)
}

/// The same of metadata alone.
pub(crate) fn metadata<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    feed: Feed<PartialObjectMeta<K>>,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    objects(api, config, feed, |object| child_mark(object.meta()))
}

/// The topics once more, for their handlers.
pub(crate) fn topics_for_handlers(
    api: Api<EventTopic>,
    feed: Feed<EventTopic>,
) -> impl Stream<Item = watcher::Result<EventTopic>> {
    let events =
        watcher::watcher(api, watcher::Config::default()).default_backoff().modify(|topic: &mut EventTopic| {
            topic.metadata.managed_fields = None;
            topic.metadata.annotations = None;
            if let Some(status) = &mut topic.status {
                let mut conditions = std::mem::take(&mut status.conditions);
                conditions.retain(|condition| condition.type_ == kind::STREAM_READY);
                *status = EventTopicStatus { conditions, ..EventTopicStatus::default() };
            }
        });
    significant(events, feed, mark_for_handlers)
}

fn significant<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    feed: Feed<K>,
    mark: fn(&K) -> u64,
) -> impl Stream<Item = watcher::Result<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    let mut changes = Changes::new(feed, mark);
    events.flat_map(move |event| {
        let found = match event {
            Ok(event) => changes.take(event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(found)
    })
}

/// Finds what changed, deletions that no event told of included.
struct Changes<K: Resource<DynamicType = ()> + Clone + 'static> {
    feed: Feed<K>,
    is_listed: bool,
    mark: fn(&K) -> u64,
    known: HashMap<ObjectRef<K>, u64>,
    /// While everything is listed again.
    listed: HashMap<ObjectRef<K>, u64>,
    pending: Vec<K>,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + 'static> Changes<K> {
    fn new(feed: Feed<K>, mark: fn(&K) -> u64) -> Self {
        let (known, listed, pending) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { feed, is_listed: false, mark, known, listed, pending }
    }

    /// Updates the store first, so that whoever is told finds what it was told of.
    fn take(&mut self, event: Event<K>) -> Vec<K> {
        let before = if matches!(event, Event::InitDone) { self.feed.writer.as_reader().state() } else { Vec::new() };
        self.feed.writer.apply_watcher_event(&event);
        match event {
            Event::Init => {
                self.listed.clear();
                self.pending.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let (key, mark) = (ObjectRef::from_obj(&object), (self.mark)(&object));
                if self.known.get(&key) != Some(&mark) {
                    self.pending.push(object);
                }
                self.listed.insert(key, mark);
                Vec::new()
            }
            Event::InitDone => {
                if !std::mem::replace(&mut self.is_listed, true) {
                    self.feed.unlisted.send_modify(|count| *count -= 1);
                }
                self.known = std::mem::take(&mut self.listed);
                let gone =
                    before.iter().filter(|object| !self.known.contains_key(&ObjectRef::from_obj(object.as_ref())));
                let mut found = std::mem::take(&mut self.pending);
                found.extend(gone.map(|object| K::clone(object)));
                found
            }
            Event::Apply(object) => {
                let mark = (self.mark)(&object);
                let before = self.known.insert(ObjectRef::from_obj(&object), mark);
                if before == Some(mark) { Vec::new() } else { vec![object] }
            }
            Event::Delete(object) => {
                self.known.remove(&ObjectRef::from_obj(&object));
                vec![object]
            }
        }
    }
}

/// The topic or handler that an object of ours belongs to: by its label, else by its owner.
pub(crate) fn owner_of<O, K>(object: &O, label: &str) -> Option<ObjectRef<K>>
where
    O: Resource,
    K: Resource<DynamicType = ()>,
{
    let meta = object.meta();
    let by_label = meta.labels.as_ref().and_then(|labels| labels.get(label));
    let by_owner =
        || meta.owner_references.iter().flatten().find(|owner| owner.kind == K::kind(&())).map(|owner| &owner.name);
    Some(ObjectRef::new(by_label.or_else(by_owner)?).within(meta.namespace.as_deref()?))
}

/// The handlers that name this topic, as theirs or as a destination.
pub(crate) fn dependants(handlers: &Store<EventHandler>, topic: &EventTopic) -> Vec<ObjectRef<EventHandler>> {
    let Some(namespace) = topic.namespace() else { return Vec::new() };
    let name = topic.name_any();
    let names = |handler: &EventHandler| {
        let destinations = [&handler.spec.reply, &handler.spec.dead_letter];
        handler.spec.topic == name || destinations.into_iter().flatten().any(|to| to.topic == name)
    };
    let found = handlers.state_filter(|handler| is_in(handler, &namespace) && names(handler));
    found.iter().map(|handler| ObjectRef::from_obj(handler.as_ref())).collect()
}

/// Pods of handlers carry their label.
pub(crate) fn handler_of<O: Resource>(object: &O) -> Option<ObjectRef<EventHandler>> {
    owner_of(object, HANDLER_LABEL)
}

#[cfg(test)]
#[path = "watches_tests.rs"]
mod tests;
