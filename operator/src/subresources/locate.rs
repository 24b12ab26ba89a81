//! Where the data of a topic or handler is: what its resources say, and a session with its broker.

use std::sync::Arc;

use axum::http::StatusCode;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use tidegate_crds::conditions::kind;
use tidegate_crds::topic::Routing;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use super::answer::Refusal;
use crate::broker::scale::Scale;
use crate::broker::topics::broker_of;
use crate::handler::reference;
use crate::identity::keys;
use crate::kubernetes::names;
use crate::reconcile::error::Error;
use crate::sessions::brokers::{Broker, Brokers, Place, TopicKey};

/// Finds brokers. What it asks of the API server is not cached: a pod that does not lead watches nothing.
pub(super) struct Locator {
    client: Client,
    operator_namespace: String,
    brokers: Arc<Brokers>,
}

/// A handler's dead letters.
pub(super) struct Handler {
    /// The account that they are in.
    pub broker: Arc<Broker>,
    /// The handler's name there.
    pub known_as: String,
    /// What is said of it in the cluster.
    pub resource: EventHandler,
}

impl Locator {
    pub(super) fn new(client: Client, operator_namespace: String, brokers: Arc<Brokers>) -> Self {
        Self { client, operator_namespace, brokers }
    }

    /// The account of a topic that stores events.
    pub(super) async fn topic(&self, namespace: &str, name: &str) -> Result<Arc<Broker>, Refusal> {
        let topic = self.read_topic(namespace, name).await?;
        if topic.spec.routing == Routing::Direct {
            let message =
                format!("EventTopic {name} is Direct: it passes events on and stores none that could be shown");
            return Err(Refusal::conflict(message));
        }
        self.account(&topic, namespace, name).await
    }

    /// The account of a handler's topic, where it has let the handler in.
    pub(super) async fn handler(&self, namespace: &str, name: &str) -> Result<Handler, Refusal> {
        let handlers: Api<EventHandler> = Api::namespaced(self.client.clone(), namespace);
        let Some(handler) = handlers.get_opt(name).await.map_err(Error::from)? else {
            return Err(Refusal::not_found(format!(
                "there is no EventHandler {name} in namespace {namespace}: correct the name (kubectl get eventhandlers -n {namespace})"
            )));
        };
        // Its dead letters are events of a topic that somebody else owns.
        if reference::other_namespace(&handler).is_some() {
            check_grant(&handler)?;
        }
        let topic = reference::topic_of(&handler);
        let found = self.read_topic(&topic.namespace, &topic.name).await?;
        let broker = self.account(&found, &topic.namespace, &topic.name).await?;
        Ok(Handler { broker, known_as: reference::known_as(&handler), resource: handler })
    }

    /// What a handler that was found is by now; `None`: gone. Never of a cache.
    pub(super) async fn handler_meta(&self, found: &EventHandler) -> Result<Option<ObjectMeta>, Refusal> {
        let namespace = found.namespace().unwrap_or_default();
        let handlers: Api<EventHandler> = Api::namespaced(self.client.clone(), &namespace);
        let now = handlers.get_metadata_opt(&found.name_any()).await.map_err(Error::from)?;
        Ok(now.map(|now| now.metadata))
    }

    async fn read_topic(&self, namespace: &str, name: &str) -> Result<EventTopic, Refusal> {
        let topics: Api<EventTopic> = Api::namespaced(self.client.clone(), namespace);
        topics.get_opt(name).await.map_err(Error::from)?.ok_or_else(|| {
            Refusal::not_found(format!(
                "there is no EventTopic {name} in namespace {namespace}: correct the name (kubectl get eventtopics -n {namespace})"
            ))
        })
    }

    async fn account(&self, topic: &EventTopic, namespace: &str, name: &str) -> Result<Arc<Broker>, Refusal> {
        let key = broker_of(topic);
        let client = || self.client.clone();
        let brokers: Api<EventBroker> = Api::namespaced(client(), &key.namespace);
        let sets: Api<StatefulSet> = Api::namespaced(client(), &key.namespace);
        let secrets: Api<Secret> = Api::namespaced(client(), &self.operator_namespace);
        let (set_name, secret_name) = (names::broker(&key.name), names::authority(&key.name, &key.namespace));
        let (broker, set, secret) =
            tokio::try_join!(brokers.get_opt(&key.name), sets.get_opt(&set_name), secrets.get_opt(&secret_name))
                .map_err(Error::from)?;
        let (Some(broker), Some(secret)) = (broker, secret) else {
            let shown = key.shown_in(namespace);
            return Err(Refusal::unavailable(format!(
                "EventBroker {shown} of EventTopic {name} is being made: try again"
            )));
        };
        let scale = Scale::of(set.as_ref(), &broker);
        let place = Place::new(key, keys::from_secret(&secret)?, &scale);
        let topic = TopicKey { namespace: namespace.to_owned(), name: name.to_owned() };
        Ok(self.brokers.get(&topic, &place).await?)
    }
}

/// The grant must be of the topic that the handler names now.
fn check_grant(handler: &EventHandler) -> Result<(), Refusal> {
    let mut conditions = handler.status.iter().flat_map(|status| &status.conditions);
    let granted = conditions.find(|known| known.type_ == kind::GRANTED && known.status == "True");
    let name = handler.name_any();
    match granted {
        None => {
            let message = format!(
                "EventHandler {name} is not granted its topic now (condition Granted), so its dead letters are not shown: whoever owns the topic grants it by spec.handlers"
            );
            Err(Refusal::new(StatusCode::FORBIDDEN, "Forbidden", message))
        }
        Some(granted) if granted.observed_generation != handler.metadata.generation => {
            Err(Refusal::unavailable(format!(
                "EventHandler {name} was changed, and it is not known yet whether its topic grants it what it asks for now, so its dead letters are not shown: try again; where that lasts, condition Ready of it says why (kubectl describe eventhandler {name})"
            )))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_grant_of_another_topic_shows_nothing() {
        for (status, seen, code) in [("True", 2, None), ("True", 1, Some(503)), ("False", 2, Some(403))] {
            let handler = serde_json::from_value(json!({
                "metadata": {"name": "billing", "generation": 2}, "spec": {"topic": "orders", "template": {}},
                "status": {"conditions": [{
                    "type": "Granted", "status": status, "reason": "R", "message": "", "observedGeneration": seen,
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }]},
            }));
            let refused = check_grant(&handler.unwrap()).err();
            assert_eq!(refused.map(|refusal| refusal.code().as_u16()), code, "{status} {seen}");
        }
    }
}
