//! What the operator sees of the cluster: a watch and a store for each type, and which changes are worth a reconcile.
//!
//! Reconciles read from these stores, so that a resource at rest costs the API server nothing. Of Secrets, ConfigMaps
//! and the like only the metadata is kept: it is enough to know whether somebody touched what was applied
//! ([`crate::kubernetes::apply`]).

mod child_meta;
mod index;
mod listed;
mod marks;
mod slim;
mod stores;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tidegate_crds::broker::{AuditStatus, EventBrokerStatus, StorageStatus};
use tidegate_crds::conditions::kind;
use tidegate_crds::topic::EventTopicStatus;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::kubernetes::names::{BROKER_LABEL, BROKER_NAMESPACE_LABEL, COMPONENT_LABEL, HANDLER_LABEL, MANAGED_BY};
use child_meta::{ChildMeta, Kept};
use listed::Listed;
pub(crate) use marks::{any_change, child_mark, mark_for_handlers, mark_for_topics, namespace_mark, resource_mark};
use slim::Slim;
pub(crate) use stores::Feed;
pub use stores::{Feeds, NamespaceMeta, Stores};

/// Objects of a page.
const PAGE_SIZE: u32 = 100;

pub(crate) fn is_in<K: Resource>(resource: &K, namespace: &str) -> bool {
    resource.meta().namespace.as_deref() == Some(namespace)
}

/// What a store has under this name.
pub(crate) fn get<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

fn look_in<K, T>(store: &Store<K>, (namespace, name): (&str, &str), look: &dyn Fn(&dyn Kept) -> T) -> Option<T>
where
    K: Resource<DynamicType = ()> + Clone + Kept,
{
    get(store, namespace, name).map(|object| look(object.as_ref()))
}

/// Of everything. Lists come in pages, each of which is in memory as a whole; of several types at the same time.
pub(crate) fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE_SIZE)
}

/// Everything the operator made for a component, `broker`, `topic` or `handler`.
pub(crate) fn ours(component: &str) -> watcher::Config {
    config().labels(&format!("{}={},{COMPONENT_LABEL}={component}", MANAGED_BY.0, MANAGED_BY.1))
}

/// Watches objects into their store, without what no one reads of them; yields those whose mark changed, and those that are gone.
pub(crate) fn objects<K>(
    api: Api<K>,
    config: watcher::Config,
    feed: Feed<K>,
    mark: fn(&K) -> u64,
) -> impl Stream<Item = watcher::Result<K>>
where
    K: Slim + Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let listed = feed.listed.clone();
    let events = watcher::watcher(api, config).default_backoff().map_ok(move |event| {
        if K::IS_CHILD
            && let Event::InitApply(object) = &event
        {
            listed.note(object);
        }
        event
    });
    significant(events.modify(K::slim), feed, mark)
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

/// The same, of which there are several for each topic and handler.
pub(crate) fn children<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    feed: Feed<ChildMeta<K>>,
) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let listed = feed.listed.clone();
    let events = watcher::watcher(api, config).default_backoff().map_ok(move |event| match event {
        Event::Init => Event::Init,
        Event::InitApply(object) => {
            listed.note(&object);
            Event::InitApply(object.into())
        }
        Event::InitDone => Event::InitDone,
        Event::Apply(object) => Event::Apply(object.into()),
        Event::Delete(object) => Event::Delete(object.into()),
    });
    significant(events, feed, Kept::mark).map_ok(|object| object.whole())
}

/// The namespaces: their labels, by which they may be granted something, and whether they are being deleted.
pub(crate) fn namespaces(
    api: Api<NamespaceMeta>,
    feed: Feed<NamespaceMeta>,
) -> impl Stream<Item = watcher::Result<NamespaceMeta>> {
    objects(api, config(), feed, namespace_mark)
}

/// The topics once more, for their handlers.
pub(crate) fn topics_for_handlers(
    api: Api<EventTopic>,
    feed: Feed<EventTopic>,
) -> impl Stream<Item = watcher::Result<EventTopic>> {
    let events = watcher::watcher(api, config()).default_backoff().modify(|topic: &mut EventTopic| {
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

/// The brokers once more, for their topics.
pub(crate) fn brokers_for_topics(
    api: Api<EventBroker>,
    feed: Feed<EventBroker>,
) -> impl Stream<Item = watcher::Result<EventBroker>> {
    let events = watcher::watcher(api, config()).default_backoff().modify(|broker: &mut EventBroker| {
        broker.metadata.managed_fields = None;
        broker.metadata.annotations = None;
        if let Some(status) = &mut broker.status {
            let mut conditions = std::mem::take(&mut status.conditions);
            conditions.retain(|condition| marks::OF_TOPICS.contains(&condition.type_.as_str()));
            // What is promised changes with every topic; the others need not hear of it.
            let usable = status.storage.take().map(|storage| storage.usable_bytes);
            let storage = usable.map(|usable_bytes| StorageStatus { usable_bytes, ..StorageStatus::default() });
            let replicas = status.replicas;
            let audit = status.audit.take().map(|AuditStatus { damaged, lost, .. }| AuditStatus {
                damaged,
                lost,
                ..AuditStatus::default()
            });
            *status = EventBrokerStatus { conditions, storage, replicas, audit, ..EventBrokerStatus::default() };
        }
    });
    significant(events, feed, mark_for_topics)
}

fn significant<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    feed: Feed<K>,
    mark: fn(&K) -> u64,
) -> impl Stream<Item = watcher::Result<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    let (store, mut changes) = (feed.writer.as_reader(), Changes::new(feed, mark));
    let found = events.map(move |event| {
        let is_listed = changes.is_listed;
        let found = event.map(|event| changes.take(event));
        (found, (!is_listed && changes.is_listed).then(|| changes.feed.unlisted.subscribe()))
    });
    found
        .then(|(found, first)| async {
            // Else whatever was made of a resource would have it reconciled once more for each type that is listed after it.
            if let Some(mut unlisted) = first {
                let _ = unlisted.wait_for(|count| *count == 0).await;
            }
            found
        })
        .flat_map(move |found| {
            let store = store.clone();
            let found = match found {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            stream::iter(found.into_iter().filter_map(move |found| match found {
                Ok(Found::There(at)) => store.get(&at).map(|object| Ok(K::clone(&object))),
                Ok(Found::Gone(object)) => Some(Ok(object)),
                Err(error) => Some(Err(error)),
            }))
        })
}

/// An object of which something changed.
enum Found<K: Resource<DynamicType = ()> + Clone + 'static> {
    /// It is in the store. (A list of all of them would be all objects once more.)
    There(ObjectRef<K>),
    /// It was there.
    Gone(K),
}

/// Where an object is, as a key that takes little room.
fn place<K: Resource>(object: &K) -> Box<str> {
    let meta = object.meta();
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default()).into()
}

