//! The stores of all watches, and where they are filled.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, Store};
use kube::{Resource, ResourceExt as _};
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tokio::sync::watch;

use super::child_meta::{ChildMeta, Kept};
use super::index::{Follow, Index};
use super::{Listed, get, is_in, look_in};
use crate::broker::deletion;
use crate::broker::topics::{Listing, broker_of};
use crate::handler::reference;
use crate::kubernetes::names;
use crate::kubernetes::written::Key;
use crate::sessions::brokers::{BrokerKey, TopicKey};

/// A namespace, as far as grants depend on it.
pub type NamespaceMeta = PartialObjectMeta<Namespace>;

/// What the operator saw last of each type.
pub struct Stores {
    /// All brokers.
    pub brokers: Store<EventBroker>,
    /// The same for topics, with no more of the status than what [`super::mark_for_topics`] looks at.
    pub brokers_for_topics: Store<EventBroker>,
    /// All topics.
    pub topics: Store<EventTopic>,
    /// The same for handlers, with no more than what [`super::mark_for_handlers`] looks at: filled before the controllers hear
    /// of a change.
    pub topics_for_handlers: Store<EventTopic>,
    /// All handlers.
    pub handlers: Store<EventHandler>,
    /// All namespaces.
    pub namespaces: Store<NamespaceMeta>,
    /// The same for handlers.
    pub namespaces_for_handlers: Store<NamespaceMeta>,
    /// Of all brokers.
    pub statefulsets: Store<StatefulSet>,
    /// Of all handlers.
    pub deployments: Store<Deployment>,
    /// Of all brokers.
    pub broker_pods: Store<Pod>,
    /// Of all handlers.
    pub handler_pods: Store<Pod>,
    config_maps: Store<PartialObjectMeta<ConfigMap>>,
    topic_config_maps: Store<ChildMeta<ConfigMap>>,
    services: Store<PartialObjectMeta<Service>>,
    topic_services: Store<ChildMeta<Service>>,
    disruption_budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    network_policies: Store<PartialObjectMeta<NetworkPolicy>>,
    handler_policies: Store<ChildMeta<NetworkPolicy>>,
    broker_secrets: Store<PartialObjectMeta<Secret>>,
    topic_secrets: Store<ChildMeta<Secret>>,
    handler_secrets: Store<ChildMeta<Secret>>,
    /// The topics by the broker that they name, with what its ingresses are told of them.
    pub(crate) topics_by_broker: Arc<Index<EventTopic, BrokerKey, Option<Arc<Listing>>>>,
    /// The handlers by the topics that they name, as theirs or as a destination.
    pub(crate) handlers_by_topic: Arc<Index<EventHandler, TopicKey>>,
    /// What they began with.
    pub(crate) listed: Arc<Listed>,
    unlisted: watch::Receiver<usize>,
}

/// Where the watches write to, one for each of [`Stores`].
pub struct Feeds {
    pub(crate) brokers: Feed<EventBroker>,
    pub(crate) brokers_for_topics: Feed<EventBroker>,
    pub(crate) topics: Feed<EventTopic>,
    pub(crate) topics_for_handlers: Feed<EventTopic>,
    pub(crate) handlers: Feed<EventHandler>,
    pub(crate) namespaces: Feed<NamespaceMeta>,
    pub(crate) namespaces_for_handlers: Feed<NamespaceMeta>,
    pub(crate) statefulsets: Feed<StatefulSet>,
    pub(crate) deployments: Feed<Deployment>,
    pub(crate) broker_pods: Feed<Pod>,
    pub(crate) handler_pods: Feed<Pod>,
    pub(crate) config_maps: Feed<PartialObjectMeta<ConfigMap>>,
    pub(crate) topic_config_maps: Feed<ChildMeta<ConfigMap>>,
    pub(crate) services: Feed<PartialObjectMeta<Service>>,
    pub(crate) topic_services: Feed<ChildMeta<Service>>,
    pub(crate) disruption_budgets: Feed<PartialObjectMeta<PodDisruptionBudget>>,
    pub(crate) network_policies: Feed<PartialObjectMeta<NetworkPolicy>>,
    pub(crate) handler_policies: Feed<ChildMeta<NetworkPolicy>>,
    pub(crate) broker_secrets: Feed<PartialObjectMeta<Secret>>,
    pub(crate) topic_secrets: Feed<ChildMeta<Secret>>,
    pub(crate) handler_secrets: Feed<ChildMeta<Secret>>,
}

/// Where one watch writes to.
pub(crate) struct Feed<K: Resource<DynamicType = ()> + Clone + 'static> {
    pub(super) writer: Writer<K>,
    pub(super) listed: Arc<Listed>,
    pub(super) unlisted: Arc<Unlisted>,
    pub(super) index: Option<Arc<dyn Follow<K>>>,
}

