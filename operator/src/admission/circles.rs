//! Circles that a handler's reply or dead letters would close.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::object::{NotUsed, Object};
use kube::discovery::ApiResource;
use serde::{Deserialize, Serialize};
use tidegate_broker_client::layout::MAX_HOPS;
use tidegate_crds::EventHandler;
use tidegate_crds::handler::Destination;

/// Handlers of a namespace that are looked at.
const MAX_HANDLERS: u32 = 500;

/// What of a handler's specification says where its events go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Routes {
    topic: String,
    #[serde(default)]
    topic_namespace: Option<String>,
    #[serde(default)]
    reply: Option<Destination>,
    #[serde(default)]
    dead_letter: Option<Destination>,
}

/// The way that a handler's events take to another topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    handler: String,
    from: String,
    to: String,
    field: &'static str,
}

/// A topic's name, with its namespace where that is not the handlers'. No way leads to such a topic.
fn from<'a>(topic: &'a str, other: Option<&str>, own: Option<&str>) -> Cow<'a, str> {
    match other {
        Some(other) if Some(other) != own => Cow::Owned(format!("{other}/{topic}")),
        _ => Cow::Borrowed(topic),
    }
}

fn ways(handler: &str, from: &str, reply: Option<&Destination>, dead_letter: Option<&Destination>) -> Vec<Way> {
    let destinations = [("reply", reply), ("deadLetter", dead_letter)];
    let way = |(field, to): (&'static str, Option<&Destination>)| {
        Some(Way { handler: handler.to_owned(), from: from.to_owned(), to: to?.topic.clone(), field })
    };
    destinations.into_iter().filter_map(way).collect()
}

/// Warns of the circles that this handler closes, if it sends events to another topic at all.
///
/// # Errors
/// The API server is away.
pub async fn warnings(client: Client, handler: &EventHandler) -> Result<Vec<String>, kube::Error> {
    let name = handler.metadata.name.as_deref().unwrap_or_default();
    let spec = &handler.spec;
    let own_namespace = handler.metadata.namespace.as_deref();
    let topic = from(&spec.topic, spec.topic_namespace.as_deref(), own_namespace);
    let own = ways(name, &topic, spec.reply.as_ref(), spec.dead_letter.as_ref());
    let Some(namespace) = own_namespace.filter(|_| !own.is_empty()) else {
        return Ok(Vec::new());
    };
    // Only what is needed is read: pod templates can be long.
    let resource = ApiResource::erase::<EventHandler>(&());
    let handlers: Api<Object<Routes, NotUsed>> = Api::namespaced_with(client, namespace, &resource);
    let found = handlers.list(&ListParams::default().limit(MAX_HANDLERS)).await?;
    let others = found.items.iter().filter(|other| other.metadata.name.as_deref() != Some(name)).flat_map(|other| {
        let (name, spec) = (other.metadata.name.as_deref().unwrap_or_default(), &other.spec);
        let topic = from(&spec.topic, spec.topic_namespace.as_deref(), own_namespace);
        ways(name, &topic, spec.reply.as_ref(), spec.dead_letter.as_ref())
    });
    Ok(circles(&own, others.collect()))
}

/// A warning for each way of a handler that leads back to its topic.
fn circles(own: &[Way], mut all: Vec<Way>) -> Vec<String> {
    all.extend(own.iter().cloned());
    own.iter().filter_map(|way| Some(warning(way, &back(way, &all)?))).collect()
}

/// The shortest way from the end of this one back to its beginning.
fn back<'a>(way: &'a Way, all: &'a [Way]) -> Option<Vec<&'a Way>> {
    let mut came_by: BTreeMap<&str, Option<&Way>> = BTreeMap::from([(way.to.as_str(), None)]);
    let mut next = VecDeque::from([way.to.as_str()]);
    while let Some(topic) = next.pop_front() {
        if topic == way.from {
            let mut path = Vec::new();
            let mut at = topic;
            while let Some(Some(last)) = came_by.get(at) {
                path.push(*last);
                at = &last.from;
            }
            path.reverse();
            return Some(path);
        }
        for further in all.iter().filter(|further| further.from == topic) {
            if !came_by.contains_key(further.to.as_str()) {
                came_by.insert(&further.to, Some(further));
                next.push_back(&further.to);
            }
        }
    }
    None
}

fn warning(way: &Way, back: &[&Way]) -> String {
    let mut circle = way.from.clone();
    for step in std::iter::once(way).chain(back.iter().copied()) {
        circle.push_str(&format!(" → {} ({} of {})", step.to, step.field, step.handler));
    }
    // The API server cuts a warning after 256 characters: what to do comes first.
    format!(
        "spec.{}.topic: events come back to their topic. Filter by type what has come round, or choose another topic: an event that is passed on {MAX_HOPS} times becomes a dead letter, too-many-hops. {circle}",
        way.field
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(handler: &str, from: &str, to: &str) -> Way {
        Way { handler: handler.into(), from: from.into(), to: to.into(), field: "reply" }
    }

    #[test]
    fn a_circle_is_told_with_its_way() {
        let own = [way("billing", "orders", "invoices")];
        let others =
            [way("archive", "invoices", "files"), way("audit", "invoices", "orders"), way("x", "files", "invoices")];
        let told = circles(&own, others.to_vec());
        let circle = "orders → invoices (reply of billing) → orders (reply of audit)";
        assert!(told.len() == 1 && told[0].starts_with("spec.reply.topic: ") && told[0].contains(circle), "{told:?}");
        let itself = circles(&[way("billing", "orders", "orders")], Vec::new());
        assert!(itself[0].contains("orders → orders (reply of billing)"), "{itself:?}");
    }

    #[test]
    fn a_way_without_return_is_none() {
        let own = [way("billing", "orders", "invoices")];
        let others = [way("a", "invoices", "b"), way("b", "b", "invoices"), way("c", "b", "d")];
        assert_eq!(circles(&own, others.to_vec()), [""; 0], "a circle of others is not this handler's");
    }

    #[test]
    fn dead_letters_are_a_way_too() {
        let own = ways("a", "one", None, Some(&Destination { topic: "two".into() }));
        let told = circles(&own, ways("b", "two", None, Some(&Destination { topic: "one".into() })));
        assert!(told[0].starts_with("spec.deadLetter.topic"), "{told:?}");
    }
}
