//! Parts of the OpenAPI schema that the derive cannot know.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An object of the Kubernetes API whose fields the API server checks when the operator applies it.
///
/// Its full schema would be copied into every CRD otherwise, and be older than the cluster's.
pub fn kubernetes_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of such objects.
pub fn kubernetes_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "nullable": true, "maxItems": 64,
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// A time (RFC 3339).
pub fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// `status.conditions`, as the Kubernetes API conventions want it: a list-map by type.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 316, "description": "What this condition is about."},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Whether it holds."},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024, "description": "Why, in one word a program can compare."},
                "message": {"type": "string", "maxLength": 32768, "description": "Why, and what can be done, in words."},
                "lastTransitionTime": {"type": "string", "format": "date-time", "description": "When status last changed."},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "The generation of the resource this was seen at."},
            },
        },
    })
}

/// Labels by which a pod's node is chosen.
pub fn node_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "nullable": true, "additionalProperties": {"type": "string"}})
}

/// A pod template. What a Deployment takes here is taken, nulls included; the operator checks what is its own, and the
/// API server the Deployment that is made from it, when the resource is applied.
pub fn pod_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["spec"],
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "spec": {
                "type": "object",
                "description": "An ordinary pod specification. The first container receives the events.",
                "x-kubernetes-preserve-unknown-fields": true,
                "required": ["containers"],
                "properties": {
                    "containers": {
                        "type": "array", "minItems": 1,
                        "description": "The containers of the pod. The first one receives the events.",
                        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                },
            },
        },
    })
}
