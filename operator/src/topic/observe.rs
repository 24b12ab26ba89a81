//! What there is of a topic's broker.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_crds::topic::DEFAULT_BROKER;
use tidegate_crds::{EventBroker, EventTopic};

use crate::broker::scale::Scale;
use crate::broker::topics::{broker_of, other_namespace};
use crate::context::{Context, Owner};
use crate::identity::keys;
use crate::kubernetes::names;
use crate::kubernetes::ownership::belongs_to;
use crate::kubernetes::pods::{self, Trouble};
use crate::kubernetes::watches::{Stores, get};
use crate::reconcile::error::Error;
use crate::sessions::brokers::{BrokerKey, Place};

/// Nodes from which on the default broker is one of three pods.
const THREE: u32 = 3;

/// What there is of a topic's broker.
pub struct Observed {
    /// The topic's own namespace.
    pub topic_namespace: String,
    /// Its name.
    pub broker_key: BrokerKey,
    /// The resource.
    pub broker: Arc<EventBroker>,
    /// How many servers it has now.
    pub scale: Scale,
    /// Its root of trust; `None`: it is being made.
    pub authority: Option<Authority>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// What keeps them from running.
    pub trouble: Option<Trouble>,
}

impl Observed {
    /// Where the broker is.
    pub fn place(&self, authority: &Authority) -> Place {
        Place::new(self.broker_key.clone(), authority.clone(), &self.scale)
    }
}

/// Why a topic may not be on the broker that it names.
pub struct NotGranted {
    /// The broker.
    pub broker_key: BrokerKey,
    /// The resource, where there is one.
    pub broker: Option<Arc<EventBroker>>,
}

impl NotGranted {
    /// In words: the same whether there is such a broker or not.
    pub fn message(&self, topic: &EventTopic) -> String {
        let BrokerKey { namespace, name } = &self.broker_key;
        let own = topic.metadata.namespace.as_deref().unwrap_or_default();
        let remedy = format!(
            "there is no EventBroker {name} in namespace {namespace} that grants namespace {own}. Whoever owns it grants it by spec.topics of the EventBroker: {{from: All}}, or {{from: Selector}} with a selector that matches the labels of namespace {own}; this topic continues then"
        );
        let was_admitted = topic.status.as_ref().is_some_and(|status| status.promised.is_some());
        if was_admitted {
            format!(
                "{remedy}. Until then no event is taken or delivered; what that broker has stored of this topic stays there"
            )
        } else {
            remedy
        }
    }
}

/// Reads it. The broker that a topic is on when it names none is made here, if there is none.
///
/// # Errors
/// The API server is away, the broker's authority is damaged, or there is no such broker.
pub async fn observe(
    context: &Context,
    topic: &EventTopic,
    owner: &Owner,
) -> Result<Result<Observed, NotGranted>, Error> {
    check_version(context, owner)?;
    let broker_key = broker_of(topic);
    let broker = if other_namespace(topic).is_none() {
        broker(context, &broker_key).await?
    } else {
        let named = get(&context.stores.brokers_for_topics, &broker_key.namespace, &broker_key.name);
        match named {
            Some(broker) if context.stores.admits_topic(&broker, topic) => broker,
            broker => return Ok(Err(NotGranted { broker_key, broker })),
        }
    };
    // Topics that are on it work on: it waits for them.
    let is_admitted = topic.status.as_ref().is_some_and(|status| status.promised.is_some());
    if broker.metadata.deletion_timestamp.is_some() && !is_admitted {
        return Err(Error::refused(
            "BrokerDeleting",
            format!(
                "EventBroker {} is being deleted and takes no further topic: name another broker, or wait until it is gone and is made again",
                broker_key.shown_in(&owner.namespace)
            ),
        ));
    }
    let pods =
        Stores::pods_of(&context.stores.broker_pods, &broker_key.namespace, names::BROKER_LABEL, &broker_key.name);
    Ok(Ok(Observed {
        topic_namespace: owner.namespace.clone(),
        trouble: pods::worst(pods::trouble(&pods)),
        scale: Scale::current(&context.stores, &broker_key, &broker),
        authority: keys::of_broker(context, &broker_key).await?,
        broker,
        broker_key,
        pods,
    }))
}

