//! Whose an object is (pure).
//!
//! Everything that the operator makes has an owner reference, which anybody who may edit the object can take away. So
//! the owner is also in an annotation; version 0.1 did not write that, and is known by its labels and field manager.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource as _;
use tidegate_crds::EventHandler;

use crate::names::{COMPONENT_LABEL, FIELD_MANAGER, HANDLER_LABEL, MANAGED_BY, TOPIC_LABEL};

/// Carries the UID of the topic or handler that the object was made for.
pub const OWNER: &str = "tidegate.io/owner";

/// Whether the operator made this object for this very topic or handler, and nothing else has taken it over.
pub fn belongs_to(object: &ObjectMeta, owner: &OwnerReference) -> bool {
    let owners = || object.owner_references.iter().flatten();
    if owners().any(|reference| reference.uid == owner.uid) {
        return true;
    }
    let is_free = owners().all(|reference| reference.controller != Some(true));
    is_free
        && match object.annotations.as_ref().and_then(|annotations| annotations.get(OWNER)) {
            Some(uid) => *uid == owner.uid,
            None => is_of_first_version(object, owner),
        }
}

/// By all that version 0.1 wrote of itself: that it applied the object, and the name it did so for.
fn is_of_first_version(object: &ObjectMeta, owner: &OwnerReference) -> bool {
    let label = |key: &str| object.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let (component, name) =
        if owner.kind == EventHandler::kind(&()) { ("handler", HANDLER_LABEL) } else { ("broker", TOPIC_LABEL) };
    let is_labelled = label(MANAGED_BY.0) == Some(MANAGED_BY.1)
        && label(COMPONENT_LABEL) == Some(component)
        && label(name) == Some(&owner.name);
    let mut managers = object.managed_fields.iter().flatten();
    let is_applied = managers
        .any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.operation.as_deref() == Some("Apply"));
    is_labelled && is_applied
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owner(kind: &str) -> OwnerReference {
        OwnerReference { kind: kind.into(), name: "orders".into(), uid: "u-1".into(), ..OwnerReference::default() }
    }

    /// Of a child of version 0.1 whose owner reference was taken away.
    fn orphan(changes: Value) -> ObjectMeta {
        let mut object = json!({
            "name": "orders-broker",
            "labels": {
                "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": "broker",
                "tidegate.io/topic": "orders",
            },
            "managedFields": [
                {"manager": "kubectl-edit", "operation": "Update"},
                {"manager": "tidegate-operator", "operation": "Apply"},
            ],
        });
        object.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn owned(uid: &str, controller: bool) -> Value {
        json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "Any", "name": "any", "uid": uid, "controller": controller},
        ]})
    }

    #[test]
    fn what_is_provably_ours_is_and_nothing_else() {
        let label = |topic: &str, component: &str| {
            json!({"labels": {
                "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": component,
                "tidegate.io/topic": topic,
            }})
        };
        let managed =
            |manager: &str, operation: &str| json!({"managedFields": [{"manager": manager, "operation": operation}]});
        let noted = |uid: &str| json!({"annotations": {OWNER: uid}});
        for (changes, is_ours) in [
            (json!({}), true),
            (owned("u-1", true), true),
            (owned("u-2", true), false),
            (owned("u-2", false), true),
            (noted("u-1"), true),
            (noted("u-2"), false),
            (label("invoices", "broker"), false),
            (label("orders", "handler"), false),
            (json!({"labels": {"tidegate.io/topic": "orders"}}), false),
            (json!({"labels": null}), false),
            (managed("kubectl", "Apply"), false),
            (managed("tidegate-operator", "Update"), false),
            (json!({"managedFields": null}), false),
        ] {
            assert_eq!(belongs_to(&orphan(changes.clone()), &owner("EventTopic")), is_ours, "{changes}");
        }
        assert!(!belongs_to(&orphan(json!({})), &owner("EventHandler")), "a handler of the topic's name");
        let of_handler = json!({"labels": {
            "app.kubernetes.io/managed-by": "tidegate", "app.kubernetes.io/component": "handler",
            "tidegate.io/topic": "any", "tidegate.io/handler": "orders",
        }});
        assert!(belongs_to(&orphan(of_handler), &owner("EventHandler")));
    }
}
