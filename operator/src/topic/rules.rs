//! The publishers of a topic's specification, as the rules that its ingresses go by (pure).

use std::collections::BTreeSet;

use tidegate_broker_client::contract::{InvalidPattern, Pattern, PublisherRule, RuleKind};
use tidegate_crds::topic::{EventTopicSpec, Publisher};

use crate::reconcile::error::Error;
use crate::topic::settings::invalid;

/// The rules of a topic in this namespace.
///
/// # Errors
/// An entry is not one; the message names it. (The schema refuses it before.)
pub fn from_spec(spec: &EventTopicSpec, namespace: &str) -> Result<Vec<PublisherRule>, Error> {
    let Some(publishers) = &spec.publishers else {
        let own = RuleKind::ServiceAccount { namespace: namespace.to_owned(), name: None };
        return Ok(vec![PublisherRule::new(own)]);
    };
    let rule = |(index, publisher)| rule(publisher, namespace).map_err(|why| invalid(&field(index), why));
    publishers.iter().enumerate().map(rule).collect()
}

fn field(index: usize) -> String {
    format!("publishers[{index}]")
}

fn rule(publisher: &Publisher, own: &str) -> Result<PublisherRule, String> {
    // No `..`: a field that is added and not passed on would let more in than was asked for.
    let Publisher { service_account, certificate, nats, anonymous, sources, types } = publisher;
    let kind = match (service_account, certificate, nats, anonymous) {
        (Some(account), None, None, None) => RuleKind::ServiceAccount {
            namespace: account.namespace.clone().unwrap_or_else(|| own.to_owned()),
            name: account.name.clone(),
        },
        (None, Some(certificate), None, None) => RuleKind::Certificate { uri: certificate.uri.clone() },
        (None, None, Some(name), None) => RuleKind::Nats { name: name.clone() },
        (None, None, None, Some(true)) => RuleKind::Anonymous {},
        _ => return Err("must have exactly one of serviceAccount, certificate, nats and anonymous: true".to_owned()),
    };
    Ok(PublisherRule { kind, sources: patterns(sources)?, types: patterns(types)? })
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>, String> {
    let parsed: Result<_, InvalidPattern> = texts.iter().cloned().map(Pattern::try_from).collect();
    parsed.map_err(|error| error.to_string())
}

/// The names of the publishers over NATS, each once.
pub fn nats_names(rules: &[PublisherRule]) -> Vec<String> {
    let names = rules.iter().filter_map(|rule| match &rule.kind {
        RuleKind::Nats { name } => Some(name.clone()),
        _ => None,
    });
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The namespaces of the ServiceAccounts that are admitted.
pub fn namespaces(rules: &[PublisherRule]) -> impl Iterator<Item = &str> {
    rules.iter().filter_map(|rule| match &rule.kind {
        RuleKind::ServiceAccount { namespace, .. } => Some(namespace.as_str()),
        _ => None,
    })
}

/// Whether a ServiceAccount is admitted.
pub fn has_service_accounts(rules: &[PublisherRule]) -> bool {
    namespaces(rules).next().is_some()
}

/// Whether a client certificate is admitted.
pub fn has_certificates(rules: &[PublisherRule]) -> bool {
    rules.iter().any(|rule| matches!(rule.kind, RuleKind::Certificate { .. }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules(publishers: Value) -> Result<Value, Error> {
        let spec: EventTopicSpec = serde_json::from_value(json!({"publishers": publishers})).unwrap();
        from_spec(&spec, "shop").map(|rules| serde_json::to_value(rules).unwrap())
    }

    #[test]
    fn a_topic_that_names_no_publishers_has_the_service_accounts_of_its_namespace() {
        assert_eq!(rules(Value::Null).unwrap(), json!([{"serviceAccount": {"namespace": "shop"}}]));
    }

    #[test]
    fn each_entry_is_a_rule() {
        let publishers = json!([
            {"serviceAccount": {}},
            {"serviceAccount": {"name": "checkout"}, "sources": ["/shop/*"], "types": ["com.shop.*", "ping"]},
            {"serviceAccount": {"name": "till", "namespace": "web"}},
            {"certificate": {"uri": "spiffe://example.com/till"}},
            {"nats": "legacy"},
            {"anonymous": true, "types": ["ping"]},
        ]);
        let expected = json!([
            {"serviceAccount": {"namespace": "shop"}},
            {"serviceAccount": {"namespace": "shop", "name": "checkout"}, "sources": ["/shop/*"], "types": ["com.shop.*", "ping"]},
            {"serviceAccount": {"namespace": "web", "name": "till"}},
            {"certificate": {"uri": "spiffe://example.com/till"}},
            {"nats": {"name": "legacy"}},
            {"anonymous": {}, "types": ["ping"]},
        ]);
        assert_eq!(rules(publishers).unwrap(), expected);
    }

    #[test]
    fn what_is_no_entry_lets_nobody_in() {
        for (wrong, said) in [
            (json!({}), "exactly one of"),
            (json!({"nats": "a", "anonymous": true}), "exactly one of"),
            (json!({"anonymous": false}), "exactly one of"),
            (json!({"nats": "a", "types": ["a*b"]}), "`*` at its end"),
        ] {
            let error = rules(json!([{"nats": "a"}, wrong])).unwrap_err().to_string();
            assert!(error.contains("spec.publishers[1]") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_name_over_nats_is_there_once() {
        let names =
            json!({"publishers": [{"nats": "b", "types": ["x"]}, {"nats": "a"}, {"nats": "b", "types": ["y"]}]});
        let rules = from_spec(&serde_json::from_value(names).unwrap(), "shop").unwrap();
        assert_eq!(nats_names(&rules), ["a", "b"]);
        assert!(!has_service_accounts(&rules) && !has_certificates(&rules));
    }
}
