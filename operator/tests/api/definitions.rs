//! The definitions as the API server understands them: accepted, defaulted, scalable.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;
use tidegate_crds::{EventBroker, EventHandler, EventTopic};

use crate::support::Space;
use crate::validation_handler::{handler, spec};

#[tokio::test]
async fn what_is_left_out_is_filled_in() {
    let space = Space::new("defaults").await;
    let topic = space.topic("orders", json!({})).await;
    assert_eq!(
        serde_json::to_value(&topic.spec).unwrap(),
        json!({
            "routing": "Queued",
            "retention": {"whenFull": "ReleaseHandled"},
            "deduplicationWindow": "2m",
            "maxEventSize": "1Mi",
            "deletionPolicy": "Retain",
            "broker": {"name": "default"},
        })
    );
    let broker = space.broker("default", json!({})).await;
    assert_eq!(
        serde_json::to_value(&broker.spec).unwrap(),
        json!({"replicas": 1, "durability": "Fsync", "storage": {"size": "10Gi"}})
    );
    let handler: EventHandler = space.create(handler("billing", spec(json!({"autoscaling": {}})))).await;
    let filled = serde_json::to_value(&handler.spec).unwrap();
    assert_eq!(
        filled["delivery"],
        json!({
            "path": "/", "format": "Binary", "order": "None", "concurrency": 16, "timeout": "30s",
            "retry": {
                "maxAttempts": 10, "onExhausted": "DeadLetter",
                "backoff": {"initial": "1s", "max": "60s", "factor": 2.0, "jitter": 0.2},
            },
        })
    );
    assert_eq!(
        filled["autoscaling"],
        json!({"minReplicas": 1, "maxReplicas": 10, "targetEventAge": "5s", "idleAfter": "60s"})
    );
    assert_eq!(filled["startFrom"], "Latest");
    assert_eq!(filled.get("replicas"), None, "who scales decides");
}

/// The API server itself fills in, not our types as they read: a second look without them.
#[tokio::test]
async fn defaults_are_in_the_store() {
    let space = Space::new("stored").await;
    space.topic("orders", json!({})).await;
    let resource = kube::api::ApiResource::erase::<EventTopic>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.name, &resource);
    let stored = api.get("orders").await.unwrap();
    assert_eq!(stored.data["spec"]["broker"]["name"], "default");
    assert_eq!(stored.data["spec"]["retention"]["whenFull"], "ReleaseHandled");
    space.broker("default", json!({})).await;
    let resource = kube::api::ApiResource::erase::<EventBroker>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(space.client.clone(), &space.name, &resource);
    let stored = api.get("default").await.unwrap();
    assert_eq!(
        (&stored.data["spec"]["storage"]["size"], &stored.data["spec"]["replicas"]),
        (&json!("10Gi"), &json!(1))
    );
}

#[tokio::test]
async fn kubectl_scale_works_where_autoscaling_is_absent_and_only_there() {
    let space = Space::new("scale").await;
    let api: Api<EventHandler> = space.api();
    let scale = |replicas: i32| Patch::Merge(json!({"spec": {"replicas": replicas}}));
    space.create::<EventHandler>(handler("fixed", spec(json!({})))).await;
    let scaled = api.patch_scale("fixed", &PatchParams::default(), &scale(4)).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(4));
    assert_eq!(api.get("fixed").await.unwrap().spec.replicas, Some(4));
    space.create::<EventHandler>(handler("auto", spec(json!({"autoscaling": {}})))).await;
    let refused = api.patch_scale("auto", &PatchParams::default(), &scale(4)).await.unwrap_err().to_string();
    assert!(refused.contains("replicas and autoscaling exclude each other"), "{refused}");
}

/// Helm and kubectl apply them again at each upgrade.
#[tokio::test]
async fn applied_again_they_are_unchanged() {
    let space = Space::new("again").await;
    let api: Api<CustomResourceDefinition> = Api::all(space.client);
    for definition in tidegate_crds::definitions() {
        let name = definition.name_any();
        let before = api.get(&name).await.unwrap();
        let after = api.patch(&name, &PatchParams::apply("test"), &Patch::Apply(&definition)).await.unwrap();
        assert_eq!(after.resource_version(), before.resource_version(), "{name}");
        assert_eq!(before.spec.names.categories, Some(vec!["tidegate".to_owned()]));
    }
}
