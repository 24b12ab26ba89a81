//! The pod template as the user wrote it, checked where Tidegate adds to it (pure).
//!
//! The schema takes what a Deployment's template may have, so that a template can be moved from one to the other. What
//! belongs to Tidegate is checked here; the rest is the API server's to judge, of the Deployment that is made of it.

use serde_json::{Map, Value};

use crate::kubernetes::{labels, names};
use crate::reconcile::error::Error;

/// The container that delivers.
pub const SIDECAR: &str = "tidegate-sidecar";
/// Volumes of these names are Tidegate's; one of them is the handler's identity on the broker.
const OUR_VOLUMES: &str = "tidegate-";

/// An object in a list, with where it is.
type Place<'a> = (String, &'a Map<String, Value>);

/// The template without its nulls, which mean that a field is not set, and without the labels that [`check_labels`] refuses: a
/// handler that is stored with one works on.
///
/// # Errors
/// It has no first container, or uses a name or port that is Tidegate's; the message names the field.
pub fn checked(template: &Value) -> Result<Value, Error> {
    let mut template = template.clone();
    without_nulls(&mut template);
    take_labels(&mut template);
    let spec = template.get("spec").and_then(Value::as_object).ok_or_else(|| wrong("spec must be an object"))?;
    let containers = objects(spec, "containers")?;
    let Some((_, main)) = containers.first() else {
        return Err(wrong("spec.containers: at least one container is needed; the first receives the events"));
    };
    if main.get("lifecycle").and_then(|lifecycle| lifecycle.get("preStop")).is_some() {
        return Err(wrong(
            "spec.containers[0].lifecycle.preStop: Tidegate drains deliveries there; move what it does into the handler's reaction to SIGTERM, which comes after the last event",
        ));
    }
    for (field, volume) in objects(spec, "volumes")? {
        if name(volume).starts_with(OUR_VOLUMES) {
            return Err(taken(&field, "name", "names that begin with tidegate- are taken by Tidegate"));
        }
    }
    for (field, container) in containers.iter().chain(&objects(spec, "initContainers")?) {
        check_container(field, container)?;
    }
    Ok(template)
}

/// Refuses labels by which Tidegate selects pods and claims, before the template is stored.
///
/// # Errors
/// There is one; the message names it.
pub fn check_labels(template: &Value) -> Result<(), Error> {
    take_labels(&mut template.clone()).into_iter().next().map_or(Ok(()), |label| Err(wrong(label)))
}

/// The labels that are left out of the pods, with their fields and the reason.
pub fn left_out(template: &Value) -> Vec<String> {
    take_labels(&mut template.clone()).iter().map(|label| format!("spec.template.{label}")).collect()
}

/// Takes them away; their fields below `spec.template.`.
fn take_labels(template: &mut Value) -> Vec<String> {
    let mut taken = labels_of(template.get_mut("metadata"), "metadata");
    // The claim of such a volume is another thing that is selected.
    let volumes = template.pointer_mut("/spec/volumes").and_then(Value::as_array_mut);
    for (index, volume) in volumes.into_iter().flatten().enumerate() {
        let field = format!("spec.volumes[{index}].ephemeral.volumeClaimTemplate.metadata");
        taken.extend(labels_of(volume.pointer_mut("/ephemeral/volumeClaimTemplate/metadata"), &field));
    }
    taken
}

/// What is no object of labels is the API server's to judge.
fn labels_of(metadata: Option<&mut Value>, field: &str) -> Vec<String> {
    let written = metadata.and_then(|metadata| metadata.get_mut("labels")).and_then(Value::as_object_mut);
    let mut taken = Vec::new();
    if let Some(labels) = written {
        labels.retain(|key, value| {
            let why = labels::refusal(key, value.as_str().unwrap_or_default());
            taken.extend(why.as_ref().map(|why| format!("{field}.labels[{key}]: {why}")));
            why.is_none()
        });
    }
    taken
}

fn check_container(field: &str, container: &Map<String, Value>) -> Result<(), Error> {
    if name(container) == SIDECAR {
        return Err(taken(field, "name", "the name tidegate-sidecar is taken by Tidegate"));
    }
    for (port, value) in objects(container, "ports")? {
        if value.get("containerPort").and_then(Value::as_i64) == Some(i64::from(names::SIDECAR_PORT)) {
            return Err(taken(&format!("{field}.{port}"), "containerPort", "15480 is taken by Tidegate"));
        }
    }
    for (mount, value) in objects(container, "volumeMounts")? {
        if name(value).starts_with(OUR_VOLUMES) {
            return Err(taken(
                &format!("{field}.{mount}"),
                "name",
                "volumes that begin with tidegate- are the sidecar's alone",
            ));
        }
    }
    Ok(())
}

/// Removes the fields that are null. An element of a list that is null is left for the API server to refuse.
pub fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

