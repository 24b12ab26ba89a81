//! Parts of the OpenAPI schema that the derive cannot know.

use schemars::{Schema, SchemaGenerator, json_schema};

/// An object of the Kubernetes API whose fields the API server checks when the operator applies it.
///
/// Its full schema would be copied into every CRD otherwise, and be older than the cluster's.
pub fn kubernetes_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A list of such objects.
pub fn kubernetes_objects(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64,
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

/// A pod template. Only what Tidegate itself reads or adds to is spelled out, so that a collision is
/// refused when it is applied; the API server checks the rest against the Deployment.
pub fn pod_template(_: &mut SchemaGenerator) -> Schema {
    let port = json_schema!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "required": ["containerPort"],
        "properties": {
            "name": {"type": "string", "maxLength": 63},
            "containerPort": {"type": "integer", "minimum": 1, "maximum": 65535},
        },
    });
    let container = |main: bool| {
        let mut required = vec!["name"];
        if main {
            required.push("image");
        }
        json_schema!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "required": required,
            "properties": {
                "name": {"type": "string", "maxLength": 63, "description": "Name of the container."},
                "image": {"type": "string", "maxLength": 1024, "description": "Image of the container."},
                "ports": {"type": "array", "maxItems": 64, "items": port, "description": "Ports of the container."},
                "lifecycle": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"preStop": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
            },
        })
    };
    json_schema!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "metadata": {
                "type": "object",
                "description": "Labels and annotations of the pods.",
                "properties": {
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "spec": {
                "type": "object",
                "description": "An ordinary pod specification. The first container receives the events.",
                "x-kubernetes-preserve-unknown-fields": true,
                "required": ["containers"],
                "properties": {
                    "containers": {"type": "array", "minItems": 1, "maxItems": 16, "items": container(true)},
                    "initContainers": {"type": "array", "maxItems": 16, "items": container(false)},
                    "volumes": {"type": "array", "maxItems": 64, "items": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true, "required": ["name"],
                        "properties": {"name": {"type": "string", "maxLength": 63}},
                    }},
                },
            },
        },
    })
}
