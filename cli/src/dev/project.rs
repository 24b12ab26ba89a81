//! Topics and handlers as they are to run here: the resources, checked with the operator's own functions (pure).

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_broker_client::TopicId;
use tidegate_broker_client::contract::{PublisherRule, Routing, RuleKind};
use tidegate_crds::{EventBroker, EventHandler, EventTopic, GrantedNamespaces};
use tidegate_operator::handler::reference;
use tidegate_operator::{broker, handler, topic};

use super::files::Resources;
use crate::failure::Failure;
use crate::terminal::text;

/// A server has this much more room than its topics are promised, as the operator keeps it.
const ROOM_FACTOR: u64 = 2;

/// All that is to run.
#[derive(Clone, Debug)]
pub struct Project {
    /// The broker, of one server.
    pub broker: broker::settings::Settings,
    /// The topics, by name.
    pub topics: Vec<Topic>,
    /// The handlers, by name.
    pub handlers: Vec<Handler>,
    /// What has no effect here, and what is different.
    pub notes: Vec<String>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    /// As its ingress knows it.
    pub served: broker::topics::Topic,
    /// Its streams.
    pub settings: topic::settings::Settings,
}

/// A handler.
#[derive(Clone, Debug, PartialEq)]
pub struct Handler {
    /// The resource.
    pub resource: EventHandler,
    /// Its settings.
    pub settings: handler::settings::Settings,
    /// The topic whose events it gets.
    pub topic: TopicId,
    /// How the topic's events travel.
    pub routing: Routing,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its name in the topic's account.
    pub known_as: String,
}

impl Handler {
    /// The same in every run, so that it keeps its place.
    pub fn uid(&self) -> String {
        format!("dev-{}-{}", self.namespace, self.name)
    }

    /// The topics that it publishes to, in its own namespace.
    pub fn destinations(&self) -> impl Iterator<Item = &str> {
        let spec = &self.resource.spec;
        [&spec.reply, &spec.dead_letter].into_iter().flatten().map(|to| to.topic.as_str())
    }

    /// The environment that the first container would have, as far as it is written down.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        let variables = self.resource.spec.template.pointer("/spec/containers/0/env").and_then(Value::as_array);
        let variable = |variable: &Value| {
            let value = variable.get("value").and_then(Value::as_str)?;
            // References to other variables are the kubelet's to resolve.
            let name = variable.get("name").and_then(Value::as_str).filter(|_| !value.contains("$("))?;
            Some((name.to_owned(), value.to_owned()))
        };
        variables.into_iter().flatten().filter_map(variable).collect::<Vec<_>>().into_iter()
    }
}

impl Topic {
    /// Its id.
    pub fn id(&self) -> &TopicId {
        &self.served.id
    }

    /// A ServiceAccount that may publish to it; `None`: nobody needs to be one, or may.
    pub fn service_account(&self) -> Option<(String, String)> {
        let account = |rule: &PublisherRule| match &rule.kind {
            RuleKind::ServiceAccount { namespace, name } => {
                Some((namespace.clone(), name.clone().unwrap_or_else(|| "default".to_owned())))
            }
            _ => None,
        };
        self.served.publishers.iter().find_map(account)
    }
}

impl Project {
    /// Of these resources. `ports`: where handlers listen that are named there, in place of what the resource says.
    ///
    /// # Errors
    /// Something that would not be ready in a cluster either, or cannot be here; the message says what to write.
    pub fn new(resources: Resources, ports: &BTreeMap<String, u16>) -> Result<Self, Failure> {
        let Resources { topics, handlers, brokers, mut notes } = resources;
        let topics = all_topics(&topics)?;
        if topics.is_empty() {
            return Err(Failure::Usage("there is no EventTopic in these files: name the file that has it".into()));
        }
        let mut found: Vec<Handler> = Vec::new();
        for resource in handlers {
            let handler = one_handler(resource, &topics, ports)?;
            if found.iter().any(|other| (&other.namespace, &other.name) == (&handler.namespace, &handler.name)) {
                return Err(Failure::Usage(format!("EventHandler {} is there twice: keep one of them", handler.name)));
            }
            notes.extend(note(&handler));
            found.push(handler);
        }
        if let Some(unknown) = ports.keys().find(|name| found.iter().all(|handler| handler.name != **name)) {
            return Err(Failure::Usage(format!("--port {}: there is no such EventHandler", text(unknown))));
        }
        notes.extend(same_port(&found));
        notes.extend(topics.iter().flat_map(publisher_notes));
        found.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
        let broker = one_broker(&brokers, &topics, &mut notes)?;
        Ok(Self { broker, topics, handlers: found, notes })
    }
}

fn refused(what: String) -> impl FnOnce(tidegate_operator::reconcile::error::Error) -> Failure {
    move |error| Failure::Usage(format!("{what}: {error}"))
}

fn all_topics(resources: &[EventTopic]) -> Result<Vec<Topic>, Failure> {
    let mut topics: Vec<Topic> = Vec::with_capacity(resources.len());
    for resource in resources {
        let name = resource.metadata.name.as_deref().map(text).unwrap_or_default();
        let what = || format!("EventTopic {name}");
        let served = broker::topics::Topic::of(resource).map_err(refused(what()))?;
        let settings = topic::settings::Settings::of(&resource.spec, 1).map_err(refused(what()))?;
        if topics.iter().any(|other| other.served.id == served.id) {
            return Err(Failure::Usage(format!("EventTopic {name} is there twice: keep one of them")));
        }
        topics.push(Topic { served, settings });
    }
    topics.sort_by(|one, other| one.id().cmp(other.id()));
    Ok(topics)
}

