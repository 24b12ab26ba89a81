//! Grants: whether a resource of one namespace may use one of another, as the owner of that has written into it.
//!
//! Whoever is not granted a resource is told the same whether it is there or not.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt as _};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource as _, ResourceExt as _};
use tidegate_crds::{EventBroker, EventHandler, EventTopic, GrantedNamespaces, NamespaceGrant};

use crate::kubernetes::watches::{NamespaceMeta, Stores};
use crate::reconcile::error::Error;
use crate::topic::settings::invalid;

/// Reason of a topic that names a broker of another namespace which does not grant its own, or is not there.
pub const NOT_ALLOWED_BY_BROKER: &str = "NotAllowedByBroker";
/// Reason of a handler that names a topic of another namespace which does not grant its own, or is not there.
pub const NOT_ALLOWED_BY_TOPIC: &str = "NotAllowedByTopic";

/// The longest parts of the key of a label: a DNS name, and a name.
const MAX_PREFIX: usize = 253;
const MAX_NAME: usize = 63;

/// Whether a grant of namespace `own` includes another namespace, which has these labels; `None`: it is not known.
fn includes(grant: &NamespaceGrant, own: &str, other: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
    if own == other {
        return true;
    }
    match grant.from {
        GrantedNamespaces::Same => false,
        GrantedNamespaces::All => true,
        GrantedNamespaces::Selector => {
            let selector = grant.selector.clone().and_then(|selector| Selector::try_from(selector).ok());
            selector.zip(labels).is_some_and(|(selector, labels)| selector.matches(labels))
        }
    }
}

/// Checks what the schema cannot: the keys of `matchLabels`. The rest of a selector is checked there.
///
/// # Errors
/// A key is not one; the message names it.
pub fn check(field: &str, grant: &NamespaceGrant) -> Result<(), Error> {
    let labels = grant.selector.iter().flat_map(|selector: &LabelSelector| selector.match_labels.iter().flatten());
    for (key, _) in labels {
        if !is_label_key(key) {
            let why = format!("{key:?} is not the key of a label: use a name, or a DNS name, '/' and a name");
            return Err(invalid(&format!("{field}.selector.matchLabels"), why));
        }
    }
    Ok(())
}

fn is_label_key(key: &str) -> bool {
    let is_made_of = |text: &str, more: &[u8], is_edge: fn(&u8) -> bool| {
        let bytes = text.as_bytes();
        let edges = [bytes.first(), bytes.last()];
        edges.iter().all(|edge| edge.is_some_and(is_edge))
            && bytes.iter().all(|byte| is_edge(byte) || more.contains(byte))
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_prefix = |prefix: &str| {
        let is_label = |label: &str| is_made_of(label, b"-", |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        prefix.len() <= MAX_PREFIX && prefix.split('.').all(is_label)
    };
    prefix.is_none_or(is_prefix) && name.len() <= MAX_NAME && is_made_of(name, b"-_.", u8::is_ascii_alphanumeric)
}

fn labels(namespaces: &Store<NamespaceMeta>, name: &str) -> Option<BTreeMap<String, String>> {
    namespaces.get(&ObjectRef::new(name)).map(|namespace| namespace.labels().clone())
}

impl Stores {
    /// Whether a broker grants a topic's namespace.
    pub(crate) fn admits_topic(&self, broker: &EventBroker, topic: &EventTopic) -> bool {
        let (own, other) = (broker.namespace().unwrap_or_default(), topic.namespace().unwrap_or_default());
        includes(&broker.spec.topics, &own, &other, labels(&self.namespaces, &other).as_ref())
    }

    /// Whether a topic grants a handler's namespace, as its handlers see it.
    pub(crate) fn admits_handler(&self, topic: &EventTopic, handler: &EventHandler) -> bool {
        let (own, other) = (topic.namespace().unwrap_or_default(), handler.namespace().unwrap_or_default());
        includes(&topic.spec.handlers, &own, &other, labels(&self.namespaces_for_handlers, &other).as_ref())
    }

    /// Whether there is such a namespace.
    pub(crate) fn is_namespace(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectRef::new(name)).is_some()
    }

    /// Whether a namespace is being deleted, with everything that is in it.
    pub(crate) fn is_terminating(&self, namespace: &str) -> bool {
        let found = self.namespaces.get(&ObjectRef::new(namespace));
        found.is_some_and(|namespace| namespace.meta().deletion_timestamp.is_some())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn grant(value: Value) -> NamespaceGrant {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_grant_includes_its_own_namespace_and_those_that_it_names() {
        let labels = BTreeMap::from([
            ("kubernetes.io/metadata.name".to_owned(), "web".to_owned()),
            ("team".to_owned(), "front".to_owned()),
        ]);
        let by = |selector: Value| json!({"from": "Selector", "selector": selector});
        let one = |key: &str, operator: &str, values: Value| {
            by(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        for (value, is_included, without_labels) in [
            (json!({}), false, false),
            (json!({"from": "Same"}), false, false),
            (json!({"from": "All"}), true, true),
            (by(json!({})), true, false),
            (by(json!({"matchLabels": {"team": "front"}})), true, false),
            (by(json!({"matchLabels": {"team": "back"}})), false, false),
            (by(json!({"matchLabels": {"team": "front", "stage": "test"}})), false, false),
            (by(json!({"matchLabels": {"kubernetes.io/metadata.name": "web"}})), true, false),
            (one("team", "In", json!(["front", "back"])), true, false),
            (one("team", "NotIn", json!(["front"])), false, false),
            (one("stage", "NotIn", json!(["test"])), true, false),
            (one("team", "Exists", Value::Null), true, false),
            (one("team", "DoesNotExist", Value::Null), false, false),
            (one("team", "Unheard", Value::Null), false, false),
            (json!({"from": "Selector"}), false, false),
        ] {
            let grant = grant(value.clone());
            assert_eq!(includes(&grant, "shop", "web", Some(&labels)), is_included, "{value}");
            assert_eq!(includes(&grant, "shop", "web", None), without_labels, "{value}: of an unknown namespace");
            assert!(includes(&grant, "shop", "shop", None), "{value}: its own");
        }
    }

    #[test]
    fn the_key_of_a_label_is_one() {
        let long = "a".repeat(64);
        for (key, is_key) in [
            ("team", true),
            ("Team_1.x", true),
            ("kubernetes.io/metadata.name", true),
            ("", false),
            ("-team", false),
            ("team ", false),
            ("a/b/c", false),
            ("/team", false),
            ("a..b/team", false),
            ("A.b/team", false),
            (long.as_str(), false),
        ] {
            let grant = grant(json!({"from": "Selector", "selector": {"matchLabels": {key: "x"}}}));
            let checked = check("topics", &grant);
            assert_eq!(checked.is_ok(), is_key, "{key:?}");
            if let Err(error) = checked {
                assert!(error.to_string().contains("spec.topics.selector.matchLabels"), "{error}");
            }
        }
    }
}
