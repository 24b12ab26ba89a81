//! What `kubectl` and the API server ask first: which resources there are.

use axum::Json;
use serde_json::{Value, json};

use super::{GROUP, VERSION};

/// The group and its version.
pub(super) async fn group() -> Json<Value> {
    let version = json!({"groupVersion": format!("{GROUP}/{VERSION}"), "version": VERSION});
    Json(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": GROUP, "versions": [version], "preferredVersion": version,
    }))
}

/// The subresources and their verbs.
pub(super) async fn resources() -> Json<Value> {
    let resource = |name: &str, kind: &str, verbs: &[&str]| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs});
    Json(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": format!("{GROUP}/{VERSION}"),
        "resources": [
            resource("eventtopics/events", "StoredEventList", &["get", "watch"]),
            resource("eventhandlers/deadletters", "DeadLetterList", &["get", "delete"]),
            resource("eventhandlers/redrive", "DeadLetterRedrive", &["create"]),
        ],
    }))
}
