//! Whose an object is (pure).
//!
//! Everything that the operator makes has an owner reference, which anybody who may edit the object can take away. So
//! the owner is also in an annotation.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// Carries the UID of the broker, topic or handler that the object was made for.
pub const OWNER: &str = "tidegate.io/owner";

/// Whether the operator made this object for this very resource, and nothing else has taken it over.
pub fn belongs_to(object: &ObjectMeta, owner: &OwnerReference) -> bool {
    let owners = || object.owner_references.iter().flatten();
    if owners().any(|reference| reference.uid == owner.uid) {
        return true;
    }
    let is_free = owners().all(|reference| reference.controller != Some(true));
    is_free
        && match object.annotations.as_ref().and_then(|annotations| annotations.get(OWNER)) {
            Some(uid) => *uid == owner.uid,
            None => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owned(uid: &str, controller: bool) -> Value {
        json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "Any", "name": "any", "uid": uid, "controller": controller},
        ]})
    }

    #[test]
    fn what_is_provably_ours_is_and_nothing_else() {
        let owner = OwnerReference { name: "orders".into(), uid: "u-1".into(), ..OwnerReference::default() };
        let noted = |uid: &str, owned: Value| {
            let mut object = json!({"name": "orders-topic", "annotations": {OWNER: uid}});
            object.as_object_mut().unwrap().extend(owned.as_object().unwrap().clone());
            object
        };
        for (object, is_ours) in [
            (owned("u-1", true), true),
            (owned("u-2", true), false),
            (noted("u-1", json!({})), true),
            (noted("u-1", owned("u-2", false)), true),
            (noted("u-1", owned("u-2", true)), false),
            (noted("u-2", json!({})), false),
            (json!({"name": "orders-topic", "labels": {"app.kubernetes.io/managed-by": "tidegate"}}), false),
        ] {
            let meta: ObjectMeta = serde_json::from_value(object.clone()).unwrap();
            assert_eq!(belongs_to(&meta, &owner), is_ours, "{object}");
        }
    }
}
