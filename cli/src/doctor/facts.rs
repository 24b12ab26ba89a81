//! What the cluster says of a resource, and of what it belongs to: read once, with the user's own rights.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};
use tidegate_operator::broker::topics::broker_of;
use tidegate_operator::handler::reference::topic_of;
use tidegate_operator::kubernetes::{names, pods};

use crate::cluster::{explain, remedy, sentence};
use crate::failure::Failure;
use crate::stored::Location;
use crate::target::{Kind, Target};
use crate::terminal::text;

/// Objects of a kind that are read at most.
const MAX_OBJECTS: usize = 10_000;
/// Objects in a page of a list.
const PAGE_OBJECTS: u32 = 500;
/// Names that are offered in place of a wrong one.
const MAX_NAMES: usize = 5;

/// What a reading gave.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    /// It is there.
    There(T),
    /// It is not.
    Missing,
    /// It could not be read: why, and what to do.
    Unread(String),
}

/// Who has a right where nobody has granted more than Kubernetes does, and so is asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Whoever may read a namespace: ClusterRole view.
    View,
    /// Whoever may change what is in a namespace: ClusterRole edit.
    Edit,
    /// An administrator of the cluster.
    Administrator,
}

impl Holder {
    fn remedy(self) -> &'static str {
        match self {
            Self::View => "ask for that right, which role view has",
            Self::Edit => "ask for that right, which role edit has",
            Self::Administrator => {
                "role view does not have that right: ask an administrator of the cluster for it, or to run the same command"
            }
        }
    }
}

/// A resource that another one names.
#[derive(Clone, Debug)]
pub struct Named<K> {
    /// Kind, namespace and name, in words.
    pub shown: String,
    /// The resource.
    pub seen: Seen<K>,
}

/// Everything that is judged. `None`: it is not on the way of this resource, or not known which one is.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The broker.
    pub broker: Option<Named<EventBroker>>,
    /// Its pods.
    pub broker_pods: Option<Seen<Vec<Pod>>>,
    /// The topic.
    pub topic: Option<Named<EventTopic>>,
    /// The handler.
    pub handler: Option<Named<EventHandler>>,
    /// Its pods.
    pub pods: Option<Seen<Vec<Pod>>>,
    /// Warnings about those of its pods that are not ready.
    pub warnings: Option<Seen<Vec<Event>>>,
    /// The topics on a broker that was asked about.
    pub topics: Option<Seen<Vec<EventTopic>>>,
    /// The handlers of a topic that was asked about.
    pub handlers: Option<Seen<Vec<EventHandler>>>,
    /// The time, for what has an end.
    pub now: jiff::Timestamp,
    /// Where commands are for that are suggested.
    pub location: Location,
}

/// Reads it.
///
/// # Errors
/// The resource itself is not there, or cannot be read.
pub async fn read(client: &Client, location: &Location, target: &Target) -> Result<Facts, Failure> {
    let mut facts = Facts { now: jiff::Timestamp::now(), location: location.clone(), ..Facts::default() };
    let (namespace, name) = (location.namespace.as_str(), &target.name);
    match target.kind {
        Kind::Broker => {
            let broker: EventBroker = asked_for(client, location, target).await?;
            facts.topics = Some(topics_of(client, namespace, name).await);
            facts.broker = Some(Named { shown: target.shown(namespace), seen: Seen::There(broker) });
            facts.broker_pods = Some(broker_pods(client, namespace, name).await);
        }
        Kind::Topic => {
            let topic: EventTopic = asked_for(client, location, target).await?;
            facts.handlers = Some(handlers_of(client, namespace, name).await);
            facts.see_topic(client, namespace, name, Seen::There(topic)).await;
        }
        Kind::Handler => {
            let handler: EventHandler = asked_for(client, location, target).await?;
            let topic = topic_of(&handler);
            let seen = seen(client, &topic.namespace, &topic.name).await;
            facts.see_topic(client, &topic.namespace, &topic.name, seen).await;
            let found = list::<Pod>(client, namespace, selecting(&names::handler_selector(name))).await;
            facts.warnings = warnings(client, namespace, &found).await;
            facts.pods = Some(found);
            facts.handler = Some(Named { shown: target.shown(namespace), seen: Seen::There(handler) });
        }
    }
    Ok(facts)
}

impl Facts {
    /// A topic, and the broker that it is on.
    async fn see_topic(&mut self, client: &Client, namespace: &str, name: &str, topic: Seen<EventTopic>) {
        if let Seen::There(found) = &topic {
            let broker = broker_of(found);
            let seen = seen(client, &broker.namespace, &broker.name).await;
            self.broker = Some(Named { shown: shown::<EventBroker>(&broker.namespace, &broker.name), seen });
            self.broker_pods = Some(broker_pods(client, &broker.namespace, &broker.name).await);
        }
        self.topic = Some(Named { shown: shown::<EventTopic>(namespace, name), seen: topic });
    }
}

