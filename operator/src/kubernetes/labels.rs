//! Labels that users give to pods and claims, beside those by which the operator finds its own (pure).
//!
//! Services, NetworkPolicies, PodDisruptionBudgets and the operator's watches select by labels alone. A pod of a handler with the
//! labels of a broker's would get the connections of its publishers, and be let in where brokers are.

use tidegate_crds::conditions::{Finding, kind};

use super::names::{COMPONENT_LABEL, MANAGED_BY};

/// Every label of this domain is the operator's.
const OUR_DOMAIN: &str = "tidegate.io/";
/// Labels that a condition names at most.
const NAMED: usize = 4;
/// Whose pods these values are; with a label of [`OUR_DOMAIN`] they make up the selectors of brokers and operator.
const OUR_VALUES: [(&str, &str, &str); 4] = [
    (COMPONENT_LABEL, "broker", "the pods of brokers"),
    (COMPONENT_LABEL, "operator", "the operator's pods"),
    ("app.kubernetes.io/name", "tidegate", "Tidegate's own pods"),
    (MANAGED_BY.0, MANAGED_BY.1, "what the operator makes"),
];

/// Why a user may not give this label to a pod that has no others of ours than those of a handler; `None`: it may be given.
pub fn refusal(key: &str, value: &str) -> Option<String> {
    if is_ours(key) {
        return Some(OF_OUR_DOMAIN.into());
    }
    let (.., whose) = OUR_VALUES.iter().find(|(ours, taken, _)| (key, value) == (*ours, *taken))?;
    Some(format!("with the value {value} Tidegate selects {whose}, and would take this for one; choose another value"))
}

/// Says in the condition Ready which labels are left out of the pods.
pub fn explain(found: &mut [Finding], left_out: &[String]) {
    let ready = found.iter_mut().find(|finding| finding.kind == kind::READY);
    if let Some(ready) = ready.filter(|_| !left_out.is_empty()) {
        ready.message = format!(
            "{}. Left out: {}",
            ready.message,
            left_out.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ")
        );
    }
}

/// Whether a label is of Tidegate's domain.
pub fn is_ours(key: &str) -> bool {
    key.starts_with(OUR_DOMAIN)
}

/// Why a label of [`is_ours`] is refused.
pub const OF_OUR_DOMAIN: &str = "labels of tidegate.io are set by Tidegate, which selects pods and volumes by them; remove it, or choose a key of another domain";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::names;

    #[test]
    fn no_selector_of_ours_can_be_met_with_labels_that_are_not_refused() {
        let operator = [("app.kubernetes.io/name", "tidegate"), (COMPONENT_LABEL, "operator")];
        let operator = operator.map(|(key, value)| (key.to_owned(), value.to_owned()));
        for selector in [names::broker_selector("orders"), names::handler_selector("billing"), operator.into()] {
            assert!(selector.iter().all(|(key, value)| refusal(key, value).is_some()), "{selector:?}");
        }
        for label in [names::TOPIC_LABEL, names::BROKER_NAMESPACE_LABEL, names::ACCESS_LABEL] {
            assert!(refusal(label, "any").is_some(), "{label}");
        }
        assert!(refusal(MANAGED_BY.0, MANAGED_BY.1).is_some());
    }

    #[test]
    fn what_is_left_out_is_said() {
        let mut found = [Finding::new(kind::READY, tidegate_crds::conditions::Status::True, "Ready", "events come")];
        explain(&mut found, &[]);
        assert_eq!(found[0].message, "events come");
        explain(&mut found, &["spec.a: b".to_owned(), "spec.c: d".to_owned()]);
        assert_eq!(found[0].message, "events come. Left out: spec.a: b; spec.c: d");
    }

    #[test]
    fn what_charts_and_people_write_is_taken() {
        for (key, value) in [
            ("team", "pay"),
            ("app", "broker"),
            ("app.kubernetes.io/name", "billing"),
            (COMPONENT_LABEL, "worker"),
            (MANAGED_BY.0, "Helm"),
            ("app.kubernetes.io/part-of", "tidegate"),
            ("example.tidegate.io/team", "pay"),
        ] {
            assert_eq!(refusal(key, value), None, "{key}: {value}");
        }
    }
}