/// A build before EventBroker made a broker for each topic. What that stored is not taken over: such a topic works on as
/// it is, without an operator, until a person has moved it.
fn check_version(context: &Context, owner: &Owner) -> Result<(), Error> {
    let name = format!("{}-broker", owner.name);
    let earlier = get(&context.stores.statefulsets, &owner.namespace, &name)
        .filter(|found| belongs_to(&found.metadata, &owner.reference));
    if earlier.is_none() {
        return Ok(());
    }
    Err(Error::refused(
        "MadeByEarlierVersion",
        format!(
            "a build of Tidegate before EventBroker made StatefulSet {name} for this topic alone. Its pods and those of its handlers work on, and this version changes nothing of them. To move: make a topic of another name with handlers of their own, publish to that, wait until the old handlers have no lag, and delete them and this topic. To begin without the stored events: delete StatefulSet {name}"
        ),
    ))
}

async fn broker(context: &Context, key: &BrokerKey) -> Result<Arc<EventBroker>, Error> {
    if let Some(broker) = get(&context.stores.brokers_for_topics, &key.namespace, &key.name) {
        return Ok(broker);
    }
    let api: Api<EventBroker> = Api::namespaced(context.client.clone(), &key.namespace);
    if let Some(broker) = api.get_opt(&key.name).await? {
        return Ok(Arc::new(broker));
    }
    if key.name != DEFAULT_BROKER {
        return Err(Error::refused(
            "BrokerNotFound",
            format!(
                "there is no EventBroker {} in namespace {}: make it, or make the topic without spec.broker to have it on the default one",
                key.name, key.namespace
            ),
        ));
    }
    let mut spec = context.args.default_broker.clone();
    if !spec.contains_key("replicas") {
        spec.insert("replicas".into(), json!(pods_for_nodes(context).await?));
    }
    let broker = default_broker(&spec, key)?;
    match api.create(&PostParams::default(), &broker).await {
        Ok(made) => Ok(Arc::new(made)),
        // Another topic's reconcile was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Arc::new(api.get(&key.name).await?)),
        Err(kube::Error::Api(status)) if matches!(status.code, 400 | 422) => Err(invalid_default(&status.message)),
        Err(error) => Err(error.into()),
    }
}

/// Three pods need three nodes to be of use.
async fn pods_for_nodes(context: &Context) -> Result<i32, Error> {
    let nodes: Api<Node> = Api::all(context.client.clone());
    let found = nodes.list_metadata(&ListParams::default().limit(THREE)).await?.items.len();
    Ok(if found >= THREE as usize { 3 } else { 1 })
}

/// As the installation says; what it does not say, the schema does.
fn default_broker(spec: &serde_json::Map<String, Value>, key: &BrokerKey) -> Result<EventBroker, Error> {
    let value = json!({
        "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker",
        "metadata": {
            "name": key.name, "namespace": key.namespace,
            "labels": {names::MANAGED_BY.0: names::MANAGED_BY.1, "app.kubernetes.io/name": "tidegate"},
        },
        "spec": spec,
    });
    serde_json::from_value(value).map_err(invalid_default)
}

/// Whoever installed the operator can mend it, and so can whoever makes an EventBroker of this name.
fn invalid_default(error: impl std::fmt::Display) -> Error {
    Error::refused(
        "InvalidDefaultBroker",
        format!(
            "defaultBroker of the installation: {error}. Correct it there, or make an EventBroker {DEFAULT_BROKER} in this namespace"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_broker_is_as_the_installation_says() {
        let key = BrokerKey { namespace: "shop".into(), name: DEFAULT_BROKER.into() };
        let spec = json!({"replicas": 3, "storage": {"size": "50Gi"}});
        let broker = default_broker(spec.as_object().unwrap(), &key).unwrap();
        assert_eq!((broker.spec.replicas, broker.spec.storage.size.to_string().as_str()), (3, "50Gi"));
        assert_eq!(broker.metadata.name.as_deref(), Some("default"));
        let wrong = json!({"replicas": "many"});
        let error = default_broker(wrong.as_object().unwrap(), &key).unwrap_err();
        assert_eq!(error.reason(), "InvalidDefaultBroker");
    }
}
