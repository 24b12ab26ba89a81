//! Which fields of an object are still the operator's (pure).
//!
//! The API server notes of every field who applied it last, and takes it away from that one when somebody else changes or
//! removes it (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>). So an object of which the
//! operator still has all fields that it wants is as it was applied, and its metadata alone shows that. What it does not show is
//! the order of a list whose items have keys.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use super::names::FIELD_MANAGER;

/// The operator's fields of an object, as JSON text; `None`: it has none.
pub fn ours(meta: &ObjectMeta) -> Option<Box<str>> {
    let entries = meta.managed_fields.iter().flatten();
    let ours: Vec<_> = entries
        .filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none())
        .filter_map(|entry| Some(&entry.fields_v1.as_ref()?.0))
        .collect();
    if ours.is_empty() { None } else { serde_json::to_string(&ours).ok().map(Into::into) }
}

/// Whether these fields ([`ours`]) are all that is wanted.
pub fn cover(fields: &str, wanted: &Value) -> bool {
    let Ok(sets) = serde_json::from_str::<Vec<Value>>(fields) else { return false };
    let Value::Object(wanted) = wanted else { return false };
    // What identifies an object has no owner.
    wanted.iter().filter(|(name, _)| !["apiVersion", "kind"].contains(&name.as_str())).all(
        |(name, wanted)| match wanted {
            Value::Object(metadata) if name == "metadata" => metadata
                .iter()
                .filter(|(name, _)| !["name", "namespace"].contains(&name.as_str()))
                .all(|(name, wanted)| sets.iter().any(|set| has_field(&set["f:metadata"], name, wanted))),
            wanted => sets.iter().any(|set| has_field(set, name, wanted)),
        },
    )
}

fn has_field(set: &Value, name: &str, wanted: &Value) -> bool {
    match set.get(format!("f:{name}")) {
        Some(inner) => has(inner, wanted),
        None => is_unset(wanted),
    }
}

/// What has no field: nothing, or only such parts. An empty list is a value like any other: `ingress: []` lets no one in.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_unset),
        _ => false,
    }
}

/// A leaf is had as a whole; of what is larger, every part is to be had.
fn has(set: &Value, wanted: &Value) -> bool {
    let Value::Object(parts) = set else { return false };
    parts.is_empty()
        || match wanted {
            Value::Object(wanted) => wanted.iter().all(|(name, wanted)| has_field(set, name, wanted)),
            Value::Array(items) => items.iter().all(|item| has_item(parts, item)),
            _ => false,
        }
}

/// An item of a list is named by its value, `v:"x"`, or by its keys, `k:{"port":80,"protocol":"TCP"}`, of which some may be defaults.
fn has_item(parts: &Map<String, Value>, item: &Value) -> bool {
    parts.iter().any(|(name, inner)| {
        let parsed = |name: &str| serde_json::from_str::<Value>(name).ok();
        match name.split_once(':') {
            Some(("v", value)) => parsed(value).as_ref() == Some(item),
            Some(("k", keys)) => match parsed(keys) {
                Some(Value::Object(keys)) => {
                    keys.iter().all(|(key, value)| item.get(key).is_none_or(|found| found == value)) && has(inner, item)
                }
                _ => false,
            },
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "orders", "namespace": "shop", "labels": {"app": "x"},
                "ownerReferences": [{"uid": "u", "kind": "EventTopic"}],
            },
            "spec": {"ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}], "selector": {"app": "x"}},
        })
    }

    fn fields() -> Value {
        json!([{
            "f:metadata": {
                "f:labels": {"f:app": {}},
                "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}},
            },
            "f:spec": {
                "f:ports": {
                    "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}, "f:name": {}},
                    "k:{\"port\":53,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}, "f:protocol": {}},
                },
                "f:selector": {},
            },
        }])
    }

    #[test]
    fn all_fields_are_those_that_are_wanted_and_what_is_unset_is_no_field() {
        let mut wanted = service();
        assert!(cover(&fields().to_string(), &wanted));
        wanted["spec"]["type"] = Value::Null;
        wanted["metadata"]["annotations"] = json!({});
        assert!(cover(&fields().to_string(), &wanted));
        wanted["spec"]["externalIPs"] = json!([]);
        assert!(!cover(&fields().to_string(), &wanted), "somebody has put something there");
        wanted = service();
        wanted["metadata"]["annotations"] = json!({"a": "b"});
        assert!(!cover(&fields().to_string(), &wanted), "more is wanted than was applied");
    }

    #[test]
    fn what_somebody_else_has_changed_is_not_ours_any_more() {
        for path in [
            "/0/f:metadata/f:labels",
            "/0/f:metadata/f:ownerReferences",
            "/0/f:spec/f:selector",
            "/0/f:spec/f:ports/k:{\"port\":80,\"protocol\":\"TCP\"}/f:name",
            "/0/f:spec/f:ports/k:{\"port\":53,\"protocol\":\"UDP\"}",
        ] {
            let mut fields = fields();
            let (parent, name) = path.rsplit_once('/').unwrap();
            fields.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
            assert!(!cover(&fields.to_string(), &service()), "{path}");
        }
        for nonsense in ["", "{}", "[]", "[null]", "[[]]", "[\"f:spec\"]"] {
            assert!(!cover(nonsense, &service()), "{nonsense}");
        }
    }

    #[test]
    fn values_of_a_set_are_had_one_by_one() {
        let wanted = json!({"metadata": {"finalizers": ["a", "b"]}});
        let fields = |values: Value| json!([{"f:metadata": {"f:finalizers": values}}]).to_string();
        assert!(cover(&fields(json!({"v:\"a\"": {}, "v:\"b\"": {}})), &wanted));
        assert!(!cover(&fields(json!({"v:\"a\"": {}})), &wanted));
    }

    #[test]
    fn only_the_operators_own_fields_count() {
        let meta = |entries: Value| serde_json::from_value::<ObjectMeta>(json!({"managedFields": entries})).unwrap();
        let entry = |manager: &str, subresource: Value| json!({"manager": manager, "operation": "Apply", "subresource": subresource, "fieldsV1": {"f:spec": {}}});
        assert_eq!(ours(&meta(json!([entry("kubectl", Value::Null), entry(FIELD_MANAGER, json!("status"))]))), None);
        let found = ours(&meta(json!([entry("kubectl", Value::Null), entry(FIELD_MANAGER, Value::Null)])));
        assert_eq!(found.as_deref(), Some(r#"[{"f:spec":{}}]"#));
    }
}