/// How many types have not been listed yet. (Of several that wait for one store, the store's own
/// `wait_until_ready` wakes only the last.)
pub(super) type Unlisted = watch::Sender<usize>;

pub(super) fn feed<K>(unlisted: &Arc<Unlisted>, listed: &Arc<Listed>) -> (Store<K>, Feed<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    unlisted.send_modify(|count| *count += 1);
    let (store, writer) = reflector::store();
    (store, Feed { writer, listed: listed.clone(), unlisted: unlisted.clone(), index: None })
}

impl Stores {
    /// Empty stores, and where their content comes from.
    pub fn new() -> (Self, Feeds) {
        let (count, unlisted) = watch::channel(0);
        let (count, listed) = (Arc::new(count), Arc::new(Listed::default()));
        let (brokers, broker_feed) = feed(&count, &listed);
        let (brokers_for_topics, broker_for_topic_feed) = feed(&count, &listed);
        let (topics, topic_feed) = feed(&count, &listed);
        let (topics_for_handlers, topic_for_handler_feed) = feed(&count, &listed);
        let (handlers, handler_feed) = feed(&count, &listed);
        let (namespaces, namespace_feed) = feed(&count, &listed);
        let (namespaces_for_handlers, namespace_for_handler_feed) = feed(&count, &listed);
        let (statefulsets, statefulset_feed) = feed(&count, &listed);
        let (deployments, deployment_feed) = feed(&count, &listed);
        let (broker_pods, broker_pod_feed) = feed(&count, &listed);
        let (handler_pods, handler_pod_feed) = feed(&count, &listed);
        let (config_maps, config_map_feed) = feed(&count, &listed);
        let (topic_config_maps, topic_config_map_feed) = feed(&count, &listed);
        let (services, service_feed) = feed(&count, &listed);
        let (topic_services, topic_service_feed) = feed(&count, &listed);
        let (disruption_budgets, disruption_budget_feed) = feed(&count, &listed);
        let (network_policies, network_policy_feed) = feed(&count, &listed);
        let (handler_policies, handler_policy_feed) = feed(&count, &listed);
        let (broker_secrets, broker_secret_feed) = feed(&count, &listed);
        let (topic_secrets, topic_secret_feed) = feed(&count, &listed);
        let (handler_secrets, handler_secret_feed) = feed(&count, &listed);
        let topics_by_broker = Index::new(|topic| vec![broker_of(topic)], Listing::of);
        let handlers_by_topic = Index::new(reference::topics_of, |_| ());
        let (topic_feed, handler_feed) =
            (topic_feed.followed_by(topics_by_broker.clone()), handler_feed.followed_by(handlers_by_topic.clone()));
        let stores = Self {
            brokers,
            brokers_for_topics,
            topics,
            topics_for_handlers,
            handlers,
            namespaces,
            namespaces_for_handlers,
            statefulsets,
            deployments,
            broker_pods,
            handler_pods,
            config_maps,
            topic_config_maps,
            services,
            topic_services,
            disruption_budgets,
            network_policies,
            handler_policies,
            broker_secrets,
            topic_secrets,
            handler_secrets,
            topics_by_broker,
            handlers_by_topic,
            listed,
            unlisted,
        };
        let feeds = Feeds {
            brokers: broker_feed,
            brokers_for_topics: broker_for_topic_feed,
            topics: topic_feed,
            topics_for_handlers: topic_for_handler_feed,
            handlers: handler_feed,
            namespaces: namespace_feed,
            namespaces_for_handlers: namespace_for_handler_feed,
            statefulsets: statefulset_feed,
            deployments: deployment_feed,
            broker_pods: broker_pod_feed,
            handler_pods: handler_pod_feed,
            config_maps: config_map_feed,
            topic_config_maps: topic_config_map_feed,
            services: service_feed,
            topic_services: topic_service_feed,
            disruption_budgets: disruption_budget_feed,
            network_policies: network_policy_feed,
            handler_policies: handler_policy_feed,
            broker_secrets: broker_secret_feed,
            topic_secrets: topic_secret_feed,
            handler_secrets: handler_secret_feed,
        };
        (stores, feeds)
    }

    /// Waits until everything has been listed once. Stores without watches have nothing to wait for.
    pub async fn ready(&self) {
        let _ = self.unlisted.clone().wait_for(|count| *count == 0).await;
    }

