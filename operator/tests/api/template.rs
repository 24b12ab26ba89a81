//! A Deployment's template is a handler's template: what the API server takes of the one, it takes of the other, and
//! what it refuses of a Deployment is refused of the handler when it is applied.

use std::sync::LazyLock;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams, ValidationDirective};
use kube::{Resource, ResourceExt as _};
use serde_json::{Value, json};
use tidegate_broker_admin::Authority;
use tidegate_crds::{EventBroker, EventHandler};
use tidegate_operator::context::{Context, Owner};
use tidegate_operator::kubernetes::apply::{apply, dry_run};
use tidegate_operator::reconcile::error::Error;
use time::OffsetDateTime;

use crate::admission::Webhook;
use crate::support::Space;
use crate::support::operator::args;
use crate::validation_handler::{handler, spec};

fn dynamic<K: Resource<DynamicType = ()>>(space: &Space) -> Api<DynamicObject> {
    Api::namespaced_with(space.client.clone(), &space.name, &ApiResource::erase::<K>(&()))
}

/// What the API server says to this object when it is applied with strict validation, and when it is created.
async fn refusals<K: Resource<DynamicType = ()>>(space: &Space, value: &Value) -> Vec<String> {
    let api = dynamic::<K>(space);
    let strict = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("kubectl").force()
    };
    let name = value["metadata"]["name"].as_str().unwrap();
    let created = PostParams { dry_run: true, ..PostParams::default() };
    let object: DynamicObject = serde_json::from_value(value.clone()).unwrap();
    let applied = api.patch(name, &strict, &Patch::Apply(value)).await.err();
    let created = api.create(&created, &object).await.err();
    applied.into_iter().chain(created).map(|error| error.to_string()).collect()
}

fn template(metadata: &Value, spec: &Value, container: &Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "billing"}},
        "spec": {"containers": [{"name": "billing", "image": "i", "ports": [{"containerPort": 8080}]}]},
    });
    let set = |into: &mut Value, fields: &Value| {
        into.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    };
    set(&mut template["metadata"], metadata);
    set(&mut template["spec"], spec);
    set(&mut template["spec"]["containers"][0], container);
    template
}

/// What charts and generators write, beside what people do.
fn templates() -> Vec<Value> {
    let none = json!({});
    let spec = |spec: Value| template(&json!({}), &spec, &json!({}));
    let container = |container: Value| template(&json!({}), &json!({}), &container);
    vec![
        template(&json!({"creationTimestamp": null, "annotations": null}), &none, &none),
        template(&json!({"name": "billing", "generateName": "billing-", "namespace": null}), &none, &none),
        template(&json!({"finalizers": ["example.com/keep"], "ownerReferences": null}), &none, &none),
        spec(json!({"nodeSelector": null, "tolerations": null, "affinity": null, "imagePullSecrets": null})),
        spec(
            json!({"volumes": null, "initContainers": null, "securityContext": null, "topologySpreadConstraints": null}),
        ),
        spec(json!({"affinity": {"nodeAffinity": null}, "hostAliases": null, "serviceAccountName": null})),
        spec(
            json!({"volumes": [{"name": "a", "emptyDir": {"sizeLimit": null}}], "dnsConfig": null, "priorityClassName": ""}),
        ),
        spec(json!({"terminationGracePeriodSeconds": null, "shareProcessNamespace": null, "runtimeClassName": null})),
        spec(
            json!({"volumes": (0..70).map(|number| json!({"name": format!("v{number}"), "emptyDir": {}})).collect::<Vec<_>>()}),
        ),
        container(json!({"env": null, "envFrom": null, "resources": null, "volumeMounts": null, "lifecycle": null})),
        container(json!({"livenessProbe": null, "readinessProbe": null, "securityContext": null, "command": null})),
        container(
            json!({"env": [{"name": "A", "value": null}], "resources": {"limits": null, "requests": {"cpu": 1}}}),
        ),
        container(json!({"ports": [{"containerPort": 8080, "name": null, "hostPort": null}]})),
    ]
}

/// What is no template of a Deployment either.
fn wrong() -> Vec<(Value, &'static str)> {
    let spec = |spec: Value| template(&json!({}), &spec, &json!({}));
    let container = |container: Value| template(&json!({}), &json!({}), &container);
    vec![
        (container(json!({"image": null})), "spec.template.spec.containers[0].image"),
        (container(json!({"imag": "i"})), "imag"),
        (spec(json!({"nodeSelektor": {"a": "b"}})), "nodeSelektor"),
        (spec(json!({"nodeSelector": {"a": 5}})), "nodeSelector"),
        (spec(json!({"restartPolicy": "Never"})), "spec.template.spec.restartPolicy"),
        (container(json!({"volumeMounts": [{"name": "missing", "mountPath": "/a"}]})), "volumeMounts[0].name"),
        (container(json!({"resources": {"requests": {"cpu": "many"}}})), "quantit"),
    ]
}

#[tokio::test]
async fn what_a_deployment_takes_a_handler_takes_and_what_it_refuses_is_refused() {
    let webhook = Webhook::start("template").await;
    webhook.refuses().await;
    let space = &webhook.space;
    let selector = json!({"matchLabels": {"app": "billing"}});
    let of = |template: &Value| {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "billing"},
            "spec": {"selector": selector, "template": template},
        });
        let mut handler = handler("billing", spec(json!({})));
        handler["spec"]["template"] = template.clone();
        (deployment, handler)
    };
    for template in templates() {
        let (deployment, handler) = of(&template);
        assert_eq!(refusals::<Deployment>(space, &deployment).await, [] as [String; 0], "{template}");
        assert_eq!(refusals::<EventHandler>(space, &handler).await, [] as [String; 0], "{template}");
    }
    for (template, says) in wrong() {
        let (deployment, handler) = of(&template);
        assert!(!refusals::<Deployment>(space, &deployment).await.is_empty(), "{template}");
        let refused = refusals::<EventHandler>(space, &handler).await;
        assert_eq!(refused.len(), 2, "{template}");
        assert!(refused.iter().all(|refusal| refusal.contains(says)), "{template}\n{says}\n{refused:?}");
    }
}