fn one_handler(
    mut resource: EventHandler,
    topics: &[Topic],
    ports: &BTreeMap<String, u16>,
) -> Result<Handler, Failure> {
    let namespace = resource.metadata.namespace.clone().unwrap_or_default();
    let name = resource.metadata.name.clone().unwrap_or_default();
    let what = || format!("EventHandler {}", text(&name));
    if let Some(port) = ports.get(&name) {
        resource.spec.delivery.port = Some(i32::from(*port));
    }
    reference::check(&resource).map_err(refused(what()))?;
    let settings = handler::settings::Settings::of(&resource.spec).map_err(refused(what()))?;
    let wanted = reference::topic_of(&resource);
    let find = |namespace: &str, name: &str| {
        topics.iter().find(|topic| topic.id().namespace() == namespace && topic.id().name() == name)
    };
    let Some(topic) = find(&wanted.namespace, &wanted.name) else {
        let there: Vec<String> = topics.iter().map(|topic| topic.id().to_string()).collect();
        return Err(Failure::Usage(format!(
            "{}: there is no EventTopic {}/{}; there is {}: name its file too, or correct spec.topic",
            what(),
            text(&wanted.namespace),
            text(&wanted.name),
            there.join(", ")
        )));
    };
    if wanted.namespace != namespace && topic.served.handlers.from == GrantedNamespaces::Same {
        return Err(Failure::Usage(format!(
            "{}: EventTopic {} takes handlers of its own namespace only: set its spec.handlers.from",
            what(),
            topic.id()
        )));
    }
    let known_as = reference::known_as(&resource);
    let (topic, routing) = (topic.id().clone(), topic.served.routing);
    let handler = Handler { resource, settings, topic, routing, namespace, name: name.clone(), known_as };
    if let Some(missing) = handler.destinations().find(|to| find(&handler.namespace, to).is_none()) {
        return Err(Failure::Usage(format!(
            "{}: its replies or dead letters go to EventTopic {}, which is not in these files: name its file too",
            what(),
            text(missing)
        )));
    }
    Ok(handler)
}

/// The one server has all brokers' topics.
fn one_broker(
    brokers: &[EventBroker],
    topics: &[Topic],
    notes: &mut Vec<String>,
) -> Result<broker::settings::Settings, Failure> {
    for broker in brokers {
        let name = broker.metadata.name.as_deref().map(text).unwrap_or_default();
        broker::settings::Settings::of(&broker.spec).map_err(refused(format!("EventBroker {name}")))?;
        let mut fields = Vec::new();
        if broker.spec.replicas > 1 {
            fields.push("replicas");
        }
        if broker.spec.storage.class_name.is_some() {
            fields.push("storage.className");
        }
        if !broker.spec.access.is_empty() {
            fields.push("access");
        }
        if !fields.is_empty() {
            notes.push(format!(
                "EventBroker {name}: all topics are on one server of this machine, so {} has no effect here",
                fields.join(", ")
            ));
        }
    }
    // Of several the first says how it stores.
    let spec = match brokers.first() {
        Some(broker) => broker.spec.clone(),
        None => serde_json::from_value(json!({})).map_err(Failure::failed)?,
    };
    let settings = broker::settings::Settings::of(&spec).map_err(refused("EventBroker".into()))?;
    let promised: u64 = topics.iter().map(|topic| topic.settings.promised).fold(0, u64::saturating_add);
    // It is a bound, and takes no room before events do.
    Ok(broker::settings::Settings {
        file_store: settings.file_store.max(promised.saturating_mul(ROOM_FACTOR)),
        ..settings
    })
}

/// What of a handler has no effect here.
fn note(handler: &Handler) -> Option<String> {
    let spec = &handler.resource.spec;
    let template = |pointer: &str| spec.template.pointer(pointer).is_some();
    let variables = spec.template.pointer("/spec/containers/0/env").and_then(Value::as_array).map_or(0, Vec::len);
    let fields = [
        // Every template has an image, so that it is not worth a word.
        ("resources", template("/spec/containers/0/resources")),
        ("volumes", template("/spec/volumes")),
        ("env with valueFrom or $(…)", handler.environment().count() < variables),
        ("replicas", spec.replicas.is_some_and(|replicas| replicas != 1)),
        ("autoscaling", spec.autoscaling.is_some()),
    ];
    let in_vain: Vec<&str> = fields.into_iter().filter(|(_, is_there)| *is_there).map(|(field, _)| field).collect();
    (!in_vain.is_empty()).then(|| {
        format!(
            "handler {}: one program on this machine gets its events, so {} has no effect here",
            handler.name,
            in_vain.join(", ")
        )
    })
}

fn same_port(handlers: &[Handler]) -> Option<String> {
    let port = |handler: &Handler| handler.settings.delivery.port;
    handlers.iter().enumerate().find_map(|(index, one)| {
        let other = handlers.iter().skip(index + 1).find(|other| port(other) == port(one))?;
        Some(format!(
            "handlers {} and {} both deliver to port {}, and so to one program: --port {}=… gives the second one another",
            one.name,
            other.name,
            port(one),
            other.name
        ))
    })
}

fn publisher_notes(topic: &Topic) -> Vec<String> {
    let kinds = topic.served.publishers.iter().filter_map(|rule| match &rule.kind {
        RuleKind::Nats { name } => {
            Some(format!("topic {}: NATS publisher {name} has no credentials here", topic.id().name()))
        }
        RuleKind::Certificate { .. } => {
            Some(format!("topic {}: no client certificate is known here", topic.id().name()))
        }
        RuleKind::ServiceAccount { .. } | RuleKind::Anonymous {} => None,
    });
    kinds.collect()
}

#[cfg(test)]
#[path = "project_tests.rs"]
mod tests;
