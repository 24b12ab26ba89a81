//! The way to the controllers.

use std::collections::HashSet;

use kube::runtime::reflector::ObjectRef;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tokio::sync::mpsc;

use crate::broker::rollover::Outdated;
use crate::sessions::brokers::{BrokerKey, TopicKey};

/// Where to send what has to be reconciled because of the brokers' answers.
#[derive(Clone)]
pub struct Triggers {
    /// Handlers.
    pub handlers: mpsc::Sender<ObjectRef<EventHandler>>,
    /// Topics.
    pub topics: mpsc::Sender<ObjectRef<EventTopic>>,
    /// Brokers.
    pub brokers: mpsc::Sender<ObjectRef<EventBroker>>,
}

impl Triggers {
    /// The receivers live as long as the controllers, and so as the sessions.
    pub(super) async fn handler(&self, namespace: &str, name: &str) {
        let _ = self.handlers.send(ObjectRef::new(name).within(namespace)).await;
    }

    pub(super) async fn outdated(&self, all: HashSet<Outdated>) {
        for one in all {
            match one {
                Outdated::Topic(topic) => self.topic(&topic).await,
                Outdated::Handler((namespace, name)) => self.handler(&namespace, &name).await,
            }
        }
    }

    pub(super) async fn broker(&self, broker: &BrokerKey) {
        let _ = self.brokers.send(ObjectRef::new(&broker.name).within(&broker.namespace)).await;
    }

    pub(super) async fn topic(&self, topic: &TopicKey) {
        let _ = self.topics.send(ObjectRef::new(&topic.name).within(&topic.namespace)).await;
    }
}
