//! Fields that a resource's schema does not have: with `kubectl`, the API server refuses them. A misspelt one would
//! otherwise be no more than a default.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

/// Where the first of them is, such as `spec.retension`.
pub fn field(definition: &CustomResourceDefinition, resource: &Value) -> Option<String> {
    let schema = definition.spec.versions.first()?.schema.as_ref()?.open_api_v3_schema.as_ref()?;
    let spec = schema.properties.as_ref()?.get("spec")?;
    // Metadata is the API server's own.
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let own = resource.as_object()?.keys().find(|name| !known.contains(&name.as_str())).cloned();
    own.or_else(|| search(spec, resource.get("spec")?, "spec"))
}

fn search(schema: &JSONSchemaProps, value: &Value, place: &str) -> Option<String> {
    if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return None;
    }
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let place = format!("{place}.{name}");
            let known = schema.properties.as_ref().and_then(|properties| properties.get(name));
            match (known, &schema.additional_properties) {
                (Some(schema), _) => search(schema, value, &place),
                (None, Some(JSONSchemaPropsOrBool::Schema(schema))) => search(schema, value, &place),
                (None, Some(JSONSchemaPropsOrBool::Bool(true))) => None,
                // What is no object at all by its schema is refused for that.
                (None, _) if schema.properties.is_none() => None,
                (None, _) => Some(place),
            }
        }),
        Value::Array(items) => {
            let Some(JSONSchemaPropsOrArray::Schema(schema)) = &schema.items else { return None };
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| search(schema, item, &format!("{place}[{index}]")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;
    use serde_json::json;
    use tidegate_crds::{EventHandler, EventTopic};

    use super::*;

    #[test]
    fn the_first_unknown_field_is_told_by_its_place() {
        let topic = |spec: Value| field(&EventTopic::crd(), &json!({"metadata": {"x": 1}, "spec": spec}));
        assert_eq!(topic(json!({"retention": {"maxSize": "1Gi"}})), None);
        assert_eq!(topic(json!({"retention": {"maxsize": "1Gi"}})).unwrap(), "spec.retention.maxsize");
        let publishers = json!({"publishers": [{"anonymous": true}, {"serviceAccont": {}}]});
        assert_eq!(topic(publishers).unwrap(), "spec.publishers[1].serviceAccont");
        assert_eq!(field(&EventTopic::crd(), &json!({"specs": {}})).unwrap(), "specs");
    }

    #[test]
    fn a_pod_template_is_kubernetes_own() {
        let spec = json!({"topic": "a", "template": {"spec": {"containers": [{"name": "a", "whatever": 1}]}}});
        assert_eq!(field(&EventHandler::crd(), &json!({"spec": spec})), None);
    }
}