    /// All brokers, topics and handlers.
    pub(crate) fn resources(&self) -> HashSet<Key> {
        let key = |kind: &str, meta: &ObjectMeta| {
            (kind.to_owned(), meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        let brokers = self.brokers.state().into_iter().map(|broker| key("EventBroker", &broker.metadata));
        let topics = self.topics.state().into_iter().map(|topic| key("EventTopic", &topic.metadata));
        let handlers = self.handlers.state().into_iter().map(|handler| key("EventHandler", &handler.metadata));
        brokers.chain(topics).chain(handlers).collect()
    }

    /// Whether there is such a broker, topic or handler.
    pub(crate) fn has(&self, (kind, namespace, name): &Key) -> bool {
        match kind.as_str() {
            "EventBroker" => get(&self.brokers, namespace, name).is_some(),
            "EventTopic" => get(&self.topics, namespace, name).is_some(),
            _ => get(&self.handlers, namespace, name).is_some(),
        }
    }

    /// The mark of one of our child objects, as it was seen last.
    pub(crate) fn child_mark(&self, kind: &str, namespace: &str, name: &str) -> Option<u64> {
        self.child(kind, (namespace, name), &|object| object.mark())
    }

    /// What this finds in one of our child objects, as it was seen last: its mark, and what is kept of its metadata.
    pub(crate) fn look_at<T>(
        &self,
        (kind, namespace, name): (&str, &str, &str),
        look: impl Fn(u64, &ObjectMeta) -> T,
    ) -> Option<T> {
        self.child(kind, (namespace, name), &|object| look(object.mark(), &object.metadata()))
    }

    fn child<T>(&self, kind: &str, at: (&str, &str), look: &dyn Fn(&dyn Kept) -> T) -> Option<T> {
        match kind {
            "StatefulSet" => look_in(&self.statefulsets, at, look),
            "Deployment" => look_in(&self.deployments, at, look),
            "ConfigMap" => look_in(&self.config_maps, at, look).or_else(|| look_in(&self.topic_config_maps, at, look)),
            "Service" => look_in(&self.services, at, look).or_else(|| look_in(&self.topic_services, at, look)),
            "PodDisruptionBudget" => look_in(&self.disruption_budgets, at, look),
            "NetworkPolicy" => {
                look_in(&self.network_policies, at, look).or_else(|| look_in(&self.handler_policies, at, look))
            }
            "Secret" => look_in(&self.broker_secrets, at, look)
                .or_else(|| look_in(&self.topic_secrets, at, look))
                .or_else(|| look_in(&self.handler_secrets, at, look)),
            _ => None,
        }
    }

    /// The Secret with a broker's keys, of the operator's namespace.
    pub(crate) fn keys_of(&self, namespace: &str, broker: &BrokerKey) -> Option<Arc<PartialObjectMeta<Secret>>> {
        get(&self.broker_secrets, namespace, &names::authority(&broker.name, &broker.namespace))
    }

    /// The deleted topics whose events a broker retains, with what was promised to each; the Secret with its keys, of
    /// the operator's namespace, says so.
    pub(crate) fn retained(&self, namespace: &str, broker: &BrokerKey) -> Vec<(TopicKey, u64)> {
        let keys = self.keys_of(namespace, broker);
        keys.map(|keys| deletion::retained(&*keys, &broker.namespace)).unwrap_or_default()
    }

    /// A Secret of a topic or handler.
    pub(crate) fn secret(&self, namespace: &str, name: &str) -> Option<PartialObjectMeta<Secret>> {
        let found = get(&self.topic_secrets, namespace, name).or_else(|| get(&self.handler_secrets, namespace, name));
        found.map(|secret| secret.whole())
    }

    /// A ConfigMap of a topic.
    pub(crate) fn topic_config_map(&self, namespace: &str, name: &str) -> Option<PartialObjectMeta<ConfigMap>> {
        get(&self.topic_config_maps, namespace, name).map(|map| map.whole())
    }

    /// Of the brokers' Services, those that this picks.
    pub(crate) fn broker_services(
        &self,
        pick: impl Fn(&PartialObjectMeta<Service>) -> bool,
    ) -> Vec<Arc<PartialObjectMeta<Service>>> {
        self.services.state_filter(pick)
    }

    /// The handlers that name a topic, of whatever namespace, granted or not.
    pub(crate) fn handlers_of(&self, topic: &TopicKey) -> Vec<Arc<EventHandler>> {
        self.handlers_by_topic.of(topic, |handler| reference::topic_of(handler) == *topic)
    }

    /// The pods that this label names the owner of.
    pub(crate) fn pods_of(store: &Store<Pod>, namespace: &str, label: &str, owner: &str) -> Vec<Pod> {
        let pods = store
            .state_filter(|pod| is_in(pod, namespace) && pod.labels().get(label).is_some_and(|value| value == owner));
        pods.iter().map(|pod| Pod::clone(pod)).collect()
    }
}