/// A Deployment takes these when it is created, with a warning, and the last value counts.
#[tokio::test]
async fn a_key_that_is_there_twice_is_taken() {
    let webhook = Webhook::start("twice").await;
    webhook.refuses().await;
    let env = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)"}, {"name": "A", "value": "2"}]);
    let secrets = json!([{"name": "pull"}, {"name": "pull"}]);
    let template = template(&json!({}), &json!({"imagePullSecrets": secrets}), &json!({"env": env}));
    let made = webhook.space.create::<EventHandler>(handler("billing", spec(json!({"template": template})))).await;
    let found = written(&webhook.space, &made).await;
    let pod = &found.data["spec"]["template"]["spec"];
    assert_eq!((&pod["containers"][0]["env"], &pod["imagePullSecrets"]), (&env, &secrets));
    assert_eq!(written(&webhook.space, &made).await.resource_version(), found.resource_version(), "nothing to write");
    // Mended, and then as any other.
    let repaired = template_of(&made, json!([{"name": "A", "value": "3"}]));
    let found = written(&webhook.space, &repaired).await;
    assert_eq!(found.data["spec"]["template"]["spec"]["containers"][0]["env"], json!([{"name": "A", "value": "3"}]));
}

fn template_of(handler: &EventHandler, env: Value) -> EventHandler {
    let mut handler = handler.clone();
    handler.spec.template["spec"]["containers"][0]["env"] = env;
    handler
}

static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::generate("orders", OffsetDateTime::now_utc()).unwrap());

/// The Deployment that the operator writes for this handler, as it is then.
async fn written(space: &Space, handler: &EventHandler) -> DynamicObject {
    let owner = Owner::of(handler).unwrap();
    let args = args("operator-0", "default");
    let child = tidegate_operator::handler::deployment(handler, &owner, &AUTHORITY, &args).unwrap();
    dry_run(&space.client, &space.name, &child).await.unwrap();
    apply(&Context::new(space.client.clone(), args), &owner, &child).await.unwrap();
    let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.name, &child.resource);
    api.get(&child.name).await.unwrap()
}

#[tokio::test]
async fn what_was_changed_since_it_was_looked_at_is_not_written_over() {
    let space = Space::new("overtaken").await;
    let made = space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    let looked_at = written(&space, &made).await.resource_version().unwrap();
    let changed = written(&space, &template_of(&made, json!([{"name": "A", "value": "1"}]))).await;
    let (owner, args) = (Owner::of(&made).unwrap(), args("operator-0", "default"));
    let child = tidegate_operator::handler::deployment(&made, &owner, &AUTHORITY, &args).unwrap();
    let context = Context::new(space.client.clone(), args);
    let error = apply(&context, &owner, &child.replacing(&looked_at)).await.unwrap_err();
    assert!(matches!(error, Error::Overtaken(_)) && error.reason() == "ChangedMeanwhile", "{error}");
    assert!(error.to_string().starts_with("Deployment billing-handler was changed"), "{error}");
    assert_eq!(
        dynamic::<Deployment>(&space).get("billing-handler").await.unwrap().resource_version(),
        changed.resource_version()
    );
}

#[tokio::test]
async fn a_strategy_changes_both_ways() {
    let space = Space::new("strategy").await;
    let mut handler = space.create::<EventHandler>(handler("billing", spec(json!({})))).await;
    for strategy in [
        json!(null),
        json!({"type": "Recreate"}),
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
        json!({"type": "Recreate", "rollingUpdate": null}),
        json!(null),
    ] {
        handler.spec.strategy = Some(strategy.clone()).filter(|strategy| !strategy.is_null());
        let found = written(&space, &handler).await;
        let kind = strategy["type"].as_str().unwrap_or("RollingUpdate");
        assert_eq!(found.data["spec"]["strategy"]["type"], kind, "{strategy}");
    }
}

/// Nulls of the broker's pod fields, and of the fields that a handler may leave out.
#[tokio::test]
async fn a_null_is_a_field_that_is_not_set() {
    let space = Space::new("nulls").await;
    for field in ["resources", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "ingress"] {
        let spec = if field == "ingress" { json!({field: null}) } else { json!({"pods": {field: null}}) };
        let broker = json!({
            "apiVersion": "tidegate.io/v1alpha1", "kind": "EventBroker", "metadata": {"name": "default"}, "spec": spec,
        });
        assert_eq!(refusals::<EventBroker>(&space, &broker).await, [] as [String; 0], "{field}");
    }
    // Not replicas: the API server reads it for the scale subresource, and takes no null there.
    let fields = ["filter", "deadLetter", "redrive", "reply", "autoscaling", "strategy", "sidecar", "networkPolicy"];
    for field in fields {
        let mut handler = handler("billing", spec(json!({})));
        handler["spec"][field] = json!(null);
        assert_eq!(refusals::<EventHandler>(&space, &handler).await, [] as [String; 0], "{field}");
    }
    // A chart that leaves one of two empty.
    let mut handler = handler("billing", spec(json!({"replicas": 2})));
    handler["spec"]["autoscaling"] = json!(null);
    assert_eq!(refusals::<EventHandler>(&space, &handler).await, [] as [String; 0]);
}