/// The resource that a user asks about.
async fn asked_for<K>(client: &Client, location: &Location, target: &Target) -> Result<K, Failure>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let shown = target.shown(&location.namespace);
    let api: Api<K> = Api::namespaced(client.clone(), &location.namespace);
    let unseen =
        |error: &kube::Error| Failure::Unseen(explain(&shown, error, "ask for the right, which role view has"));
    if let Some(found) = api.get_opt(&target.name).await.map_err(|error| unseen(&error))? {
        return Ok(found);
    }
    let others = api.list(&ListParams::default().limit(PAGE_OBJECTS)).await;
    let remedy = match others {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let check = location.clusterwide("tidegate check");
            format!("the cluster does not know the kind: is Tidegate installed there? {check} says")
        }
        Ok(others) if !others.items.is_empty() => {
            let names: Vec<_> = others.items.iter().take(MAX_NAMES).map(|other| text(&other.name_any())).collect();
            let more = if others.items.len() > MAX_NAMES { " and others" } else { "" };
            format!("correct the name, or say --namespace; there are {}{more}", names.join(", "))
        }
        _ => "correct the name, or say --namespace".to_owned(),
    };
    Err(Failure::Unseen(format!("there is no {shown}: {remedy}")))
}

async fn seen<K>(client: &Client, namespace: &str, name: &str) -> Seen<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    match Api::<K>::namespaced(client.clone(), namespace).get_opt(name).await {
        Ok(Some(found)) => Seen::There(found),
        Ok(None) => Seen::Missing,
        Err(error) => unread(&error, Holder::View),
    }
}

async fn list<K>(client: &Client, namespace: &str, parameters: ListParams) -> Seen<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + DeserializeOwned,
{
    all(&Api::<K>::namespaced(client.clone(), namespace), parameters, Holder::View).await
}

/// All objects of a kind, or that they are too many to be looked at.
pub async fn all<K>(api: &Api<K>, parameters: ListParams, holder: Holder) -> Seen<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let mut parameters = parameters.limit(PAGE_OBJECTS);
    let mut found = Vec::new();
    loop {
        let page = match api.list(&parameters).await {
            Ok(page) => page,
            Err(error) => return unread(&error, holder),
        };
        found.extend(page.items);
        match page.metadata.continue_.filter(|next| !next.is_empty()) {
            None => return Seen::There(found),
            Some(_) if found.len() >= MAX_OBJECTS => {
                let why = format!("there are more than {MAX_OBJECTS} {}: look at each by its name", K::plural(&()));
                return Seen::Unread(why);
            }
            Some(next) => parameters.continue_token = Some(next),
        }
    }
}

/// Why something was not read. Where a right is missing, the API server names it.
pub fn unread<T>(error: &kube::Error, holder: Holder) -> Seen<T> {
    let is_right = matches!(error, kube::Error::Api(status) if status.code == 403);
    let remedy = remedy(error).unwrap_or(if is_right { holder.remedy() } else { "try again" });
    Seen::Unread(format!("{}: {remedy}", sentence(error)))
}

async fn broker_pods(client: &Client, namespace: &str, broker: &str) -> Seen<Vec<Pod>> {
    list(client, namespace, selecting(&names::broker_selector(broker))).await
}

async fn topics_of(client: &Client, namespace: &str, broker: &str) -> Seen<Vec<EventTopic>> {
    let is_on = |topic: &EventTopic| {
        let named = broker_of(topic);
        named.namespace == namespace && named.name == broker
    };
    only(list(client, namespace, ListParams::default()).await, is_on)
}

async fn handlers_of(client: &Client, namespace: &str, topic: &str) -> Seen<Vec<EventHandler>> {
    let is_of = |handler: &EventHandler| {
        let named = topic_of(handler);
        named.namespace == namespace && named.name == topic
    };
    only(list(client, namespace, ListParams::default()).await, is_of)
}

fn only<T>(seen: Seen<Vec<T>>, is_meant: impl Fn(&T) -> bool) -> Seen<Vec<T>> {
    match seen {
        Seen::There(all) => Seen::There(all.into_iter().filter(is_meant).collect()),
        other => other,
    }
}

/// Of pods that are not ready: a volume that cannot be mounted, for example, is in no field of the pod. Events of the core
/// group, which role view may read since ever: those of events.k8s.io are the same, and not in it in Kubernetes 1.29.
async fn warnings(client: &Client, namespace: &str, found: &Seen<Vec<Pod>>) -> Option<Seen<Vec<Event>>> {
    let Seen::There(found) = found else { return None };
    let is_waiting = |pod: &&Pod| pods::is_alive(pod) && !pods::is_ready(pod);
    let waiting: Vec<String> = found.iter().filter(is_waiting).map(|pod| pod.name_any()).collect();
    if waiting.is_empty() {
        return None;
    }
    let fields = ListParams::default().fields("involvedObject.kind=Pod,type=Warning");
    let about = |event: &Event| event.involved_object.name.as_ref().is_some_and(|name| waiting.contains(name));
    Some(only(list(client, namespace, fields).await, about))
}

fn selecting(labels: &std::collections::BTreeMap<String, String>) -> ListParams {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    ListParams::default().labels(&labels.join(","))
}

fn shown<K: Resource<DynamicType = ()>>(namespace: &str, name: &str) -> String {
    format!("{} {}/{}", K::kind(&()), text(namespace), text(name))
}