/// Finds what changed, deletions that no event told of included.
struct Changes<K: Resource<DynamicType = ()> + Clone + 'static> {
    feed: Feed<K>,
    is_listed: bool,
    mark: fn(&K) -> u64,
    known: HashMap<Box<str>, u64>,
    /// While everything is listed again.
    listed: HashMap<Box<str>, u64>,
    pending: Vec<ObjectRef<K>>,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + 'static> Changes<K> {
    fn new(feed: Feed<K>, mark: fn(&K) -> u64) -> Self {
        let (known, listed, pending) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { feed, is_listed: false, mark, known, listed, pending }
    }

    /// Updates the store first, so that whoever is told finds what it was told of.
    fn take(&mut self, event: Event<K>) -> Vec<Found<K>> {
        let before = if matches!(event, Event::InitDone) { self.feed.writer.as_reader().state() } else { Vec::new() };
        self.feed.write(&event);
        match event {
            Event::Init => {
                self.listed.clear();
                self.pending.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let (key, mark) = (place(&object), (self.mark)(&object));
                if self.known.get(&key) != Some(&mark) {
                    self.pending.push(ObjectRef::from_obj(&object));
                }
                self.listed.insert(key, mark);
                Vec::new()
            }
            Event::InitDone => {
                if !std::mem::replace(&mut self.is_listed, true) {
                    self.feed.unlisted.send_modify(|count| *count -= 1);
                }
                self.known = std::mem::take(&mut self.listed);
                let gone = before.iter().filter(|object| !self.known.contains_key(&place(object.as_ref())));
                let found = std::mem::take(&mut self.pending).into_iter().map(Found::There);
                found.chain(gone.map(|object| Found::Gone(K::clone(object)))).collect()
            }
            Event::Apply(object) => {
                let mark = (self.mark)(&object);
                let before = self.known.insert(place(&object), mark);
                if before == Some(mark) { Vec::new() } else { vec![Found::There(ObjectRef::from_obj(&object))] }
            }
            Event::Delete(object) => {
                self.known.remove(&place(&object));
                vec![Found::Gone(object)]
            }
        }
    }
}

/// The broker, topic or handler that an object of ours belongs to: by its label, else by its owner.
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

/// The topics of a namespace whose broker is of another one.
pub(crate) fn topics_of_granted(topics: &Store<EventTopic>, namespace: &str) -> Vec<ObjectRef<EventTopic>> {
    let found = topics.state_filter(|topic| is_in(topic, namespace) && topic.spec.broker.namespace.is_some());
    found.iter().map(|topic| ObjectRef::from_obj(topic.as_ref())).collect()
}

/// The handlers of a namespace whose topic is of another one.
pub(crate) fn handlers_of_granted(handlers: &Store<EventHandler>, namespace: &str) -> Vec<ObjectRef<EventHandler>> {
    let found = handlers.state_filter(|handler| is_in(handler, namespace) && handler.spec.topic_namespace.is_some());
    found.iter().map(|handler| ObjectRef::from_obj(handler.as_ref())).collect()
}

/// The broker of a Secret: that with its keys is in the operator's namespace.
pub(crate) fn broker_of_secret<O: Resource>(secret: &O) -> Option<ObjectRef<EventBroker>> {
    let broker = owner_of(secret, BROKER_LABEL)?;
    let elsewhere = secret.labels().get(BROKER_NAMESPACE_LABEL);
    Some(elsewhere.map_or_else(|| broker.clone(), |namespace| ObjectRef::new(&broker.name).within(namespace)))
}

/// Pods of handlers carry their label.
pub(crate) fn handler_of<O: Resource>(object: &O) -> Option<ObjectRef<EventHandler>> {
    owner_of(object, HANDLER_LABEL)
}

#[cfg(test)]
#[path = "watches_tests.rs"]
mod tests;