/// The elements of a list of objects, each with its place; a missing list is an empty one.
fn objects<'a>(parent: &'a Map<String, Value>, list: &str) -> Result<Vec<Place<'a>>, Error> {
    let Some(found) = parent.get(list) else { return Ok(Vec::new()) };
    let items = found.as_array().ok_or_else(|| wrong(format!("spec: {list} must be a list")))?;
    let place = |(index, item): (usize, &'a Value)| {
        let object = item.as_object().ok_or_else(|| wrong(format!("spec: {list}[{index}] must be an object")))?;
        Ok((format!("{list}[{index}]"), object))
    };
    items.iter().enumerate().map(place).collect()
}

fn name(object: &Map<String, Value>) -> &str {
    object.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn taken(field: &str, of: &str, why: &str) -> Error {
    wrong(format!("spec.{field}.{of}: {why}; choose another"))
}

/// What is wrong with the template, after `spec.template.`.
pub fn wrong(what: impl std::fmt::Display) -> Error {
    Error::refused("InvalidTemplate", format!("spec.template.{what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(spec: &Value, container: &Value) -> Value {
        let mut template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        template["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        template["spec"]["containers"][0].as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
        template
    }

    #[test]
    fn what_is_tidegates_is_refused_with_its_field() {
        let (none, mount) =
            (json!({}), json!([{"name": "a", "mountPath": "/a"}, {"name": "tidegate-identity", "mountPath": "/b"}]));
        for (template, says) in [
            (json!([]), "spec.template.spec must be an object"),
            (json!({"spec": {"containers": null}}), "spec.containers: at least one"),
            (json!({"spec": {"containers": "no"}}), "containers must be a list"),
            (json!({"spec": {"containers": ["no"]}}), "containers[0] must be an object"),
            (template(&none, &json!({"name": "tidegate-sidecar"})), "spec.containers[0].name"),
            (
                template(&none, &json!({"ports": [{"containerPort": 15480}]})),
                "spec.containers[0].ports[0].containerPort",
            ),
            (template(&none, &json!({"lifecycle": {"preStop": {}}})), "reaction to SIGTERM"),
            (template(&none, &json!({"volumeMounts": mount})), "spec.containers[0].volumeMounts[1].name"),
            (
                template(&json!({"initContainers": [{"name": "a", "volumeMounts": mount}]}), &none),
                "spec.initContainers[0].volumeMounts[1].name",
            ),
            (
                template(&json!({"initContainers": [{"name": "tidegate-sidecar"}]}), &none),
                "spec.initContainers[0].name",
            ),
            (template(&json!({"volumes": [{"name": "tidegate-x"}]}), &none), "spec.volumes[0].name"),
        ] {
            let error = checked(&template).unwrap_err();
            assert_eq!(error.reason(), "InvalidTemplate", "{template}");
            let message = error.to_string();
            assert!(message.starts_with("spec.template.") && message.contains(says), "{message}\n{says}");
        }
    }

    /// The pod would be one of a broker's, or the claim of its volume one of a broker's volumes.
    #[test]
    fn labels_by_which_tidegate_selects_are_refused_with_their_field() {
        let broker = json!({"app.kubernetes.io/component": "broker"});
        let far = json!({"team": "pay", "tidegate.io/broker-namespace": "web"});
        let labelled = |labels: &Value| {
            let mut labelled = template(&json!({}), &json!({}));
            labelled["metadata"] = json!({"labels": labels});
            labelled
        };
        let claim = json!({"metadata": {"labels": {"tidegate.io/broker": "default"}}});
        let volumes = json!([{"name": "cache", "ephemeral": {"volumeClaimTemplate": claim}}]);
        for (template, field) in [
            (labelled(&broker), "metadata.labels[app.kubernetes.io/component]: with the value broker Tidegate selects"),
            (
                labelled(&far),
                "metadata.labels[tidegate.io/broker-namespace]: labels of tidegate.io are set by Tidegate",
            ),
            (
                template(&json!({"volumes": volumes}), &json!({})),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.labels[tidegate.io/broker]: labels of",
            ),
        ] {
            let error = check_labels(&template).unwrap_err();
            assert_eq!(error.reason(), "InvalidTemplate", "{template}");
            let message = error.to_string();
            assert!(message.starts_with(&format!("spec.template.{field}")), "{message}");
            // One that is stored works on, without the label.
            let kept = checked(&template).unwrap();
            assert!(check_labels(&kept).is_ok() && left_out(&template).len() == 1, "{kept}");
        }
        assert_eq!(checked(&labelled(&far)).unwrap(), labelled(&json!({"team": "pay"})));
        for labels in [json!({"team": "pay", "app.kubernetes.io/component": "worker"}), json!("no"), json!({"a": 1})] {
            assert!(check_labels(&labelled(&labels)).is_ok(), "{labels}");
            assert_eq!(checked(&labelled(&labels)).unwrap(), labelled(&labels));
        }
    }

    #[test]
    fn nulls_are_fields_that_are_not_set() {
        let written = template(
            &json!({"nodeSelector": null, "volumes": null, "initContainers": null, "affinity": {"nodeAffinity": null}}),
            &json!({"ports": null, "lifecycle": null, "env": [{"name": "A", "value": null}], "resources": {"limits": null}}),
        );
        let expected = template(&json!({"affinity": {}}), &json!({"env": [{"name": "A"}], "resources": {}}));
        assert_eq!(checked(&written).unwrap(), expected);
    }
}
