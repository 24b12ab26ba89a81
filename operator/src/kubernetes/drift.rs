//! Whether an object is as it is wanted, by its content (pure).

use serde_json::Value;

use super::quantity;

/// Does what is there say everything that is wanted? The API server adds defaults, so it may say more.
pub fn contains(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| match found.get(key) {
            Some(found) => contains(found, wanted),
            None => is_nothing(wanted),
        }),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| contains(found, wanted))
        }
        (Value::String(found), Value::String(wanted)) => found == wanted || quantity::same(found, wanted),
        _ => found == wanted || is_nothing(wanted) && is_nothing(found),
    }
}

/// The API server does not keep these.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_nothing),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_server_are_no_difference_and_drift_is() {
        let wanted = json!({"spec": {"replicas": 1, "ports": [{"port": 1}], "selector": {}}});
        let defaulted =
            json!({"spec": {"replicas": 1, "ports": [{"port": 1, "protocol": "TCP"}], "type": "ClusterIP"}});
        let drifted = json!({"spec": {"replicas": 2, "ports": [{"port": 1}]}});
        let longer = json!({"spec": {"replicas": 1, "ports": [{"port": 1}, {"port": 2}]}});
        assert!(contains(&defaulted, &wanted));
        assert!(!contains(&drifted, &wanted));
        assert!(!contains(&longer, &wanted));
    }
}
