//! Parts of the OpenAPI schema that the derive cannot know.

use schemars::{Schema, SchemaGenerator, json_schema};

/// What the value of a label may be.
const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

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

/// Labels of a pod, bounded.
pub fn pod_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
    })
}

/// Annotations of a pod, bounded.
pub fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "maxProperties": 32, "additionalProperties": {"type": "string", "maxLength": 4096}})
}

/// A selector of namespaces by their labels, bounded.
pub fn label_selector(_: &mut SchemaGenerator) -> Schema {
    let value = json_schema!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE});
    json_schema!({
        "type": "object",
        "description": "Labels of the granted namespaces, with from: Selector. Every namespace carries its name as the label kubernetes.io/metadata.name. An empty selector matches all namespaces.",
        "properties": {
            "matchLabels": {
                "type": "object", "maxProperties": 16, "additionalProperties": value.clone(),
                "description": "Labels with the values that a namespace must have; at most 16.",
            },
            "matchExpressions": {
                "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic",
                "description": "Requirements that the labels of a namespace must meet, all of them; at most 16.",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "values belong to the operators In and NotIn, which need at least one; remove them with Exists and DoesNotExist",
                    }],
                    "properties": {
                        "key": {
                            "type": "string", "maxLength": 317,
                            "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
                            "description": "Key of the label.",
                        },
                        "operator": {
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                            "description": "In: the label has one of values. NotIn: it has none of them, or is absent. Exists and DoesNotExist: it is present, or absent.",
                        },
                        "values": {
                            "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic", "items": value,
                            "description": "Values, with In and NotIn; at most 64.",
                        },
                    },
                },
            },
        },
    })
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
